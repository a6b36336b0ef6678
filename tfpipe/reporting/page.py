"""The page itself: its chapters, the comparison and the data, in one file; and the plots as PNG."""

import dataclasses
import pathlib
from typing import Any

import tfpipe
from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.page import template
from tfpipe.records.manifest import Manifest
from tfpipe.reporting import chapter as chapters
from tfpipe.reporting import comparison, curves, data, images, pictures, published, results, subject
from tfpipe.reporting import dataset_report as data_report
from tfpipe.reporting.chapter import Chapter, Choice
from tfpipe.reporting.comparison import Pair
from tfpipe.reporting.data import Data
from tfpipe.runs import loaded_run
from tfpipe.training.run import Run

MAX_RUNS = 8
MAX_DIFFERING = 8  # images that two runs disagree on, as pictures

_TEMPLATES = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several subjects side by side.

    Attributes:
        best: the name of the one with the lowest log loss; "" if fewer than two have a result.
        pairs: it and each of the others.
        cards: of each pair the images that only one has right.
        plots: PNG files by name, each with its text for who does not see it.
    """

    best: str
    pairs: list[Pair]
    cards: dict[str, list[pictures.Card]]
    plots: dict[str, tuple[bytes, str]]


def make(folders: list[str], out: str, records: str, choice: Choice) -> pathlib.Path:
    """Writes the page and the plots.

    Args:
        folders: of runs, cross-validations or ensembles.
        out: the file; empty for one in the first folder.
        records: folder of the records; empty for those of each run.
        choice: what is made.

    Returns:
        The file.

    Raises:
        UserError: a folder holds nothing that was trained, what it holds is damaged, a package is
            missing, or the file cannot be written.
    """
    if (module := template.missing()) is not None:
        raise UserError(f"{module} is not installed: pip install 'tfpipe[report]'")
    if len(folders) > MAX_RUNS:
        raise UserError(f"--run_dir names {len(folders)} folders: give at most {MAX_RUNS}")
    subjects = subject.load(folders)
    path = _file(out, subjects)
    described = {each.name: data.load(records or each.first.records) for each in subjects}
    told = [chapters.write(each, described[each.name], choice) for each in subjects]
    sets = _data(subjects, described)
    compared = _compare(told, described, choice) if len(told) > 1 else None
    page = render(told, sets, compared)
    _save_plots(told, sets, compared)
    with storage.atomic_file(path) as file:
        file.write(page)
    return path


def render(told: list[Chapter], sets: list[Data], compared: Comparison | None) -> str:
    """Returns the page.

    Args:
        told: the chapters.
        sets: the data.
        compared: the comparison of several.
    """
    pages = template.environment(_TEMPLATES, data_report.TEMPLATES)
    pages.filters |= {"time": _time}
    several = len(told) > 1
    embedded = {}
    if compared:
        embedded = {name: template.image(*plot) for name, plot in compared.plots.items()}
    return pages.get_template("run.html.j2").render(
        title=" and ".join(each.subject.name for each in told),
        chapters=[
            {
                "told": each,
                "plots": chapters.embedded(each),
                "prefix": f"r{number + 1}-" if several else "",
                "recipe": published.of(each.subject.first.config),
                "classes": each.subject.classes,
            }
            for number, each in enumerate(told)
        ],
        sets=sets,
        compared=compared,
        comparison_plots=embedded,
        recipes=published.recipes() if any(published.fits(each.subject) for each in told) else (),
        result_plots=tuple(results.PLOTS),
        training_plots=tuple(curves.PLOTS),
        version=tfpipe.__version__,
    )


def _file(out: str, subjects: list[subject.Subject]) -> pathlib.Path:
    """Returns where the page goes; raises UserError if that cannot be."""
    if not out:
        return subjects[0].folder / (
            loaded_run.REPORT if len(subjects) == 1 else loaded_run.COMPARISON
        )
    path = pathlib.Path(out)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"--out={out}: give a file in a folder that exists")
    return path


def _data(subjects: list[subject.Subject], described: dict[str, Manifest | str]) -> list[Data]:
    """Returns each of the data sets once."""
    found: dict[str, Data] = {}
    for each in subjects:
        manifest = described[each.name]
        if isinstance(manifest, Manifest) and manifest.fingerprint not in found:
            prefix = f"d{len(found) + 1}-" if len(subjects) > 1 else "data-"
            found[manifest.fingerprint] = data.find(manifest, prefix)
    return list(found.values())


def _compare(
    told: list[Chapter], described: dict[str, Manifest | str], choice: Choice
) -> Comparison:
    histories = {}
    for each in told:
        for name, epochs in each.histories.items():
            alone = isinstance(each.subject.trained, Run)
            histories[each.subject.name if alone else f"{each.subject.name}/{name}"] = epochs
    plots = {}
    if histories:
        plots = {
            f"comparison-{name}": (draw(histories), alt)
            for name, (draw, alt) in curves.PLOTS.items()
            if name in ("loss", "accuracy")
        }
    answered = {each.subject.name: each for each in told if not isinstance(each.found, str)}
    if len(answered) < 2:
        return Comparison("", [], {}, plots)
    best, pairs = comparison.pairs(
        {name: each.found for name, each in answered.items()},
        {name: each.subject.classes for name, each in answered.items()},
    )
    cards = {}
    for number, pair in enumerate(pairs):
        if pair.plot is not None:
            alt = f"Scatter plot of the probabilities by {best} and {pair.other}."
            plots[f"comparison-{number + 1}"] = pair.plot, alt
        first, manifest = answered[best], described[best]
        if isinstance(manifest, Manifest) and choice.pictures:
            cards[pair.other] = _differing(first, answered[pair.other], pair, manifest)
    return Comparison(best, pairs, cards, plots)


def _differing(
    best: Chapter, other: Chapter, pair: Pair, manifest: Manifest
) -> list[pictures.Card]:
    """Returns cards of images that only one of two has right, with what both answer."""
    shown = dict(pair.differ[:MAX_DIFFERING])
    try:
        records = images.read(images.predicted(best.subject.trained, manifest), shown)
        for number, fields in records.items():
            name, label = str(best.found.names[number]), best.found.labels[number]
            images.check(fields, name, label, manifest.folder)
    except UserError as error:
        terminal.warn(f"{best.subject.folder}: {error}")
        return []
    classes = best.subject.classes
    found = []
    for card, (first, second) in zip(
        pictures.cards(list(shown), records, best.found, classes, {}), shown.items(), strict=True
    ):
        scores = []
        for each, number in ((best, first), (other, second)):
            guess = int(each.found.guesses[number])
            probability = float(each.found.probabilities[number, guess])
            scores.append((f"{each.subject.name}: {classes[guess]}", probability))
        found.append(dataclasses.replace(card, scores=scores))
    return found


def _save_plots(told: list[Chapter], sets: list[Data], compared: Comparison | None) -> None:
    """Writes every plot as a PNG file into the folder of its run, the common ones of the first."""
    common: dict[str, bytes] = {}
    for number, each in enumerate(sets):
        which = "data" if len(sets) == 1 else f"data-{number + 1}"
        common |= {f"{which}-{name}": png for name, png in each.plots.items()}
    if compared:
        common |= {name: png for name, (png, _) in compared.plots.items()}
    for each in told:
        own: dict[str, Any] = {name: png for name, (png, _) in each.plots.items()}
        folder = each.subject.folder / loaded_run.PLOTS
        try:
            folder.mkdir(exist_ok=True)
            for name, png in (own | (common if each is told[0] else {})).items():
                with storage.atomic_file(folder / f"{name}.png", "wb") as file:
                    file.write(png)
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror})") from None


def _time(seconds: float) -> str:
    """Returns 75 as "75 s", 750 as "12.5 min", 7500 as "2.1 h"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
