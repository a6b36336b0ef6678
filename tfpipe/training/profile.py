"""Tells whether the input or the model is the bottleneck, and records a trace."""

import pathlib
import time
from collections.abc import Iterator
from typing import TypeVar

import tensorflow as tf

T = TypeVar("T")

# The first steps compile, and use batches prefetched meanwhile.
SKIPPED = 10
TRACED = 10

# Share of a step spent waiting for a batch, above which the input is the bottleneck.
_BOTTLENECK = 0.1


class Profile:
    """Times the steps of the epochs, and traces some of the first one.

    Attributes:
        waited: share of the current or last epoch spent waiting for batches.
        verdict: one line on the first epoch, if a trace was asked for.
    """

    def __init__(self, folder: pathlib.Path | None):
        """Trace to TensorBoard's `folder`; None for no trace."""
        self._folder = folder
        self.waited = 0.0
        self.verdict = ""

    def watch(self, batches: Iterator[T], steps: int) -> Iterator[T]:
        """Yield the batches of one epoch; the time between two of them is a step.

        Args:
            batches: of all epochs; None ends an epoch with fewer batches.
            steps: steps in an epoch.
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
            if batch is None:  # the epoch has fewer
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
    bottleneck = "input" if share > _BOTTLENECK else "compute"
    return (
        f"bottleneck: {bottleneck}; a step takes {1000 * seconds:,.0f} ms and waits for input"
        f" {share:.0%} of it"
    )
