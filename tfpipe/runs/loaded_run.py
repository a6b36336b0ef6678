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

from tfpipe.core import options, storage
from tfpipe.core.errors import UserError
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOID, SOFTMAX
from tfpipe.model.combination import GEOMETRIC, Combination
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.records.manifest import Manifest
from tfpipe.records.subset import Subset
from tfpipe.runs import crossval
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
            return Subset(manifest, (_first(self).config.val_split,))
        return self.members[0].validation(manifest)

    def identity(self) -> dict[str, Any]:
        """Return what determines the members' logits; see `Run.identity`."""
        return {"members": [member.identity() for member in self.members]}

    def calibration(self) -> Calibration:
        """Read `calibration.json`; no calibration without it. UserError if it is damaged."""
        identity = self.identity if self.cross_validated else None  # others are refused if changed
        return runs.read_calibration(self.calibration_file, identity)

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
        output = SIGMOID if len(self.classes) == 2 else SOFTMAX
        return EnsemblePredictor(tuple(members), self.combination, output)


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
    return runs.load(str(folder))


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


def check_classes(run: LoadedRun, manifest: Manifest) -> None:
    """Raise UserError if the records have other classes than the run."""
    if manifest.classes != run.classes:
        raise UserError(
            f"{manifest.folder} has the classes {', '.join(manifest.classes)}, but"
            f" {run.folder} was trained on {', '.join(run.classes)}: give other `records`"
        )


def _first(run: LoadedRun) -> RunFolder:
    return run if isinstance(run, RunFolder) else _first(run.members[0])


def _load_folds(folder: pathlib.Path) -> Ensemble:
    path = folder / crossval.FOLDS
    hint = "run tfpipe.train there again"
    saved = storage.read_json(path, what="a cross-validation", hint=hint)
    try:
        members = tuple(runs.load(str(folder / name)) for name in saved["folds"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} is not a cross-validation ({error!r}): {hint}") from None
    if not members:
        raise UserError(f"{path} names no folds: {hint}")
    return Ensemble(folder, members, Combination(GEOMETRIC), cross_validated=True)


def _load_ensemble(folder: pathlib.Path) -> Ensemble:
    path = folder / ENSEMBLE
    saved = storage.read_json(path, what="an ensemble", hint=_AGAIN)
    try:
        members = tuple(_load_member(path, **member) for member in saved["members"])
        combination = options.from_json(Combination, saved["combination"], where=str(path))
        combination.check(len(members), len(saved["classes"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not an ensemble ({error}): {_AGAIN}") from None
    return Ensemble(folder, members, combination)


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
