"""The command: versions that come and go, its signals, and its mistakes."""

import os
import re
import shutil
import signal
import socket
import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
from serving_demo import (
    IMAGE,
    call,
    day_probability,
    embedded,
    predict,
    publish,
    run_command,
    running_server,
    spec,
    status,
)

from serving import server as command
from tfpipe.protocol import messages

SERVING, NOT_SERVING = 1, 2
AVAILABLE, END = 30, 50
ABSL = re.compile(r"[EIW]\d{4} |WARNING: All log messages before absl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model with version 1, to be copied and then changed."""
    base = tmp_path_factory.mktemp("trained") / "demo"
    publish(base, 1)
    return base


@pytest.fixture
def base(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "export" / "demo")


class Caller(threading.Thread):
    """Asks without a pause until told to stop; keeps versions and probabilities."""

    def __init__(self, channel):
        super().__init__()
        self.channel, self.done, self.answers, self.errors = channel, threading.Event(), [], []

    def run(self):
        while not self.done.is_set():
            try:
                response = call(self.channel, predict(spec(), image_bytes=[IMAGE]))
                version = response.model_spec.version.value
                self.answers.append((version, response.outputs["probability"].float_val[0]))
            except grpc.RpcError as error:
                self.errors.append(error)


def wait_for_states(channel, expected):
    deadline = time.monotonic() + 20
    while True:
        statuses = call(channel, status(spec())).model_version_status
        states = {s.version: (s.state, s.status.error_code == 0) for s in statuses}
        if states == expected:
            return {s.version: s.status.error_message for s in statuses}
        assert time.monotonic() < deadline, states
        time.sleep(0.05)


def test_versions_come_and_go_without_a_failed_call(base, capsys):
    biases = {1: 0.0, 2: 3.0, 4: -3.0}
    with (
        embedded(base, file_system_poll_wait_seconds=0.1) as server,
        grpc.insecure_channel(server.address) as ch,
    ):
        callers = [Caller(ch), Caller(ch)]
        for caller in callers:
            caller.start()
        for name in ("tmp-8", "9.partial", "-5", "\u0663", "1e3"):  # not decimal: skipped
            shutil.copytree(base / "1", base / name)
        (base / "10").symlink_to(base / "10")
        publish(base, 2, biases[2])
        wait_for_states(ch, {1: (END, True), 2: (AVAILABLE, True)})

        shutil.copytree(base / "2", base / "3", ignore=shutil.ignore_patterns("*.index"))
        broken = {1: (END, True), 2: (AVAILABLE, True), 3: (END, False)}
        assert wait_for_states(ch, broken)[3].startswith("cannot load ")

        publish(base, 4, signatures=["add"])  # loads, but our callers would fail
        message = wait_for_states(ch, {**broken, 4: (END, False)})[4]
        assert "is missing or differs from that of version 2" in message
        shutil.rmtree(base / "4")
        publish(base, 4, biases[4])  # mended under the same number: tried again
        served = {1: (END, True), 2: (END, True), 3: (END, False), 4: (AVAILABLE, True)}
        wait_for_states(ch, served)

        shutil.rmtree(base / "3")
        shutil.rmtree(base / "4")  # withdrawn: back to the highest that is left
        wait_for_states(ch, {**served, 2: (AVAILABLE, True), 4: (END, True)})
        shutil.rmtree(base)  # nothing left: keeps what it has
        time.sleep(0.3)
        assert call(ch, predict(spec(number=2), image_bytes=[IMAGE])).outputs
        for caller in callers:
            caller.done.set()
            caller.join()
            assert not caller.errors
            assert {version for version, _ in caller.answers} == {1, 2, 4}
            for version, probability in caller.answers:
                np.testing.assert_allclose(
                    probability, day_probability(IMAGE, biases[version]), atol=1e-6
                )
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[3] for line in lines if line.startswith("serving")] == ["2", "4", "2"]
    errors = {line.partition("; still ")[2] for line in lines if line.startswith("error: ")}
    assert errors == {"serving version 2"}
    assert all(line.startswith(("serving", "error: ")) for line in lines)


@pytest.mark.slow
def test_sigterm_loses_no_call_under_way(base, tmp_path):
    log = tmp_path / "stderr"
    with (
        running_server(base, log, "--grpc_max_threads=4") as server,
        grpc.insecure_channel(server.address) as channel,
        futures.ThreadPoolExecutor(12) as pool,
    ):
        health = messages.HealthStub(channel).Watch(messages.HealthCheckRequest())
        assert next(health).status == SERVING
        request = predict(spec(signature_name="slow"), steps=np.array(10, np.int32))
        calls = [pool.submit(call, channel, request, timeout=50) for _ in range(12)]
        time.sleep(0.2)
        server.send_signal(signal.SIGTERM)
        assert next(health).status == NOT_SERVING
        late = messages.HealthStub(channel).Watch(messages.HealthCheckRequest())
        assert [response.status for response in late] == [NOT_SERVING]
        for done in calls:
            assert done.result().outputs["trace"].float_val == [512.0]
        assert server.wait(20) == 0
    # absl's lines come from TensorFlow's import, before any setting of its log counts.
    lines = [line for line in log.read_text().splitlines() if not ABSL.match(line)]
    assert [line.split(" at ")[0] for line in lines] == ["serving demo version 1"]


@pytest.fixture
def fail(monkeypatch, capsys):
    """Runs a server that must not start; returns its only line and its exit status."""

    def run(*flags):
        code, out, err = run_command(command, flags, monkeypatch, capsys)
        (line,) = err.splitlines()
        assert out == ""
        return line, code

    return run


def test_mistakes_at_the_start_are_one_line(base, tmp_path, fail):
    good = f"--model_base_path={base}"
    line, code = fail(f"--model_base_path={tmp_path / 'none'}")
    assert line.startswith(f"error: --model_base_path={tmp_path / 'none'} is not a folder: ")
    assert code == 1
    (tmp_path / "empty" / "v1").mkdir(parents=True)
    line, code = fail(f"--model_base_path={tmp_path / 'empty'}")
    assert "holds no version" in line
    assert str(tmp_path / "empty" / "1" / "saved_model.pb") in line
    assert code == 1
    for flags, words in {
        (good, "--model_nam=x"): "model_nam",
        ("--port=1",): "--model_base_path is required, or --model_config_file",
        (good, "--port=65536"): "--port=65536",
        (good, "--port=x"): "--port=x",
        (good, "photo.jpg"): "'photo.jpg'",
    }.items():
        line, code = fail(*flags)
        assert (words in line, code) == (True, 2), line
    for flag in ("model_config_file", "batching_parameters_file", "ssl_config_file"):
        line, code = fail(good, f"--{flag}={tmp_path / 'none.config'}")
        assert (code, "No such file or directory" in line) == (1, True), line


def test_a_port_in_use_is_an_error(base, fail):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line, code = fail(f"--model_base_path={base}", f"--port={port}")
    assert line.startswith(f"error: cannot listen at 127.0.0.1:{port}, which may be in use")
    assert code == 1


def test_a_damaged_first_version_is_an_error(base, fail):
    file = base / "1" / "saved_model.pb"
    os.truncate(file, file.stat().st_size // 2)
    line, code = fail(f"--model_base_path={base}", "--port=0")
    assert line == (
        "error: Some models did not become available: {default}: cannot load"
        f" {base / '1'}: saved_model.pb is damaged"
    )
    assert code == 1
