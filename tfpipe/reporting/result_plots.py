"""Plots of predictions: confusion, histogram, ROC, precision and recall, reliability."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.stats
import sklearn.metrics

from tfpipe.evaluation import diagrams
from tfpipe.evaluation.metrics import LabeledPredictions, metrics
from tfpipe.evaluation.metrics import confusion as confusion_counts
from tfpipe.page.figure import COLORS, GREY, INK, canvas, drawing, escaped, legend
from tfpipe.reporting.named_predictions import NamedPredictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CURVES = 6  # coloured curves; of more classes, the hardest ones
MAX_BACKGROUND = 60  # curves of the other classes, in grey
MAX_NAMED = 24  # with more classes a confusion matrix has no names
MAX_NUMBERED = 12  # with more classes its cells have no numbers

_CORNER = 0.97  # if all areas under the curves are larger, their corner is enlarged
_LETTERS = 26  # names below a confusion matrix that are longer together stand upright
_SIDE = 4.1  # inches, the height of square plots


def roc(found: NamedPredictions, classes: Sequence[str]) -> bytes:
    """Draw the true positive rate by the false positive rate, each class against the others.

    Args:
        found: the predictions.
        classes: names in the order of their labels.

    Returns:
        A PNG file.
    """
    chosen, others = _hardest(found, classes)
    with drawing("ROC", _SIDE) as (figure, axes, done):
        points = {index: diagrams.roc(*_one(found, index)) for index in [*chosen, *others]}
        areas = [sklearn.metrics.auc(*each) for each in points.values() if len(each[0])]
        _draw_curves(axes, points, chosen)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        if areas and min(areas) > _CORNER:
            corner = _corner(axes, (0.0, 0.1), (0.9, 1.0))
            _draw_curves(corner, points, chosen)
        axes.set(xlabel="false positive rate", ylabel="true positive rate", box_aspect=1)
        axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015))
        legend(figure, [classes[index] for index in chosen])
    return done.getvalue()


def precision_recall(found: NamedPredictions, classes: Sequence[str]) -> bytes:
    """Draw the precision by the recall; see `roc`."""
    chosen, others = _hardest(found, classes)
    with drawing("Precision and recall", _SIDE) as (figure, axes, done):
        points = {
            index: diagrams.precision_recall(*_one(found, index))[::-1]
            for index in [*chosen, *others]
        }
        _draw_curves(axes, points, chosen, "steps-pre")
        least = min((p.min() for _, p in points.values() if len(p)), default=0.0)
        areas = [sklearn.metrics.auc(r, p) for r, p in points.values() if len(p)]
        if areas and min(areas) > _CORNER:
            corner = _corner(axes, (0.9, 1.0), (0.9, 1.0), x=0.2)
            _draw_curves(corner, points, chosen, "steps-pre")
            least = 0.0
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.015, 1.015), box_aspect=1)
        axes.set_ylim(max(0.0, least - 0.05) - 0.015, 1.015)
        legend(figure, [classes[index] for index in chosen])
    return done.getvalue()


def reliability(found: NamedPredictions, classes: Sequence[str]) -> bytes:
    """Draw the accuracy by the predicted probability, before and after calibration; see `roc`."""
    rows = {"before calibration": found.raw, "calibrated": found.probabilities}
    if np.array_equal(found.raw, found.probabilities):
        rows = {"not calibrated": found.raw}
    score = _score_name(classes)
    with canvas(_SIDE) as (figure, done):
        grid = figure.add_gridspec(2, 1, height_ratios=[4, 1])
        axes = figure.add_subplot(grid[0], title="Reliability")
        counts = figure.add_subplot(grid[1], sharex=axes)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for number, (name, probabilities) in enumerate(rows.items()):
            is_final = number == len(rows) - 1
            color = COLORS[0] if is_final else COLORS[1]
            bins = diagrams.reliability(probabilities, found.labels)
            full = [each for each in bins if each.count]
            x, y = [each.confidence for each in full], [each.accuracy for each in full]
            low, high = zip(*(_interval(each.accuracy, each.count) for each in full), strict=True)
            errors = np.maximum(0, [np.subtract(y, low), np.subtract(high, y)])
            style = {"fmt": "s--", "markersize": 8, "markerfacecolor": "none", "alpha": 0.75}
            if is_final:
                style = {"fmt": "o-", "markersize": 5}
            axes.errorbar(x, y, errors, color=color, linewidth=1.4, elinewidth=0.9, capsize=2,
                          label=name, **style)  # fmt: skip
            edges = [each.low for each in bins] + [1]
            counts.stairs([each.count for each in bins], edges, color=color, linewidth=1.4,
                          linestyle="-" if is_final else "--")  # fmt: skip
        axes.set(ylabel="observed share", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.tick_params(labelbottom=False)
        counts.set(xlabel=score, ylabel="images", yscale="log")
        counts.set_ylim(0.7, None)
        counts.yaxis.set_major_formatter("{x:,.0f}")
        counts.minorticks_off()
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)
    return done.getvalue()


def confusion(found: NamedPredictions, classes: Sequence[str]) -> bytes:
    """Draw the number of images by true and predicted class; see `roc`."""
    table = confusion_counts(found.probabilities, found.labels)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    count = len(classes)
    side = min(max(2.9, 0.42 * count + 1.6), 5.6)
    with drawing("Confusion", side) as (_, axes, done):
        from matplotlib.colors import LinearSegmentedColormap

        # The square root of the share, from white to blue, keeps rare mistakes visible.
        colors = LinearSegmentedColormap.from_list("counts", ["#ffffff", COLORS[0]])
        axes.imshow(share**0.5, cmap=colors, vmin=0, vmax=1)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        if count <= MAX_NAMED:
            names = [escaped(name, 18 if count < 8 else 12) for name in classes]
            axes.set_yticks(range(count), names)
            level = count * max(map(len, names)) <= _LETTERS
            axes.set_xticks(range(count), names, rotation=0 if level else 90)
        axes.tick_params(length=0)
        if count <= MAX_NUMBERED:
            for (row, column), number in np.ndenumerate(table):
                dark = share[row, column] ** 0.5 > 0.55
                text = (
                    f"{number:,}" if count > 5 else f"{number:,}\n{100 * share[row, column]:.1f} %"
                )
                axes.text(column, row, text, ha="center", va="center",
                          size=10 if count <= 5 else 8, color="white" if dark else INK)  # fmt: skip
        axes.set(xlabel="predicted class", ylabel="true class")
    return done.getvalue()


def histogram(found: NamedPredictions, classes: Sequence[str]) -> bytes:
    """Draw a histogram of the scores of the images; see `roc`."""
    edges, counts = diagrams.histogram(found.probabilities, found.labels)
    names = [*classes]
    if len(classes) > 2:
        names, counts = ["right", "wrong"], counts[::-1]
    with drawing(f"Images by {_score_name(classes)}") as (figure, axes, done):
        for row, color in zip(counts, COLORS[:2], strict=True):
            axes.stairs(row, edges, color=color, fill=True, alpha=0.18)
            axes.stairs(row, edges, color=color, linewidth=1.4)
        axes.set(xlabel=_score_name(classes), ylabel="images", xlim=(0, 1))
        axes.set_yscale("symlog", linthresh=1, linscale=0.4)
        axes.set_ylim(0, 1.3 * max(counts.max(), 1))
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        legend(figure, names)
    return done.getvalue()


PLOTS: dict[str, tuple[Callable[[NamedPredictions, Sequence[str]], bytes], str]] = {
    "confusion": (confusion, "Matrix: number of images by true and predicted class."),
    "histogram": (histogram, "Histogram of the predicted probabilities, by class."),
    "roc": (roc, "Curves: true positive rate by false positive rate."),
    "precision_recall": (precision_recall, "Curves: precision by recall."),
    "reliability": (
        reliability,
        "Lines: observed share by predicted probability, with 95 % intervals; below, the number of"
        " images by probability.",
    ),
}


def draw(found: NamedPredictions, classes: Sequence[str]) -> dict[str, tuple[bytes, str]]:
    """Return PNG files with their alt texts, by name."""
    return {name: (plot(found, classes), alt) for name, (plot, alt) in PLOTS.items()}


def _score_name(classes: Sequence[str]) -> str:
    """Return the name of the score that `diagrams.scored` gives."""
    return f"P({escaped(classes[1], 18)})" if len(classes) == 2 else "P(predicted class)"


def _one(found: NamedPredictions, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of a class, and which images belong to it."""
    return found.probabilities[:, index], found.labels == index


