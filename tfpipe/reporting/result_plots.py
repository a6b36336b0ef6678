"""Plots of predictions: confusion, histogram, ROC, precision and recall, reliability."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import sklearn.metrics

from tfpipe.evaluation import diagrams
from tfpipe.evaluation.metrics import confusion as confusion_counts
from tfpipe.evaluation.proportions import wilson
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
    chosen, points = _curves(found, sklearn.metrics.roc_curve)
    with drawing("ROC", _SIDE) as (figure, axes, done):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        _draw_curves(axes, points, chosen, (0.0, 0.1), 0.42)
        axes.set(xlabel="false positive rate", ylabel="true positive rate", box_aspect=1)
        axes.set(xlim=(-0.015, 1.015), ylim=(-0.015, 1.015))
        legend(figure, [classes[index] for index in chosen])
    return done.getvalue()


def precision_recall(found: NamedPredictions, classes: Sequence[str]) -> bytes:
    """Draw the precision by the recall; see `roc`."""
    chosen, points = _curves(found, sklearn.metrics.precision_recall_curve)
    points = {index: (recall, precision) for index, (precision, recall) in points.items()}
    with drawing("Precision and recall", _SIDE) as (figure, axes, done):
        has_corner = _draw_curves(axes, points, chosen, (0.9, 1.0), 0.2, "steps-pre")
        least = 0.0 if has_corner else min((p.min() for _, p in points.values()), default=0.0)
        axes.set(xlabel="recall", ylabel="precision", xlim=(-0.015, 1.015), box_aspect=1)
        axes.set_ylim(max(0.0, least - 0.05) - 0.015, 1.015)
        legend(figure, [classes[index] for index in chosen])
    return done.getvalue()


def reliability(found: NamedPredictions, classes: Sequence[str]) -> bytes:
    """Draw the accuracy by the predicted probability, before and after calibration; see `roc`."""
    rows = {"before calibration": found.raw, "calibrated": found.probabilities}
    if np.array_equal(found.raw, found.probabilities):
        rows = {"not calibrated": found.raw}
    with canvas(_SIDE) as (figure, done):
        grid = figure.add_gridspec(2, 1, height_ratios=[4, 1])
        axes = figure.add_subplot(grid[0], title="Reliability")
        counts = figure.add_subplot(grid[1], sharex=axes)
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
        for name, probabilities in rows.items():
            is_final = probabilities is found.probabilities or len(rows) == 1
            color = COLORS[0] if is_final else COLORS[1]
            scores, labels = _questions(probabilities, found.labels)
            bins = diagrams.reliability(scores, labels)
            share = bins.right / bins.counts
            low, high = np.transpose(list(map(wilson, bins.right, bins.counts)))
            errors = np.maximum(0, [share - low, high - share])
            style = {"fmt": "s--", "markersize": 8, "markerfacecolor": "none", "alpha": 0.75}
            if is_final:
                style = {"fmt": "o-", "markersize": 5}
            axes.errorbar(bins.confidence, share, errors, color=color, linewidth=1.4,
                          elinewidth=0.9, capsize=2, label=name, **style)  # fmt: skip
            edges, of_bins = diagrams.histogram(scores, labels, bins=10)
            counts.stairs(of_bins.sum(axis=0), edges, color=color, linewidth=1.4,
                          linestyle="-" if is_final else "--")  # fmt: skip
        axes.set(ylabel="observed share", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.tick_params(labelbottom=False)
        name = "P(class), of each class" if found.many else _score_name(classes)
        counts.set(xlabel=name, ylabel="answers" if found.many else "images", yscale="log")
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
    """Return PNG files with their alt texts, by name.

    Images that may have several classes have no confusion of classes.
    """
    left_out = ("confusion", "histogram") if found.many else ()
    chosen = {name: each for name, each in PLOTS.items() if name not in left_out}
    return {name: (plot(found, classes), alt) for name, (plot, alt) in chosen.items()}


def _questions(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the arguments; where images may have several classes, each answer as an image."""
    if labels.ndim == 1:
        return probabilities, labels
    present = np.ravel(probabilities)
    return np.stack([1 - present, present], axis=1), np.ravel(labels).astype(np.int64)


def _score_name(classes: Sequence[str]) -> str:
    """Return the name of the score that `diagrams.scored` gives."""
    return f"P({escaped(classes[1], 18)})" if len(classes) == 2 else "P(predicted class)"


def _curves(
    found: NamedPredictions, curve: Callable[..., tuple[np.ndarray, ...]]
) -> tuple[list[int], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Return the classes with coloured curves, the hardest ones, and the points of all curves.

    Of two classes only the second gets a curve; the first one's would mirror it. Classes without
    images have none.

    Args:
        found: the predictions.
        curve: scikit-learn's function of positives and scores.
    """
    columns = {
        index: (found.labeled.positives(index), found.probabilities[:, index])
        for index in found.labeled.ranked_classes
    }
    areas = {
        index: sklearn.metrics.roc_auc_score(positives, scores)
        for index, (positives, scores) in columns.items()
        if positives.any() and not positives.all()
    }
    ranked = sorted(areas, key=lambda index: (areas[index], index))
    shown = ranked[: MAX_CURVES + MAX_BACKGROUND]
    return ranked[:MAX_CURVES], {index: curve(*columns[index])[:2] for index in shown}


def _draw_curves(
    axes: "Axes",
    points: dict[int, tuple[np.ndarray, np.ndarray]],
    chosen: Sequence[int],
    across: tuple[float, float],
    left: float,
    style: str = "default",
) -> bool:
    """Draw curves, and if all are near the upper corner, an inset that enlarges it.

    Args:
        axes: to draw on.
        points: x and y of each curve.
        chosen: the coloured curves.
        across: the x values of the inset.
        left: its place.
        style: how points are joined.

    Returns:
        Whether there is an inset.
    """
    areas = [sklearn.metrics.auc(*each) for each in points.values()]
    has_corner = bool(areas) and min(areas) > _CORNER
    for each in (axes, _corner(axes, across, left)) if has_corner else (axes,):
        for index, (x, y) in points.items():
            color, width, order = "#b9bec7", 0.8, 2
            if index in chosen:
                color, width, order = COLORS[chosen.index(index)], 1.7, 3
            each.plot(x, y, color=color, linewidth=width, zorder=order, drawstyle=style)
    return has_corner


def _corner(axes: "Axes", across: tuple[float, float], left: float) -> "Axes":
    """Return an inset that enlarges the upper tenth of the axes."""
    corner = axes.inset_axes([left, 0.14, 0.52, 0.52], facecolor="white")
    corner.set(xlim=(across[0] - 0.003, across[1] + 0.003), ylim=(0.897, 1.003))
    corner.tick_params(labelsize=8)
    corner.locator_params(nbins=5)
    corner.set_title("the corner, enlarged", size=8.5, weight="normal", loc="right",
                     backgroundcolor="white", pad=3)  # fmt: skip
    frame = axes.indicate_inset_zoom(corner, edgecolor=GREY)
    for line in (frame[1] if isinstance(frame, tuple) else frame.connectors) or ():
        line.set_visible(False)
    return corner
