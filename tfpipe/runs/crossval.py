"""Cross-validation: a run for each fold, and the predictions of all images by the run without them.

The folder has

    fold-0/ ...        a run folder for each fold, trained on all the others
    features/          what frozen layers made of the images, for all folds
    folds.json         the names of these folders, written when all are trained
    predictions.csv    out-of-fold predictions, a line for each image
    calibration.json   fitted to them, for the runs together
"""

import dataclasses
import pathlib

import numpy as np

from tfpipe.core import options, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import metrics
from tfpipe.model.calibration import Calibration
from tfpipe.records.manifest import Manifest
from tfpipe.runs import calibrate, finish
from tfpipe.training import run_folder as run_folders
from tfpipe.training.config import TrainConfig

FOLDS = "folds.json"
PREDICTIONS = "predictions.csv"
CALIBRATION = "calibration.json"


def configs(config: TrainConfig, manifest: Manifest) -> list[TrainConfig]:
    """Returns the options of each fold's run.

    Raises:
        UserError: the records have another number of folds, or none.
    """
    there = sorted(map(int, manifest.folds))
    if not there:
        raise UserError(
            f"--folds={config.folds}: {manifest.folder} has no folds: build the records with"
            f" --folds={config.folds}"
        )
    if config.folds != len(there):
        raise UserError(f"--folds={config.folds}: {manifest.folder} has {len(there)}: give that")
    if config.fold >= 0:
        raise UserError(f"--folds={config.folds} --fold={config.fold}: give one of them")
    folder = pathlib.Path(config.run_dir)
    cache = config.feature_cache or str(folder / "features")
    return [
        dataclasses.replace(
            config, folds=0, fold=fold, run_dir=str(folder / f"fold-{fold}"), feature_cache=cache
        )
        for fold in there
    ]


def join(config: TrainConfig, runs: list[TrainConfig]) -> None:
    """Joins the runs' predictions of their held-out images, calibrates, and shows the figures.

    Each fold's figures are of a calibration fitted to the other folds; the one that is kept for the
    runs together is fitted to all.

    Args:
        config: of the cross-validation.
        runs: options of its runs, which are trained.
    """
    folder = pathlib.Path(config.run_dir)
    opened = [run_folders.load(run.run_dir) for run in runs]
    output, classes = opened[0].resolved.output, opened[0].classes
    parts = [finish.read_predictions(run.predictions_file) for run in opened]
    every = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    logits, labels, method = every["logits"], every["label"], config.calibration
    kept = calibrate.fit(logits, labels, output, method)
    fold = np.repeat(np.arange(len(parts)), [len(part["label"]) for part in parts])
    every["probabilities"] = calibrate.cross_fit(logits, labels, output, method, fold)
    measured = [
        _measures({key: values[fold == index] for key, values in every.items()}, output)
        for index in range(len(parts))
    ]
    finish.write_predictions(folder / PREDICTIONS, classes, every)
    storage.write_json(folder / FOLDS, {"folds": [run.folder.name for run in opened]})
    made_for = {"members": [run.identity() for run in opened]}
    storage.write_json(
        folder / CALIBRATION,
        {"calibration": options.to_json(kept), "made_for": made_for, "n": len(every["label"])},
    )
    rows = [
        [f"fold {run.fold}", len(part["label"]), *(f"{value:.4f}" for value in values)]
        for run, part, values in zip(runs, parts, measured, strict=True)
    ]
    total = (f"{value:.4f}" for value in _measures(every, output))
    rows.append(["all", len(every["label"]), *total])
    spread = np.std(measured, axis=0, ddof=1) if len(runs) > 1 else np.zeros(3)
    rows.append(["standard deviation", "", *(f"{value:.4f}" for value in spread)])
    terminal.show_table(
        f"cross-validation of {folder}",
        ["held out", "images", "log loss, raw", "log loss", "accuracy"],
        rows,
    )


def _measures(part: dict, output: str) -> tuple[float, float, float]:
    """Returns the log loss before and after calibration, and the accuracy."""
    labels, probabilities = part["label"], part["probabilities"]
    raw = Calibration().apply(part["logits"], output).numpy()
    return (
        metrics.log_loss(raw, labels),
        metrics.log_loss(probabilities, labels),
        metrics.accuracy(probabilities, labels),
    )
