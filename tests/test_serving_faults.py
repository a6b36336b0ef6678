"""What a server must survive: floods, bombs, noise, deadlines, and signals."""

import contextlib
import pathlib
import random
import threading
import time

import grpc
import numpy as np
import pytest
from serving_demo import (
    IMAGE,
    PROBABILITY,
    call,
    embedded,
    memory_mb,
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
    return publish(tmp_path_factory.mktemp("faults") / "demo", 1)


@pytest.fixture(scope="module")
def process(base):
    """A server whose memory is its own."""
    with running_server(base, base.parent / "stderr") as process:
        yield process
        assert process.poll() is None, process.log.read_text()


@pytest.fixture(scope="module")
def address(base):
    with embedded(base) as server:
        yield server.address


@pytest.fixture
def channel(address):
    with grpc.insecure_channel(address) as channel:
        yield channel


def works(channel):
    response = call(channel, predict(spec(), image_bytes=[IMAGE]))
    (found,) = response.outputs["probability"].float_val
    return found == pytest.approx(PROBABILITY, abs=1e-6)


@contextlib.contextmanager
def bounded_peak(server, most_mb):
    """Checks that the memory of a process grows by less than `most_mb` meanwhile."""
    pathlib.Path(f"/proc/{server.pid}/clear_refs").write_text("5")  # forget earlier peaks
    before = memory_mb(server)
    yield
    assert memory_mb(server, "VmHWM") - before < most_mb


@pytest.mark.slow  # a process
def test_a_message_above_the_limit_is_refused(process):
    with grpc.insecure_channel(process.address) as channel:
        assert works(channel)
        # gRPC collects a message, here of 64 MB, before it looks at the size.
        with bounded_peak(process, 72), pytest.raises(grpc.RpcError) as caught:
            call(channel, predict(spec(), image_bytes=[bytes(64 << 20)]))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert works(channel)


@pytest.mark.slow  # a process
def test_a_message_that_unpacks_to_more_is_refused(process):
    """128 MiB of zeros are an eighth of a MiB in the wire's gzip."""
    unlimited = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(process.address, options=unlimited) as channel:
        assert works(channel)
        send = channel.unary_unary(PREDICT)
        with bounded_peak(process, 64), pytest.raises(grpc.RpcError) as caught:
            send(bytes(128 << 20), compression=grpc.Compression.Gzip, timeout=120)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, caught.value.details()
        assert works(channel)


def test_a_small_packed_message_is_answered(channel):
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


def test_noise_is_refused_in_one_line(channel):
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
        assert ((found == 0).all(1) == [bool(error) for error in errors]).all()
        for file in files[::10]:
            call(channel, predict(spec(), image_bytes=[file]), timeout=60)


def test_calls_with_a_deadline_of_a_millisecond_leak_no_slot(channel):
    for _ in range(1000):
        with contextlib.suppress(grpc.RpcError):
            call(channel, predict(spec(), image_bytes=[IMAGE] * 4), timeout=0.001)
    assert works(channel)


def flood(channel, seconds, under_way, request):
    """Keeps `under_way` calls under way; returns their codes."""
    stub = messages.PredictionServiceStub(channel)
    free, codes = threading.Semaphore(under_way), set()

    def ended(future):
        codes.add(future.code())
        free.release()

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        free.acquire()
        stub.Predict.future(request, timeout=5).add_done_callback(ended)
    for _ in range(under_way):
        free.acquire()
    return codes


def slow(steps):
    return predict(spec(signature_name="slow"), steps=np.array(steps, np.int32))


@pytest.mark.parametrize(
    ("seconds", "under_way", "flags"),
    [
        pytest.param(
            3, 200, ["--enable_batching=false", "--grpc_max_threads=2"], marks=pytest.mark.slow
        ),
        pytest.param(60, 320, [], marks=pytest.mark.large),
    ],
)
def test_a_flood_is_refused_and_leaves_nothing(base, tmp_path, seconds, under_way, flags):
    with (
        running_server(base, tmp_path / "stderr", *flags) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        flood(channel, seconds / 3, 2, slow(5))
        before = memory_mb(server)
        codes = flood(channel, seconds, under_way, slow(5))
        assert grpc.StatusCode.OK in codes
        assert codes & REFUSALS
        assert codes <= REFUSALS | {grpc.StatusCode.OK}
        assert call(channel, messages.HealthCheckRequest()).status == 1
        assert memory_mb(server) < 1.1 * before + 40
        assert works(channel)
