"""The logger for Weights & Biases: a run there for a run folder, which resuming continues.

WANDB_PROJECT, WANDB_MODE (as "offline") and others say where, as everywhere in wandb.
"""

import dataclasses
import pathlib
import uuid
from typing import Any

from tfpipe.core import extras, storage
from tfpipe.core.errors import UserError
from tfpipe.training.log import Epoch
from tfpipe.training.loggers import Logger
from tfpipe.training.run_folder import RunFolder

FILE = "wandb.json"  # in the run folder: the id of the run


class WandbLogger(Logger):
    """Logs the options as its configuration, each epoch as metrics, and the report as a file."""

    def __init__(self, run: RunFolder, epochs: int):
        """Begin a run of wandb, or continue the one of the folder."""
        self._run = _begin(run)
        self._run.config.update(dataclasses.asdict(run.config), allow_val_change=True)

    def add(self, epoch: Epoch) -> None:
        """Log the figures of an epoch."""
        self._run.log(epoch.figures, step=epoch.epoch)

    def end(self, *, finished: bool) -> None:
        """End the run, which sends what is left."""
        self._run.finish(exit_code=0 if finished else 1)

    @classmethod
    def attach(cls, run: RunFolder, path: pathlib.Path) -> None:
        """Keep a file beside the folder's run of wandb."""
        if not (run.folder / FILE).exists():
            return
        found = _begin(run)
        found.save(str(path), base_path=str(path.parent), policy="now")
        found.finish()


def package() -> Any:
    """Import wandb; raise UserError if it is not installed."""
    with extras.needed("wandb"):
        import wandb
    return wandb


def _begin(run: RunFolder) -> Any:
    """Return the run of wandb of a folder, perhaps a new one; raise UserError if it fails."""
    wandb = package()
    path = run.folder / FILE
    if path.exists():
        saved = storage.read_json(path, what="a run of wandb", hint="remove it")
        own = saved.get("run_id") if isinstance(saved, dict) else None
    else:
        own = uuid.uuid4().hex
        storage.write_json(path, {"run_id": own})
    try:
        return wandb.init(
            id=own,
            name=run.folder.name,
            dir=str(run.folder),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"`log={run.config.log}`: wandb does not begin a run ({reason}): log in by `wandb"
            " login`, or set WANDB_MODE=offline"
        ) from None
