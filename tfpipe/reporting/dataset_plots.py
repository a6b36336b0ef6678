"""Plots of a data set as PNG files: image sizes, aspects, brightness and classes.

Equal data give equal bytes in any order. `tfpipe.page.figure` has their style.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfpipe.page.figure import COLORS, GREY, WIDTH, drawing, escaped, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_POINTS = 20_000  # different sizes in a plot; of more sizes, a random sample
MAX_BARS = 40  # classes with a bar each; one more bar shows the mean of the others

_MIN_AREA, _MAX_AREA = 6, 1500  # of a marker in square points: for one image, and for the most
_STEPS = 16  # bins of the aspect histogram for a factor of two
_OCTAVES = 3  # largest factors of two in it; the outer bins hold the rest
_ASPECTS = ((2, 3), (3, 4), (4, 3), (3, 2))  # ticks besides 1:1, 2:1, 4:1
_NARROW_ASPECTS = ((9, 16), (16, 9))  # more ticks where no aspect is beyond 2:1
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of R, G and B as they are stored
_LUMA_BINS = 32


def draw(
    splits: Mapping[str, Mapping[str, int]],
    sizes: Sequence[tuple[int, int]],
    labels: Sequence[str],
    colors: Sequence[tuple[float, float, float]],
) -> dict[str, bytes]:
    """Return all plots by the names of their functions; without images only `classes`.

    Args:
        splits: records by split and class, as in a manifest.
        sizes: width and height of each image in pixels.
        labels: the class of each image.
        colors: the mean R, G and B of each image, 0 to 255.
    """
    drawn = {"classes": classes(splits)}
    if len(sizes):
        widths, heights = np.transpose(sizes)
        drawn["size"] = size(widths, heights, labels)
        drawn["aspect"] = aspect(widths, heights, labels)
        drawn["brightness"] = brightness(colors, labels)
    return drawn


def size(widths: Sequence[int], heights: Sequence[int], labels: Sequence[str]) -> bytes:
    """Draw the different sizes of images; a marker's area grows with its number of images.

    Args:
        widths: of the images in pixels, at least one.
        heights: of the images in pixels.
        labels: their classes; if there are more classes than colours, all images are grey.
    """
    names, of = _classes_of(labels)
    shape = max(widths) + 1, max(heights) + 1, len(COLORS)
    keys, counts = np.unique(np.ravel_multi_index((widths, heights, of), shape), return_counts=True)
    title = "Image sizes: larger markers for more images"
    if len(counts) > MAX_POINTS:
        title = f"Image sizes: {MAX_POINTS:,} of {len(counts):,} different sizes"
        drawn = np.random.default_rng(0).choice(len(counts), MAX_POINTS, replace=False)
        keys, counts = keys[drawn], counts[drawn]
    order = np.argsort(-counts, kind="stable")  # small markers on top of large ones
    counts, (x, y, of) = counts[order], np.unravel_index(keys[order], shape)
    with drawing(title, WIDTH) as (figure, axes, done):
        colors = np.array([*COLORS])[of] if names else GREY
        power = min(0.7, math.log(_MAX_AREA / _MIN_AREA) / math.log(counts[0] + 1))
        axes.scatter(x, y, _MIN_AREA * counts**power, c=colors, alpha=0.45, linewidths=0)
        least, most = min(x.min(), y.min()), max(x.max(), y.max())
        room = max(1.3, 2 * (least / most) ** 0.5)  # at least a factor of two, even for one size
        limits = least / room, most * room
        ticks = _powers_of_two(*limits)
        texts = [f"{tick:,}" for tick in ticks]
        axes.set(xscale="log", yscale="log", xlim=limits, ylim=limits, box_aspect=1)
        axes.set_xticks(ticks, texts)
        axes.set_yticks(ticks, texts)
        axes.minorticks_off()
        axes.plot(limits, limits, color=GREY, linewidth=0.8, linestyle=":")
        axes.set(xlabel="width, pixels", ylabel="height, pixels")
        legend(figure, names)
    return done.getvalue()


def aspect(widths: Sequence[int], heights: Sequence[int], labels: Sequence[str]) -> bytes:
    """Draw a histogram of width / height on a logarithmic axis; see `size`."""
    ratios = np.log2(np.asarray(widths, np.float64) / np.asarray(heights, np.float64))
    octaves = int(np.clip(np.ceil(np.abs(ratios).max()), 1, _OCTAVES))
    half = octaves * _STEPS
    edges = (np.arange(-half, half + 2) - 0.5) / _STEPS  # a bin is centred at 1:1
    with drawing("Aspect: width to height") as (figure, axes, done):
        _histogram(figure, axes, ratios.clip(-octaves, octaves), edges, labels)
        ticks = {o: f"{2 ** max(o, 0)}:{2 ** max(-o, 0)}" for o in range(-octaves, octaves + 1)}
        marked = (_NARROW_ASPECTS + _ASPECTS, _ASPECTS, ())[octaves - 1]
        ticks |= {math.log2(w / h): f"{w}:{h}" for w, h in marked}
        axes.set_xticks(list(ticks), list(ticks.values()), size=7)
        axes.set_xlabel("tall  \N{LEFTWARDS ARROW}  aspect  \N{RIGHTWARDS ARROW}  wide")
    return done.getvalue()


def brightness(colors: Sequence[tuple[float, float, float]], labels: Sequence[str]) -> bytes:
    """Draw a histogram of the images' mean luma (ITU-R BT.601): 0 is black, 255 is white.

    Args:
        colors: the mean R, G and B of the images, 0 to 255.
        labels: their classes; see `size`.
    """
    luma = np.asarray(colors, np.float64) @ _LUMA
    with drawing("Mean brightness of the images") as (figure, axes, done):
        _histogram(figure, axes, luma, np.linspace(0, 256, _LUMA_BINS + 1), labels)
        axes.set(xlabel="luma, 0 black to 255 white", xticks=range(0, 257, 32))
    return done.getvalue()


def classes(splits: Mapping[str, Mapping[str, int]]) -> bytes:
    """Draw the number of records of each class as bars stacked by split, the largest first.

    Args:
        splits: records by split and class, as in a manifest.
    """
    totals: dict[str, int] = {}
    for counts in splits.values():
        for name, count in counts.items():
            totals[name] = totals.get(name, 0) + count
    ranked = sorted(totals, key=lambda name: (-totals[name], name))
    bars = [(escaped(name), [name]) for name in ranked[:MAX_BARS]]
    if others := ranked[MAX_BARS:]:
        bars.append((f"mean of {len(others):,} others", others))
    with drawing("Records by class", height=1.1 + 0.22 * len(bars)) as (figure, axes, done):
        rows, left = np.arange(len(bars)), np.zeros(len(bars))
        for index, counts in enumerate(splits.values()):
            lengths = [np.mean([counts.get(n, 0) for n in members]) for _, members in bars]
            axes.barh(rows, lengths, 0.72, left, color=COLORS[index % len(COLORS)])
            left += lengths
        axes.bar_label(
            axes.containers[-1], [f"{total:,.0f}" for total in left], padding=4, color=GREY, size=9
        )
        axes.set_yticks(rows, [text for text, _ in bars])
        axes.margins(x=0.1, y=0.5 / len(bars))
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.get_major_locator().set_params(integer=True)
        legend(figure, list(splits))
    return done.getvalue()


def _classes_of(labels: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Return the sorted classes and the index of each image's class; no classes if too many."""
    names = sorted(set(labels))
    if len(names) > len(COLORS):
        return [], np.zeros(len(labels), np.int64)
    index = {name: number for number, name in enumerate(names)}
    return names, np.fromiter((index[label] for label in labels), np.int64, len(labels))


def _histogram(
    figure: "Figure", axes: "Axes", values: np.ndarray, edges: np.ndarray, labels: Sequence[str]
) -> None:
    """Draw the share of each class's images, or of all images, in each bin."""
    names, of = _classes_of(labels)
    for number in range(len(names) or 1):
        chosen = values[of == number]
        share = np.histogram(chosen, edges)[0] / len(chosen)
        color = COLORS[number]
        axes.stairs(share, edges, color=color, fill=True, alpha=0.18)
        axes.stairs(share, edges, color=color, linewidth=1.4)
    axes.set(ylabel="share of the class" if len(names) > 1 else "share of the images")
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    legend(figure, names)


def _powers_of_two(least: float, most: float) -> list[int]:
    """Return at most eight ticks, such as 64, 128, 256."""
    first, last = math.ceil(math.log2(least)), math.floor(math.log2(most))
    return [2 ** max(power, 0) for power in range(first, last + 1, 1 + (last - first) // 8)]
