"""The address of a gRPC server, and whether it can be reached."""

import socket

import grpc

from tfpipe.core.errors import UserError

SCHEME = "grpc://"

CONNECT_S = 1.0


def check(address: str, option: str) -> None:
    """Raise UserError unless an option is "host:port" or "[::1]:port", perhaps with grpc://."""
    host, _, port = address.removeprefix(SCHEME).rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    number = int(port) if port.isascii() and port.isdigit() else 0
    if not bare or not 1 <= number <= 65535 or (":" in bare) != (bare != host) or "/" in host:
        scheme = SCHEME if address.startswith(SCHEME) else ""
        raise UserError(
            f"`{option}={address}` is no address: give a host and a port of 1 to 65535, as in"
            f" `{option}={scheme}127.0.0.1:5050`"
        )


def is_reachable(address: str) -> bool:
    """Return whether an address accepts connections within `CONNECT_S`."""
    host, _, port = address.removeprefix(SCHEME).rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=CONNECT_S):
            return True
    except OSError:
        return False


def wait_for_dispatcher(address: str, option: str, timeout_s: float) -> None:
    """Wait until the gRPC server of an option answers, or raise UserError after `timeout_s`.

    TensorFlow would wait for ever.
    """
    with grpc.insecure_channel(address.removeprefix(SCHEME)) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout_s)
        except grpc.FutureTimeoutError:
            raise UserError(
                f"`{option}={address}`: no dispatcher has answered for {timeout_s:g} s: start one"
                " there (python -m tfpipe.data_service, role dispatcher), or check the host, the"
                " port and the firewall"
            ) from None
