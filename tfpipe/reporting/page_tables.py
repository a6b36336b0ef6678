"""The tables of a report: metrics, classes, mistakes, slices, stages and options."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation.metrics import metrics, names
from tfpipe.evaluation.slices import attributes
from tfpipe.evaluation.summary import summary
from tfpipe.reporting import training_plots
from tfpipe.reporting.named_predictions import NamedPredictions
from tfpipe.runs import loaded_run
from tfpipe.training.log import Epoch
from tfpipe.training.train_config import TrainConfig

MAX_CLASSES = 40  # rows; of more classes, those with the lowest F1
MAX_MISTAKES = 12

_RAW = "log_loss_raw"


def result(found: NamedPredictions, classes: Sequence[str], folder: pathlib.Path) -> dict[str, Any]:
    """Return the rows of all tables about the predictions.

    Args:
        found: the predictions.
        classes: names in the order of their labels.
        folder: of the run; its metrics.json has slices if it was evaluated.

    Returns:
        "n", the number of images; "values" and "intervals", by metric; "metrics", rows with title,
        value, interval and reason; "classes", rows with name, images, recall, precision and F1;
        "others", the number of classes without a row; "mistakes", rows with class, prediction and
        count; "slices", or None if metrics.json has none for these images.
    """
    measured = summary(found.probabilities, found.labels, tuple(classes), before={_RAW: found.raw})
    titles = {name: metrics[name].title for name in names()}
    titles = {"log_loss": titles["log_loss"], _RAW: "log loss before calibration"} | titles
    rows = [
        {
            "title": title,
            "value": measured[name],
            "interval": measured["intervals"][name],
            "reason": measured["reasons"].get(name)
            or measured["reasons"].get(f"intervals.{name}", ""),
        }
        for name, title in titles.items()
    ]
    ranked = list(classes)
    if len(ranked) > MAX_CLASSES:
        known = [name for name in ranked if measured["f1"][name] is not None]
        ranked = sorted(known, key=lambda name: measured["f1"][name])[:MAX_CLASSES]
    by_class = ("support", "recall", "precision", "f1")
    return {
        "n": measured["n"],
        "values": {name: measured[name] for name in names()},
        "intervals": measured["intervals"],
        "metrics": rows,
        "classes": [
            {"name": name} | {key: measured[key][name] for key in by_class} for name in ranked
        ],
        "others": len(classes) - len(ranked),
        "mistakes": _mistakes(np.array(measured["confusion"]), classes),
        "slices": _slices(folder / loaded_run.METRICS, measured),
    }


def stages(histories: Mapping[str, Sequence[Epoch]]) -> list[dict[str, Any]]:
    """Return a row for each stage of each run: best epoch, time and mean speed."""
    rows = []
    for name, epochs in histories.items():
        for stage in dict.fromkeys(epoch.stage for epoch in epochs):
            members = [epoch for epoch in epochs if epoch.stage == stage]
            row = {
                "run": name,
                "stage": stage,
                "epochs": len(members),
                "best": training_plots.best(members),
                "seconds": sum(epoch.seconds for epoch in members),
                "images_per_s": float(np.mean([epoch.images_per_s for epoch in members])),
                "input_wait": float(np.mean([epoch.input_wait for epoch in members])),
            }
            rows.append(row)
    return rows


def options(config: TrainConfig) -> list[tuple[str, str]]:
    """Return the options of a run that differ from the defaults."""
    return [
        (field.name, str(getattr(config, field.name)))
        for field in dataclasses.fields(TrainConfig)
        if getattr(config, field.name) != field.default
    ]


def _mistakes(counts: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return the most frequent wrong predictions."""
    counts = counts.copy()
    np.fill_diagonal(counts, 0)
    worst = np.argsort(-counts, axis=None, kind="stable")[:MAX_MISTAKES]
    cells = [np.unravel_index(cell, counts.shape) for cell in worst]
    return [
        (classes[row], classes[column], int(counts[row, column]))
        for row, column in cells
        if counts[row, column]
    ]


def _slices(path: pathlib.Path, measured: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the slices in metrics.json if it describes the same predictions."""
    if not path.is_file():
        return None
    try:
        saved = storage.read_json(path, what="metrics", hint="run tfpipe.evaluate again")
        if (saved["n"], saved["confusion"]) != (measured["n"], measured["confusion"]):
            return None
        if not saved.get("slices"):
            return None
        return [
            each | {"by": attributes[each["by"]].title, "bounds": _bounds(each)}
            for each in saved["slices"]
            if each["n"] < measured["n"]
        ]
    except (UserError, KeyError, TypeError) as error:
        terminal.warn(f"{path} is damaged ({error}): run tfpipe.evaluate again")
        return None


def _bounds(part: dict[str, Any]) -> str:
    if "value" in part:
        return part["value"]
    digits = attributes[part["by"]].digits
    return f"{part['from']:.{digits}f} to {part['to']:.{digits}f}"
