"""What a server must survive: floods, bombs, noise, deadlines, and signals."""

import concurrent.futures
import contextlib
import gc
import random
import re
import signal
import threading
import time

import grpc
import numpy as np
import pytest
from serving_demo import (
    IMAGE,
    PROBABILITY,
    call,
    day_probability,
    embedded,
    png,
    predict,
    publish,
    running_server,
    spec,
)
from test_upload import malformed

from tfpipe.protocol import messages, tensors

PREDICT = "/tensorflow.serving.PredictionService/Predict"
REFUSALS = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    base = tmp_path_factory.mktemp("faults") / "demo"
    publish(base, 1)
    return base


@pytest.fixture(scope="module")
def server(base, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "stderr"
    with running_server(base, log) as process:
        process.log = log
        yield process
        assert process.poll() is None, log.read_text()


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.address) as channel:
        yield channel


def works(channel):
    response = call(channel, predict(spec(), image_bytes=[IMAGE]))
    (found,) = response.outputs["probability"].float_val
    return found == pytest.approx(PROBABILITY, abs=1e-6)


def memory_mb(process):
    status = open(f"/proc/{process.pid}/status").read()  # noqa: SIM115
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def peak_mb(process):
    status = open(f"/proc/{process.pid}/status").read()  # noqa: SIM115
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def reset_peak(process):
    with open(f"/proc/{process.pid}/clear_refs", "w") as file:
        file.write("5")


def test_a_message_above_the_limit_is_refused(server, channel):
    assert works(channel)
    reset_peak(server)
    before = memory_mb(server)
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, predict(spec(), image_bytes=[bytes(64 << 20)]))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    # gRPC collects a message, here of 64 MB, before it looks at the size.
    assert peak_mb(server) - before < 72, (peak_mb(server), before)
    assert works(channel)


def test_a_message_that_unpacks_to_more_is_refused(server, channel):
    """512 MiB of zeros are half a MiB in the wire's gzip."""
    assert works(channel)
    reset_peak(server)
    before = memory_mb(server)
    with grpc.insecure_channel(
        server.address, options=[("grpc.max_send_message_length", -1)]
    ) as packing:
        send = packing.unary_unary(PREDICT)
        with pytest.raises(grpc.RpcError) as caught:
            send(bytes(512 << 20), compression=grpc.Compression.Gzip, timeout=120)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, caught.value.details()
    assert peak_mb(server) - before < 64, (peak_mb(server), before)
    assert works(channel)


def test_a_small_packed_message_is_answered(server, channel):
    request = predict(spec(), image_bytes=[IMAGE] * 20)
    stub = messages.PredictionServiceStub(channel)
    response = stub.Predict(request, compression=grpc.Compression.Gzip, timeout=20)
    assert len(response.outputs["probability"].float_val) == 20


def noisy(draws):
    """A request of a known form with something wrong in it, as bytes."""
    request = predict(spec(), image_bytes=[IMAGE] * draws.randint(0, 3))
    data = bytearray(request.SerializeToString())
    match draws.randint(0, 5):
        case 0:
            return draws.randbytes(draws.randint(0, 200))
        case 1:
            return bytes(data[: draws.randint(0, len(data))])
        case 2:
            for _ in range(draws.randint(1, 20)):
                data[draws.randrange(len(data))] = draws.randrange(256)
            return bytes(data)
        case 3:
            request.inputs["image_bytes"].dtype = draws.randint(0, 30)
        case 4:
            shape = request.inputs["image_bytes"].tensor_shape
            shape.dim.add(size=draws.choice([-1, 0, 2, 2**31, 2**62]))
        case 5:
            request.model_spec.signature_name = draws.choice(["add", "slow", "by_class", "é"])
    return request.SerializeToString()


def test_noise_is_refused_in_one_line(server, channel):
    """1,000 requests: no UNKNOWN, no trace of ours, and the server goes on."""
    draws = random.Random(0)
    methods = [
        *(f"/tensorflow.serving.PredictionService/{name}"
          for name in ("Predict", "Classify", "Regress", "MultiInference", "GetModelMetadata")),
        *(f"/tensorflow.serving.ModelService/{name}"
          for name in ("GetModelStatus", "HandleReloadConfigRequest")),
    ]  # fmt: skip
    errors = []
    for number in range(1000):
        method = PREDICT if number % 2 else draws.choice(methods)
        try:
            channel.unary_unary(method)(noisy(draws), timeout=20)
        except grpc.RpcError as error:
            errors.append(error)
    codes = {error.code() for error in errors}
    for error in errors:
        assert "Traceback" not in error.details()
        assert ".py" not in error.details()
        assert len(error.details()) < 1100
    assert grpc.StatusCode.INVALID_ARGUMENT in codes
    assert not codes & {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}, codes
    assert works(channel)


