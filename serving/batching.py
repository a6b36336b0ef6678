"""Joins the requests of many clients into batches.

TensorFlow's own kernel, `tf.nondifferentiable_batch_function`, is not used. Its threads and queue
stay in the process after the model is gone. Each thread then polls at 0.5 % of a core for good, and
there is one or more for each signature of each version.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping

import grpc
import numpy as np

from tfpipe.core.cores import cores
from tfpipe.protocol.errors import RequestError, invalid

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """How requests are joined; the names are TensorFlow Serving's, the defaults suit a CPU.

    Attributes:
        max_batch_size: rows of one request, at most.
        max_execution_batch_size: rows of one batch; a larger request is split. A CPU gains nothing
            above 16, and with 16 half of 32 clients are answered while the other half computes.
        batch_timeout_micros: how long a batch waits for more requests. It never waits when the
            batch is full.
        max_enqueued_batches: full batches that may wait; more are refused as UNAVAILABLE.
        num_batch_threads: batches that run at the same time. One batch keeps two cores busy, more
            only compete for the caches.
        allowed_batch_sizes: sizes that a batch is padded to; empty for no padding.
        max_requests: requests under way; more are refused as UNAVAILABLE. Not in the file format:
            there it is what the queue and the threads hold.
    """

    max_batch_size: int = 4096
    max_execution_batch_size: int = 16
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 256
    num_batch_threads: int = dataclasses.field(default_factory=lambda: max(1, cores() // 2))
    allowed_batch_sizes: tuple[int, ...] = ()
    max_requests: int = 128


@dataclasses.dataclass
class _Piece:
    """Some rows of a request, at most one batch; it is done with outputs or an error."""

    inputs: Arrays
    due: float
    outputs: Arrays | None = None
    error: Exception | None = None

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    @property
    def done(self) -> bool:
        return self.outputs is not None or self.error is not None

    def layout(self) -> list[tuple]:
        """Return what pieces of one batch share: dtype and shape without the rows."""
        return [(array.dtype, array.shape[1:]) for array in self.inputs.values()]


class Batcher:
    """A function that joins the calls of many threads.

    The calling threads run the batches themselves: a caller runs batches until its own request is
    done. A single caller therefore needs no change of threads. Safe to use from several threads.
    """

    def __init__(self, function: Callable[[Arrays], Arrays], parameters: BatchingParameters):
        """Wrap `function`, whose arrays all have the rows of the batch as first dimension."""
        self._function = function
        self._parameters = parameters
        self._queue: collections.deque[_Piece] = collections.deque()
        self._running = 0
        self._changed = threading.Condition()

    def __call__(self, inputs: Arrays) -> Arrays:
        """Return the outputs for these inputs, computed together with those of other callers.

        Raises:
            RequestError: the queue is full, or the request has too many rows.
            Exception: what the function raises for these inputs alone.
        """
        count = self._rows(inputs)
        if not count:
            return self._function(inputs)
        most = self._parameters.max_execution_batch_size
        due = time.monotonic() + self._parameters.batch_timeout_micros / 1e6
        pieces = [
            _Piece({alias: each[start : start + most] for alias, each in inputs.items()}, due)
            for start in range(0, count, most)
        ]
        self._enqueue(pieces, count)
        while batch := self._wait(pieces):
            try:
                self._run(batch)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()
        error = next((piece.error for piece in pieces if piece.error is not None), None)
        if error is None:
            return _joined([piece.outputs for piece in pieces])
        try:
            raise error
        finally:
            # Its traceback refers to this call. With a reference back, the inputs would stay until
            # a full garbage collection.
            del error, pieces

    def _rows(self, inputs: Arrays) -> int:
        """Return the rows of a request; raises RequestError with TensorFlow's text."""
        sizes = {len(array) for array in inputs.values()}
        if len(sizes) > 1:
            raise invalid(
                "Batching input tensors supplied in a given op invocation must have equal"
                " 0th-dimension size"
            )
        (rows,) = sizes
        if rows > self._parameters.max_batch_size:
            raise invalid(
                f"Task size {rows} is larger than maximum input batch size"
                f" {self._parameters.max_batch_size}"
            )
        return rows

    def _enqueue(self, pieces: list[_Piece], rows: int) -> None:
        """Queue the pieces; raises RequestError if the queue is full."""
        parameters = self._parameters
        room = parameters.max_enqueued_batches * parameters.max_execution_batch_size
        with self._changed:
            if self._queue and self._queued_rows + rows > room:
                raise RequestError(
                    grpc.StatusCode.UNAVAILABLE,
                    "The batch scheduling queue to which this task was submitted is full;"
                    " try again later",
                )
            self._queue.extend(pieces)

    @property
    def _queued_rows(self) -> int:
        return sum(piece.rows for piece in self._queue)

    def _wait(self, pieces: list[_Piece]) -> list[_Piece]:
        """Wait for a batch to run and return it; return nothing when all pieces are done."""
        with self._changed:
            while not all(piece.done for piece in pieces):
                seconds = None
                if self._queue and self._running < self._parameters.num_batch_threads:
                    seconds = self._queue[0].due - time.monotonic()
                    full = self._queued_rows >= self._parameters.max_execution_batch_size
                    if full or seconds <= 0:
                        self._running += 1
                        return self._take()
                self._changed.wait(seconds)
        return []

    def _take(self) -> list[_Piece]:
        """Return the oldest pieces that fit one batch."""
        taken = [self._queue.popleft()]
        rows = taken[0].rows
        while (
            self._queue
            and rows + self._queue[0].rows <= self._parameters.max_execution_batch_size
            and self._queue[0].layout() == taken[0].layout()
        ):
            taken.append(self._queue.popleft())
            rows += taken[-1].rows
        return taken

    def _run(self, pieces: list[_Piece]) -> None:
        """Run a batch. If it fails, run each piece alone, so that only the faulty ones fail."""
        try:
            self._execute(pieces)
        except Exception as error:
            if len(pieces) == 1:
                pieces[0].error = error.with_traceback(None)
            else:
                for piece in pieces:
                    self._run([piece])

    def _execute(self, pieces: list[_Piece]) -> None:
        rows = sum(piece.rows for piece in pieces)
        sizes = self._parameters.allowed_batch_sizes
        padding = next((size for size in sizes if size >= rows), rows) - rows
        inputs = _joined([piece.inputs for piece in pieces], padding)
        outputs = self._function(inputs)
        for alias, array in outputs.items():
            if not array.ndim or len(array) != rows + padding:
                raise ValueError(
                    f"output {alias} has shape {list(array.shape)} for {rows + padding} rows"
                )
        start = 0
        for piece in pieces:
            end = start + piece.rows
            piece.outputs = {alias: array[start:end] for alias, array in outputs.items()}
            start = end


def _joined(parts: list[Arrays], padding: int = 0) -> Arrays:
    """Return the rows of all parts; the last row is repeated `padding` times."""
    if len(parts) == 1 and not padding:
        return parts[0]
    found = {}
    for alias in parts[0]:
        arrays = [part[alias] for part in parts]
        if padding:
            arrays.append(np.repeat(arrays[-1][-1:], padding, axis=0))
        found[alias] = np.concatenate(arrays)
    return found
