"""Which images a run was trained and validated on, to count them among others.

    trained_images.npz   "train" and "val", int64 [n], sorted: ids by `stateless_random.example_id`

An id is of the bytes of a record's image. So an image that was stored in another size is another.
"""

import zipfile
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.input.stateless_random import example_id
from tfpipe.records.subset import Subset
from tfpipe.runs.loaded_run import LoadedRun, members
from tfpipe.training.run_folder import RunFolder

TRAIN, VAL = "train", "val"


class KnownImages(NamedTuple):
    """How many of some images a run knows.

    Attributes:
        trained: those that it was trained on.
        validated: those that chose its best epoch and its calibration.
    """

    trained: int
    validated: int


def save(
    run: RunFolder, train_split: Subset, val_split: Subset, before: Iterable[RunFolder] = ()
) -> None:
    """Write the ids of a run's images, unless they are there.

    `before` are runs that the first weights come from: it knows their training images too. Nothing
    is written if the ids of one of them are unknown.
    """
    if run.trained_images.is_file():
        return
    earlier = [_load(other) for other in before]
    if not all(earlier):
        return
    train = _ids(train_split), *(ids[TRAIN] for ids in earlier)
    with storage.atomic_file(run.trained_images, "wb") as file:
        np.savez(file, **{TRAIN: np.unique(np.concatenate(train)), VAL: _ids(val_split)})


def count(run: LoadedRun, ids: np.ndarray) -> KnownImages | None:
    """Count the images, by their ids, that a run or any member of it knows; None if unknown."""
    train, val = np.zeros(len(ids), bool), np.zeros(len(ids), bool)
    for member in members(run):
        if (known := _load(member)) is None:
            return None
        train |= np.isin(ids, known[TRAIN])
        val |= np.isin(ids, known[VAL])
    return KnownImages(int(train.sum()), int((val & ~train).sum()))


def _load(run: RunFolder) -> dict[str, np.ndarray] | None:
    """Read the ids; None if there are none, as for a run of an older version."""
    path = run.trained_images
    if not path.is_file():
        return None
    try:
        with np.load(path) as saved:
            return {name: saved[name] for name in (TRAIN, VAL)}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): run tfpipe.train there again") from None


def _ids(part: Subset) -> np.ndarray:
    with terminal.progress(f"listing {part.name}", part.count, "records") as advance:
        ids = []
        for record in part.records():
            ids.append(example_id(record.sha256))
            advance()
    return np.unique(np.array(ids, np.int64))
