"""Loads a run folder: of a run, of a cross-validation or of an ensemble.

All three share the part of `tfpipe.training.run.Run` that later commands need. A cross-validation
is an ensemble of its folds' runs, whose log-probabilities are averaged. The folder of an ensemble
has

    ensemble.json      its members, their combination, and the metrics of each method
    calibration.json   fitted to the combined predictions
    predictions.csv    its predictions of images that no member was trained on
    metrics.json       written by tfpipe.evaluate
    report.html        written by tfpipe.report, or comparison.html, and their plots/
"""

import dataclasses
import os
import pathlib
from typing import Any

import numpy as np

from tfpipe.core import options, remote, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOID, SIGMOIDS, SOFTMAX
from tfpipe.model.combination import GEOMETRIC, Combination
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.records import label_set, salvage
from tfpipe.records import manifest as manifests
from tfpipe.records.manifest import Manifest
from tfpipe.records.subset import Subset
from tfpipe.runs import crossval, run_calibration
from tfpipe.training import run_folder as runs
from tfpipe.training.run_folder import RunFolder

ENSEMBLE = "ensemble.json"
METRICS = "metrics.json"
REPORT, COMPARISON, PLOTS = "report.html", "comparison.html", "plots"
FILES = (
    *(ENSEMBLE, crossval.CALIBRATION, crossval.PREDICTIONS, METRICS),
    *(REPORT, COMPARISON, PLOTS),
)

_AGAIN = "run tfpipe.ensemble again with `overwrite`"


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Runs, or cross-validations of runs, combined; with the properties of a `Run`.

    Attributes:
        folder: of the ensemble.
        members: at least one.
        combination: of their predictions.
        cross_validated: whether the members are the runs of a cross-validation.
    """

    folder: pathlib.Path
    members: tuple["RunFolder | Ensemble", ...]
    combination: Combination
    cross_validated: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of their labels, the same in all members."""
        return self.members[0].classes

    @property
    def labels(self) -> str:
        """How many classes an image has: "one" or "many"."""
        return self.members[0].labels

    @property
    def output(self) -> str:
        """The output of the combined predictions, as of `tfpipe.model.classifier`."""
        if self.labels == label_set.MANY:
            return SIGMOIDS
        return SIGMOID if len(self.classes) == 2 else SOFTMAX

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """The least probability of each class to be answered; None if an image has one class."""
        return runs.read_thresholds(self.calibration_file, self.classes, self.labels)

    @property
    def class_shares(self) -> tuple[float, ...]:
        """The share of each class in the training records, averaged over the members."""
        shares = np.mean([member.class_shares for member in self.members], axis=0)
        return tuple(shares.tolist())

    @property
    def records(self) -> str:
        """The folder of the first member's records."""
        return self.members[0].records

    @property
    def depth16(self) -> str:
        """How 16-bit greys become 8-bit ones, as for the first member."""
        return self.members[0].depth16

    @property
    def tta(self) -> str:
        """The members' test-time views; different ones are joined by "; "."""
        return "; ".join(dict.fromkeys(member.tta for member in self.members))

    @property
    def out_of_fold(self) -> bool:
        """Whether the predictions are of all images, each by a model not trained on it."""
        return self.cross_validated or any(member.out_of_fold for member in self.members)

    @property
    def calibration_file(self) -> pathlib.Path:
        """The file with the calibration."""
        return self.folder / crossval.CALIBRATION

    @property
    def predictions_file(self) -> pathlib.Path:
        """The file with predictions of images that no member was trained on."""
        return self.folder / crossval.PREDICTIONS

    def validation(self, manifest: Manifest) -> Subset:
        """Return the members' validation records, or the split of that name.

        Raises:
            UserError: the records have no such split.
        """
        if self.out_of_fold:
            return Subset(manifest, (members(self)[0].config.val_split,))
        return self.members[0].validation(manifest)

    def identity(self) -> dict[str, Any]:
        """Return what determines the members' logits; see `Run.identity`."""
        return {"members": [member.identity() for member in self.members]}

    def calibration(self) -> Calibration:
        """Read `calibration.json`; no calibration without it. UserError if it is damaged."""
        identity = self.identity if self.cross_validated else None  # others are refused if changed
        return runs.read_calibration(self.calibration_file, identity)

    def familiarity(self) -> None:
        """Return None: the members have no features in common to tell images of other kinds by."""

    def restore(self, *, tta: str = "") -> EnsemblePredictor:
        """Return the calibrated predictor of the members' best weights.

        Args:
            tta: test-time views in place of the members', "none" for none; empty for theirs.

        Raises:
            UserError: a member has no weights, or they or the calibration are damaged.
        """
        return dataclasses.replace(self.uncalibrated(tta=tta), calibration=self.calibration())

    def uncalibrated(self, *, tta: str = "") -> EnsemblePredictor:
        """Return the predictor of `restore` without its calibration."""
        members: list[Predictor | EnsemblePredictor] = [
            member.uncalibrated(tta=tta) for member in self.members
        ]
        return EnsemblePredictor(tuple(members), self.combination, self.output)


