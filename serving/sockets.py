"""Sockets for HTTP servers."""

import socket


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket; raises OSError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)
