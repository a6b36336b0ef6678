"""Reads the body of an HTTP request, bounded."""

import zlib
from collections.abc import Callable

import grpc
from starlette.requests import Request

from tfpipe.protocol.errors import RequestError, invalid

_GZIP = 16 + zlib.MAX_WBITS  # a header and a check sum around the data


class BodyTooLargeError(RequestError):
    """The body is larger than the limit, as it came or unpacked."""

    def __init__(self, limit: int, how: str = ""):
        """Say which limit.

        Args:
            limit: in bytes.
            how: what was done with the body, such as " unpacked".
        """
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        super().__init__(code, f"the body is larger than {limit:,} bytes{how}")


async def read(
    request: Request, limit: int, grow: Callable[[int], object] = lambda size: None
) -> bytes:
    """Return the body of a request as it came.

    Args:
        request: whose body was not read.
        limit: in bytes.
        grow: called with the bytes read so far; it may raise RequestError.

    Raises:
        BodyTooLargeError: it is, or says that it is, larger than `limit`. It is not read further;
            the HTTP server drops what a client still sends.
        ClientDisconnect: the client went away.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise BodyTooLargeError(limit)
    found = bytearray()
    async for part in request.stream():
        found += part
        grow(len(found))
        if len(found) > limit:
            raise BodyTooLargeError(limit)
    return bytes(found)


def is_gzip(request: Request) -> bool:
    """Return whether a request says that its body is compressed.

    TensorFlow Serving looks for this word and takes every other encoding for plain JSON.
    """
    return "gzip" in request.headers.get("content-encoding", "")


def gunzip(body: bytes, limit: int) -> bytes:
    """Return a body unpacked. Not more than `limit` bytes are ever unpacked.

    Raises:
        BodyTooLargeError: it is larger than `limit`.
        RequestError: it is not gzip, cut or damaged.
    """
    unpack = zlib.decompressobj(wbits=_GZIP)
    try:
        found = unpack.decompress(body, limit + 1)
    except zlib.error as error:
        raise invalid(f"the body cannot be read as gzip: {error}") from None
    if len(found) > limit:
        raise BodyTooLargeError(limit, " unpacked")
    if not unpack.eof:
        raise invalid("the body cannot be read as gzip: its end is missing")
    if unpack.unused_data:
        raise invalid("the body cannot be read as gzip: more bytes follow its end")
    return found
