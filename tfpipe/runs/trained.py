"""What a later command may be given as --run_dir: a run, a cross-validation of runs, an ensemble.

All have the interface of `tfpipe.training.run_folder.RunFolder`, as far as later commands need it.
A cross-validation is an ensemble of its folds' runs, whose logits are averaged. The folder of an
ensemble has

    ensemble.json      its members, how they are combined, and what that was fitted to
    calibration.json   fitted to the combination
    predictions.csv    its predictions of the images that no member was trained on
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
from tfpipe.model import ensemble
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOID, SOFTMAX
from tfpipe.model.ensemble import Combination, EnsemblePredictor
from tfpipe.model.predictor import Predictor
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

_AGAIN = "run tfpipe.ensemble again with --overwrite"


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Runs, or cross-validations of runs, that answer as one; with the properties of a `RunFolder`.

    Attributes:
        folder: of the ensemble.
        members: at least one.
        combination: of their answers.
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
        """The share of each among the training records, on average over the members."""
        shares = np.mean([member.class_shares for member in self.members], axis=0)
        return tuple(shares.tolist())

    @property
    def records(self) -> str:
        """The folder of the first member's records."""
        return self.members[0].records

    @property
    def tta(self) -> str:
        """The members' test-time views; of members that differ, one after the other."""
        return "; ".join(dict.fromkeys(member.tta for member in self.members))

    @property
    def out_of_fold(self) -> bool:
        """Whether the predictions are of all images, each by models that have not seen it."""
        return self.cross_validated or any(member.out_of_fold for member in self.members)

    @property
    def calibration_file(self) -> pathlib.Path:
        """How combined logits become probabilities."""
        return self.folder / crossval.CALIBRATION

    @property
    def predictions_file(self) -> pathlib.Path:
        """Logits and probabilities of images that were not trained on."""
        return self.folder / crossval.PREDICTIONS

    def validation(self, manifest: Manifest) -> Subset:
        """Returns the records that the members are validated on, or the split of that name.

        Raises:
            UserError: the records have no such split.
        """
        if self.out_of_fold:
            return Subset(manifest, (_first(self).config.val_split,))
        return self.members[0].validation(manifest)

    def identity(self) -> dict[str, Any]:
        """Returns what the members' logits follow from; see `RunFolder.identity`."""
        return {"members": [member.identity() for member in self.members]}

    def calibration(self) -> Calibration:
        """Reads `calibration.json`; none without one. Raises UserError if it is damaged."""
        identity = self.identity if self.cross_validated else None  # others are refused if changed
        return runs.read_calibration(self.calibration_file, identity)

    def restore(self, *, tta: str = "") -> EnsemblePredictor:
        """Returns the predictor of the members' best weights, as the ensemble is calibrated.

        Args:
            tta: test-time views instead of the members' own, "none" for none; empty for theirs.

        Raises:
            UserError: a member has no weights, or they or the calibration are damaged.
        """
        return dataclasses.replace(self.uncalibrated(tta=tta), calibration=self.calibration())

    def uncalibrated(self, *, tta: str = "") -> EnsemblePredictor:
        """Does as `restore`, without the calibration."""
        members: list[Predictor | EnsemblePredictor] = [
            member.uncalibrated(tta=tta) for member in self.members
        ]
        output = SIGMOID if len(self.classes) == 2 else SOFTMAX
        return EnsemblePredictor(tuple(members), self.combination, output)


Trained = RunFolder | Ensemble


def load(run_dir: str | os.PathLike) -> Trained:
    """Opens what tfpipe.train or tfpipe.ensemble left in a folder.

    Raises:
        UserError: it is neither, or a member of an ensemble is missing or has changed.
    """
    folder = pathlib.Path(run_dir)
    if (folder / ENSEMBLE).is_file():
        return _load_ensemble(folder)
    if (folder / crossval.FOLDS).is_file():
        return _load_folds(folder)
    return runs.load(str(folder))


def save(found: Ensemble, folder: pathlib.Path, more: dict[str, Any]) -> None:
    """Writes `ensemble.json` into the ensemble's folder.

    Args:
        found: the ensemble, whose folder may be a temporary one.
        folder: where it will be; the members are found relative to it.
        more: what else is to be told of it.
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


def check_classes(trained: Trained, manifest: Manifest) -> None:
    """Raises UserError if the records' classes are not those that were trained."""
    if manifest.classes != trained.classes:
        raise UserError(
            f"{manifest.folder} has the classes {', '.join(manifest.classes)}, but"
            f" {trained.folder} was trained on {', '.join(trained.classes)}: give other --records"
        )


def _first(trained: Trained) -> RunFolder:
    return trained if isinstance(trained, RunFolder) else _first(trained.members[0])


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
    return Ensemble(folder, members, Combination(ensemble.GEOMETRIC), cross_validated=True)


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


def _load_member(path: pathlib.Path, folder: str, **identity: Any) -> Trained:
    there = path.parent / folder
    if not there.is_dir():
        raise UserError(f"{path} names the member {there}, which is not there: put it back")
    member = load(there)
    if member.identity() != identity:
        raise UserError(
            f"{there} has other weights or views than when {path.parent} was made of it: {_AGAIN}"
        )
    return member
