"""What a person wants to know of a data set, on one page: `report.html`.

The page holds its plots and its style, so that it opens from a disk and travels as one file. There
is no time in it and nothing of the machine: the same data set gives the same bytes.
"""

import collections
import pathlib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfpipe.core import remote, storage, terminal
from tfpipe.images.duplicates import Member
from tfpipe.images.image_info import ImageInfo
from tfpipe.page import template
from tfpipe.records.manifest import Manifest
from tfpipe.records.rejects import Reject
from tfpipe.reporting import dataset_plots as plots

REPORT = "report.html"

TEMPLATES = pathlib.Path(__file__).parent
_TEMPLATE = "dataset_report.html.j2"

# Not the folder's own name, by which two equal data sets would differ.
_FOLDER = "records/NAME"

MAX_REJECTS, MAX_CONFLICTS = 50, 20  # listed on the page; the CSV files have all

# What a person who does not see a plot is told of it.
ALTS = {
    "classes": "Bars: the number of images of each class, by split, as in the table of classes.",
    "size": "Scatter plot of the images' widths and heights; the table of statistics sums it up.",
    "aspect": "Histogram of the images' width to height, by class.",
    "brightness": "Histogram of the images' mean brightness, by class.",
}


def save(
    folder: remote.Path,
    described: Manifest,
    found: Sequence[ImageInfo],
    labels: Sequence[str],
    rejected: Sequence[Reject],
    members: Sequence[Member] = (),
) -> None:
    """Draws the plots and writes `report.html`; without the packages for it only warns.

    Args:
        folder: where the file is written.
        described: the data set.
        found: its images, without copies.
        labels: the class of each.
        rejected: the files that are in `rejects.csv`.
        members: of the clusters of duplicates, as from `duplicates.members`.
    """
    if (module := template.missing()) is not None:
        terminal.warn(
            f"no {REPORT} is written, as it needs {module}, which is not installed: run"
            " pip install 'tfpipe[screen]' and build again with --overwrite to have one"
        )
        return
    widths, heights = [each.file_width for each in found], [each.file_height for each in found]
    drawn = {
        "classes": plots.classes(described.splits),
        "size": plots.size(widths, heights, labels),
        "aspect": plots.aspect(widths, heights, labels),
        "brightness": plots.brightness([each.color for each in found], labels),
    }
    page = render(described, rejected, drawn, members)
    with storage.atomic_file(folder / REPORT) as file:
        file.write(page)


def render(
    described: Manifest,
    rejected: Sequence[Reject],
    drawn: Mapping[str, bytes],
    members: Sequence[Member] = (),
) -> str:
    """Returns the page.

    Args:
        described: the data set.
        rejected: the files that are in `rejects.csv`, in any order.
        drawn: PNG files by the name of their function in `plots`.
        members: of the clusters of duplicates, as from `duplicates.members`.
    """
    pages = template.environment(TEMPLATES)
    return pages.get_template(_TEMPLATE).render(
        title=", ".join(pathlib.PurePath(path).name for path in described.arguments["source"]),
        bytes=sum(shard.bytes for shard in described.shards),
        build_command=_command(described.arguments),
        train_command=["python -m tfpipe.train", f"--records={_FOLDER}", "--run_dir=runs/NAME"],
        **sections(described, rejected, drawn, members),
    )


def sections(
    described: Manifest,
    rejected: Sequence[Reject],
    drawn: Mapping[str, bytes],
    members: Sequence[Member] = (),
    *,
    heading: str = "h2",
    prefix: str = "",
    linked: bool = True,
) -> dict[str, Any]:
    """Returns the values of the template `data.html.j2`.

    Args:
        described: as of `render`, with the three after it.
        rejected: see there.
        drawn: see there.
        members: see there.
        heading: the tag of its headings.
        prefix: of the sections' names within the page.
        linked: whether the page lies beside the files of the data set.
    """
    conflicts = _conflicts(members)
    return {
        "data": described,
        "counts": [_counts(described, name) for name in described.classes],
        "rejected": sorted(rejected)[:MAX_REJECTS],
        "rejected_count": len(rejected),
        "conflicts": conflicts[:MAX_CONFLICTS],
        "conflict_count": len(conflicts),
        "plots": {name: template.image(png, ALTS[name]) for name, png in drawn.items()},
        "heading": heading,
        "prefix": prefix,
        "linked": linked,
    }


def _counts(described: Manifest, name: str) -> dict[str, Any]:
    """Returns the records of a class by split, the copies among them, and its images by fold."""
    return {
        "name": name,
        "splits": [counts[name] for counts in described.splits.values()],
        "copies": sum(counts.get(name, 0) for counts in described.copies.values()),
        "folds": [counts.get(name, 0) for counts in described.folds.values()],
    }


def _conflicts(members: Iterable[Member]) -> list[list[Member]]:
    """Returns the clusters that bear more than one label."""
    clusters = collections.defaultdict(list)
    for member in members:
        clusters[member.cluster].append(member)
    return [each for each in clusters.values() if len({member.label for member in each}) > 1]


def _command(arguments: Mapping[str, Any]) -> list[str]:
    """Returns the command that builds such a data set, one flag an item."""
    flags = []
    for key, value in arguments.items():
        if isinstance(value, bool):
            flags.append(f"--{key}" if value else f"--no{key}")
        elif isinstance(value, (list, tuple)):
            flags += [f"--{key}={each}" for each in value]
        elif value not in ("", None):
            flags.append(f"--{key}={value}")
    return ["python -m tfpipe.build_records", *map(shlex.quote, flags), f"--out={_FOLDER}"]