LoadedRun = RunFolder | Ensemble


def load(run_dir: str | os.PathLike) -> LoadedRun:
    """Open a folder that tfpipe.train or tfpipe.ensemble wrote.

    Raises:
        UserError: the folder is none, or a member of the ensemble is missing or has changed.
    """
    folder = pathlib.Path(run_dir)
    if (folder / ENSEMBLE).is_file():
        return _load_ensemble(folder)
    if (folder / crossval.FOLDS).is_file():
        return _load_folds(folder)
    run = runs.load(str(folder))
    run.check_parts()
    return run


def open_records(run: LoadedRun, records: str = "") -> Manifest:
    """Open the records to use a run on: its own, or others, whose classes it must know.

    Warns if the run's own were built anew since its training.

    Raises:
        UserError: the records are missing or damaged, or have an unknown class.
    """
    folder = records or run.records
    if not records and not storage.exists(remote.to_path(folder) / manifests.MANIFEST):
        raise UserError(
            f"{folder}/{manifests.MANIFEST} does not exist, seen from {os.getcwd()}, but"
            f" {run.folder} was trained on these records: name their folder with `records`"
        )
    manifest = manifests.load(folder)
    manifest.check()
    labels_in(run, manifest)
    if not records and not was_trained_on(run, manifest):
        terminal.warn(rebuilt(run, manifest))
    return manifest


def warn_if_rebuilt(run: LoadedRun) -> None:
    """Warn if a run's records are there, but are others than it was trained on."""
    try:
        manifest = manifests.load(run.records)
    except UserError:  # nothing here needs them
        return
    if not was_trained_on(run, manifest):
        terminal.warn(rebuilt(run, manifest))


def was_trained_on(run: LoadedRun, manifest: Manifest) -> bool:
    """Return whether some records are those of a run's training, with the same splits.

    For an ensemble, those of its first member: others may have stored the same images otherwise.
    """
    first = members(run)[0]
    # Without its damaged records, a training has another fingerprint than its records.
    damaged = (first.folder / runs.SALVAGED / salvage.LOST).is_file()
    return damaged or first.resolved.records_fingerprint == manifest.fingerprint


def rebuilt(run: LoadedRun, manifest: Manifest) -> str:
    """Return a sentence about records that are no longer those of the training."""
    return (
        f"{manifest.folder} holds other images or other splits than {run.folder} was trained on"
        " (its fingerprint differs), so its validation images may be training images"
    )


def is_calibrated(run: LoadedRun) -> bool:
    """Return whether a run's calibration and predictions are those of its weights and options."""
    if isinstance(run, RunFolder):
        return run_calibration.is_current(run)
    files = run.calibration_file.is_file() and run.predictions_file.is_file()
    if not (files and run.cross_validated):
        return files  # the members of other ensembles are checked when it is opened
    saved = storage.read_json(run.calibration_file, what="a calibration", hint=_AGAIN)
    return isinstance(saved, dict) and saved.get("made_for") == run.identity()


def save(found: Ensemble, folder: pathlib.Path, more: dict[str, Any]) -> None:
    """Write `ensemble.json` into the ensemble's folder.

    Args:
        found: the ensemble; its folder may be a temporary one.
        folder: its final folder; the members' paths are relative to it.
        more: further keys.
    """
    members = [
        {"folder": os.path.relpath(member.folder.resolve(), folder.resolve()), **member.identity()}
        for member in found.members
    ]
    combination = options.to_json(found.combination)
    storage.write_json(
        found.folder / ENSEMBLE,
        {"combination": combination, "classes": found.classes, "members": members, **more},
    )


