"""Whether the input or the model is the bottleneck, and a trace that shows why."""

import pathlib
import time
from collections.abc import Iterator
from typing import TypeVar

import tensorflow as tf

T = TypeVar("T")

# The first steps compile, and take what has been prefetched meanwhile.
SKIPPED = 10
TRACED = 10

# Of a step spent waiting for a batch; with less, a faster input would hardly be noticed.
_MUCH = 0.1


class Profile:
    """Times the steps of the epochs, and traces some of the first one.

    Attributes:
        waited: the share of the last epoch, or of the one that goes on, in which no batch was
            there to go on with.
        verdict: what was found in the first epoch, one line, if a trace was asked for.
    """

    def __init__(self, folder: pathlib.Path | None):
        """Traces to TensorBoard's `folder`; None for no trace."""
        self._folder = folder
        self.waited = 0.0
        self.verdict = ""

    def watch(self, batches: Iterator[T], steps: int) -> Iterator[T]:
        """Yields the batches of one epoch; what is done between two of them is a step.

        Args:
            batches: of all epochs; None ends one that has fewer batches.
            steps: how many an epoch has.
        """
        skipped = min(SKIPPED, steps // 2)
        start = counted = time.monotonic()
        all_waits = waits = 0.0
        folder, self._folder = self._folder, None
        tracing = False
        for step in range(steps):
            if step == skipped:
                counted, waits = time.monotonic(), 0.0
                if folder:
                    tf.profiler.experimental.start(str(folder))
                    tracing = True
            asked = time.monotonic()
            batch = next(batches)
            wait = time.monotonic() - asked
            if batch is None:  # the epoch has no more
                break
            all_waits += wait
            waits += wait
            self.waited = all_waits / (time.monotonic() - start)
            if tracing:
                with tf.profiler.experimental.Trace("train", step_num=step, _r=1):
                    yield batch
            else:
                yield batch
            if tracing and step == min(skipped + TRACED, steps) - 1:
                tf.profiler.experimental.stop()
                tracing = False
        end = time.monotonic()
        if tracing:  # the epoch had fewer batches
            tf.profiler.experimental.stop()
        self.waited = all_waits / (end - start)
        if folder:
            last = min(skipped + TRACED, steps)
            self.verdict = (
                _verdict(waits / (end - counted), (end - counted) / (steps - skipped))
                + f"; steps {skipped + 1} to {last} are traced: tensorboard --logdir={folder}"
            )


def _verdict(share: float, seconds: float) -> str:
    bottleneck = "input" if share > _MUCH else "compute"
    return (
        f"bottleneck: {bottleneck}; of a step of {1000 * seconds:,.0f} ms {share:.0%} is spent"
        " waiting for input"
    )
