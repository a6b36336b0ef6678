"""All that a report tells of one subject: result, pictures, training and model."""

import dataclasses
from typing import Any

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.page import template
from tfpipe.records.example import ImageExample
from tfpipe.records.manifest import Manifest
from tfpipe.reporting import (
    images,
    layers,
    measured,
    neighbours,
    pictures,
    predictions,
    results,
    structure,
    suspects,
    training,
)
from tfpipe.reporting.neighbours import Neighbour
from tfpipe.reporting.pictures import Card
from tfpipe.reporting.predictions import Predictions
from tfpipe.reporting.structure import Structure
from tfpipe.reporting.subject import Subject
from tfpipe.training.log import Epoch

MAX_STRUCTURES = 6  # models that are drawn of an ensemble
MAX_SUSPECTS = 16  # labels that may be wrong, as pictures
MAX_ASKED = 4  # images whose neighbours are looked for
SUSPECT_SIDE = 112  # pixels


@dataclasses.dataclass(frozen=True)
class Choice:
    """What of a chapter is made.

    Attributes:
        pictures: in each group of images, at most.
        neighbours: images of the training to look for neighbours among; 0 looks for none.
        show: names of `layers.SHOWN`.
    """

    pictures: int
    neighbours: int
    show: tuple[str, ...]


@dataclasses.dataclass
class Chapter:
    """What is told of a subject; what there is none of is empty, with a line why in `problems`.

    Attributes:
        subject: what it is about.
        histories: the epochs of each run.
        plots: PNG files by name, each with its text for who does not see it.
        structures: the different models, by the name of the first run that has each.
        alike: how many runs have it, by the same name.
        drawn: the plot of it, by the same name.
        found: the answers, or why there are none.
        result: from `measured.of`.
        groups: cards of images, by the title of the group, with what they are.
        suspects: labels that may be wrong, as cards; and how many there are in all.
        neighbours: cards of wrong images, each with its nearest ones of the training.
        problems: what is missing, and what to do about it.
    """

    subject: Subject
    histories: dict[str, list[Epoch]]
    plots: dict[str, tuple[bytes, str]] = dataclasses.field(default_factory=dict)
    structures: dict[str, Structure] = dataclasses.field(default_factory=dict)
    alike: dict[str, int] = dataclasses.field(default_factory=dict)
    drawn: dict[str, str] = dataclasses.field(default_factory=dict)
    found: Predictions | str = ""
    result: dict[str, Any] | None = None
    groups: list[tuple[str, str, list[Card]]] = dataclasses.field(default_factory=list)
    suspects: list[Card] = dataclasses.field(default_factory=list)
    suspect_count: int = 0
    suspect_reason: str = ""
    neighbours: list[tuple[Card, list[Neighbour]]] = dataclasses.field(default_factory=list)
    neighbours_among: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def stages(self) -> list[dict[str, Any]]:
        """The rows of the table of stages."""
        return training.stages(self.histories)

    @property
    def options(self) -> list[tuple[str, str]]:
        """The options that are not the defaults."""
        return training.options(self.subject)

    @property
    def seconds(self) -> float:
        """How long the trainings took."""
        return sum(epoch.seconds for epochs in self.histories.values() for epoch in epochs)

    @property
    def epochs(self) -> int:
        """How many there were."""
        return sum(map(len, self.histories.values()))

    @property
    def parameters(self) -> int | None:
        """How many the models of all runs have; None if one could not be built."""
        if sum(self.alike.values()) < len(self.subject.runs):
            return None
        return sum(each.parameters * self.alike[name] for name, each in self.structures.items())


def write(subject: Subject, manifest: Manifest | str, choice: Choice) -> Chapter:
    """Finds all that is told of a subject.

    Args:
        subject: what it is about.
        manifest: of its records, or why they are not there.
        choice: what is made.

    Raises:
        UserError: the log or the predictions are damaged.
    """
    chapter = Chapter(subject, training.histories(subject))
    chapter.plots |= training.plots(chapter.histories)
    _draw_structures(chapter)
    records = manifest if isinstance(manifest, Manifest) else None
    if records is None:
        chapter.problems.append(f"There are no pictures, and nothing of the data: {manifest}.")
    chapter.found = predictions.usable(subject, records)
    if isinstance(chapter.found, str):
        chapter.problems.append(f"There is no result: {chapter.found}.")
        return chapter
    chapter.result = measured.of(chapter.found, subject.classes, subject.folder)
    chapter.plots |= results.plots(chapter.found, subject.classes)
    if records is None:
        return chapter
    try:
        _look(chapter, chapter.found, records, choice)
    except UserError as error:
        terminal.warn(f"{subject.folder}: {error}")
        chapter.problems.append(f"There are no pictures: {error}.")
    return chapter


