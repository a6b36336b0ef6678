"""The number of accepted requests and their bytes are bounded."""

import collections
import contextlib
import http.client
import re
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
from serving_demo import (
    IMAGE,
    MONITORING,
    call,
    embedded,
    memory_mb,
    predict,
    publish,
    running_server,
    spec,
    status,
)

from serving.admission import AdmissionController
from tfpipe.protocol import messages
from tfpipe.protocol.client import Client
from tfpipe.protocol.errors import RequestError
from tfpipe.protocol.transport import ServerError

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def inside():
    """Requests that are accepted, on one thread: `enter_context` accepts one, `close` ends all."""
    with contextlib.ExitStack() as stack:
        yield stack


def test_a_rejection_changes_nothing_for_the_next_requests(inside):
    """The bound is the same before, during and after a burst."""
    bound = AdmissionController(4)
    for _ in range(3):
        for _ in range(4):
            assert not bound.full
            inside.enter_context(bound.enter(1.0))
        assert bound.full
        for _ in range(200):
            with pytest.raises(RequestError, match=r"^4 requests .*; try again later$") as caught:
                inside.enter_context(bound.enter(1.0))
            assert caught.value.code is UNAVAILABLE
        inside.close()


def test_steady_clients_keep_their_rate_after_a_burst():
    """In steps of a fake model: each answers two requests, and clients ask again when refused."""
    bound = AdmissionController(10)
    under_way = collections.deque()

    def step(asking):
        for _ in range(asking):
            with contextlib.suppress(RequestError), contextlib.ExitStack() as stack:
                stack.enter_context(bound.enter(1.0))
                under_way.append(stack.pop_all())
        done = [under_way.popleft() for _ in range(min(2, len(under_way)))]
        for each in done:
            each.close()
        return len(done)

    before = [step(2) for _ in range(5)]
    assert step(200) == 2
    assert [step(2) for _ in range(50)] == [*before, *[2] * 45]
    assert bound.full is False


def test_requests_that_run_are_bounded_too(inside):
    bound = AdmissionController(3, max_concurrency=1)
    inside.enter_context(bound.enter(1.0))
    with pytest.raises(RequestError) as caught:
        inside.enter_context(bound.enter(0.05))
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    inside.close()
    inside.enter_context(bound.enter(1.0))


def test_the_bytes_of_all_requests_are_bounded(inside):
    bound = AdmissionController(9, max_bytes=100)
    first, second = (inside.enter_context(bound.hold()) for _ in range(2))
    first.resize(60)
    second.resize(40)
    for size in (41, 100):
        with pytest.raises(RequestError, match=r"hold 100 bytes.* 100; try again later$") as caught:
            second.resize(size)
        assert caught.value.code is UNAVAILABLE
    first.resize(10)
    second.resize(90)
    with bound.hold() as third, pytest.raises(RequestError):
        third.resize(1)
    inside.close()
    with bound.hold() as alone:
        alone.resize(500)  # a request that is alone may be larger
    with bound.hold() as again:
        again.resize(100)


def test_a_request_waits_for_the_bytes_of_another():
    bound = AdmissionController(9, max_bytes=100)
    order = []
    with bound.hold() as first, futures.ThreadPoolExecutor(1) as pool:
        first.resize(100)

        def wait():
            with bound.hold() as second:
                second.resize(50, 30)
                order.append("second")

        done = pool.submit(wait)
        time.sleep(0.05)
        order.append("first")
        first.resize(50)
        done.result(30)
    assert order == ["first", "second"]


