"""Compare several targets: their metrics, the significance of differences, disputed images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation import compare, label_sets
from tfpipe.evaluation.metrics import LabeledPredictions
from tfpipe.page.figure import COLORS, GREY, drawing, escaped, legend
from tfpipe.reporting import record_images, training_plots
from tfpipe.reporting.cards import Card, CardMaker
from tfpipe.reporting.chapter import Chapter
from tfpipe.training.run_folder import RunFolder

MAX_DISPUTED = 8  # shown images that only one of two targets predicts correctly


@dataclasses.dataclass
class Pair:
    """The best target against another one, on the same images.

    Attributes:
        other: the name of the other.
        sentences: the differences in log loss and accuracy.
        agreement: the number of images that both predict correctly, only the best, only the other,
            neither; None without a comparison.
        problem: why there is no comparison; "" if there is one.
        disputed: the images that only one predicts correctly, by their numbers in both.
        plot: a PNG file with the probabilities of both; None unless there are two classes.
        cards: of the first disputed images, with the predictions of both.
    """

    other: str
    sentences: list[str] = dataclasses.field(default_factory=list)
    agreement: tuple[int, int, int, int] | None = None
    problem: str = ""
    disputed: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    plot: bytes | None = None
    cards: list[Card] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Several targets side by side.

    Attributes:
        best: the name of the target with the lowest log loss; "" if fewer than two have a result.
        pairs: the best against each other one.
        plots: PNG files with their alt texts, by name.
    """

    best: str
    pairs: list[Pair]
    plots: dict[str, tuple[bytes, str]]


def write(chapters: Sequence[Chapter], *, pictures: bool) -> Comparison:
    """Compare the targets of some chapters.

    Args:
        chapters: at least two.
        pictures: whether to show disputed images.
    """
    histories = {}
    for chapter in chapters:
        name, is_run = chapter.target.name, isinstance(chapter.target.trained, RunFolder)
        for run, epochs in chapter.histories.items():
            histories[name if is_run else f"{name}/{run}"] = epochs
    drawn = training_plots.draw(histories, ("loss", "accuracy"))
    plots = {f"comparison-{name}": plot for name, plot in drawn.items()}
    with_result = [chapter for chapter in chapters if chapter.predictions is not None]
    if len(with_result) < 2:
        return Comparison("", [], plots)
    best = min(with_result, key=lambda chapter: chapter.predictions.losses.mean())
    pairs = []
    for number, other in enumerate((c for c in with_result if c is not best), start=1):
        compared = pair(best, other)
        if compared.plot is not None:
            names = f"{best.target.name} and {other.target.name}"
            alt = f"Scatter plot of the probabilities by {names}."
            plots[f"comparison-{number}"] = compared.plot, alt
        if pictures and best.manifest is not None:
            compared.cards = _disputed_cards(best, other, compared.disputed[:MAX_DISPUTED])
        pairs.append(compared)
    return Comparison(best.target.name, pairs, plots)


def pair(best: Chapter, other: Chapter) -> Pair:
    """Compare two chapters with predictions, image by image."""
    name, other_name, classes = best.target.name, other.target.name, best.target.classes
    one, two = best.predictions, other.predictions
    try:
        if classes != other.target.classes:
            raise UserError(f"{name} and {other_name} have different classes")
        order = compare.order(name, one.columns, other_name, two.columns)
    except UserError as error:
        return Pair(other_name, problem=str(error))
    first, second = one.labeled, two.labeled[order]
    compared = compare.compare(first, second)
    counts = tuple(
        int(((first.right == a) & (second.right == b)).sum())
        for a, b in ((True, True), (True, False), (False, True), (False, False))
    )
    disputed = np.flatnonzero(first.right != second.right)
    distance = np.abs(first.probabilities - second.probabilities).max(axis=1)[disputed]
    disputed = disputed[np.argsort(-distance, kind="stable")]  # the largest difference first
    return Pair(
        other_name,
        [
            compare.sentence(compared, name, other_name, key, first.metrics)
            for key in ("log_loss", label_sets.accuracy_of(first.labels_kind))
        ],
        counts,
        disputed=[(int(index), int(order[index])) for index in disputed],
        plot=_scatter(name, other_name, first, second, classes)
        if isinstance(first, LabeledPredictions) and first.classes == 2
        else None,
    )


def _scatter(
    best: str,
    other: str,
    first: LabeledPredictions,
    second: LabeledPredictions,
    classes: Sequence[str],
) -> bytes:
    """Draw the probabilities of the second class by both targets."""
    with drawing(f"P({escaped(classes[1], 18)}) by both", 4.4) as (figure, axes, done):
        for index in range(2):
            x, y = (each.probabilities[first.labels == index, 1] for each in (first, second))
            axes.scatter(x, y, 16, c=COLORS[index], alpha=0.5, linewidths=0)
        axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.set(xlabel=escaped(best), ylabel=escaped(other), box_aspect=1)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        legend(figure, list(classes))
    return done.getvalue()


def _disputed_cards(
    best: Chapter, other: Chapter, disputed: Sequence[tuple[int, int]]
) -> list[Card]:
    """Return cards of images with the predictions of both targets."""
    found, classes, manifest = best.predictions, best.target.classes, best.manifest
    try:
        parts = record_images.validation_parts(best.target.trained, manifest)
        records = record_images.read(parts, dict(disputed))
        for number, fields in records.items():
            name, label = str(found.names[number]), found.label(number)
            record_images.check(fields, name, label, manifest.folder)
    except UserError as error:
        terminal.warn(f"{best.target.folder}: {error}")
        return []
    maker, cards = CardMaker(found, classes, records), []
    for first, second in disputed:
        scores = []
        for chapter, number in ((best, first), (other, second)):
            guess = int(chapter.predictions.guesses[number])
            probability = float(chapter.predictions.probabilities[number, guess])
            scores.append((f"{chapter.target.name}: {classes[guess]}", probability))
        cards.append(dataclasses.replace(maker.card(first), scores=scores))
    return cards
