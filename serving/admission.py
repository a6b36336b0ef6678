"""Bounds the requests that are answered at the same time."""

import contextlib
import threading
import time
from collections.abc import Iterator

import grpc

from tfpipe.protocol.errors import RequestError

# An overload ends this many seconds after the last rejection.
_CALM_S = 1.0


class AdmissionController:
    """Bounds the requests inside the models, and those of them that run.

    Further requests are rejected at once, with the code of TensorFlow Serving's full queue, which
    tells clients to try again later. An accepted request waits for its turn until its deadline.

    A short queue keeps the models busy. During an overload the next request is always there, and
    waiting only makes answers late; so fewer are accepted after the first rejection.

    Attributes:
        max_requests: accepted requests, at most.
    """

    def __init__(
        self, max_requests: int, *, overload_limit: int, max_concurrency: int | None = None
    ):
        """Set the bounds.

        Args:
            max_requests: accepted requests, at most.
            overload_limit: the same during an overload, if that is fewer; at least 1.
            max_concurrency: requests that run at the same time; None for all, where batches have
                queues of their own.
        """
        self.max_requests = max_requests
        self._overload_limit = min(max_requests, overload_limit)
        self._accepted, self._lock, self._calm_at = 0, threading.Lock(), 0.0
        self._running = threading.Semaphore(max_concurrency or max_requests)

    @property
    def full(self) -> bool:
        """Whether a request would be rejected now."""
        overload = time.monotonic() < self._calm_at
        return self._accepted >= (self._overload_limit if overload else self.max_requests)

    def rejection(self) -> RequestError:
        """Return the error for a request that is not accepted."""
        self._calm_at = time.monotonic() + _CALM_S
        return RequestError(
            grpc.StatusCode.UNAVAILABLE,
            f"{self._accepted} requests are being answered already; try again later",
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
