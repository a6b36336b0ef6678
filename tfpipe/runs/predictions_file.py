"""`predictions.csv`: the predictions of labelled images, a row for each image.

The columns are `name`, escaped to one line; `label`, the index of the right class, or `labels`, the
indices of several as 0|2, empty for none, where images may have several;
`probability_CLASS` for each class; and `logit_CLASS` for each class, or for the second class only
where the output is a sigmoid. Nine significant digits keep a float32 exactly.
"""

import csv
import os

import numpy as np

from tfpipe.core import storage
from tfpipe.core.errors import UserError, one_line

# The column of a class's probability is PROBABILITY followed by its name.
PROBABILITY = "probability_"


def write(
    path: str | os.PathLike, classes: tuple[str, ...], predictions: dict[str, np.ndarray]
) -> None:
    """Write predictions atomically.

    Args:
        path: of the CSV.
        classes: names in the order of their labels.
        predictions: "name", bytes or str [n], "label" int [n] or [n, C], "probabilities" float32
            [n, C] and "logits" float32 [n, 1 or C].
    """
    logits = predictions["logits"]
    of_logits = classes[1:] if logits.shape[1] == 1 else classes
    header = [f"{PROBABILITY}{name}" for name in classes] + [f"logit_{name}" for name in of_logits]
    numbers = np.concatenate([predictions["probabilities"], logits], axis=1)
    with storage.atomic_file(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        labels = predictions["label"]
        many = labels.ndim == 2
        writer.writerow(["name", "labels" if many else "label", *header])
        if many:
            labels = ["|".join(map(str, np.flatnonzero(row))) for row in labels]
        for name, label, row in zip(text(predictions["name"]), labels, numbers, strict=True):
            writer.writerow([name, label, *(f"{value:.9g}" for value in row)])


def read(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read predictions.

    Returns:
        "name" str [n], "label" int64 [n] or float32 [n, C], "probabilities" float32 [n, C],
        "logits" float32 [n, 1 or C].

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            header, *rows = csv.reader(file)
        values = np.array([row[2:] for row in rows], np.float32)
        indices = [[int(index) for index in row[1].split("|") if index] for row in rows]
        names = np.array([row[0] for row in rows])
        classes = len(_classes_in(header))
        probabilities, logits = values[:, :classes], values[:, classes:]
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path} cannot be read ({error}): run tfpipe.train there again") from None
    many = header[1] == "labels"
    known = all(0 <= index < classes for each in indices for index in each)
    fits = known and (many or all(len(each) == 1 for each in indices))
    if not (np.isfinite(values).all() and fits):
        raise UserError(
            f"{path} is damaged: a number is not finite, or a label is no class: run tfpipe.train"
            " there again"
        )
    if many:
        labels = np.zeros([len(rows), classes], np.float32)
        for row, each in zip(labels, indices, strict=True):
            row[each] = 1
    else:
        labels = np.array([each[0] for each in indices], np.int64)
    return {"name": names, "label": labels, "probabilities": probabilities, "logits": logits}


def classes(path: str | os.PathLike) -> tuple[str, ...]:
    """Return the names of the classes; raise OSError or ValueError for a file that is no text."""
    with open(path, newline="", encoding="utf-8") as file:
        return _classes_in(next(csv.reader(file), []))


def _classes_in(header: list[str]) -> tuple[str, ...]:
    return tuple(n.removeprefix(PROBABILITY) for n in header if n.startswith(PROBABILITY))


def text(names: np.ndarray) -> np.ndarray:
    """Return names, bytes or str [n], as the file has them: str [n]."""
    decoded = (
        each if isinstance(each, str) else each.decode("utf-8", "surrogateescape") for each in names
    )
    return np.array([one_line(each) for each in decoded])