def test_malformed_images_are_answered(export_dir):
    names, files = zip(*malformed(), strict=True)
    with (
        embedded(export_dir) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        request = predict(spec(), ["error", "probabilities"], image_bytes=list(files))
        response = call(channel, request, timeout=100)
        errors = list(response.outputs["error"].string_val)
        assert len(errors) == len(names)
        assert 30 < sum(map(bool, errors)) < len(names) - 30
        found = tensors.from_proto(response.outputs["probabilities"])
        assert (np.isnan(found).all(1) == [bool(error) for error in errors]).all()
        for file in files[::10]:
            call(channel, predict(spec(), image_bytes=[file]), timeout=60)


def test_calls_with_a_deadline_of_a_millisecond_leak_no_slot(channel):
    for _ in range(1000):
        with contextlib.suppress(grpc.RpcError):
            call(channel, predict(spec(), image_bytes=[IMAGE] * 4), timeout=0.001)
    assert works(channel)


def flood(channel, seconds, under_way, request, timeout=5):
    """Keeps `under_way` calls under way; returns (seconds, code) of each."""
    stub = messages.PredictionServiceStub(channel)
    free, found, lock = threading.Semaphore(under_way), [], threading.Lock()
    gc.freeze()  # or looking through all of TensorFlow for garbage counts as the server's time
    end = time.monotonic() + seconds

    def ended(start, future):
        with lock:
            found.append((time.monotonic() - start, future.code()))
        free.release()

    while time.monotonic() < end:
        free.acquire()
        start = time.monotonic()
        future = stub.Predict.future(request, timeout=timeout)
        future.add_done_callback(lambda done, start=start: ended(start, done))
    for _ in range(under_way):
        free.acquire()
    gc.unfreeze()
    return found


def slow(steps):
    return predict(spec(signature_name="slow"), steps=np.array(steps, np.int32))


@pytest.mark.slow
def test_a_flood_is_refused_and_leaves_nothing(base, tmp_path):
    flags = ["--enable_batching=false", "--grpc_max_threads=2"]
    with (
        running_server(base, tmp_path / "stderr", *flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        flood(channel, 1, 2, slow(5))
        before = memory_mb(server)
        codes = {code for _, code in flood(channel, 3, 200, slow(5))}
        assert grpc.StatusCode.OK in codes
        assert codes & REFUSALS
        assert codes <= REFUSALS | {grpc.StatusCode.OK}
        health = messages.HealthStub(channel).Check(messages.HealthCheckRequest(), timeout=5)
        assert health.status == 1
        assert memory_mb(server) < 1.1 * before + 40
        assert works(channel)


@pytest.mark.large
def test_ten_times_what_it_can_for_a_minute(base, tmp_path):
    with (
        running_server(base, tmp_path / "stderr") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        request = predict(spec(), image_bytes=[png(140, (900, 900))])
        unloaded = [seconds for seconds, _ in flood(channel, 10, 32, request)]
        flood(channel, 5, 320, request)
        before = memory_mb(server)
        found = flood(channel, 60, 320, request)
        after = memory_mb(server)
        codes = {code for _, code in found}
        assert codes <= REFUSALS | {grpc.StatusCode.OK}
        accepted = [seconds for seconds, code in found if code is grpc.StatusCode.OK]
        p99, base_p99 = np.percentile(accepted, 99), np.percentile(unloaded, 99)
        print(
            f"\n{len(accepted) / 60:.0f} answered a second of {len(found) / 60:.0f}; p99"
            f" {1000 * p99:.0f} ms, with 32 under way {1000 * base_p99:.0f}; {before:.0f} MB,"
            f" then {after:.0f}"
        )
        assert after < 1.1 * before


def swap(base, tmp_path, requests, swaps):
    """Asks all the time while versions change; returns the answers by version, and the errors."""
    biases = {version: float(version) for version in range(1, swaps + 2)}
    here = tmp_path / "swap" / "demo"
    publish(here, 1, biases[1])
    answers, errors, lock = [], [], threading.Lock()
    with (
        embedded(here, file_system_poll_wait_seconds=0.1) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        done = threading.Event()

        def ask():
            while not done.is_set():
                try:
                    response = call(channel, predict(spec(), image_bytes=[IMAGE]))
                except grpc.RpcError as error:
                    errors.append(error)
                    continue
                version = response.model_spec.version.value
                with lock:
                    answers.append((version, response.outputs["probability"].float_val[0]))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(ask) for _ in range(4)]
            for version in range(2, swaps + 2):
                publish(here, version, biases[version])
                deadline = time.monotonic() + 60
                while not answers or answers[-1][0] != version:
                    assert time.monotonic() < deadline
                    time.sleep(0.01)
            while len(answers) < requests:
                time.sleep(0.05)
            done.set()
            for each in asking:
                each.result()
    for version, probability in answers:
        assert probability == pytest.approx(day_probability(IMAGE, biases[version]), abs=1e-6)
    return {version for version, _ in answers}, errors, len(answers)


@pytest.mark.large
def test_ten_thousand_requests_and_five_swaps(base, tmp_path):
    versions, errors, count = swap(base, tmp_path, 10_000, 5)
    assert not errors
    assert versions == set(range(1, 7))
    assert count >= 10_000


@pytest.mark.large
@pytest.mark.parametrize("turn", range(20))
def test_sigterm_under_fifty_calls(base, tmp_path, turn):
    with (
        running_server(base, tmp_path / "stderr") as server,
        grpc.insecure_channel(server.address) as channel,
        concurrent.futures.ThreadPoolExecutor(50) as pool,
    ):
        calls = [pool.submit(call, channel, slow(10), 60) for _ in range(50)]
        time.sleep(0.05 + 0.03 * turn)
        server.send_signal(signal.SIGTERM)
        assert all(each.result().outputs for each in calls)
        assert server.wait(40) == 0
