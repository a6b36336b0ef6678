"""The tables of a result: its measures with their intervals, its classes, mistakes and slices."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation.metrics import metrics, names
from tfpipe.evaluation.slices import attributes
from tfpipe.evaluation.summary import summary
from tfpipe.reporting.predictions import Predictions
from tfpipe.runs import loaded_run

MAX_CLASSES = 40  # rows; of more classes those of the lowest F1
MAX_MISTAKES = 12

_BEFORE = {"log_loss_raw": "log loss before calibration"}


def of(found: Predictions, classes: Sequence[str], folder: pathlib.Path) -> dict[str, Any]:
    """Returns the rows of the tables.

    Args:
        found: the answers.
        classes: names in the order of their labels.
        folder: of the run, whose metrics.json has slices if it was evaluated.

    Returns:
        "n"; "values", by measure the value or None; "measures", a row of title, value, interval and
        reason each; "classes", a row of name, images, recall, precision and F1 each; "others", how
        many classes are left out; "mistakes", a row of class, what it is taken for and how often;
        "slices", or None if metrics.json has none of these images.
    """
    told = summary(
        found.probabilities, found.labels, tuple(classes), before={"log_loss_raw": found.raw}
    )
    titles = {}
    for name in names():
        titles[name] = metrics[name].title
        if name == "log_loss":
            titles |= _BEFORE
    rows = [
        {
            "title": title,
            "value": told[name],
            "interval": told["intervals"][name],
            "reason": told["reasons"].get(name) or told["reasons"].get(f"intervals.{name}", ""),
        }
        for name, title in titles.items()
    ]
    ranked = list(classes)
    if len(ranked) > MAX_CLASSES:
        known = [name for name in ranked if told["f1"][name] is not None]
        ranked = sorted(known, key=lambda name: told["f1"][name])[:MAX_CLASSES]
    return {
        "n": told["n"],
        "values": {name: told[name] for name in names()},
        "intervals": told["intervals"],
        "measures": rows,
        "classes": [
            {
                "name": name,
                "images": told["support"][name],
                **{key: told[key][name] for key in ("recall", "precision", "f1")},
            }
            for name in ranked
        ],
        "others": len(classes) - len(ranked),
        "mistakes": _mistakes(np.array(told["confusion"]), classes),
        "slices": _slices(folder / loaded_run.METRICS, told),
    }


def _mistakes(counts: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, int]]:
    """Returns what is most often taken for what."""
    counts = counts.copy()
    np.fill_diagonal(counts, 0)
    worst = np.argsort(-counts, axis=None, kind="stable")[:MAX_MISTAKES]
    cells = [np.unravel_index(cell, counts.shape) for cell in worst]
    return [
        (classes[row], classes[column], int(counts[row, column]))
        for row, column in cells
        if counts[row, column]
    ]


def _slices(path: pathlib.Path, told: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Returns the slices in metrics.json if it is of the same answers."""
    if not path.is_file():
        return None
    try:
        saved = storage.read_json(path, what="measures", hint="run tfpipe.evaluate again")
        if not isinstance(saved, dict):
            raise UserError(f"{path} is damaged: run tfpipe.evaluate again")
        same = (saved.get("n"), saved.get("confusion")) == (told["n"], told["confusion"])
        if not same or not saved.get("slices"):
            return None
        return [
            {
                "by": attributes[each["by"]].title,
                "bounds": _bounds(each),
                "n": each["n"],
                "log_loss": each["log_loss"],
                "interval": each["log_loss_interval"],
                "accuracy": each["accuracy"],
                "worse": each["worse"],
            }
            for each in saved["slices"]
            if each["n"] < told["n"]
        ]
    except (UserError, KeyError, TypeError) as error:
        terminal.warn(f"{path}: {error}: run tfpipe.evaluate again")
        return None


def _bounds(part: dict[str, Any]) -> str:
    if "value" in part:
        return part["value"]
    digits = attributes[part["by"]].digits
    return f"{part['from']:.{digits}f} to {part['to']:.{digits}f}"
