"""What a report is about: a run, a cross-validation or an ensemble, finished or not."""

import dataclasses
import pathlib

from tfpipe.core.errors import UserError
from tfpipe.runs import crossval, loaded_run
from tfpipe.runs.loaded_run import Ensemble, LoadedRun
from tfpipe.training import run as runs
from tfpipe.training.run import Run

_FOLD = "fold-*"  # folders of a cross-validation's runs


@dataclasses.dataclass(frozen=True)
class Subject:
    """One of the folders that a report is of.

    Attributes:
        name: for people; no two subjects of a report have the same.
        folder: as given.
        trained: what answers; None for a cross-validation that is not finished.
        runs: that were trained for it, by name; of a run only itself.
    """

    name: str
    folder: pathlib.Path
    trained: LoadedRun | None
    runs: dict[str, Run]

    @property
    def kind(self) -> str:
        """What it is, for people."""
        if self.trained is None:
            return "unfinished cross-validation"
        if isinstance(self.trained, Run):
            return "run"
        return "cross-validation" if self.trained.cross_validated else "ensemble"

    @property
    def first(self) -> Run:
        """The first of its runs."""
        return next(iter(self.runs.values()))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of their labels."""
        return self.first.classes


def load(folders: list[str]) -> list[Subject]:
    """Opens what the folders hold.

    Raises:
        UserError: a folder is given twice, or holds nothing that was trained.
    """
    paths = [pathlib.Path(folder) for folder in folders]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"--run_dir={','.join(folders)}: name each folder once")
    names = [path.resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_load(name, path) for name, path in zip(names, paths, strict=True)]


def _load(name: str, folder: pathlib.Path) -> Subject:
    unfinished = not any(
        (folder / each).is_file() for each in (crossval.FOLDS, loaded_run.ENSEMBLE, "config.json")
    )
    folds = sorted(path.parent for path in folder.glob(f"{_FOLD}/config.json"))
    if unfinished and folds:
        return Subject(name, folder, None, {path.name: runs.load(str(path)) for path in folds})
    found = loaded_run.load(folder)
    return Subject(name, folder, found, _runs(name, found))


def _runs(name: str, found: LoadedRun) -> dict[str, Run]:
    """Returns the runs that something consists of, each by a name of its own."""
    if isinstance(found, Run):
        return {name: found}
    named: dict[str, Run] = {}
    for number, member in enumerate(found.members):
        own = member.folder.name
        if own in named or sum(each.folder.name == own for each in found.members) > 1:
            own = f"{own} ({number + 1})"
        if isinstance(member, Ensemble):
            named |= {f"{own}/{each}": run for each, run in _runs(own, member).items()}
        else:
            named[own] = member
    return named
