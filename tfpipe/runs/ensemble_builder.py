"""Builds an ensemble: matches, combines, compares and calibrates its members' predictions."""

import os
import pathlib

import numpy as np

import tfpipe
from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import compare, metrics
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOID, SOFTMAX
from tfpipe.model.combination import BLEND, GEOMETRIC, MEAN, Combination, combiners
from tfpipe.records import label_set
from tfpipe.runs import (
    calibration_fit,
    combination_fit,
    crossval,
    loaded_run,
    predictions_file,
    run_calibration,
)
from tfpipe.runs.loaded_run import Ensemble, LoadedRun
from tfpipe.training.run_folder import RunFolder


def make(
    folders: list[str],
    out: pathlib.Path,
    *,
    method: str,
    l2: float,
    calibration: calibration_fit.Method,
    replace: bool,
) -> None:
    """Write the folder of an ensemble atomically, and show its gain.

    The saved parameters and calibration are fitted to all predictions. The metrics are of
    cross-validation: neither the combination nor the calibration is fitted to the measured fold.

    Args:
        folders: of the members.
        out: the folder of the ensemble.
        method: a name of `combination.combiners`.
        l2: see `combination_fit.fit`.
        calibration: what to fit to the combined predictions.
        replace: whether to replace an ensemble that is in `out`.

    Raises:
        UserError: a member cannot be used, the members do not fit together, or `out` is taken.
    """
    combiners[method]  # raises UserError for an unknown name
    fitted = method in combination_fit.FITTED
    members = _members(folders)
    calibration_fit.check(calibration.name, len(members[0].classes))
    if replace and out.exists():
        _check_replaceable(out)
    with storage.atomic_folder(out, replace=replace) as work:
        names, labels, log_probabilities = _matched(members)
        combination = combination_fit.fit(method, log_probabilities, labels, l2)
        combined = (
            combination_fit.cross_fit(method, log_probabilities, labels, l2)
            if fitted
            else combination.combine(log_probabilities).numpy()
        )
        candidates = dict(zip(folders, log_probabilities, strict=True))
        for plain in (MEAN, GEOMETRIC):
            candidates[plain] = Combination(plain).combine(log_probabilities).numpy()
        candidates[f"{method}, cross-validated" if fitted else method] = combined
        scores = {name: _metrics(each, labels) for name, each in candidates.items()}
        made = Ensemble(work, members, combination)
        more = {"l2": l2, "n": len(labels), "scores": scores}
        loaded_run.save(made, out, more | {"tfpipe_version": tfpipe.__version__})
        _calibrate(made, names, labels, combined, calibration)
    terminal.show_table(
        f"{len(labels):,} images that no member was trained on, before calibration",
        ["", "log loss", "accuracy"],
        [[name, *(f"{value:.4f}" for value in row.values())] for name, row in scores.items()],
    )
    described = method
    if method == BLEND:
        described += f" of {', '.join(f'{weight:.3f}' for weight in combination.weights)}"
    terminal.say(f"{described}; written to {out}")
    runs = [run for member in members for run in loaded_run.members(member)]
    if any(run.config.reject_rate for run in runs):
        terminal.say("an ensemble has no score for images of other kinds, as its members have")
    terminal.say(f"next: tfpipe evaluate --run_dir={out}")


