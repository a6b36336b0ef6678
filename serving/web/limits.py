"""How much a page takes from the outside: of everyone, and of each client."""

import collections
import contextlib
import dataclasses
import ipaddress
import math
import threading
import time
from collections.abc import Iterator

from serving.web import errors
from serving.web.errors import WebError

# Clients whose use is remembered; beyond that the one that came least recently is forgotten.
_MOST_CLIENTS = 10_000


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is taken.

    Attributes:
        request_bytes: of a request's body, that is of its pictures together.
        images: pictures in a request.
        rate: pictures a minute from one client; 0 for no limit.
        concurrency: pictures that the model is asked about at a time.
        requests: those that are received or answered at a time.
        receive_s: seconds that a request may take to arrive.
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
    """Lets in so many requests at a time, and refuses the others at once; for one event loop."""

    def __init__(self, most: int):
        self._most, self._inside = most, 0

    @contextlib.contextmanager
    def enter(self) -> Iterator[None]:
        """Raises WebError if too many are inside."""
        if self._inside >= self._most:
            raise errors.busy("Too many people are asking just now.")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class Rate:
    """Bounds what each client uses: a token bucket, filled evenly.

    A client that was quiet for a minute may use a whole minute's share at once.
    """

    def __init__(self, per_minute: int):
        """`per_minute` is the share of each client; 0 for no limit."""
        self._per_minute = per_minute
        # For each client how much is left, and when that was so; the most recent one last.
        self._left: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def take(self, address: str, count: int) -> None:
        """Uses up some of a client's share.

        Args:
            address: of the client.
            count: how much; more than a minute's share is never granted.

        Raises:
            WebError: so much is not left. Then nothing is used up.
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
    """Returns what stands for a client; of IPv6 the network, as one client has many addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))
