"""The report about trained classifiers: one HTML file, and every plot as a PNG file."""

import os
import pathlib
from collections.abc import Sequence

import tfpipe
from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import result_tables
from tfpipe.page import template
from tfpipe.records import manifest as manifests
from tfpipe.records.manifest import Manifest
from tfpipe.reporting import (
    chapter,
    comparison,
    dataset_chapter,
    page_tables,
    published_recipes,
    range_plot,
    result_plots,
    target,
    training_plots,
)
from tfpipe.reporting.chapter import Chapter, ReportOptions
from tfpipe.reporting.comparison import Comparison
from tfpipe.reporting.dataset_chapter import DatasetChapter
from tfpipe.reporting.target import ReportTarget
from tfpipe.runs import loaded_run
from tfpipe.training import loggers
from tfpipe.training.run_folder import RunFolder

MAX_TARGETS = 8


def write(folders: list[str], out: str, records: str, options: ReportOptions) -> pathlib.Path:
    """Write the report.

    Args:
        folders: of runs, cross-validations or ensembles.
        out: the file; empty for the default name in the first folder.
        records: folder of the records; empty for the records of each run.
        options: the optional parts.

    Returns:
        The file.

    Raises:
        UserError: a folder contains no run and no ensemble or is damaged, a package is missing, or
            the file cannot be written.
    """
    if (module := template.missing()) is not None:
        raise UserError(f"{module} is not installed: pip install 'tfpipe[report]'")
    if len(folders) > MAX_TARGETS:
        raise UserError(f"`run_dir` names {len(folders)} folders: give at most {MAX_TARGETS}")
    targets = target.load(folders)
    path = _output_file(out, targets)
    chapters = [chapter.write(each, _load_manifest(each, records), options) for each in targets]
    datasets = _dataset_chapters(chapters)
    compared = None
    if len(chapters) > 1:
        compared = comparison.write(chapters, pictures=options.pictures > 0)
    page = render(chapters, datasets, compared)
    _save_plots(chapters, datasets, compared)
    with storage.atomic_file(path) as file:
        file.write(page)
    if len(targets) == 1 and isinstance(targets[0].trained, RunFolder):
        loggers.attach(targets[0].trained, path)
    return path


def render(
    chapters: Sequence[Chapter], datasets: Sequence[DatasetChapter], compared: Comparison | None
) -> str:
    """Return the page; `compared` is None for a single chapter."""
    pages = template.environment(pathlib.Path(__file__).parent)
    pages.filters |= {"time": _time, "interval": result_tables.interval}
    targets = [each.target for each in chapters]
    plots = compared.plots if compared else {}
    comparable = any(map(published_recipes.is_comparable, targets))
    return pages.get_template("run_report.html.j2").render(
        title=" and ".join(each.name for each in targets),
        parts=[
            {
                "chapter": each,
                "plots": {name: template.image(*plot) for name, plot in each.plots.items()},
                "stages": page_tables.stages(each.histories),
                "options": page_tables.options(each.target.first.config),
                "prefix": f"r{number}-" if compared else "",
                "recipe": published_recipes.followed(each.target.first.config),
                "classes": each.target.classes,
            }
            for number, each in enumerate(chapters, start=1)
        ],
        datasets=datasets,
        compared=compared,
        comparison_plots={name: template.image(*plot) for name, plot in plots.items()},
        recipes=published_recipes.recipes() if comparable else (),
        result_plots=tuple(result_plots.PLOTS),
        training_plots=(*training_plots.PLOTS, range_plot.NAME),
        version=tfpipe.__version__,
    )


def _output_file(out: str, targets: Sequence[ReportTarget]) -> pathlib.Path:
    if not out:
        if not os.access(targets[0].folder, os.W_OK):
            raise UserError(f"{targets[0].folder} is read-only: name the page with `out`")
        return targets[0].folder / (
            loaded_run.REPORT if len(targets) == 1 else loaded_run.COMPARISON
        )
    path = pathlib.Path(out)
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"`out={out}`: give a file in a folder that exists")
    return path


def _load_manifest(described: ReportTarget, records: str) -> Manifest | str:
    """Return the manifest of records, or after a warning the reason why it is not available."""
    trained = described.trained or described.first
    try:
        found = manifests.load(records or described.first.records)
        found.check()
        if not loaded_run.was_trained_on(trained, found):
            raise UserError(loaded_run.rebuilt(trained, found))
    except UserError as error:
        terminal.warn(f"the report has no pictures and no data: {error}")
        return str(error)
    return found


def _dataset_chapters(chapters: Sequence[Chapter]) -> list[DatasetChapter]:
    """Write a chapter about each different data set."""
    found: dict[str, DatasetChapter] = {}
    for each in chapters:
        if each.manifest is not None and each.manifest.fingerprint not in found:
            prefix = f"d{len(found) + 1}-" if len(chapters) > 1 else "data-"
            found[each.manifest.fingerprint] = dataset_chapter.write(each.manifest, prefix)
    return list(found.values())


def _save_plots(
    chapters: Sequence[Chapter], datasets: Sequence[DatasetChapter], compared: Comparison | None
) -> None:
    """Write each plot as a PNG file to the folder of its target, common ones to the first."""
    common: dict[str, bytes] = {}
    for number, each in enumerate(datasets, start=1):
        which = "data" if len(datasets) == 1 else f"data-{number}"
        common |= {f"{which}-{name}": png for name, png in each.plots.items()}
    if compared:
        common |= {name: png for name, (png, _) in compared.plots.items()}
    for each in chapters:
        own = {name: png for name, (png, _) in each.plots.items()}
        if each is chapters[0]:
            own |= common
        folder = each.target.folder / loaded_run.PLOTS
        try:
            folder.mkdir(exist_ok=True)
            for name, png in own.items():
                with storage.atomic_file(folder / f"{name}.png", "wb") as file:
                    file.write(png)
        except (OSError, UserError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            terminal.warn(f"no PNG files of the plots, which the page has: {folder}: {reason}")


def _time(seconds: float) -> str:
    """Return 75 as "75 s", 750 as "12.5 min", 7500 as "2.08 h"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 6000:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"
