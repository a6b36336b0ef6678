"""A chapter of a report: result, pictures, training and model of one target."""

import dataclasses
from typing import Any, NamedTuple

from tfpipe.core import terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.records.example import ImageExample
from tfpipe.records.manifest import Manifest
from tfpipe.reporting import (
    image_groups,
    layer_plots,
    model_structure,
    named_predictions,
    neighbours,
    range_plot,
    record_images,
    result_plots,
    training_plots,
)
from tfpipe.reporting import page_tables as tables
from tfpipe.reporting.cards import Card, CardMaker, heat_maps
from tfpipe.reporting.model_structure import ModelStructure
from tfpipe.reporting.named_predictions import NamedPredictions
from tfpipe.reporting.neighbours import Neighbour
from tfpipe.reporting.target import ReportTarget
from tfpipe.runs import loaded_run
from tfpipe.training import log, range_test
from tfpipe.training.log import Epoch

MAX_MODELS = 6  # drawn models of an ensemble
MAX_SUSPECTS = 16  # shown images with suspect labels
MAX_ASKED = 4  # images with neighbours
SUSPECT_SIDE = 112  # pixels


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """The optional parts of a chapter.

    Attributes:
        pictures: the maximum number of images in each group.
        neighbours: the number of training images to search for neighbours; 0 for no search.
        show: names in `layer_plots.PLOTS`.
    """

    pictures: int
    neighbours: int
    show: tuple[str, ...]


class DrawnModel(NamedTuple):
    """A model that one or several runs share.

    Attributes:
        name: the first run that has it.
        structure: its blocks and parameters.
        runs: the number of runs that have it.
        plot: the name of its drawing.
    """

    name: str
    structure: ModelStructure
    runs: int
    plot: str


