"""Tells whether the input or the model is the bottleneck, and records a trace."""

import contextlib
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
        folder, self._folder = self._folder, None
        skipped = min(SKIPPED, steps // 2)
        last = min(skipped + TRACED, steps)  # step of the trace
        start = counted = time.monotonic()
        waits = before = 0.0
        with contextlib.ExitStack() as trace:
            for step in range(steps):
                if step == skipped:
                    counted, before = time.monotonic(), waits
                    if folder:
                        tf.profiler.experimental.start(str(folder))
                        trace.callback(tf.profiler.experimental.stop)
                asked = time.monotonic()
                batch = next(batches)
                if batch is None:  # the epoch has fewer
                    break
                waits += time.monotonic() - asked
                self.waited = waits / (time.monotonic() - start)
                with tf.profiler.experimental.Trace("train", step_num=step, _r=1):
                    yield batch
                if step == last - 1:
                    trace.close()
            end = time.monotonic()
        self.waited = waits / (end - start)
        if folder:
            share = (waits - before) / (end - counted)
            bottleneck = "input" if share > _BOTTLENECK else "compute"
            milliseconds = 1000 * (end - counted) / (steps - skipped)
            self.verdict = (
                f"bottleneck: {bottleneck}; a step takes {milliseconds:,.0f} ms and waits for input"
                f" {share:.0%} of it; steps {skipped + 1} to {last} are traced:"
                f" tensorboard --logdir={folder}"
            )
