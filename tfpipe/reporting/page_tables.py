"""The tables of a report: results, stages and options."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import label_sets, result_tables
from tfpipe.evaluation.summary import summary
from tfpipe.reporting.named_predictions import NamedPredictions
from tfpipe.runs import loaded_run
from tfpipe.training.log import Epoch, best
from tfpipe.training.train_config import TrainConfig

MAX_CLASSES = 40  # rows; of more classes, those with the lowest F1


def result(
    found: NamedPredictions,
    classes: Sequence[str],
    folder: pathlib.Path,
    shares: Sequence[float] | None,
) -> dict[str, Any]:
    """Return what a report says about predictions.

    Args:
        found: the predictions.
        classes: names in the order of their labels.
        folder: of the run; its metrics.json has slices if it was evaluated.
        shares: see `summary`.

    Returns:
        "measured", the summary; "accuracy", the name of the share of right images; "tables" of
        metrics, classes and mistakes; "notes", why a value or interval is missing; "slices", a
        table, None if metrics.json has none for these images; and "slice_notes".
    """
    before = {"log_loss_raw": found.raw}
    measured = summary(
        found.probabilities,
        found.labels,
        tuple(classes),
        before=before,
        shares=shares,
        thresholds=found.thresholds,
    )
    tables = [
        result_tables.of_metrics("metrics", measured),
        result_tables.of_classes(measured, MAX_CLASSES),
    ]
    if len(classes) > 2 and not found.many:
        tables.append(result_tables.of_mistakes(measured))
    saved = _evaluated(folder / loaded_run.METRICS, measured)
    return {
        "measured": measured,
        "accuracy": label_sets.accuracy_of(measured["labels"]),
        "tables": tables,
        "notes": result_tables.explanations(measured),
        "slices": result_tables.of_slices(saved["slices"], wide=True) if saved else None,
        "slice_notes": result_tables.slice_notes(saved) if saved else [],
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
                "best": best(members),
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


def _evaluated(path: pathlib.Path, measured: dict[str, Any]) -> dict[str, Any] | None:
    """Return metrics.json if it has slices of the same predictions."""
    if not path.is_file():
        return None
    try:
        saved = storage.read_json(path, what="metrics", hint="run tfpipe.evaluate again")
        same = all(saved[key] == measured.get(key) for key in ("n", "support", "recall"))
        return saved if same and saved["slices"] else None
    except (UserError, KeyError, TypeError) as error:
        terminal.warn(f"{path} is damaged ({error}): run tfpipe.evaluate again")
        return None
