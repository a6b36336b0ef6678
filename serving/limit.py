"""How many requests are answered at a time, and what becomes of the others."""

import contextlib
import threading
import time
from collections.abc import Iterator

import grpc

from serving.errors import RequestError

# A flood is over when nothing has been refused for so long.
_CALM_S = 1.0


class Limit:
    """How many requests may be inside the models, and how many of those run at the same time.

    More are refused at once, with the code of TensorFlow Serving's full queue, which tells clients
    to try again later; what is accepted waits for its turn no longer than its client does.

    Requests wait so that there is always one to go on with. In a flood there is one in any case:
    waiting would only make the answers late. So fewer are let in from the first refusal on.
    """

    def __init__(self, most: int, *, in_a_flood: int, at_a_time: int | None = None):
        """Lets in that many.

        Args:
            most: requests inside.
            in_a_flood: the same while requests are being refused, if that is fewer; at least 1.
            at_a_time: of those, that run; None for all, where batches wait in queues of their own.
        """
        self.most = most
        self._in_a_flood = min(most, in_a_flood)
        self._inside, self._lock, self._calm_at = 0, threading.Lock(), 0.0
        self._running = threading.Semaphore(at_a_time or most)

    @property
    def full(self) -> bool:
        """Whether a request would be refused now."""
        flood = time.monotonic() < self._calm_at
        return self._inside >= (self._in_a_flood if flood else self.most)

    def refusal(self) -> RequestError:
        """Returns what to tell a request that is not let in."""
        self._calm_at = time.monotonic() + _CALM_S
        return RequestError(
            grpc.StatusCode.UNAVAILABLE,
            f"{self._inside} requests are being answered already; try again later",
        )

    @contextlib.contextmanager
    def enter(self, seconds: float | None) -> Iterator[None]:
        """Waits for a turn.

        Args:
            seconds: that the client will wait; None for ever.

        Raises:
            RequestError: there are too many requests, or it took too long.
        """
        with self._lock:
            if self.full:
                raise self.refusal()
            self._inside += 1
        try:
            if not self._running.acquire(timeout=seconds):
                raise RequestError(
                    grpc.StatusCode.DEADLINE_EXCEEDED, "no turn came within the deadline"
                )
            try:
                yield
            finally:
                self._running.release()
        finally:
            with self._lock:
                self._inside -= 1
