"""Several runs side by side: their measures, and whether the differences are more than chance."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.evaluation import compare
from tfpipe.evaluation.metrics import LabeledPredictions
from tfpipe.page.figure import COLORS, GREY, drawing, escaped, legend
from tfpipe.reporting.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Pair:
    """The best of some runs against another, on the same images.

    Attributes:
        other: the name of the other.
        sentences: what can be said of their log loss and their accuracy.
        p_value: of the difference of the log loss; None if it cannot be told.
        agreement: how many images both have right, only the best, only the other, neither.
        problem: why they cannot be compared; "" if they can.
        differ: the images that only one of them has right, by their numbers in each.
        plot: a PNG file, for two classes: the probabilities of both.
    """

    other: str
    sentences: list[str]
    p_value: float | None
    agreement: tuple[int, int, int, int] | None
    problem: str = ""
    differ: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    plot: bytes | None = None


def pairs(
    found: dict[str, Predictions], classes: dict[str, Sequence[str]]
) -> tuple[str, list[Pair]]:
    """Compares the run of the lowest log loss with the others.

    Args:
        found: the answers of two or more runs, by name.
        classes: of each, names in the order of their labels.

    Returns:
        The name of the best, and what is said of each of the others.
    """
    best = min(found, key=lambda name: found[name].losses.mean())
    return best, [_pair(best, name, found, classes) for name in found if name != best]


def _pair(
    best: str, other: str, found: dict[str, Predictions], classes: dict[str, Sequence[str]]
) -> Pair:
    one, two = found[best], found[other]
    try:
        if tuple(classes[best]) != tuple(classes[other]):
            raise UserError(f"{best} and {other} tell other classes apart")
        order = compare.order(best, one.names, other, two.names)
        if (two.labels[order] != one.labels).any():
            raise UserError(f"{best} and {other} have other labels for the same images")
    except UserError as error:
        return Pair(other, [], None, None, str(error))
    first, second = (
        LabeledPredictions(one.probabilities, one.labels),
        LabeledPredictions(two.probabilities[order], two.labels[order]),
    )
    compared = compare.compare(first, second)
    right = first.right, second.right
    counts = tuple(
        int(((right[0] == a) & (right[1] == b)).sum())
        for a, b in ((True, True), (True, False), (False, True), (False, False))
    )
    differ = np.flatnonzero(right[0] != right[1])
    # First where they are furthest apart.
    apart = np.abs(first.probabilities - second.probabilities).max(axis=1)
    differ = differ[np.argsort(-apart[differ], kind="stable")]
    plot = None
    if first.classes == 2:
        plot = _scatter(best, other, first, second, classes[best])
    return Pair(
        other,
        [compare.sentence(compared, best, other, name) for name in ("log_loss", "accuracy")],
        compared["measures"]["log_loss"]["p_value"],
        counts,
        differ=[(int(index), int(order[index])) for index in differ],
        plot=plot,
    )


def _scatter(
    best: str,
    other: str,
    first: LabeledPredictions,
    second: LabeledPredictions,
    classes: Sequence[str],
) -> bytes:
    """Draws the probability of the second class by one run and by another."""
    with drawing(f"P({escaped(classes[1], 18)}) by both", 4.4) as (figure, axes, done):
        for index in range(2):
            of = first.labels == index
            axes.scatter(
                first.probabilities[of, 1],
                second.probabilities[of, 1],
                16,
                c=COLORS[index],
                alpha=0.5,
                linewidths=0,
            )
        axes.axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.set(xlabel=escaped(best), ylabel=escaped(other), box_aspect=1)
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
        legend(figure, list(classes))
    return done.getvalue()
