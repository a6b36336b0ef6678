"""Cross-validation: one run per fold, and out-of-fold predictions of all images.

The folder has

    fold-0/ ...        a run folder for each fold, trained on all other folds
    features/          features of frozen layers, shared by all folds
    folds.json         the names of the folds' folders, written after the last training
    predictions.csv    out-of-fold predictions, a row for each image
    calibration.json   for the mean of the runs, with the factor that makes one run's logits worth
                       as much (`fold_agreement.worth`), and fitted to the logits times that
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import metrics, threshold
from tfpipe.model.calibration import Calibration
from tfpipe.records.manifest import Manifest
from tfpipe.runs import calibration_fit, fold_agreement, predictions_file
from tfpipe.training import run_folder as run_folders
from tfpipe.training.train_config import TrainConfig

FOLDS = "folds.json"
PREDICTIONS = "predictions.csv"
CALIBRATION = "calibration.json"
_FACTOR = "logits_worth"


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


def saved_factor(folder: pathlib.Path, made_for: dict[str, Any]) -> float | None:
    """Return the factor in a cross-validation's calibration, or None if it has none for its runs.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    saved = storage.read_json(path, what="a calibration", hint="remove it")
    found = saved.get(_FACTOR) if isinstance(saved, dict) else None
    if not isinstance(found, float | int) or saved.get("made_for") != made_for:
        return None
    return float(found)


def join(config: TrainConfig, runs: list[TrainConfig], manifest: Manifest) -> None:
    """Join the runs' out-of-fold predictions, calibrate, and show the metrics.

    Each fold's metrics are of its run, with a calibration fitted to the other folds. The saved
    calibration is of what answers, the mean of the runs.

    Args:
        config: of the cross-validation.
        runs: options of its trained runs.
        manifest: of their records.
    """
    folder = pathlib.Path(config.run_dir)
    opened = [run_folders.load(run.run_dir) for run in runs]
    output, classes = opened[0].resolved.output, opened[0].classes
    parts = [predictions_file.read(run.predictions_file) for run in opened]
    every = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    logits, labels = every["logits"], every["label"]
    method = calibration_fit.Method(config.calibration, config.calibration_bounds)
    made_for = {"members": [run.identity() for run in opened]}
    factor = saved_factor(folder, made_for)
    if factor is None:
        variance = fold_agreement.variance(opened, manifest)
        if variance is None:
            terminal.warn(
                "two runs without a test split do not show how far they agree on new images: their"
                " mean is calibrated like one run, which makes it rather underconfident"
            )
        flat, answers, _ = calibration_fit.questions(logits, labels, output)
        factor = fold_agreement.worth(flat, answers, variance or 0.0, len(opened))
    kept = calibration_fit.fit(logits * np.float32(factor), labels, output, method)
    terminal.say(
        f"calibration of the mean of {len(opened)} runs: {kept}; its logits are worth those of one"
        f" run times {factor:.3g}"
    )
    fold = np.repeat(np.arange(len(parts)), [len(part["label"]) for part in parts])
    every["probabilities"] = calibration_fit.cross_fit(logits, labels, output, method, fold)
    predictions_file.write(folder / PREDICTIONS, classes, every)
    storage.write_json(folder / FOLDS, {"folds": [run.folder.name for run in opened]})
    saved = {"calibration": kept.to_json(), "made_for": made_for, "n": len(labels)}
    saved |= threshold.saved(classes, every["probabilities"], labels)
    storage.write_json(folder / CALIBRATION, saved | {_FACTOR: factor})
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
