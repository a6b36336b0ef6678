"""Checkpoints of a whole training, from which it resumes."""

import os
import pathlib
import re

import tensorflow as tf

from tfpipe.core import storage, terminal
from tfpipe.core.errors import ResumableError, UserError, one_line
from tfpipe.training.cluster import Cluster
from tfpipe.training.strategy import LOST
from tfpipe.training.train_state import TrainState

# Checkpoints that are kept: the newest may be damaged.
KEPT = 2

# What TensorFlow raises for a damaged one.
_DAMAGED = (tf.errors.OpError, LookupError, ValueError, TypeError, RuntimeError, OSError)

_KEY = "progress/.ATTRIBUTES/VARIABLE_VALUE"


class Checkpoints:
    """The checkpoints of a run: `state-1`, `state-2`, ..., each with the `TrainState`.

    All workers of a cluster call each method together.
    """

    def __init__(self, folder: pathlib.Path, cluster: Cluster, own: pathlib.Path):
        """All workers read `folder`, which the chief writes; this worker writes `own`."""
        self._folder, self._cluster, self._own = folder, cluster, own
        self._prefix: str | None = None

    def find(self) -> TrainState | None:
        """Return the state of the newest whole checkpoint, the same on all workers, or None.

        Raises:
            UserError: a worker does not see the chief's checkpoint.
        """
        found = self._newest() if self._cluster.is_chief else None
        number, saved = self._cluster.agree(
            (0, "") if found is None else (_number(found[0]), found[1].to_json())
        )
        if not number:
            self._prefix = None
            return None
        self._prefix = str(self._folder / f"state-{number}")
        if not os.path.exists(f"{self._prefix}.index"):
            raise UserError(
                f"worker 0 resumes from the checkpoint {self._prefix}, which is missing here:"
                " `run_dir` must be a folder that all workers share"
            )
        return TrainState.from_json(saved)

    def _newest(self) -> tuple[str, TrainState] | None:
        for prefix in reversed(self._all()):
            try:
                reader = tf.train.load_checkpoint(prefix)
                for name in reader.get_variable_to_shape_map():
                    reader.get_tensor(name)  # compares checksums
                return prefix, TrainState.from_json(reader.get_tensor(_KEY))
            except _DAMAGED as error:
                reason = one_line(str(error).partition(";")[0])
                terminal.warn(f"the checkpoint {prefix} is damaged ({reason}) and is left out")
        if self._all():
            terminal.warn(f"no checkpoint in {self._folder} is whole: the training begins anew")
        return None

    def restore(self, state: tf.train.Checkpoint) -> None:
        """Set the state to the checkpoint that `find` found."""
        status = tf.train.Checkpoint(state=state).read(self._prefix)
        # Some optimizers create their variables, which wait for their values, in the first step.
        status.assert_nontrivial_match().expect_partial()

    def save(self, state: tf.train.Checkpoint, train_state: TrainState) -> None:
        """Write a checkpoint, or raise UserError; remove all but the newest ones."""
        older = self._all()
        number = _number(older[-1]) + 1 if older else 1
        prefix = str(self._own / f"state-{number}")
        text = tf.Variable(train_state.to_json(), trainable=False)
        try:
            tf.train.Checkpoint(state=state, progress=text).write(prefix)
            for file in self._own.glob(f"state-{number}.*"):
                storage.sync_file(file)
            storage.sync_folder(self._own)
        except (tf.errors.OpError, OSError) as error:
            if self._cluster.workers > 1 and isinstance(error, LOST):
                raise
            raise ResumableError(
                f"cannot write the checkpoint {prefix} ({one_line(str(error))}): make room, and run"
                " the same command again"
            ) from None
        for prefix in older[: 1 - KEPT]:
            for file in self._own.glob(f"state-{_number(prefix)}.*"):
                file.unlink()
        self._cluster.barrier()

    def _all(self) -> list[str]:
        """Return the checkpoints, oldest first. TensorFlow writes the index last."""
        found = [str(path.with_suffix("")) for path in self._own.glob("state-*.index")]
        return sorted((path for path in found if re.search(r"-\d+$", path)), key=_number)


def _number(prefix: str) -> int:
    return int(prefix.rpartition("-")[2])
