"""Bounds the requests that are answered at the same time: their number, and their bytes."""

import contextlib
import math
import threading
from collections.abc import Iterator

import grpc

from tfpipe.protocol.errors import RequestError

# How long a request without a deadline waits for memory.
_WAIT_S = 10.0


class AdmissionController:
    """Bounds the requests inside the models, those of them that run, and the bytes of all.

    Further requests are rejected at once, with the code of TensorFlow Serving's full queue, which
    tells clients to try again later. An accepted request waits for its turn until its deadline.

    Attributes:
        max_requests: accepted requests, at most.
    """

    def __init__(
        self,
        max_requests: int,
        *,
        max_concurrency: int | None = None,
        max_bytes: float = math.inf,
    ):
        """Set the bounds.

        Args:
            max_requests: accepted requests, at most.
            max_concurrency: requests that run at the same time; None for all, where batches have
                queues of their own.
            max_bytes: bytes of the messages of all requests, at most; a single request may have
                more.
        """
        self.max_requests = max_requests
        self._accepted, self._lock = 0, threading.Lock()
        self._running = threading.Semaphore(max_concurrency or max_requests)
        self._max_bytes, self._bytes, self._freed = max_bytes, 0, threading.Condition()

    @property
    def full(self) -> bool:
        """Whether a request would be rejected now."""
        return self._accepted >= self.max_requests

    def rejection(self) -> RequestError:
        """Return the error for a request that is not accepted."""
        return RequestError(
            grpc.StatusCode.UNAVAILABLE,
            f"{self.max_requests} requests are being answered already; try again later",
        )

    @contextlib.contextmanager
    def enter(self, seconds: float | None) -> Iterator[None]:
        """Wait for a turn.

        Args:
            seconds: until the client's deadline; None for no deadline.

        Raises:
            RequestError: there are too many requests, or the deadline passed.
        """
        with self._lock:
            if self.full:
                raise self.rejection()
            self._accepted += 1
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
                self._accepted -= 1

    @contextlib.contextmanager
    def hold(self) -> Iterator["HeldBytes"]:
        """Yield the bytes of one request, 0 at first; all are given back at the end."""
        held = HeldBytes(self)
        try:
            yield held
        finally:
            held.resize(0)

    def resize(self, old: int, new: int, seconds: float) -> None:
        """Change the bytes of a request; see `HeldBytes.resize`."""

        def fits() -> bool:
            others = self._bytes - old
            return new <= old or not others or others + new <= self._max_bytes

        with self._freed:
            if not self._freed.wait_for(fits, seconds):
                raise RequestError(
                    grpc.StatusCode.UNAVAILABLE,
                    f"the requests under way hold {self._bytes:,} bytes, and all together may hold"
                    f" {self._max_bytes:,}; try again later",
                )
            self._bytes += new - old
            self._freed.notify_all()


class HeldBytes:
    """The bytes that one request holds."""

    def __init__(self, admission: AdmissionController):
        """Hold nothing yet."""
        self._admission, self._size = admission, 0

    def resize(self, size: int, seconds: float | None = 0) -> None:
        """Hold `size` bytes from now on.

        Args:
            size: less than before is always possible.
            seconds: how long to wait until other requests have freed enough; None for some seconds.

        Raises:
            RequestError: the requests under way hold too much; the size stays as it was.
        """
        waits = _WAIT_S if seconds is None else min(seconds, _WAIT_S)
        self._admission.resize(self._size, size, waits)
        self._size = size
