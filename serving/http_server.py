"""An HTTP server in a thread."""

import asyncio
import functools
import socket
import threading

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

_LATE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n"
    b"Connection: close\r\n\r\n"
)


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; raises OSError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


class _BoundedConnection(H11Protocol):
    """A connection whose requests must arrive in time; too many connections are refused.

    uvicorn itself waits for ever for the rest of a request.
    """

    def __init__(self, *args, read_timeout_s: float, max_connections: int, **settings):
        super().__init__(*args, **settings)
        self._read_timeout_s, self._max_connections = read_timeout_s, max_connections
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Start the time of the first request."""
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            self._end(_FULL)
        else:
            self._start_time()

    def data_received(self, data: bytes) -> None:
        """Stop the time of a request that has arrived."""
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._start_time()
        else:
            self._stop_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time."""
        self._stop_time()
        super().connection_lost(exc)

    def _start_time(self) -> None:
        if self._limit is None:
            self._limit = self.loop.call_later(self._read_timeout_s, self._end, _LATE)

    def _stop_time(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _end(self, answer: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(answer)
            self.transport.close()


class HttpServer:
    """Answers requests until it is closed. In a thread, uvicorn leaves signals alone."""

    def __init__(
        self,
        application: ASGIApp,
        sock: socket.socket,
        *,
        grace_s: int,
        read_timeout_s: float = 90.0,
        max_connections: int = 512,
        **settings,
    ):
        """Prepare to answer.

        Args:
            application: what answers.
            sock: bound, from `listen`.
            grace_s: seconds that requests under way have to finish at the end.
            read_timeout_s: seconds in which a whole request must arrive; later it is cut with 408.
            max_connections: connections at the same time; more are refused with 503.
            settings: further settings of uvicorn.
        """
        config = uvicorn.Config(
            application,
            http=functools.partial(
                _BoundedConnection, read_timeout_s=read_timeout_s, max_connections=max_connections
            ),
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=grace_s,
            **settings,
        )
        config.load()  # the files of `settings` may be temporary
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [sock]}, daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Let the requests under way finish, and end."""
        self._server.should_exit = True
        self._thread.join()
