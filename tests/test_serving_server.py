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


@pytest.fixture
def base(tmp_path):
    return publish(tmp_path / "export" / "demo", 1)


class Caller(threading.Thread):
    """Asks without a pause until `done`; keeps versions and probabilities."""

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
        shutil.copytree(base / "1", base / "9.partial")  # no version
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
@pytest.mark.parametrize("seconds", [0.05, 0.2, 0.4])
def test_sigterm_loses_no_call_under_way(base, tmp_path, seconds):
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
        time.sleep(seconds)
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


ONCE = "--file_system_poll_wait_seconds=0"  # otherwise the server waits for a version


@pytest.fixture
def fail(monkeypatch, capsys):
    """Runs a server that must not start; returns its only line and its exit status."""

    def run(*flags):
        code, out, err = run_command(command, flags, monkeypatch, capsys)
        (line,) = err.splitlines()
        assert out == ""
        return line, code

    return run


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--model_base_path=none", ONCE], 1, "Could not find base path none for servable default"),
        (["--model_base_path=empty", ONCE], 1, "No versions of servable default found under"),
        (["--model_nam=x"], 2, "model_nam"),
        (["--model_base_path="], 2, "--model_base_path is required, or --model_config_file"),
        (["--port=65536"], 2, "--port=65536"),
        (["--port=x"], 2, "--port=x"),
        (["photo.jpg"], 2, "'photo.jpg'"),
        (["--model_config_file=none"], 1, "--model_config_file=none: No such file"),
        (["--batching_parameters_file=none"], 1, "--batching_parameters_file=none: No such file"),
        (["--monitoring_config_file=none"], 1, "--monitoring_config_file=none: No such file"),
        (["--ssl_config_file=none"], 1, "--ssl_config_file=none: No such file"),
    ],
)
def test_mistakes_at_the_start_are_one_line(base, fail, monkeypatch, flags, code, words):
    monkeypatch.chdir(base.parent)
    (base.parent / "empty" / "v1").mkdir(parents=True)
    line, status = fail("--model_base_path=demo", "--port=0", *flags)
    assert words in line
    assert status == code


@pytest.mark.parametrize("exists", [False, True])
def test_the_server_waits_for_its_first_version(base, tmp_path, capsys, exists):
    later = tmp_path / "later" / "demo"
    if exists:
        later.mkdir(parents=True)
    threading.Timer(1.0, lambda: (later.mkdir(parents=True, exist_ok=True),
                                  (base / "1").rename(later / "1"))).start()  # fmt: skip
    with (
        embedded(later, file_system_poll_wait_seconds=0.1) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert call(channel, predict(spec(), image_bytes=[IMAGE])).outputs
    (line,) = capsys.readouterr().err.splitlines()
    words = "No versions of servable demo" if exists else "Could not find base path"
    assert line.startswith(f"warning: waiting: {words}")


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
        "error: 1 servable(s) did not become available: {{name: default version: 1} due to error:"
        f" FAILED_PRECONDITION: cannot load {base / '1'}: saved_model.pb is damaged}}"
    )
    assert code == 1
