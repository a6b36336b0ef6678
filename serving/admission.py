"""Bounds the requests that are answered at the same time."""

import contextlib
import threading
from collections.abc import Iterator

import grpc

from tfpipe.protocol.errors import RequestError


class AdmissionController:
    """Bounds the requests inside the models, and those of them that run.

    Further requests are rejected at once, with the code of TensorFlow Serving's full queue, which
    tells clients to try again later. An accepted request waits for its turn until its deadline.

    Attributes:
        max_requests: accepted requests, at most.
    """

    def __init__(self, max_requests: int, *, max_concurrency: int | None = None):
        """Set the bounds.

        Args:
            max_requests: accepted requests, at most.
            max_concurrency: requests that run at the same time; None for all, where batches have
                queues of their own.
        """
        self.max_requests = max_requests
        self._accepted, self._lock = 0, threading.Lock()
        self._running = threading.Semaphore(max_concurrency or max_requests)

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
