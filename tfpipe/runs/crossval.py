"""Cross-validation: one run per fold, and out-of-fold predictions of all images.

The folder has

    fold-0/ ...        a run folder for each fold, trained on all other folds
    features/          features of frozen layers, shared by all folds
    folds.json         the names of the folds' folders, written after the last training
    predictions.csv    out-of-fold predictions, a row for each image
    calibration.json   fitted to them, for the mean of the runs
"""

import dataclasses
import pathlib

import numpy as np

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import metrics
from tfpipe.model.calibration import Calibration
from tfpipe.records.manifest import Manifest
from tfpipe.runs import calibration_fit, predictions_file
from tfpipe.training import run_folder as run_folders
from tfpipe.training.train_config import TrainConfig

FOLDS = "folds.json"
PREDICTIONS = "predictions.csv"
CALIBRATION = "calibration.json"


def configs(config: TrainConfig, manifest: Manifest) -> list[TrainConfig]:
    """Return the options of each fold's run.

    Raises:
        UserError: the records have another number of folds, or none.
    """
    there = sorted(map(int, manifest.folds))
    if not there:
        raise UserError(
            f"`folds={config.folds}`: {manifest.folder} has no folds: build the records with"
            f" `folds={config.folds}`"
        )
    if config.folds != len(there):
        raise UserError(f"`folds={config.folds}`: {manifest.folder} has {len(there)}: give that")
    if config.fold >= 0:
        raise UserError(f"`folds={config.folds}` and `fold={config.fold}`: give one of them")
    folder = pathlib.Path(config.run_dir)
    cache = config.feature_cache or str(folder / "features")
    return [
        dataclasses.replace(
            config,
            folds=0,
            fold=fold,
            run_dir=str(folder / f"fold-{fold}"),
            feature_cache=cache,
            minutes=config.minutes / len(there),
        )
        for fold in there
    ]


def join(config: TrainConfig, runs: list[TrainConfig]) -> None:
    """Join the runs' out-of-fold predictions, calibrate, and show the metrics.

    Each fold's metrics are of a calibration fitted to the other folds. The saved calibration is
    fitted to all folds.

    Args:
        config: of the cross-validation.
        runs: options of its trained runs.
    """
    folder = pathlib.Path(config.run_dir)
    opened = [run_folders.load(run.run_dir) for run in runs]
    output, classes = opened[0].resolved.output, opened[0].classes
    parts = [predictions_file.read(run.predictions_file) for run in opened]
    every = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    logits, labels, method = every["logits"], every["label"], config.calibration
    kept = calibration_fit.fit(logits, labels, output, method)
    fold = np.repeat(np.arange(len(parts)), [len(part["label"]) for part in parts])
    every["probabilities"] = calibration_fit.cross_fit(logits, labels, output, method, fold)
    predictions_file.write(folder / PREDICTIONS, classes, every)
    storage.write_json(folder / FOLDS, {"folds": [run.folder.name for run in opened]})
    made_for = {"members": [run.identity() for run in opened]}
    storage.write_json(
        folder / CALIBRATION,
        {"calibration": kept.to_json(), "made_for": made_for, "n": len(labels)},
    )
    raw = Calibration().apply(logits, output).numpy()

    def measure(chosen: np.ndarray) -> list[float]:
        """Return the log loss before and after calibration, and the accuracy, of some images."""
        own, probabilities = labels[chosen], every["probabilities"][chosen]
        return [
            metrics.log_loss(raw[chosen], own),
            metrics.log_loss(probabilities, own),
            metrics.accuracy(probabilities, own),
        ]

    by_fold = [measure(fold == index) for index in range(len(runs))]
    spread = np.std(by_fold, axis=0, ddof=1) if len(runs) > 1 else np.zeros(3)
    rows = {(f"fold {run.fold}", len(part["label"])): values
            for run, part, values in zip(runs, parts, by_fold, strict=True)}  # fmt: skip
    rows |= {("all", len(labels)): measure(fold >= 0), ("standard deviation", ""): spread}
    terminal.show_table(
        f"cross-validation of {folder}",
        ["held out", "images", "log loss, raw", "log loss", "accuracy"],
        [[*name, *(f"{value:.4f}" for value in values)] for name, values in rows.items()],
    )
