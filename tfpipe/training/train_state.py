"""How far a training has come."""

import dataclasses
import json
import math


@dataclasses.dataclass
class TrainState:
    """Place and results of a training. Epochs count through all stages, from 0.

    A best epoch has the lowest validation loss, of the stage or of all; it is -1 for none yet.
    """

    stage: int = 0
    first_epoch: int = 0  # of the stage
    epoch: int = 0  # current or next
    stage_best_epoch: int = -1
    stage_best_loss: float = math.inf
    best_epoch: int = -1
    best_loss: float = math.inf
    best_accuracy: float = 0.0
    retries: int = 0  # of the stage, from a checkpoint because its loss was not finite

    @classmethod
    def from_json(cls, text: str | bytes) -> "TrainState":
        """Read what `to_json` wrote; raise ValueError or TypeError for anything else."""
        saved = json.loads(text)
        if "rewinds" in saved:  # its name in version 0.1
            saved["retries"] = saved.pop("rewinds")
        return cls(**saved)

    def to_json(self) -> str:
        """Return the state as JSON."""
        return json.dumps(dataclasses.asdict(self))

    def begin_stage(self, stage: int) -> None:
        """Begin the next stage."""
        self.stage = stage
        self.first_epoch = self.epoch
        self.stage_best_epoch, self.stage_best_loss = -1, math.inf
        self.retries = 0

    def finished(self, epochs: int, patience: int) -> bool:
        """Return whether the stage is over: by its epochs, or `patience` epochs without a gain.

        A patience of 0 is that of 1, like Keras' EarlyStopping.
        """
        trained = self.epoch - self.first_epoch
        best = max(self.stage_best_epoch, self.first_epoch - 1)
        waited = self.epoch - 1 - best
        return trained >= epochs or (trained > 0 and waited >= max(1, patience))

    def add(self, loss: float, accuracy: float) -> tuple[bool, bool]:
        """End an epoch; return whether it is the best of the stage, and the best of all."""
        best_of_stage = loss < self.stage_best_loss
        if best_of_stage:
            self.stage_best_epoch, self.stage_best_loss = self.epoch, loss
        best = loss < self.best_loss
        if best:
            self.best_epoch, self.best_loss, self.best_accuracy = self.epoch, loss, accuracy
        self.epoch += 1
        return best_of_stage, best
