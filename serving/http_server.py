"""An HTTP server in a thread."""

import socket
import threading

import uvicorn
from starlette.types import ASGIApp


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; raises OSError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


class HttpServer:
    """Answers requests until it is closed. In a thread, uvicorn leaves signals alone."""

    def __init__(self, application: ASGIApp, sock: socket.socket, *, grace_s: int, **settings):
        """Prepare to answer.

        Args:
            application: what answers.
            sock: bound, from `listen`.
            grace_s: seconds that requests under way have to finish at the end.
            settings: further settings of uvicorn.
        """
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=grace_s,
            **settings,
        )
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