@dataclasses.dataclass
class Chapter:
    """The contents of a chapter; `problems` explains empty parts.

    Attributes:
        target: the run or ensemble.
        manifest: of its records; None if they are not available.
        histories: the epochs of each run that has any.
        plots: PNG files with their alt texts, by name.
        models: the different models, up to `MAX_MODELS`.
        predictions: for labelled images; None without any.
        result: from `tables.result`.
        groups: cards by group: title, description, cards.
        suspects: cards of images with suspect labels, the first of `suspect_count`.
        suspect_problem: why there was no search for them; "" after a search.
        neighbours: cards of wrongly predicted images, each with its nearest training images.
        neighbours_among: the number of searched training images.
        problems: missing parts, and what to do about them.
    """

    target: ReportTarget
    manifest: Manifest | None
    histories: dict[str, list[Epoch]]
    plots: dict[str, tuple[bytes, str]] = dataclasses.field(default_factory=dict)
    models: list[DrawnModel] = dataclasses.field(default_factory=list)
    predictions: NamedPredictions | None = None
    result: dict[str, Any] | None = None
    groups: list[tuple[str, str, list[Card]]] = dataclasses.field(default_factory=list)
    suspects: list[Card] = dataclasses.field(default_factory=list)
    suspect_count: int = 0
    suspect_problem: str = ""
    neighbours: list[tuple[Card, list[Neighbour]]] = dataclasses.field(default_factory=list)
    neighbours_among: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The duration of all trainings."""
        return sum(epoch.seconds for epochs in self.histories.values() for epoch in epochs)

    @property
    def epochs(self) -> int:
        """The number of epochs of all runs."""
        return sum(map(len, self.histories.values()))

    @property
    def parameters(self) -> int | None:
        """The number of parameters of all runs; None if a model is not known."""
        if sum(model.runs for model in self.models) < len(self.target.runs):
            return None
        return sum(model.structure.parameters * model.runs for model in self.models)


def write(target: ReportTarget, manifest: Manifest | str, options: ReportOptions) -> Chapter:
    """Write the chapter of a target.

    Args:
        target: the run or ensemble.
        manifest: of its records, or why they are not available.
        options: the optional parts.

    Raises:
        UserError: the log or the predictions are damaged.
    """
    records = manifest if isinstance(manifest, Manifest) else None
    histories = {name: log.read(run.folder) for name, run in target.runs.items()}
    histories = {name: epochs for name, epochs in histories.items() if epochs}
    tests = {name: range_test.load(run.folder) for name, run in target.runs.items()}
    plots = training_plots.draw(histories) | range_plot.draw(tests)
    chapter = Chapter(target, records, histories, plots)
    _draw_models(chapter)
    if records is None:
        chapter.problems.append(f"No pictures and no data: {manifest}.")
    try:
        chapter.predictions = named_predictions.load(target, records)
    except UserError as error:
        _report_problem(chapter, "No result", error)
        return chapter
    shares = loaded_run.usual_shares(target.trained, records)
    chapter.result = tables.result(chapter.predictions, target.classes, target.folder, shares)
    for warning in chapter.result["measured"]["warnings"]:
        terminal.warn(f"{target.folder}: {warning}")
    chapter.plots |= result_plots.draw(chapter.predictions, target.classes)
    if records is not None:
        try:
            _add_images(chapter, chapter.predictions, records, options)
        except UserError as error:
            _report_problem(chapter, "No pictures", error)
    return chapter


def _report_problem(chapter: Chapter, what: str, error: UserError) -> None:
    terminal.warn(f"{chapter.target.folder}: {what.lower()}: {error}")
    chapter.problems.append(f"{what}: {error}.")


def _draw_models(chapter: Chapter) -> None:
    """Draw each model that differs from the others."""
    alike: dict[str, list[str]] = {}
    for name, run in chapter.target.runs.items():
        key = repr((run.resolved.branches, run.config.stages, run.config.head, run.config.pooling))
        alike.setdefault(key, []).append(name)
    for number, names in enumerate(list(alike.values())[:MAX_MODELS]):
        name, plot = names[0], f"structure-{number + 1}" if number else "structure"
        try:
            structure = model_structure.build(chapter.target.runs[name])
        except UserError as error:
            _report_problem(chapter, f"No drawing of the model of {name}", error)
            continue
        chapter.models.append(DrawnModel(name, structure, len(names), plot))
        chapter.plots[plot] = model_structure.draw(structure), structure.alt


def _add_images(
    chapter: Chapter, found: NamedPredictions, manifest: Manifest, options: ReportOptions
) -> None:
    """Add the groups of images, their neighbours and the plots of the layers."""
    target = chapter.target
    suspects: list[int] = []
    try:
        suspects = image_groups.suspect_labels(found, target.classes)
    except UserError as error:
        chapter.suspect_problem = str(error)
    groups = image_groups.GROUPS.items()
    chosen = {title: pick(found, options.pictures) for title, (pick, _) in groups}
    grouped = list(dict.fromkeys(number for numbers in chosen.values() for number in numbers))
    shown = suspects[: min(MAX_SUSPECTS, 2 * options.pictures)]
    parts = record_images.validation_parts(target.trained, manifest)
    records = record_images.read(parts, {*shown, *grouped})
    for number, fields in records.items():
        name, label = str(found.names[number]), found.label(number)
        record_images.check(fields, name, label, manifest.folder)
    predictor = target.trained.restore()
    heats = {}
    if grouped:
        heats = heat_maps(predictor, {number: records[number] for number in grouped}, found)
    notes = dict.fromkeys(suspects, "The label may be wrong.")
    make = CardMaker(found, target.classes, records, heats, notes).card
    chapter.groups = [
        (title, text, [make(number) for number in chosen[title]]) for title, (_, text) in groups
    ]
    plain = CardMaker(found, target.classes, records).card
    chapter.suspect_count = len(suspects)
    chapter.suspects = [plain(number, SUSPECT_SIDE) for number in shown]
    asked = chosen["Most wrong"][:MAX_ASKED]
    if options.neighbours and asked:
        part = record_images.training_part(target.trained, manifest)
        asked_records = [records[number] for number in asked]
        near = neighbours.find(predictor, asked_records, part, target.classes, options.neighbours)
        chapter.neighbours = list(zip(map(make, asked), near, strict=True))
        chapter.neighbours_among = min(options.neighbours, part.images)
    _draw_layers(chapter, predictor, options, records[grouped[0]] if grouped else None)


def _draw_layers(
    chapter: Chapter, predictor, options: ReportOptions, fields: ImageExample | None
) -> None:
    """Draw the chosen plots of the layers of each backbone."""
    towers, size = layer_plots.towers(predictor)
    for index, tower in enumerate(towers):
        suffix = f"-{index + 1}" if len(towers) > 1 else ""
        if layer_plots.FILTERS in options.show:
            png = layer_plots.filters(tower)
            if png is None:
                chapter.problems.append(f"{tower.name} has no filters with three input channels.")
            else:
                alt = f"The filters of the first convolution of {tower.name}."
                chapter.plots[f"filters{suffix}"] = png, alt
        if layer_plots.FEATURE_MAPS in options.show and fields is not None:
            name = one_line(fields.filename)
            png = layer_plots.feature_maps(tower, record_images.decoded(fields, size), name)
            alt = f"Feature maps of {name} in some blocks of {tower.name}."
            chapter.plots[f"feature_maps{suffix}"] = png, alt
