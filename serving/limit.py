"""How many requests are answered at a time, and what becomes of the others."""

import contextlib
import threading
from collections.abc import Iterator

import grpc

from serving.errors import RequestError


class Limit:
    """How many requests may be inside the models, and how many of those run at the same time.

    More than `most` are refused at once, which costs nothing and tells clients to slow down; what
    is accepted waits for its turn no longer than its client does.
    """

    def __init__(self, most: int, at_a_time: int):
        """`at_a_time` is `most` where batches wait in queues of their own."""
        self.most = most
        self._inside = threading.Semaphore(most)
        self._running = threading.Semaphore(at_a_time)

    @contextlib.contextmanager
    def enter(self, seconds: float | None) -> Iterator[None]:
        """Waits for a turn.

        Args:
            seconds: that the client will wait; None for ever.

        Raises:
            RequestError: there are too many requests, or it took too long.
        """
        if not self._inside.acquire(blocking=False):
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self.most} requests are being answered already; try again later",
            )
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
            self._inside.release()
