"""Limits of the page: for all requests, and for each client."""

import collections
import contextlib
import dataclasses
import ipaddress
import math
import threading
import time
from collections.abc import Iterator

from serving.web import page_errors as errors
from serving.web.page_errors import WebError

# Clients that are remembered; beyond that the least recent one is forgotten.
_MOST_CLIENTS = 10_000


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits.

    Attributes:
        request_bytes: bytes of the pictures of one request.
        images: pictures in one request.
        rate: pictures a minute from one client; 0 for no limit.
        concurrency: requests to the model at the same time.
        requests: requests that are received or answered at the same time.
        receive_s: seconds for a request to arrive.
        answer_s: seconds for all its answers.
    """

    request_bytes: int = 16 << 20
    images: int = 16
    rate: int = 120
    concurrency: int = 8
    requests: int = 16
    receive_s: float = 60.0
    answer_s: float = 60.0


class Gate:
    """Bounds the requests at the same time and rejects the others; for one event loop."""

    def __init__(self, most: int):
        self._most, self._inside = most, 0

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Raise WebError if too many are inside."""
        if self._inside >= self._most:
            raise errors.busy("Too many people are asking just now.")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class Rate:
    """Bounds the pictures of each client with a token bucket.

    After a quiet minute a client may use a whole minute's share at once.
    """

    def __init__(self, per_minute: int):
        """`per_minute` is the share of each client; 0 for no limit."""
        self._per_minute = per_minute
        # What each client has left, and since when; the most recent client is last.
        self._left: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def take(self, address: str, count: int) -> None:
        """Use some of a client's share.

        Args:
            address: the client's address.
            count: pictures; more than a minute's share is never granted.

        Raises:
            WebError: less than `count` is left; nothing is used.
        """
        if not self._per_minute or not count:
            return
        client, now = _client(address), time.monotonic()
        with self._lock:
            left, then = self._left.pop(client, (float(self._per_minute), now))
            left = min(self._per_minute, left + (now - then) * self._per_minute / 60)
            granted = count <= left
            self._left[client] = (left - count if granted else left, now)
            if len(self._left) > _MOST_CLIENTS:
                self._left.popitem(last=False)
        if not granted:
            seconds = math.ceil((count - left) * 60 / self._per_minute)
            raise WebError(
                429,
                f"You have asked about many pictures: {self._per_minute} a minute are allowed."
                f" Try again in {seconds} second{'s' if seconds > 1 else ''}.",
                retry_after=seconds,
            )


def _client(address: str) -> str:
    """Return the key of a client: its address, or its /64 network, as IPv6 clients use many."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))
