"""The option `minutes`: when a training ends, and where within an epoch."""

import math
import time
from collections.abc import Iterator
from typing import Any

from tfpipe.core import terminal
from tfpipe.training.cluster import Cluster
from tfpipe.training.steps import READ_EVERY


class TimeLimit:
    """Decides, by the chief's clock, whether a training's minutes are over.

    Attributes:
        validating_s: duration of the last validation in seconds, for which time is left.
    """

    def __init__(self, minutes: float, cluster: Cluster):
        """Start the clock; 0 minutes are no limit."""
        self._minutes, self._cluster = minutes, cluster
        self._deadline = time.monotonic() + 60 * minutes if minutes else math.inf
        self.validating_s = 0.0

    def is_over(self) -> bool:
        """Return whether the time is over, or too short for more than a validation."""
        if math.isinf(self._deadline):
            return False
        return self._cluster.agree(time.monotonic() + self.validating_s >= self._deadline)

    def cut(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield batches until the time is over, at least one; then None, which ends the epoch.

        Several workers look at the clock only where the loss is read and they wait anyway.
        """
        every = 1 if self._cluster.workers == 1 else READ_EVERY
        for step, batch in enumerate(batches):
            if step and step % every == 0 and self.is_over():
                terminal.say(f"minutes={self._minutes:g}: the epoch ends after {step} steps")
                batch = None
            yield batch
