"""The report about a data set: the page `report.html` beside its records.

The page has no time and no path of the machine, so equal data sets get equal bytes.
"""

import collections
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfpipe.core import remote, storage, terminal
from tfpipe.images.duplicates import Member
from tfpipe.images.image_table import ImageTable
from tfpipe.page import template
from tfpipe.records.manifest import Manifest
from tfpipe.records.rejects import Reject
from tfpipe.reporting import dataset_plots

REPORT = "report.html"

MAX_REJECTS, MAX_CONFLICTS = 50, 20  # rows on the page; the CSV files have all

_FOLDER = "records/NAME"  # in place of the real folder, which may differ between equal data sets

_ALTS = {
    "classes": "Bars: the number of images of each class, by split, as in the table of classes.",
    "size": "Scatter plot of the images' widths and heights, as in the table of statistics.",
    "aspect": "Histogram of the images' width to height, by class.",
    "brightness": "Histogram of the images' mean brightness, by class.",
}


class Section(NamedTuple):
    """The values of the template `dataset.html.j2`.

    Attributes:
        manifest: of the data set.
        counts: the records of each class by split, its copies, and its images by fold.
        rejected: the first rejected files, of `rejected_count`.
        conflicts: the first clusters of duplicates with several labels, of `conflict_count`.
        plots: by their names in `dataset_plots`.
        heading: the tag of its headings.
        prefix: of the anchors within the page.
        linked: whether the page lies beside the files of the data set.
    """

    manifest: Manifest
    counts: list[dict[str, Any]]
    rejected: list[Reject]
    rejected_count: int
    conflicts: list[list[Member]]
    conflict_count: int
    plots: dict[str, template.Image]
    heading: str
    prefix: str
    linked: bool


def save(
    folder: remote.Path,
    manifest: Manifest,
    found: ImageTable,
    labels: Sequence[str],
    rejected: Sequence[Reject],
    members: Sequence[Member] = (),
) -> None:
    """Draw the plots and write `report.html`, or warn that a package is missing.

    Args:
        folder: the folder to write to.
        manifest: of the data set.
        found: its images without copies.
        labels: the class of each image.
        rejected: the files in `rejects.csv`.
        members: of the clusters of duplicates, from `duplicates.members`.
    """
    if (module := template.missing()) is not None:
        terminal.warn(
            f"{REPORT} is not written, because {module} is not installed: run"
            " pip install 'tfpipe[screen]' and build again with `overwrite`"
        )
        return
    sizes, colors = (
        np.stack([found.rows[name] for name in names], axis=1)
        for names in (("file_width", "file_height"), ("red", "green", "blue"))
    )
    drawn = dataset_plots.draw(manifest.splits, sizes, labels, colors)
    page = render(manifest, rejected, drawn, members)
    with storage.atomic_file(folder / REPORT) as file:
        file.write(page)


def render(
    manifest: Manifest,
    rejected: Sequence[Reject],
    drawn: Mapping[str, bytes],
    members: Sequence[Member] = (),
) -> str:
    """Return the page; `section` explains the arguments."""
    pages = template.environment(pathlib.Path(__file__).parent)
    return pages.get_template("dataset_report.html.j2").render(
        title=", ".join(pathlib.PurePath(path).name for path in manifest.arguments["source"]),
        bytes=sum(shard.bytes for shard in manifest.shards),
        build_command=_command(manifest.arguments),
        train_command=["python -m tfpipe.train", f"--records={_FOLDER}", "--run_dir=runs/NAME"],
        dataset=section(manifest, rejected, drawn, members),
    )


def section(
    manifest: Manifest,
    rejected: Sequence[Reject],
    drawn: Mapping[str, bytes],
    members: Sequence[Member] = (),
    *,
    heading: str = "h2",
    prefix: str = "",
    linked: bool = True,
) -> Section:
    """Return the values of the template `dataset.html.j2`; `Section` explains the rest.

    Args:
        manifest: of the data set.
        rejected: the files in `rejects.csv`, in any order.
        drawn: PNG files from `dataset_plots.draw`.
        members: of the clusters of duplicates.
        heading: the tag of its headings.
        prefix: of the anchors.
        linked: whether the page lies beside the files.
    """
    clusters = collections.defaultdict(list)
    for member in members:
        clusters[member.cluster].append(member)
    conflicts = [each for each in clusters.values() if len({m.label for m in each}) > 1]
    counts = [
        {
            "name": name,
            "splits": [counts[name] for counts in manifest.splits.values()],
            "copies": sum(counts.get(name, 0) for counts in manifest.copies.values()),
            "folds": [counts.get(name, 0) for counts in manifest.folds.values()],
        }
        for name in manifest.classes
    ]
    return Section(
        manifest,
        counts,
        sorted(rejected)[:MAX_REJECTS],
        len(rejected),
        conflicts[:MAX_CONFLICTS],
        len(conflicts),
        {name: template.image(png, _ALTS[name]) for name, png in drawn.items()},
        heading,
        prefix,
        linked,
    )


def _command(arguments: Mapping[str, Any]) -> list[str]:
    """Return the command that builds such a data set, one flag an item."""
    flags = []
    for key, value in arguments.items():
        if isinstance(value, bool):
            flags.append(f"--{key}" if value else f"--no{key}")
        elif isinstance(value, (list, tuple)):
            flags += [f"--{key}={each}" for each in value]
        elif value not in ("", None):
            flags.append(f"--{key}={value}")
    return ["python -m tfpipe.build_records", *map(shlex.quote, flags), f"--out={_FOLDER}"]
