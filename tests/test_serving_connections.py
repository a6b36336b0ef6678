"""Slow and many REST connections, and the memory that decoding may take."""

import contextlib
import http.client
import socket
import threading
import time

import pytest
from serving_demo import embedded, publish

from serving.admission import AdmissionController
from serving.server_options import decodes_within
from tfpipe.core.memory import memory_limit


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base = publish(tmp_path_factory.mktemp("connections") / "demo", 1)
    options = {"rest_api_timeout_in_ms": 700, "rest_api_max_connections": 3}
    with embedded(base, rest_api_port=-1, **options) as server:
        yield server


def connect(server):
    host, port = server.rest_address.split(":")
    return socket.create_connection((host, int(port)), timeout=30)


def answered(server):
    """Asks until there is an answer: a closed connection leaves the server a moment later."""
    for _ in range(100):
        connection = http.client.HTTPConnection(server.rest_address, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/v1/models/demo")
            if connection.getresponse().status == 200:
                return True
        time.sleep(0.05)
    return False


HEAD = b"POST /v1/models/demo:predict HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "start",
    [
        b"",
        pytest.param(b"POST /v1/models", marks=pytest.mark.slow),
        HEAD + b"X: ",
        HEAD + b"Content-Length: 1000000\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n7ffff\r\n",
        pytest.param(
            b"GET /v1/models/demo HTTP/1.1\r\nHost: x\r\n\r\nPOST /", marks=pytest.mark.slow
        ),
    ],
)
def test_a_request_that_arrives_a_byte_at_a_time_is_cut(server, start):
    with connect(server) as slow:
        slow.sendall(start)
        ended = threading.Event()

        def drip():
            with contextlib.suppress(OSError):
                while start and not ended.wait(0.1):
                    slow.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while part := slow.recv(1000):  # the timeout of the socket is an error
                found += part
        ended.set()
        thread.join()
    assert b"408 Request Timeout" in found or not found
    assert answered(server)


def test_a_connection_stays_open_between_requests(server):
    """The limit is one of a request, not of a connection."""
    connection = http.client.HTTPConnection(server.rest_address, timeout=30)
    with contextlib.closing(connection):
        for _ in range(2):
            connection.request("GET", "/v1/models/demo")
            assert connection.getresponse().read()
            sock = connection.sock
            time.sleep(1.0)
        assert connection.sock is sock


def test_too_many_connections_are_refused_at_once(server):
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(connect(server))
        with connect(server) as more:
            assert b"503 Service Unavailable" in more.recv(1000)
    assert answered(server)


def test_a_full_server_does_not_wait_for_the_body(server, monkeypatch):
    monkeypatch.setattr(AdmissionController, "full", True)
    with connect(server) as client:
        client.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n{")
        assert b" 503 " in client.recv(1000).splitlines()[0]


@pytest.mark.parametrize(
    ("gigabytes", "cores", "threads"), [(1, 2, 1), (4, 2, 0), (4, 16, 2), (64, 16, 0)]
)
def test_as_many_images_are_decoded_as_fit_the_memory(gigabytes, cores, threads):
    assert decodes_within(gigabytes * 2**30, cores) == threads


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_the_memory_of_a_container_is_its_limit(tmp_path, name):
    machine = memory_limit(tmp_path)
    assert machine > 2**28
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    for text, expected in (("12345678\n", 12345678), (f"{2**62}\n", machine)):
        file.write_text(text)
        assert memory_limit(tmp_path) == expected
    if name == "memory.max":
        file.write_text("max\n")
        assert memory_limit(tmp_path) == machine