def _check_replaceable(out: pathlib.Path) -> None:
    """Raise UserError if a folder holds anything but an ensemble."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    strange = sorted(names - set(loaded_run.FILES))
    if strange:
        raise UserError(
            f"`out={out}` holds {strange[0]}, which is no part of an ensemble: name another folder"
        )


def _members(folders: list[str]) -> tuple[LoadedRun, ...]:
    """Open the members; raises UserError if one cannot be used, or their classes differ."""
    if len({os.path.realpath(folder) for folder in folders}) < max(2, len(folders)):
        raise UserError(f"`runs={','.join(folders)}`: name two or more folders, each once")
    missing = next((folder for folder in folders if not pathlib.Path(folder).is_dir()), None)
    if missing is not None:
        raise UserError(f"`runs`: {missing} does not exist: name folders of tfpipe.train")
    members = tuple(loaded_run.load(folder) for folder in folders)
    for member in members:
        if isinstance(member, Ensemble) and not member.cross_validated:
            raise UserError(f"`runs`: {member.folder} is an ensemble: name its members instead")
        if member.labels == label_set.MANY:
            raise UserError(
                f"`runs`: an image of {member.folder} may have several classes, and ensembles"
                " combine classes that exclude each other: train with `folds` to join several runs"
            )
        member.identity()  # raises UserError without weights
        current = run_calibration.is_current(member) if isinstance(member, RunFolder) else True
        if not (current and member.predictions_file.is_file()):
            raise UserError(
                f"{member.predictions_file} is missing or of other weights: run tfpipe.train there"
                " again"
            )
        if member.classes != members[0].classes:
            raise UserError(
                f"{member.folder} has the classes {', '.join(member.classes)}, but"
                f" {members[0].folder} {', '.join(members[0].classes)}: combine runs of the same"
            )
    return members


def _matched(members: tuple[LoadedRun, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read the members' predictions, all in the order of the first member's.

    Returns:
        The names, str [n]; the labels, int64 [n]; and log-probabilities, float64 [M, n, C].

    Raises:
        UserError: they are of other images, of too few, or damaged.
    """
    parts = [predictions_file.read(member.predictions_file) for member in members]
    first = parts[0]
    log_probabilities = []
    for member, part in zip(members, parts, strict=True):
        logits = part["logits"]
        allowed = (1, 2) if len(member.classes) == 2 else (len(member.classes),)
        if logits.shape[1] not in allowed:
            raise UserError(f"{member.predictions_file} is damaged: run tfpipe.train there again")
        order = compare.order(members[0].folder, first, member.folder, part)
        found = combination_fit.log_probabilities(logits[order] * _worth(member))
        log_probabilities.append(found)
    if len(first["name"]) < calibration_fit.LEAST:
        raise UserError(
            f"{members[0].predictions_file} has {len(first['name'])} images: an ensemble needs at"
            f" least {calibration_fit.LEAST} images that no member was trained on"
        )
    return first["name"], first["label"], np.stack(log_probabilities)


def _worth(member: LoadedRun) -> float:
    """Return the factor of a member's predictions that makes them worth what it answers.

    The predictions of a cross-validation are of single runs, but it answers with their mean.
    """
    if isinstance(member, RunFolder):
        return 1.0
    factor = crossval.saved_factor(member.folder, member.identity())
    if factor is None:
        terminal.warn(
            f"{member.folder} is of an older version, which did not measure how far its runs agree:"
            " the ensemble will be underconfident; run tfpipe.train there again"
        )
        return 1.0
    return factor


def _metrics(log_probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    probabilities = np.exp(log_probabilities)
    return {
        "log_loss": metrics.log_loss(probabilities, labels),
        "accuracy": metrics.accuracy(probabilities, labels),
    }


def _calibrate(
    made: Ensemble,
    names: np.ndarray,
    labels: np.ndarray,
    combined: np.ndarray,
    method: calibration_fit.Method,
) -> None:
    """Write `calibration.json`, fitted to all folds, and `predictions.csv`, cross-fitted."""
    two = len(made.classes) == 2
    output = SIGMOID if two else SOFTMAX
    logits = np.float32(combined[:, 1:] - combined[:, :1] if two else combined)
    kept = calibration_fit.fit(logits, labels, output, method)
    fold = calibration_fit.folds(len(labels))
    probabilities = calibration_fit.cross_fit(logits, labels, output, method, fold)
    found = {"name": names, "label": labels, "logits": logits, "probabilities": probabilities}
    predictions_file.write(made.predictions_file, made.classes, found)
    raw = metrics.log_loss(Calibration().apply(logits, output).numpy(), labels)
    loss = metrics.log_loss(probabilities, labels)
    storage.write_json(
        made.calibration_file,
        {
            "calibration": kept.to_json(),
            "n": len(labels),
            "log_loss_raw": raw,
            "log_loss": loss,
        },
    )
    terminal.say(
        f"calibration {kept}: log loss {raw:.4f}, calibrated {loss:.4f}, by cross-validation"
    )