def test_a_request_without_memory_for_it_is_told_to_come_again(tmp_path):
    base = publish(tmp_path / "demo", 1, signatures=("classify",))
    options = {"max_inflight_request_mb": 2, "grpc_max_receive_message_mb": 1, "rest_api_port": -1}
    with (
        embedded(base, **options) as server,
        grpc.insecure_channel(server.address) as channel,
        server.admission.hold() as held,
    ):
        held.resize((2 << 20) - 1000)
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, predict(spec(), image_bytes=[IMAGE]), timeout=1)
        assert caught.value.code() in (UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        rest = Client(f"http://{server.rest_address}", "demo", retries=0)
        with rest, pytest.raises(ServerError, match="try again later") as caught:
            rest.predict({"image_bytes": [bytes(500_000)]})
        assert caught.value.code is UNAVAILABLE
        held.resize(0)
        assert call(channel, predict(spec(), image_bytes=[IMAGE])).outputs


@pytest.mark.slow
@pytest.mark.parametrize(("bound_mb", "least", "most"), [(64, 0, 300), (4096, 300, 1000)])
def test_many_large_requests_need_bounded_memory(tmp_path, bound_mb, least, most):
    """16 times 16 MB wait for their turn. The second bound shows what they need without one."""
    base = publish(tmp_path / "demo", 1, signatures=("classify", "slow"))
    flags = ["--enable_batching=false", "--grpc_max_threads=1"]
    flags += [f"--max_inflight_request_mb={bound_mb}"]
    unlimited = [("grpc.max_send_message_length", -1)]
    with (
        running_server(base, tmp_path / "stderr", *flags) as server,
        grpc.insecure_channel(server.address, options=unlimited) as channel,
    ):
        stub = messages.PredictionServiceStub(channel)
        before, large = memory_mb(server), predict(spec(), image_bytes=[bytes(16 << 20)])
        steps = predict(spec(signature_name="slow"), steps=np.array(20_000, np.int32))
        slow = stub.Predict.future(steps, timeout=60)
        time.sleep(1)  # it runs
        under_way = [stub.Predict.future(large, timeout=8) for _ in range(16)]
        codes = {each.code() for each in under_way}
        assert codes <= {UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
        assert least < memory_mb(server, "VmHWM") - before < most
        slow.cancel()


def refusal(stub, request):
    """Returns the code of a refusal; None for an answer."""
    try:
        stub.Predict(request, timeout=0.5)
    except grpc.RpcError as error:
        return error.code()
    return None


@pytest.mark.slow
def test_a_rejected_message_is_not_read(tmp_path):
    """Of a message of 30 MB nothing is held; others are answered, and the refusal is counted."""
    flags = ["--enable_batching=false", "--grpc_max_threads=1", "--rest_api_port=-1"]
    flags.append(f"--monitoring_config_file={MONITORING}")
    unlimited = [("grpc.max_send_message_length", -1)]
    with (
        running_server(publish(tmp_path / "demo", 1), tmp_path / "stderr", *flags) as server,
        grpc.insecure_channel(server.address, options=unlimited) as channel,
    ):
        stub = messages.PredictionServiceStub(channel)
        slow = predict(spec(signature_name="slow"), steps=np.array(4000, np.int32))
        under_way = []
        while not (under_way and under_way[-1].done()):  # the server is full
            under_way.append(stub.Predict.future(slow, timeout=60))
            time.sleep(0.05)
        assert under_way[-1].code() is UNAVAILABLE
        large = predict(spec(), image_bytes=[bytes(30 << 20)])
        before = memory_mb(server, "VmHWM")
        assert refusal(stub, large) is UNAVAILABLE
        assert memory_mb(server, "VmHWM") - before < 5
        assert call(channel, messages.HealthCheckRequest()).status == 1
        assert call(channel, status(spec())).model_version_status
        for each in under_way:
            each.cancel()
        rest = re.search(r"REST at http://([^/]+)", server.log.read_text())[1]
        with contextlib.closing(http.client.HTTPConnection(rest, timeout=5)) as connection:
            connection.request("GET", "/monitoring/prometheus/metrics")
            answer = connection.getresponse().read()
        # The model of a message that is not read is unknown.
        assert re.search(rb'request_count\{model_name="",status="UNAVAILABLE"\} [1-9]', answer)
