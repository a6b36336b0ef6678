"""The number of accepted requests is bounded, lower during an overload."""

import http.client
import pathlib
import re
import time

import grpc
import numpy as np
import pytest
from serving_demo import IMAGE, MONITORING, call, predict, publish, running_server, spec, status

from serving import admission
from serving.admission import AdmissionController
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


class Inside:
    """Requests that are accepted, on one thread, until they leave."""

    def __init__(self, bound):
        self._bound, self._inside = bound, []

    def come(self):
        entered = self._bound.enter(1.0)
        entered.__enter__()
        self._inside.append(entered)

    def go(self):
        self._inside.pop().__exit__(None, None, None)


def test_fewer_are_let_in_from_the_first_refusal_on_until_it_is_calm(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(admission.time, "monotonic", lambda: now[0])
    bound = AdmissionController(4, overload_limit=2)
    inside = Inside(bound)
    for _ in range(4):
        assert not bound.full
        inside.come()
    with pytest.raises(RequestError) as caught:
        inside.come()
    assert caught.value.code is UNAVAILABLE
    assert caught.value.message == "4 requests are being answered already; try again later"
    inside.go()
    inside.go()
    assert bound.full
    inside.go()
    inside.come()
    with pytest.raises(RequestError, match=r"^2 requests"):
        inside.come()
    now[0] += 0.99
    assert bound.full
    now[0] += 0.02
    inside.come()
    inside.come()
    assert bound.full


def test_a_flood_lets_in_no_more_than_ever():
    bound = AdmissionController(1, overload_limit=50)
    inside = Inside(bound)
    inside.come()
    with pytest.raises(RequestError):
        inside.come()
    assert bound.full


def test_those_that_run_are_bounded_too():
    bound = AdmissionController(3, overload_limit=1, max_concurrency=1)
    inside = Inside(bound)
    inside.come()
    with pytest.raises(RequestError) as caught, bound.enter(0.05):
        pytest.fail("two run at a time")
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
    inside.go()
    inside.come()


def peak_mb(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def refusal(stub, request):
    """Returns the code of a refusal; None for an answer."""
    try:
        stub.Predict(request, timeout=0.5)
    except grpc.RpcError as error:
        return error.code()
    return None


@pytest.mark.slow
def test_what_is_refused_is_not_read(tmp_path):
    """Of a message of 30 MB nothing is held; others are answered, and the refusal is counted."""
    flags = ["--enable_batching=false", "--grpc_max_threads=1", "--rest_api_port=-1"]
    base, log = tmp_path / "demo", tmp_path / "stderr"
    publish(base, 1)
    with (
        running_server(base, log, *flags, f"--monitoring_config_file={MONITORING}") as server,
        grpc.insecure_channel(
            server.address, options=[("grpc.max_send_message_length", -1)]
        ) as channel,
    ):
        stub = messages.PredictionServiceStub(channel)
        slow = predict(spec(signature_name="slow"), steps=np.array(400, np.int32))
        under_way = [stub.Predict.future(slow, timeout=60) for _ in range(17)]
        small = predict(spec(), image_bytes=[IMAGE])
        while refusal(stub, small) is not UNAVAILABLE:  # they have not all come in yet
            time.sleep(0.01)
        large = predict(spec(), image_bytes=[bytes(30 << 20)])
        before = peak_mb(server)
        assert refusal(stub, large) is UNAVAILABLE
        assert peak_mb(server) - before < 5
        assert call(channel, messages.HealthCheckRequest()).status == 1
        assert call(channel, status(spec())).model_version_status
        for each in under_way:
            each.cancel()
        port = int(re.search(r"REST at http://127.0.0.1:(\d+)", log.read_text())[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/monitoring/prometheus/metrics")
        answer = connection.getresponse().read()
        connection.close()
        # Whose model it asked for is not known of what is not read.
        assert re.search(rb'request_count\{model_name="",status="UNAVAILABLE"\} [1-9]', answer)
