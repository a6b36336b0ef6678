"""Makes an ensemble: its members' predictions are matched, combined, compared and calibrated."""

import os
import pathlib

import numpy as np

import tfpipe
from tfpipe.core import options, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import compare, metrics
from tfpipe.model import ensemble
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOID, SOFTMAX
from tfpipe.model.ensemble import Combination
from tfpipe.runs import calibrate, combine, finish, trained
from tfpipe.runs.trained import Ensemble, Trained
from tfpipe.training.run_folder import RunFolder


def make(
    folders: list[str],
    out: pathlib.Path,
    *,
    method: str,
    l2: float,
    calibration: str,
    replace: bool,
) -> None:
    """Writes the folder of an ensemble, whole or not at all, and shows what it gains.

    The parameters and the calibration that are kept are fitted to all predictions. Whatever is
    measured is of cross-validation: the combination is fitted without a fold, and the calibration
    to the other folds' combined logits.

    Args:
        folders: of the members.
        out: where the ensemble goes.
        method: a name of `combine.methods`.
        l2: see `combine.fit`.
        calibration: see `calibrate.fit`.
        replace: whether an ensemble that is there is replaced.

    Raises:
        UserError: a member does not serve, the members do not fit together, or `out` is taken.
    """
    fitted = combine.methods[method].fit is not None
    members = _members(folders)
    calibrate.check(calibration, len(members[0].classes))
    if replace and out.exists():
        _check_replaceable(out)
    with storage.atomic_folder(out, replace=replace) as work:
        names, labels, answers = _matched(members)
        combination = combine.fit(method, answers, labels, l2)
        combined = (
            combine.cross_fit(method, answers, labels, l2)
            if fitted
            else combine.combine(answers, combination)
        )
        scores = _compared(folders, answers, labels)
        label = f"{method}, cross-validated" if fitted else method
        scores[label] = _measures(combined, labels)
        made = Ensemble(work, members, combination)
        trained.save(
            made,
            out,
            {
                "l2": l2,
                "n": len(labels),
                "scores": scores,
                "tfpipe_version": tfpipe.__version__,
            },
        )
        _calibrate(made, names, labels, combined, calibration)
    terminal.show_table(
        f"{len(labels):,} images that no member was trained on, before calibration",
        ["", "log loss", "accuracy"],
        [[name, *(f"{value:.4f}" for value in row.values())] for name, row in scores.items()],
    )
    terminal.say(f"{_describe(combination)}; written to {out}")
    terminal.say(f"next: python -m tfpipe.evaluate --run_dir={out}")


def _check_replaceable(out: pathlib.Path) -> None:
    """Raises UserError if a folder holds anything but an ensemble, which is not to be deleted."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    strange = sorted(names - set(trained.FILES))
    if strange:
        raise UserError(
            f"--out={out} holds {strange[0]}, which is no part of an ensemble, so it is left alone:"
            " name another folder"
        )


def _members(folders: list[str]) -> tuple[Trained, ...]:
    """Opens the members; raises UserError if one does not serve, or they differ in classes."""
    if len({os.path.realpath(folder) for folder in folders}) < max(2, len(folders)):
        raise UserError(f"--runs={','.join(folders)}: name two or more folders, each once")
    missing = next((folder for folder in folders if not pathlib.Path(folder).is_dir()), None)
    if missing is not None:
        raise UserError(f"--runs: {missing} does not exist: name folders of tfpipe.train")
    members = tuple(trained.load(folder) for folder in folders)
    for member in members:
        if isinstance(member, Ensemble) and not member.cross_validated:
            raise UserError(f"--runs: {member.folder} is an ensemble: name its members instead")
        member.identity()  # finds that there are no weights
        current = finish.is_current(member) if isinstance(member, RunFolder) else True
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


def _matched(members: tuple[Trained, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reads the members' predictions and brings them into the order of the first member's.

    Returns:
        The names, str [n]; the labels, int64 [n]; and log-probabilities, float64 [M, n, C].

    Raises:
        UserError: they are of other images, of too few, or damaged.
    """
    parts = [finish.read_predictions(member.predictions_file) for member in members]
    first = parts[0]
    answers = []
    for member, part in zip(members, parts, strict=True):
        logits = part["logits"]
        allowed = (1, 2) if len(member.classes) == 2 else (len(member.classes),)
        if logits.shape[1] not in allowed:
            raise UserError(f"{member.predictions_file} is damaged: run tfpipe.train there again")
        order = compare.order(members[0].folder, first["name"], member.folder, part["name"])
        if (part["label"][order] != first["label"]).any():
            name = first["name"][part["label"][order] != first["label"]][0]
            raise UserError(
                f"{members[0].folder} and {member.folder} have other labels, as of {name}: combine"
                " runs on the same records"
            )
        answers.append(combine.log_probabilities(logits[order]))
    if len(first["name"]) < calibrate.LEAST:
        raise UserError(
            f"{members[0].predictions_file} has {len(first['name'])} images: an ensemble needs at"
            f" least {calibrate.LEAST} that were not trained on"
        )
    return first["name"], first["label"], np.stack(answers)


def _compared(folders: list[str], answers: np.ndarray, labels: np.ndarray) -> dict[str, dict]:
    """Returns the measures of each member, and of the pools that have no parameters."""
    scores = {
        folder: _measures(member, labels) for folder, member in zip(folders, answers, strict=True)
    }
    for method in (ensemble.MEAN, ensemble.GEOMETRIC):
        combined = combine.combine(answers, Combination(method))
        scores[method] = _measures(combined, labels)
    return scores


def _measures(log_probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    probabilities = np.exp(log_probabilities)
    return {
        "log_loss": metrics.log_loss(probabilities, labels),
        "accuracy": metrics.accuracy(probabilities, labels),
    }


def _calibrate(
    made: Ensemble, names: np.ndarray, labels: np.ndarray, combined: np.ndarray, method: str
) -> None:
    """Writes `calibration.json`, fitted to all, and `predictions.csv`, each fold by the others."""
    two = len(made.classes) == 2
    output = SIGMOID if two else SOFTMAX
    logits = np.float32(combined[:, 1:] - combined[:, :1] if two else combined)
    kept = calibrate.fit(logits, labels, output, method)
    fold = calibrate.folds(len(labels))
    probabilities = calibrate.cross_fit(logits, labels, output, method, fold)
    found = {"name": names, "label": labels, "logits": logits, "probabilities": probabilities}
    finish.write_predictions(made.predictions_file, made.classes, found)
    raw = Calibration().apply(logits, output).numpy()
    losses = {
        "log_loss_raw": metrics.log_loss(raw, labels),
        "log_loss": metrics.log_loss(probabilities, labels),
    }
    storage.write_json(
        made.calibration_file,
        {"calibration": options.to_json(kept), "n": len(labels), **losses},
    )
    terminal.say(
        f"calibration {kept}: log loss {losses['log_loss_raw']:.4f}, calibrated"
        f" {losses['log_loss']:.4f}, by cross-validation"
    )


def _describe(combination: Combination) -> str:
    """Returns the method with what a person may want to know of its parameters."""
    if combination.method != ensemble.BLEND:
        return combination.method
    return f"{combination.method} of {', '.join(f'{w:.3f}' for w in combination.weights)}"
