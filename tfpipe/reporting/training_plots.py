"""Plots of trainings: loss, accuracy, learning rate and speed by epoch."""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfpipe.page.figure import COLORS, GREY, INK, drawing, escaped
from tfpipe.training.log import Epoch, best

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

Histories = Mapping[str, Sequence[Epoch]]

MAX_LEGEND = 8  # runs named below a plot

_TRAIN, _VAL = COLORS[4], COLORS[0]  # of a single run
_WIDE_RANGE = 20  # ratio of the largest to the smallest value that makes an axis logarithmic


def draw(histories: Histories, names: Sequence[str] | None = None) -> dict[str, tuple[bytes, str]]:
    """Return PNG files with their alt texts, by name; none if no epoch has ended.

    Args:
        histories: the epochs of each run, by its name.
        names: of the plots; None for all.
    """
    if not histories:
        return {}
    return {name: (PLOTS[name][0](histories), PLOTS[name][1]) for name in names or PLOTS}


def _pair(title: str, key: str, histories: Histories) -> bytes:
    """Draw a quantity of training and validation, with a mark at the best epoch of each run."""
    from matplotlib.lines import Line2D

    alone = len(histories) == 1
    ring = {"marker": "o", "markersize": 7, "markeredgewidth": 1.8, "markerfacecolor": "white"}
    with drawing(title) as (figure, axes, done):
        for number, epochs in enumerate(histories.values()):
            color = _VAL if alone else COLORS[number % len(COLORS)]
            x = [epoch.epoch for epoch in epochs]
            marker = "." if len(epochs) < 3 else None
            train, val = ([getattr(e, name) for e in epochs] for name in (key, f"val_{key}"))
            style = {"color": _TRAIN} if alone else {"color": color, "alpha": 0.55}
            axes.plot(x, train, linestyle="--", linewidth=1.2, marker=marker, **style)
            axes.plot(x, val, color=color, linewidth=1.7, marker=marker)
            chosen = best(epochs)
            place = chosen.epoch, getattr(chosen, f"val_{key}")
            axes.plot(*place, markeredgecolor=color, zorder=4, **ring)
        values = _values(histories, key, f"val_{key}")
        if key == "accuracy":
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
        elif _is_wide(values):
            _make_logarithmic(axes, "{x:g}")
        train_color, val_color = (_TRAIN, _VAL) if alone else (GREY, GREY)
        best_style = {"color": "none", "markeredgecolor": val_color, **ring}
        keys = [
            Line2D([], [], color=train_color, linestyle="--", label="training"),
            Line2D([], [], color=val_color, linewidth=1.7, label="validation"),
            Line2D([], [], label="lowest validation loss", **best_style),
        ]
        _finish(figure, axes, histories, keys)
    return done.getvalue()


def _single(title: str, key: str, histories: Histories) -> bytes:
    """Draw a quantity at the end of each epoch."""
    with drawing(title, 2.2) as (figure, axes, done):
        for number, epochs in enumerate(histories.values()):
            x, y = [e.epoch for e in epochs], [getattr(e, key) for e in epochs]
            color = COLORS[number % len(COLORS)]
            axes.plot(x, y, color=color, linewidth=1.5, marker="." if len(x) < 20 else None)
        values = _values(histories, key)
        is_rate = key == "learning_rate"
        if key == "input_wait":
            axes.set_ylim(0, max(0.1, 1.1 * max(values)))
            axes.yaxis.set_major_formatter(lambda part, _: f"{100 * part:g} %")
        elif _is_wide(values) or (is_rate and min(values) > 0):
            _make_logarithmic(axes, "{x:g}" if is_rate else "{x:,.0f}")
            axes.margins(y=0.15)
            if max(values) < 3 * min(values):  # show a decade, not the noise of a constant
                middle = math.sqrt(max(values) * min(values))
                axes.set_ylim(middle / math.sqrt(10), middle * math.sqrt(10))
        else:
            axes.set_ylim(0, 1.1 * max([*values, 1e-9]))
            axes.yaxis.set_major_formatter("{x:,.0f}" if max(values) >= 10 else "{x:g}")
        _finish(figure, axes, histories, [])
    return done.getvalue()


def _values(histories: Histories, *keys: str) -> list[float]:
    return [getattr(e, key) for epochs in histories.values() for e in epochs for key in keys]


def _is_wide(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) > _WIDE_RANGE * min(values)


def _make_logarithmic(axes: "Axes", pattern: str) -> None:
    """Make the y axis logarithmic, with ticks such as 0.05, 0.1, 0.2."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(pattern)


def _finish(figure: "Figure", axes: "Axes", histories: Histories, keys: list["Line2D"]) -> None:
    """Add the epoch axis, the stages if all runs have the same, and the legend."""
    from matplotlib.lines import Line2D

    axes.set_xlabel("epoch")
    last = max(epochs[-1].epoch for epochs in histories.values())
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    # The first epoch of each stage: of equal keys, a dict keeps the last.
    stages, *others = [
        {epoch.stage: epoch.epoch for epoch in reversed(epochs)} for epochs in histories.values()
    ]
    if len(stages) > 1 and all(each == stages for each in others):
        for name, start in stages.items():
            if start > 1:
                axes.axvline(start - 0.5, color=GREY, linewidth=0.9, linestyle=":")
            axes.annotate(
                escaped(name, 16), (start - 0.5, 1), (4, -3), textcoords="offset points", va="top",
                xycoords=axes.get_xaxis_transform(), size=8, color=INK,
                bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1},
            )  # fmt: skip
    if 1 < len(histories) <= MAX_LEGEND:
        keys = keys + [
            Line2D([], [], color=COLORS[number % len(COLORS)], linewidth=3, label=escaped(name, 20))
            for number, name in enumerate(histories)
        ]
    if keys:
        figure.legend(handles=keys, loc="outside lower center", ncols=3)


PLOTS = {
    "loss": (
        functools.partial(_pair, "Loss by epoch, in nats", "loss"),
        "Lines: training and validation loss by epoch, as in the table of stages.",
    ),
    "accuracy": (
        functools.partial(_pair, "Accuracy by epoch", "accuracy"),
        "Lines: training and validation accuracy by epoch.",
    ),
    "learning_rate": (
        functools.partial(_single, "Learning rate", "learning_rate"),
        "Lines: the learning rate by epoch.",
    ),
    "throughput": (
        functools.partial(_single, "Throughput, images/s", "images_per_s"),
        "Lines: trained images per second, by epoch.",
    ),
    "input_wait": (
        functools.partial(_single, "Waiting for input, share of the time", "input_wait"),
        "Lines: the share of time spent waiting for input, by epoch.",
    ),
}
