"""The number of accepted requests is bounded, lower during an overload."""

import contextlib
import http.client
import re
import time

import grpc
import numpy as np
import pytest
from serving_demo import (
    IMAGE,
    MONITORING,
    call,
    memory_mb,
    predict,
    publish,
    running_server,
    spec,
    status,
)

from serving import admission
from serving.admission import AdmissionController
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def inside():
    """Requests that are accepted, on one thread: `enter_context` accepts one, `close` ends all."""
    with contextlib.ExitStack() as stack:
        yield stack


def test_fewer_are_accepted_after_a_rejection_until_it_is_calm(monkeypatch, inside):
    now = [100.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    bound = AdmissionController(4, overload_limit=2)
    for _ in range(4):
        assert not bound.full
        inside.enter_context(bound.enter(1.0))
    with pytest.raises(RequestError, match=r"^4 requests .*; try again later$") as caught:
        inside.enter_context(bound.enter(1.0))
    assert caught.value.code is UNAVAILABLE
    inside.close()
    for _ in range(2):
        inside.enter_context(bound.enter(1.0))
    with pytest.raises(RequestError, match=r"^2 requests"):
        inside.enter_context(bound.enter(1.0))
    now[0] += 0.99
    assert bound.full
    now[0] += 0.02
    for _ in range(2):
        inside.enter_context(bound.enter(1.0))
    assert bound.full


def test_an_overload_accepts_no_more_than_usual(inside):
    bound = AdmissionController(1, overload_limit=50)
    inside.enter_context(bound.enter(1.0))
    for _ in range(2):
        with pytest.raises(RequestError):
            inside.enter_context(bound.enter(1.0))


def test_requests_that_run_are_bounded_too(inside):
    bound = AdmissionController(3, overload_limit=1, max_concurrency=1)
    inside.enter_context(bound.enter(1.0))
    with pytest.raises(RequestError) as caught:
        inside.enter_context(bound.enter(0.05))
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    inside.close()
    inside.enter_context(bound.enter(1.0))


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
        slow = predict(spec(signature_name="slow"), steps=np.array(400, np.int32))
        under_way = [stub.Predict.future(slow, timeout=60) for _ in range(17)]
        small = predict(spec(), image_bytes=[IMAGE])
        while refusal(stub, small) is not UNAVAILABLE:  # they have not all come in yet
            time.sleep(0.01)
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
