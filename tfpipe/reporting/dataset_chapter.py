"""The part about the data: what its manifest and lists say, plots of a sample, suspects to see."""

import dataclasses
from typing import Any

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.images import duplicates
from tfpipe.page import template
from tfpipe.records import manifest, rejects
from tfpipe.records.example import Fields
from tfpipe.records.manifest import ALL_SPLITS, Manifest
from tfpipe.records.part import Part
from tfpipe.reporting import dataset_plots as plots
from tfpipe.reporting import dataset_report as report
from tfpipe.reporting import images, pictures
from tfpipe.screens import suspects

MAX_SAMPLE = 1_000  # images that are looked into for the plots
MAX_SUSPECTS = 12  # of each screen, as pictures
MAX_SEARCHED = 50_000  # records that are read to find their pictures

_COLOR_SIDE = 32  # pixels of the thumbnails that mean colours are taken of


@dataclasses.dataclass(frozen=True)
class Suspect:
    """An image that a screen listed; without a picture if it is not in the records."""

    picture: template.Image | None
    path: str
    label: str
    score: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        folder: of the records.
        sections: the values of the template `data.html.j2`.
        plots: PNG files by name.
        sampled: how many images the plots of sizes, aspects and brightness are of.
        screens: what each screen listed, the worst of it.
        problems: what could not be read.
    """

    folder: str
    sections: dict[str, Any]
    plots: dict[str, bytes]
    sampled: int
    screens: dict[str, list[Suspect]]
    problems: list[str]


def find(described: Manifest, prefix: str) -> Data:
    """Reads the lists and a sample of the records of a data set.

    Args:
        described: the data set.
        prefix: of the sections' names within the page.
    """
    problems: list[str] = []

    def attempt(read, otherwise):
        try:
            return read()
        except UserError as error:
            terminal.warn(str(error))
            problems.append(str(error))
            return otherwise

    rejected = attempt(lambda: rejects.load(described.folder), [])
    listed = bool(described.duplicates) and duplicates.DUPLICATES in described.files
    members = attempt(lambda: duplicates.load(described.folder), []) if listed else []
    drawn, sampled = attempt(lambda: _plots(described), ({}, 0))
    screens = attempt(lambda: _screens(described), {})
    drawn["classes"] = plots.classes(described.splits)
    sections = report.sections(
        described, rejected, drawn, members, heading="h3", prefix=prefix, linked=False
    )
    return Data(str(described.folder), sections, drawn, sampled, screens, problems)


def load(folder: str) -> Manifest | str:
    """Returns the manifest of records that are there; else warns, and returns why they are not.

    Args:
        folder: of the records.
    """
    try:
        found = manifest.load(folder)
        found.check()
    except UserError as error:
        terminal.warn(f"the report has no pictures and tells nothing of the data: {error}")
        return str(error)
    return found


def _plots(described: Manifest) -> tuple[dict[str, bytes], int]:
    """Draws what images are like that are stored, and returns how many these are."""
    part = Part(described, (ALL_SPLITS,))
    sizes, labels, colors = [], [], []
    total = min(MAX_SAMPLE, part.images)
    with terminal.progress("looking at the images", total) as advance:
        for fields in images.sample(part, MAX_SAMPLE):
            small = images.thumbnail(fields, _COLOR_SIDE)
            colors.append(np.asarray(small, np.float64).mean(axis=(0, 1)))
            sizes.append((fields.width or small.width, fields.height or small.height))
            labels.append(fields.text or described.classes[fields.label or 0])
            advance()
    widths, heights = zip(*sizes, strict=True)
    drawn = {
        "size": plots.size(widths, heights, labels),
        "aspect": plots.aspect(widths, heights, labels),
        "brightness": plots.brightness(colors, labels),
    }
    return drawn, len(labels)


def _screens(described: Manifest) -> dict[str, list[Suspect]]:
    rows = {
        name: suspects.load(described.folder, name)[:MAX_SUSPECTS] for name in described.screens
    }
    wanted = {row["path"] for listed in rows.values() for row in listed}
    records = _records(described, wanted) if wanted else {}
    return {
        name: [_suspect(row, records.get(row["path"])) for row in listed]
        for name, listed in rows.items()
    }


def _records(described: Manifest, paths: set[str]) -> dict[str, Fields]:
    """Returns records by where their files were: a source and the name in there."""
    sources = [one_line(source.rstrip("/")) for source in described.arguments.get("source", [])]
    found: dict[str, Fields] = {}
    for fields in images.sample(Part(described, (ALL_SPLITS,)), MAX_SEARCHED):
        name = one_line(fields.filename)
        for path in (name, *(f"{source}/{name}" for source in sources)):
            if path in paths:
                found[path] = fields
        if len(found) == len(paths):
            break
    return found


def _suspect(row: dict[str, str], fields: Fields | None) -> Suspect:
    picture = None
    if fields is not None:
        picture = pictures.thumbnail(fields, f"{row['path']}, labelled {row['label']}")
    return Suspect(picture, row["path"], row["label"], row["score"], row["reason"])