def _hardest(found: NamedPredictions, classes: Sequence[str]) -> tuple[list[int], list[int]]:
    """Return the classes with coloured curves, and those with grey ones.

    Of two classes only the second gets a curve; the first one's would mirror it.
    """
    if len(classes) == 2:
        return [1], []
    area = metrics["roc_auc"]
    areas = {}
    for index in range(len(classes)):
        scores, positives = _one(found, index)
        if positives.any() and not positives.all():
            pair = np.stack([1 - scores, scores], axis=1)
            areas[index] = area.value(LabeledPredictions(pair, positives.astype(np.int64)))
    ranked = sorted(areas, key=lambda index: (areas[index], index))
    return ranked[:MAX_CURVES], ranked[MAX_CURVES : MAX_CURVES + MAX_BACKGROUND]


def _corner(
    axes: "Axes", across: tuple[float, float], up: tuple[float, float], x: float = 0.42
) -> "Axes":
    """Return an inset that enlarges a corner of the axes."""
    corner = axes.inset_axes([x, 0.14, 0.52, 0.52], facecolor="white")
    corner.set(xlim=(across[0] - 0.003, across[1] + 0.003), ylim=(up[0] - 0.003, up[1] + 0.003))
    corner.tick_params(labelsize=8)
    corner.locator_params(nbins=5)
    corner.set_title("the corner, enlarged", size=8.5, weight="normal", loc="right",
                     backgroundcolor="white", pad=3)  # fmt: skip
    frame = axes.indicate_inset_zoom(corner, edgecolor=GREY)
    for line in (frame[1] if isinstance(frame, tuple) else frame.connectors) or ():
        line.set_visible(False)
    return corner


def _draw_curves(
    axes: "Axes",
    points: dict[int, tuple[np.ndarray, np.ndarray]],
    chosen: Sequence[int],
    style: str = "default",
) -> None:
    for index, (x, y) in points.items():
        if index in chosen:
            color, width, order = COLORS[chosen.index(index)], 1.7, 3
        else:
            color, width, order = "#b9bec7", 0.8, 2
        axes.plot(x, y, color=color, linewidth=width, zorder=order, drawstyle=style)


def _interval(share: float, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of `count` samples."""
    found = scipy.stats.binomtest(round(share * count), count).proportion_ci(method="wilson")
    return found.low, found.high
