"""The subject of a report: a run, a cross-validation or an ensemble, finished or not."""

import dataclasses
import pathlib

from tfpipe.core.errors import UserError
from tfpipe.runs import crossval, loaded_run
from tfpipe.runs.loaded_run import Ensemble, LoadedRun
from tfpipe.training import run_folder as runs
from tfpipe.training.run_folder import RunFolder

_FOLD = "fold-*"  # folders of the runs of a cross-validation


@dataclasses.dataclass(frozen=True)
class ReportTarget:
    """One of the folders that a report describes.

    Attributes:
        name: for people; unique within a report.
        folder: as given.
        trained: the classifier; None for an unfinished cross-validation.
        runs: its runs by name; a run contains only itself.
    """

    name: str
    folder: pathlib.Path
    trained: LoadedRun | None
    runs: dict[str, RunFolder]

    @property
    def kind(self) -> str:
        """Its kind, for people."""
        if self.trained is None:
            return "unfinished cross-validation"
        if isinstance(self.trained, RunFolder):
            return "run"
        return "cross-validation" if self.trained.cross_validated else "ensemble"

    @property
    def first(self) -> RunFolder:
        """The first of its runs."""
        return next(iter(self.runs.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of their labels."""
        return self.first.classes


def load(folders: list[str]) -> list[ReportTarget]:
    """Open the folders.

    Raises:
        UserError: a folder is given twice, or contains no run and no ensemble.
    """
    paths = [pathlib.Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"`run_dir={','.join(folders)}`: name each folder once")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_load(name, path) for name, path in zip(names, paths, strict=True)]


def _load(name: str, folder: pathlib.Path) -> ReportTarget:
    finished = any(
        (folder / each).is_file() for each in (crossval.FOLDS, loaded_run.ENSEMBLE, "config.json")
    )
    folds = sorted(path.parent for path in folder.glob(f"{_FOLD}/config.json"))
    if folds and not finished:
        fold_runs = {path.name: runs.load(str(path)) for path in folds}
        return ReportTarget(name, folder, None, fold_runs)
    loaded = loaded_run.load(folder)
    return ReportTarget(name, folder, loaded, _runs(name, loaded))


def _runs(name: str, loaded: LoadedRun) -> dict[str, RunFolder]:
    """Return all runs inside a run or an ensemble, each by a unique name."""
    if isinstance(loaded, RunFolder):
        return {name: loaded}
    folders = [member.folder.name for member in loaded.members]
    named: dict[str, RunFolder] = {}
    for number, (own, member) in enumerate(zip(folders, loaded.members, strict=True), start=1):
        if own in named or folders.count(own) > 1:
            own = f"{own} ({number})"
        if isinstance(member, Ensemble):
            named |= {f"{own}/{each}": run for each, run in _runs(own, member).items()}
        else:
            named[own] = member
    return named
