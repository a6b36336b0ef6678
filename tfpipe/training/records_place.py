"""Where the records of a run are, wherever a command is started."""

import os
import pathlib

from tfpipe.core import remote, storage
from tfpipe.records import manifest as manifests
from tfpipe.training.train_config import Resolved, TrainConfig


def find(folder: pathlib.Path, config: TrainConfig, resolved: Resolved) -> str:
    """Return the folder or URL of a run's records.

    A relative one is relative to the working folder, or to the one that the training was started
    in. If there are records at several of these places, those that the run was trained on win.

    Args:
        folder: of the run.
        config: its options.
        resolved: its resolved options.
    """
    given, places = config.records, []
    if not remote.is_remote(given) and not os.path.isabs(given):
        places = [str(base / given) for base in _started_in(folder, config.run_dir)]
    places = dict.fromkeys(filter(None, [given, *places, resolved.records]))
    there = [place for place in places if is_there(place)]
    if len(there) > 1:
        for place in there:
            if manifests.load(place).fingerprint == resolved.records_fingerprint:
                return place
    return next(iter(there), given)


def is_there(place: str | os.PathLike) -> bool:
    """Return whether a folder has a manifest of records."""
    return storage.exists(remote.to_path(place) / manifests.MANIFEST)


def _started_in(folder: pathlib.Path, run_dir: str) -> list[pathlib.Path]:
    """Return the folder that a training was started in, if its `run_dir` tells it."""
    own, given = folder.resolve(), pathlib.Path(os.path.normpath(run_dir))
    known = not given.is_absolute() and own.parts[-len(given.parts) :] == given.parts
    return [own.parents[len(given.parts) - 1]] if known and given.parts else []