def labels_in(run: LoadedRun, manifest: Manifest) -> np.ndarray:
    """Return the run's label of each class of some records, by name: int64 [classes there].

    Raises:
        UserError: the run does not know a class of the records.
    """
    unknown = [name for name in manifest.classes if name not in run.classes]
    if unknown:
        raise UserError(
            f"{manifest.folder} has the class {', '.join(unknown)}, but {run.folder} was trained on"
            f" {', '.join(run.classes)}: give other `records`, or build them without that class"
        )
    if manifest.labels != run.labels:
        held = {label_set.ONE: "exactly one class", label_set.MANY: "any number of classes"}
        raise UserError(
            f"an image of {manifest.folder} has {held[manifest.labels]}, but {run.folder} was"
            f" trained on images with {held[run.labels]}: give other `records`"
        )
    return np.array([run.classes.index(name) for name in manifest.classes], np.int64)


def raw_probabilities(run: LoadedRun, logits: np.ndarray) -> np.ndarray:
    """Return probabilities float32 [n, C] of a run's logits, before calibration.

    The members of an ensemble may have two logits for two classes.
    """
    two = run.output == SIGMOID and logits.shape[1] == 2
    return Calibration().apply(logits, SOFTMAX if two else run.output).numpy()


def renumbered(run: LoadedRun, manifest: Manifest, labels: np.ndarray) -> np.ndarray:
    """Return labels of some records as the run numbers the classes, [n] or [n, C].

    Raises:
        UserError: as `labels_in`.
    """
    numbers = labels_in(run, manifest)
    if labels.ndim == 1:
        return numbers[labels]
    found = np.zeros([len(labels), len(run.classes)], labels.dtype)
    found[:, numbers] = labels
    return found


def usual_shares(run: LoadedRun, manifest: Manifest | None) -> tuple[float, ...] | None:
    """Return the share of each class in training, which evaluated images should have too.

    Returns:
        None if copies of images balance the training, so that the images themselves have other
        shares on purpose.
    """
    return None if manifest is not None and manifest.copies else run.class_shares


def members(run: LoadedRun) -> list[RunFolder]:
    """Return the runs in a run, a cross-validation or an ensemble."""
    if isinstance(run, RunFolder):
        return [run]
    return [each for member in run.members for each in members(member)]


def _load_folds(folder: pathlib.Path) -> Ensemble:
    path = folder / crossval.FOLDS
    hint = "run tfpipe.train there again"
    saved = storage.read_json(path, what="a cross-validation", hint=hint)
    try:
        members = tuple(_load_fold(path, name) for name in saved["folds"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a cross-validation ({error!r}): {hint}") from None
    if not members:
        raise UserError(f"{path} names no folds: {hint}")
    return _complete(Ensemble(folder, members, Combination(GEOMETRIC), cross_validated=True))


def _load_fold(path: pathlib.Path, name: str) -> RunFolder:
    there = path.parent / name
    if not there.is_dir():
        raise UserError(f"{path} names the fold {there}, which does not exist: put it back")
    return load(there)


def _complete(found: Ensemble) -> Ensemble:
    """Return an ensemble or a cross-validation, whose own files were written with it."""
    if not found.calibration_file.is_file():
        raise UserError(
            f"{found.folder} lacks {found.calibration_file.name}, without which it answers"
            " otherwise: copy the whole folder, or make it again"
        )
    if not found.predictions_file.is_file():
        terminal.warn(f"{found.folder} lacks {found.predictions_file.name}")
    return found


def _load_ensemble(folder: pathlib.Path) -> Ensemble:
    path = folder / ENSEMBLE
    saved = storage.read_json(path, what="an ensemble", hint=_AGAIN)
    try:
        members = tuple(_load_member(path, **member) for member in saved["members"])
        combination = options.from_json(Combination, saved["combination"], where=str(path))
        combination.check(len(members), len(saved["classes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not an ensemble ({error}): {_AGAIN}") from None
    for member in members:
        if list(member.classes) != saved["classes"]:
            raise UserError(
                f"{member.folder} has other classes than when {folder} was made: {_AGAIN}"
            )
    return _complete(Ensemble(folder, members, combination))


def _load_member(path: pathlib.Path, folder: str, **identity: Any) -> LoadedRun:
    there = path.parent / folder
    if not there.is_dir():
        raise UserError(f"{path} names the member {there}, which does not exist: put it back")
    member = load(there)
    if member.identity() != identity:
        raise UserError(
            f"{there} has other weights or views than when {path.parent} was made: {_AGAIN}"
        )
    return member
