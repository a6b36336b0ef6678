"""What connections to a server share: whom they ask, what they return, their errors and retries."""

import random
import re
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple, TypeVar

import grpc
import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.protocol import messages
from tfpipe.protocol.versions import LARGEST_VERSION

MAX_ANSWER_BYTES = 64 << 20

# Seconds before the first retry, and the most before any.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0

# What messages about a failed connection say of a server that speaks something else.
_MISMATCHES = {
    re.compile("http1|HTTP/1"): "it speaks HTTP, not gRPC: for REST put http:// before the address",
    re.compile("missing selected ALPN"): (
        "it speaks HTTP, not gRPC: for REST put https:// before the address"
    ),
    re.compile("wrong.version.number", re.IGNORECASE): (
        "it is not encrypted: leave TLS out (for REST use http://)"
    ),
}
# What may be wrong if a server closes a connection at once, by the form of the address.
CLOSED = {
    "grpc": "if it is encrypted, use TLS",
    "http": "if it is encrypted, put https:// before the address",
    "https": "if it speaks gRPC, leave https:// out and use TLS",
}

T = TypeVar("T")


class ServerError(UserError):
    """A server cannot be reached, or refused a request.

    Attributes:
        code: the gRPC status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


class InputError(UserError, ValueError):
    """An argument of the caller cannot be sent; no server was asked."""


class Target(NamedTuple):
    """The model that requests name, with a version by number or label.

    Version 0 and an empty label mean the highest version.
    """

    name: str
    version: int = 0
    version_label: str = ""

    @classmethod
    def of(cls, name: str, version: int, version_label: str) -> "Target":
        """Return the model; raises UserError if no version can be meant."""
        if version and version_label:
            raise UserError(
                f"`version={version}` and `version_label={version_label}` are both given: leave"
                " one out"
            )
        if not 0 <= version <= LARGEST_VERSION:
            raise UserError(f"`version={version}` is no version: give a number above 0")
        return cls(name, version, version_label)

    def at(self, version: int) -> "Target":
        """Return the same model in another version."""
        return Target(self.name, version)

    def fill(self, spec: messages.ModelSpec) -> None:
        """Write it into a message."""
        spec.name = self.name
        if self.version_label:
            spec.version_label = self.version_label
        elif self.version:
            spec.version.value = self.version

    def path(self) -> str:
        """Return the path of the REST API."""
        path = f"/v1/models/{urllib.parse.quote(self.name, safe='')}"
        if self.version_label:
            return f"{path}/labels/{urllib.parse.quote(self.version_label, safe='')}"
        return f"{path}/versions/{self.version}" if self.version else path


class Metadata(NamedTuple):
    """The version that is served, and its signatures by name."""

    version: int
    signatures: dict[str, messages.SignatureDef]


# Returns what is served; with True, the server is asked anew.
Describe = Callable[[bool], Awaitable[Metadata]]


class VersionStatus(NamedTuple):
    """The state of a version: START, LOADING, AVAILABLE, UNLOADING or END; `error` says why."""

    version: int
    state: str
    error: str


class PredictResult(NamedTuple):
    """The outputs of a signature, and the version that computed them; 0 if it is unknown."""

    outputs: dict[str, np.ndarray]
    version: int


def explained(code: grpc.StatusCode, details: str) -> ServerError:
    """Return the error of a failed call; a server that speaks something else is UNIMPLEMENTED."""
    if code is grpc.StatusCode.UNAVAILABLE:
        for pattern, reason in _MISMATCHES.items():
            if pattern.search(details):
                return ServerError(grpc.StatusCode.UNIMPLEMENTED, reason)
    return ServerError(code, details)


def unknown_form(server: str) -> UserError:
    """Return the error about an address that is none."""
    return UserError(
        f"the server {server!r} has no known form: HOST:PORT or dns:///HOST:PORT for gRPC,"
        " http://HOST:PORT for REST"
    )


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that blocks where another would wait.

    Blocking and asyncio clients share their code in this way.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a connection that blocks has waited")


async def repeated(
    call: Callable[[], Awaitable[T]], retries: int, sleep: Callable[[float], Awaitable[None]]
) -> T:
    """Call a function; while the server is unavailable, retry after a growing, random pause.

    Args:
        call: sends a request that the server has not executed if it answers UNAVAILABLE.
        retries: number of further calls, at most.
        sleep: waits for some seconds.

    Raises:
        ServerError: the last call failed, or one failed for another reason.
    """
    for attempt in range(retries):
        try:
            return await call()
        except ServerError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
        longest = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
        await sleep(random.uniform(longest / 2, longest))  # noqa: S311
    return await call()


async def pause(seconds: float) -> None:
    """Block for some seconds."""
    time.sleep(seconds)
