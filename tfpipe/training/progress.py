"""How far a training has come, and the checkpoints that it goes on from."""

import dataclasses
import json
import math
import os
import pathlib
import re

import tensorflow as tf

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.training.strategy import LOST, Cluster

# How many checkpoints of the whole state are kept: the newest may be damaged.
KEPT = 2

_KEY = "progress/.ATTRIBUTES/VARIABLE_VALUE"


@dataclasses.dataclass
class Progress:
    """Where a training is. Epochs are counted through all stages, from 0.

    Attributes:
        stage: index of the stage.
        first_epoch: its first epoch.
        epoch: that goes on, or comes next.
        stage_best_epoch: with the lowest validation loss of the stage; -1 for none yet.
        stage_best_loss: that loss.
        best_epoch: with the lowest one of all; -1 for none yet.
        best_loss: that loss.
        best_accuracy: of that epoch.
        rewinds: how often the stage was set back.
    """

    stage: int = 0
    first_epoch: int = 0
    epoch: int = 0
    stage_best_epoch: int = -1
    stage_best_loss: float = math.inf
    best_epoch: int = -1
    best_loss: float = math.inf
    best_accuracy: float = 0.0
    rewinds: int = 0

    def begin_stage(self, stage: int) -> None:
        """Goes on to the next stage."""
        self.stage = stage
        self.first_epoch = self.epoch
        self.stage_best_epoch, self.stage_best_loss = -1, math.inf
        self.rewinds = 0

    def finished(self, epochs: int, patience: int) -> bool:
        """Tells whether the stage is over.

        Args:
            epochs: that it has at most.
            patience: after how many epochs without a lower validation loss it ends.
        """
        trained = self.epoch - self.first_epoch
        best = max(self.stage_best_epoch, self.first_epoch - 1)
        return trained >= epochs or (trained > 0 and self.epoch - 1 - best >= patience)

    def add(self, loss: float, accuracy: float) -> tuple[bool, bool]:
        """Ends an epoch; returns whether it is the best of the stage, and the best of all."""
        best_of_stage = loss < self.stage_best_loss
        if best_of_stage:
            self.stage_best_epoch, self.stage_best_loss = self.epoch, loss
        best = loss < self.best_loss
        if best:
            self.best_epoch, self.best_loss, self.best_accuracy = self.epoch, loss, accuracy
        self.epoch += 1
        return best_of_stage, best


class Checkpoints:
    """The checkpoints of a run: `state-1`, `state-2`, ... of the whole state, and its progress.

    All workers of a cluster call each method together.
    """

    def __init__(self, folder: pathlib.Path, cluster: Cluster, own: pathlib.Path):
        """Opens the folder, which need not be there yet.

        Args:
            folder: that the chief writes and all workers read.
            cluster: the workers.
            own: where this one writes.
        """
        self._folder, self._cluster, self._own = folder, cluster, own
        self._prefix: str | None = None

    def find(self) -> Progress | None:
        """Looks for the newest checkpoint that is whole, and tells of damaged ones.

        Returns:
            Its progress, or None if there is none; on all workers what the chief has found.

        Raises:
            UserError: a worker does not see the chief's checkpoint.
        """
        found = self._newest() if self._cluster.is_chief else None
        number, saved = self._cluster.agree(
            (0, None) if found is None else (_number(found[0]), dataclasses.asdict(found[1]))
        )
        if not number:
            self._prefix = None
            return None
        self._prefix = str(self._folder / f"state-{number}")
        if not os.path.exists(f"{self._prefix}.index"):
            raise UserError(
                f"the checkpoint {self._prefix}, from which worker 0 goes on, is not there:"
                " --run_dir must be a folder that all workers share"
            )
        return Progress(**saved)

    def _newest(self) -> tuple[str, Progress] | None:
        for prefix in reversed(self._all()):
            try:
                reader = tf.train.load_checkpoint(prefix)
                for name in reader.get_variable_to_shape_map():
                    reader.get_tensor(name)  # compares checksums
                progress = Progress(**json.loads(reader.get_tensor(_KEY)))
            except (
                tf.errors.OpError,
                LookupError,
                ValueError,
                TypeError,
                RuntimeError,
                OSError,
            ) as error:
                reason = one_line(str(error).partition(";")[0])
                terminal.warn(f"the checkpoint {prefix} is damaged ({reason}): it is left out")
                continue
            return prefix, progress
        if self._all():
            terminal.warn(f"no checkpoint in {self._folder} is whole: the training begins anew")
        return None

    def restore(self, state: tf.train.Checkpoint) -> None:
        """Sets the state to the checkpoint that `find` found."""
        status = tf.train.Checkpoint(state=state).read(self._prefix)
        # Some optimizers make their variables, which wait for their values, in the first step.
        status.assert_nontrivial_match().expect_partial()

    def save(self, state: tf.train.Checkpoint, progress: Progress) -> None:
        """Writes a checkpoint, and removes all but the newest ones.

        Raises:
            UserError: it cannot be written.
        """
        older = self._all()
        number = _number(older[-1]) + 1 if older else 1
        prefix = str(self._own / f"state-{number}")
        text = tf.Variable(json.dumps(dataclasses.asdict(progress)), trainable=False)
        try:
            tf.train.Checkpoint(state=state, progress=text).write(prefix)
            for file in self._own.glob(f"state-{number}.*"):
                storage.sync_file(file)
            storage.sync_folder(self._own)
        except (tf.errors.OpError, OSError) as error:
            if self._cluster.workers > 1 and isinstance(error, LOST):
                raise
            raise UserError(
                f"cannot write the checkpoint {prefix} ({one_line(str(error))}): make room, and run"
                " the same command again"
            ) from None
        for prefix in older[: 1 - KEPT]:
            for file in self._own.glob(f"state-{_number(prefix)}.*"):
                file.unlink()
        self._cluster.barrier()

    def _all(self) -> list[str]:
        """Returns the checkpoints, oldest first; the index is what TensorFlow writes last."""
        found = [str(path.with_suffix("")) for path in self._own.glob("state-*.index")]
        return sorted((path for path in found if re.search(r"-\d+$", path)), key=_number)


def _number(prefix: str) -> int:
    return int(prefix.rpartition("-")[2])