def _draw_structures(chapter: Chapter) -> None:
    """Draws each model that differs from the others."""
    alike: dict[str, list[str]] = {}
    for name, run in chapter.subject.runs.items():
        key = repr((run.resolved.branches, run.config.stages, run.config.head, run.config.pooling))
        alike.setdefault(key, []).append(name)
    for number, names in enumerate(list(alike.values())[:MAX_STRUCTURES]):
        name = names[0]
        try:
            found = structure.build(chapter.subject.runs[name])[1]
        except UserError as error:
            terminal.warn(str(error))
            chapter.problems.append(f"The model of {name} is not drawn: {error}.")
            continue
        chapter.structures[name], chapter.alike[name] = found, len(names)
        file = f"structure-{number + 1}" if number else "structure"
        chapter.plots[file] = structure.draw(found), structure.alt(found)
        chapter.drawn[name] = file


def _look(chapter: Chapter, found: Predictions, manifest: Manifest, choice: Choice) -> None:
    """Adds the pictures, their neighbours and what the layers see."""
    subject = chapter.subject
    listed = suspects.find(found, subject.classes)
    chapter.suspect_count, chapter.suspect_reason = len(listed.indices), listed.reason
    chosen = {name: pick(found, choice.pictures) for name, (pick, _) in pictures.GROUPS.items()}
    shown = listed.indices[: min(MAX_SUSPECTS, 2 * choice.pictures)]
    parts = images.predicted(subject.trained, manifest)
    records = images.read(parts, {*shown, *(n for numbers in chosen.values() for n in numbers)})
    for number, fields in records.items():
        images.check(fields, str(found.names[number]), found.labels[number], manifest.folder)
    predictor = subject.trained.restore()
    mapped = {n: records[n] for numbers in chosen.values() for n in numbers}
    heats = pictures.heat_maps(predictor, mapped, found) if mapped else {}
    notes = dict.fromkeys(listed.indices, "its label may be wrong")

    def cards(numbers: list[int]) -> list[Card]:
        return pictures.cards(numbers, records, found, subject.classes, heats, notes)

    chapter.groups = [
        (name, text, cards(chosen[name])) for name, (_, text) in pictures.GROUPS.items()
    ]
    chapter.suspects = pictures.cards(shown, records, found, subject.classes, {}, side=SUSPECT_SIDE)
    asked = chosen["Most wrong"][:MAX_ASKED]
    if choice.neighbours and asked:
        part = images.learned(subject.trained, manifest)
        near = neighbours.find(
            predictor, [records[n] for n in asked], part, subject.classes, choice.neighbours
        )
        chapter.neighbours = list(zip(cards(asked), near, strict=True))
        chapter.neighbours_among = min(choice.neighbours, part.images)
    _show_layers(chapter, predictor, choice, _first(chosen), records)


def _first(chosen: dict[str, list[int]]) -> int | None:
    return next((numbers[0] for numbers in chosen.values() if numbers), None)


def _show_layers(
    chapter: Chapter,
    predictor,
    choice: Choice,
    number: int | None,
    records: dict[int, ImageExample],
) -> None:
    """Draws what `--show` asks for, of the first image that is shown."""
    towers, size = layers.towers(predictor)
    for index, tower in enumerate(towers):
        suffix = f"-{index + 1}" if len(towers) > 1 else ""
        if layers.FILTERS in choice.show:
            drawn = layers.filters(tower)
            if drawn is None:
                chapter.problems.append(f"{tower.name} has no filters of three channels to show.")
            else:
                alt = f"The filters of the first convolution of {tower.name}."
                chapter.plots[f"filters{suffix}"] = drawn, alt
        if layers.FEATURE_MAPS in choice.show and number is not None:
            pixels = images.decoded(records[number], size)
            name = one_line(records[number].filename)
            alt = f"What blocks of {tower.name} make of {name}."
            chapter.plots[f"feature_maps{suffix}"] = layers.feature_maps(tower, pixels, name), alt


def embedded(chapter: Chapter) -> dict[str, template.Image]:
    """Returns the plots as pictures for the page, by name."""
    return {name: template.image(png, alt) for name, (png, alt) in chapter.plots.items()}
