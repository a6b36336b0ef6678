"""How far a training has come."""

import dataclasses
import json
import math


@dataclasses.dataclass
class TrainState:
    """Place and results of a training. Epochs count through all stages, from 0.

    A best epoch has the lowest cost, of the stage or of all; it is -1 for none yet. The cost is the
    validation loss, or another monitored measure as `Monitor.cost` returns it.
    """

    stage: int = 0
    first_epoch: int = 0  # of the stage
    epoch: int = 0  # current or next
    stage_best_epoch: int = -1
    stage_best_cost: float = math.inf
    improved_epoch: int = -1  # of the stage, the last that counts for patience
    improved_cost: float = math.inf
    best_epoch: int = -1
    best_cost: float = math.inf
    best_loss: float = math.inf
    best_accuracy: float = 0.0
    retries: int = 0  # of the stage, from a checkpoint because its loss was not finite
    reductions: int = 0  # of the stage's rate, by the schedule `plateau`
    reduced_epoch: int = -1  # the last epoch that ended with one

    @classmethod
    def from_json(cls, text: str | bytes) -> "TrainState":
        """Read what `to_json` wrote; raise ValueError or TypeError for anything else."""
        saved = json.loads(text)
        if "rewinds" in saved:  # its name in version 0.1
            saved["retries"] = saved.pop("rewinds")
        if "stage_best_loss" in saved:  # before another measure could be monitored
            saved["improved_epoch"] = saved["stage_best_epoch"]
            saved["stage_best_cost"] = saved["improved_cost"] = saved.pop("stage_best_loss")
            saved["best_cost"] = saved["best_loss"]
        return cls(**saved)

    def to_json(self) -> str:
        """Return the state as JSON."""
        return json.dumps(dataclasses.asdict(self))

    def begin_stage(self, stage: int) -> None:
        """Begin the next stage."""
        self.stage = stage
        self.first_epoch = self.epoch
        self.stage_best_epoch = self.improved_epoch = self.reduced_epoch = -1
        self.stage_best_cost = self.improved_cost = math.inf
        self.retries = self.reductions = 0

    def forget_best(self) -> None:
        """Let the next epoch be the best: those before saw images of another size."""
        self.best_epoch, self.best_cost = -1, math.inf
        self.best_loss, self.best_accuracy = math.inf, 0.0

    def finished(self, epochs: int, patience: int) -> bool:
        """Return whether the stage is over: by its epochs, or `patience` epochs without a gain.

        A patience of 0 is that of 1, like Keras' EarlyStopping.
        """
        trained = self.epoch - self.first_epoch
        return trained >= epochs or (trained > 0 and self._epochs_since(-1) >= max(1, patience))

    def add(
        self, loss: float, accuracy: float, cost: float, min_delta: float = 0.0
    ) -> tuple[bool, bool]:
        """End an epoch; return whether it is the best of the stage, and the best of all.

        A gain counts for patience if it is above `min_delta`, as in Keras' EarlyStopping.
        """
        best_of_stage = cost < self.stage_best_cost
        if best_of_stage:
            self.stage_best_epoch, self.stage_best_cost = self.epoch, cost
        if cost < self.improved_cost - min_delta:
            self.improved_epoch, self.improved_cost = self.epoch, cost
        best = cost < self.best_cost
        if best:
            self.best_epoch, self.best_cost = self.epoch, cost
            self.best_loss, self.best_accuracy = loss, accuracy
        self.epoch += 1
        return best_of_stage, best

    def reduce_rate(self, patience: int) -> bool:
        """Count a reduction of the rate if `patience` epochs had no gain; return whether it is."""
        due = self._epochs_since(self.reduced_epoch) >= patience
        if due:
            self.reductions += 1
            self.reduced_epoch = self.epoch - 1
        return due

    def _epochs_since(self, other: int) -> int:
        """Return the epochs since the last gain of the stage, or since another epoch."""
        return self.epoch - 1 - max(self.improved_epoch, other, self.first_epoch - 1)
