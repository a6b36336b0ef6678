"""Starts a run folder, or resumes the run that it holds."""

import dataclasses
import filecmp
import pathlib

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.records.manifest import Manifest
from tfpipe.training import resolve, run_folder, schedules
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.train_config import TrainConfig

# Options that may change when a run is resumed: its length, the place of the records, the speed,
# and the use of the trained model.
RESUMABLE = (
    *("epochs", "patience", "minutes", "records", "run_dir", "tta"),
    *("calibration", "calibration_bounds", "reject_rate"),
    *("buffer_mb", "decode_threads", "max_corrupt", "profile", "shuffle_mb"),
    *("cache", "data_service", "log"),
    *("checkpoint_minutes", "feature_cache", "feature_gb", "on_nan", "strategy"),
)

# Of these, the ones that decide the order of the images.
_ORDER = ("cache", "data_service")


def start(config: TrainConfig, manifest: Manifest, precision: str, xla: bool) -> RunFolder:
    """Open the run folder for training: a new one, or the same run to resume; write nothing.

    Raises:
        UserError: the folder holds a run with other options or other records.
    """
    resolved = resolve.resolve(config, manifest, precision, xla)
    run = RunFolder(pathlib.Path(config.run_dir), config, resolved)
    if before := begun(config.run_dir):
        check_same(before, run)
        for name in _ORDER:
            old, new = getattr(before.config, name), getattr(config, name)
            if old != new:
                terminal.say(
                    f"resuming with `{name}={new}` instead of {old or 'none'}: each epoch has the"
                    " same images, in another order"
                )
    return run


def begun(run_dir: str) -> RunFolder | None:
    """Return the run whose training began in a folder, or None."""
    begun = (pathlib.Path(run_dir) / run_folder.LAST).exists()
    return run_folder.load(run_dir) if begun else None


def check_same(old: RunFolder, new: RunFolder) -> None:
    """Raise UserError if `new` does not continue `old`: other options, model files or records."""
    before, now = dataclasses.asdict(old.config), dataclasses.asdict(new.config)
    fixed = set(before) - set(RESUMABLE)
    if any(schedules.follows_epochs(stage.config.schedule) for stage in new.stages):
        fixed.add("epochs")
    for name in before:
        if name in fixed and before[name] != now[name]:
            raise UserError(
                f"{old.folder} holds a run with `{name}={before[name]}`, now {now[name]}: give"
                " another `run_dir`, or the same options to resume"
            )
    for original, copy in new.model_files().items():
        if not (copy.is_file() and filecmp.cmp(original, copy, shallow=False)):
            raise UserError(
                f"{original} differs from the model file that {old.folder} began with ({copy}):"
                " give that file, or another `run_dir`"
            )
    if old.resolved.records_fingerprint != new.resolved.records_fingerprint:
        raise UserError(
            f"{old.folder} was trained on other records than {new.config.records} now holds: give"
            " another `run_dir`"
        )
