"""The part of a run's report about its data set: lists, plots of a sample, suspects as pictures."""

import dataclasses

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import duplicates
from tfpipe.page import thumbnail
from tfpipe.page.thumbnail_sheet import SheetItem
from tfpipe.records import label_set, rejects
from tfpipe.records.example import ImageExample
from tfpipe.records.manifest import ALL_SPLITS, Manifest
from tfpipe.records.subset import Subset
from tfpipe.reporting import dataset_plots, dataset_report, record_images
from tfpipe.reporting.dataset_report import Section
from tfpipe.screens import suspect_lists

MAX_SAMPLE = 1_000  # images in the plots of sizes, aspects and brightness
MAX_SUSPECTS = 12  # shown suspects of each screen
MAX_SEARCHED = 50_000  # records read to find the suspects

_COLOR_SIDE = 32  # pixels of the thumbnails whose mean colours are plotted
_SIDE = 200  # pixels of a suspect's picture


@dataclasses.dataclass(frozen=True)
class DatasetChapter:
    """A data set.

    Attributes:
        folder: of the records.
        section: the values of the template `dataset.html.j2`.
        plots: PNG files by name.
        sampled: the number of images in the plots of sizes, aspects and brightness.
        screens: the first suspects of each screen.
        problems: lists and records that cannot be read.
    """

    folder: str
    section: Section
    plots: dict[str, bytes]
    sampled: int
    screens: dict[str, list[SheetItem]]
    problems: list[str]


def write(manifest: Manifest, prefix: str) -> DatasetChapter:
    """Read the lists and a sample of the records of a data set.

    Args:
        manifest: of the data set.
        prefix: of the anchors within the page.
    """
    problems: list[str] = []

    def attempt(read, otherwise):
        try:
            return read()
        except UserError as error:
            terminal.warn(str(error))
            problems.append(str(error))
            return otherwise

    rejected = attempt(lambda: rejects.load(manifest.folder), [])
    has_list = bool(manifest.duplicates) and duplicates.DUPLICATES in manifest.files
    members = attempt(lambda: duplicates.load(manifest.folder), []) if has_list else []
    sample = attempt(lambda: _sample(manifest), ([], [], []))
    screens = attempt(lambda: _screens(manifest), {})
    plots = dataset_plots.draw(manifest.splits, *sample)
    section = dataset_report.section(
        manifest, rejected, plots, members, heading="h3", prefix=prefix, linked=False
    )
    return DatasetChapter(str(manifest.folder), section, plots, len(sample[0]), screens, problems)


def _sample(manifest: Manifest) -> tuple[list, list, list]:
    """Return width and height, class, and mean RGB of the first images."""
    part = Subset(manifest, (ALL_SPLITS,))
    sizes, labels, colors = [], [], []
    with terminal.progress("reading images", min(MAX_SAMPLE, part.images)) as advance:
        for fields in record_images.sample(part, MAX_SAMPLE):
            small = thumbnail.of_record(fields, _COLOR_SIDE)
            colors.append(np.asarray(small, np.float64).mean(axis=(0, 1)))
            sizes.append((fields.width or small.width, fields.height or small.height))
            labels.append(label_set.shown(fields.text) or manifest.classes[fields.label or 0])
            advance()
    return sizes, labels, colors


def _screens(manifest: Manifest) -> dict[str, list[SheetItem]]:
    rows = {
        name: suspect_lists.load(manifest.folder, name)[:MAX_SUSPECTS] for name in manifest.screens
    }
    wanted = {row["path"] for listed in rows.values() for row in listed}
    records = _find_records(manifest, wanted) if wanted else {}
    return {
        name: [_item(row, records.get(row["path"])) for row in listed]
        for name, listed in rows.items()
    }


def _find_records(manifest: Manifest, paths: set[str]) -> dict[str, ImageExample]:
    """Return records by the path of their file: the file name, alone or behind a source."""
    sources = [one_line(source.rstrip("/")) for source in manifest.arguments.get("source", [])]
    found: dict[str, ImageExample] = {}
    for fields in record_images.sample(Subset(manifest, (ALL_SPLITS,)), MAX_SEARCHED):
        name = one_line(fields.filename)
        for path in (name, *(f"{source}/{name}" for source in sources)):
            if path in paths:
                found[path] = fields
        if len(found) == len(paths):
            break
    return found


def _item(row: dict[str, str], fields: ImageExample | None) -> SheetItem:
    picture = None
    if fields is not None:
        alt = f"{row['path']}, labelled {row['label']}"
        picture = thumbnail.embed(thumbnail.of_record(fields, _SIDE), alt)
    return SheetItem(picture, row["label"], row["path"], row["score"], row["reason"])
