"""How trainings went: loss, accuracy, learning rate and speed by epoch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfpipe.page.figure import COLORS, GREY, INK, drawing, escaped
from tfpipe.training.log import Epoch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Histories = Mapping[str, Sequence[Epoch]]

_TRAIN, _VAL = COLORS[4], COLORS[0]  # of a single run
_WIDE_RANGE = 20  # largest to smallest from which on an axis is logarithmic
MAX_LEGEND = 8  # names below a plot


def loss(histories: Histories) -> bytes:
    """Draws the training and the validation loss; the best epoch of each run is marked.

    Args:
        histories: the epochs of each run, by its name; at least one epoch in all.

    Returns:
        A PNG file.
    """
    return _pair("Loss by epoch, in nats", histories, "loss", "val_loss")


def accuracy(histories: Histories) -> bytes:
    """Draws the training and the validation accuracy; arguments as of `loss`."""
    return _pair("Accuracy by epoch", histories, "accuracy", "val_accuracy")


def learning_rate(histories: Histories) -> bytes:
    """Draws the learning rate at the end of each epoch; arguments as of `loss`."""
    return _single("Learning rate", histories, "learning_rate", log=True)


def throughput(histories: Histories) -> bytes:
    """Draws the images that are trained on in a second; arguments as of `loss`."""
    return _single("Throughput, images/s", histories, "images_per_s")


def input_wait(histories: Histories) -> bytes:
    """Draws the share of the time in which the training waits for input; arguments as of `loss`."""
    return _single("Waiting for input, share of the time", histories, "input_wait", share=True)


PLOTS = {
    "loss": (loss, "Lines: training and validation loss by epoch; the table of stages sums it up."),
    "accuracy": (accuracy, "Lines: training and validation accuracy by epoch."),
    "learning_rate": (learning_rate, "Lines: the learning rate by epoch."),
    "throughput": (throughput, "Lines: images trained on in a second, by epoch."),
    "input_wait": (input_wait, "Lines: the share of the time that is spent waiting for input."),
}


def best(epochs: Sequence[Epoch]) -> Epoch:
    """Returns the epoch with the lowest validation loss."""
    return epochs[int(np.argmin([epoch.val_loss for epoch in epochs]))]


def _pair(title: str, histories: Histories, train: str, val: str) -> bytes:
    from matplotlib.lines import Line2D

    alone = len(histories) == 1
    with drawing(title) as (figure, axes, done):
        for number, epochs in enumerate(histories.values()):
            color = _VAL if alone else COLORS[number % len(COLORS)]
            x = [epoch.epoch for epoch in epochs]
            marker = "." if len(epochs) < 3 else None
            style = {"color": _TRAIN} if alone else {"color": color, "alpha": 0.55}
            y = [getattr(epoch, train) for epoch in epochs]
            axes.plot(x, y, linestyle="--", linewidth=1.2, marker=marker, **style)
            y = [getattr(epoch, val) for epoch in epochs]
            axes.plot(x, y, color=color, linewidth=1.7, marker=marker)
            chosen = best(epochs)
            axes.plot(
                chosen.epoch,
                getattr(chosen, val),
                "o",
                color="white",
                markeredgecolor=color,
                markeredgewidth=1.8,
                markersize=7,
                zorder=4,
            )
        values = [
            getattr(e, key) for epochs in histories.values() for e in epochs for key in (train, val)
        ]
        if val == "val_loss" and min(values) > 0 and max(values) > _WIDE_RANGE * min(values):
            _logarithmic(axes, "{x:g}")
        if val == "val_accuracy":
            axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
        _epochs(axes, histories)
        keys = [
            Line2D([], [], color=_TRAIN if alone else GREY, linestyle="--", label="training"),
            Line2D([], [], color=_VAL if alone else GREY, linewidth=1.7, label="validation"),
            Line2D([], [], color="none", marker="o", markersize=7, markeredgewidth=1.8,
                   markerfacecolor="white", markeredgecolor=_VAL if alone else GREY,
                   label="lowest validation loss"),
        ]  # fmt: skip
        keys += _names(histories)
        figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return done.getvalue()


def _single(
    title: str, histories: Histories, key: str, *, log: bool = False, share: bool = False
) -> bytes:
    with drawing(title, 2.2) as (figure, axes, done):
        for number, epochs in enumerate(histories.values()):
            x, y = [e.epoch for e in epochs], [getattr(e, key) for e in epochs]
            color = COLORS[number % len(COLORS)]
            axes.plot(x, y, color=color, linewidth=1.5, marker="." if len(x) < 20 else None)
        values = [getattr(e, key) for epochs in histories.values() for e in epochs]
        if share:
            axes.set_ylim(0, max(0.1, 1.1 * max(values)))
            axes.yaxis.set_major_formatter(lambda part, _: f"{100 * part:g} %")
        elif min(values) > 0 and (log or max(values) > _WIDE_RANGE * min(values)):
            _logarithmic(axes, "{x:g}" if log else "{x:,.0f}")
            axes.margins(y=0.15)
            if max(values) < 3 * min(values):  # a decade, so that a constant is not cut to noise
                middle = (max(values) * min(values)) ** 0.5
                axes.set_ylim(middle / 10**0.5, middle * 10**0.5)
        else:
            axes.set_ylim(0, 1.1 * max([*values, 1e-9]))
            axes.yaxis.set_major_formatter("{x:,.0f}" if max(values) >= 10 else "{x:g}")
        _epochs(axes, histories)
        if keys := _names(histories):
            figure.legend(handles=keys, loc="outside lower center", ncols=3)
    return done.getvalue()


def _logarithmic(axes: "Axes", pattern: str) -> None:
    """Makes the y axis logarithmic, with ticks as people write them: 0.05, 0.1, 0.2."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(pattern)


def _names(histories: Histories) -> list:
    """Returns a key for each run, if there are several but not too many."""
    from matplotlib.lines import Line2D

    if not 1 < len(histories) <= MAX_LEGEND:
        return []
    return [
        Line2D([], [], color=COLORS[number % len(COLORS)], linewidth=3, label=escaped(name, 20))
        for number, name in enumerate(histories)
    ]


def _epochs(axes: "Axes", histories: Histories) -> None:
    """Sets the axis of the epochs, and where all runs agree on them, shows the stages."""
    axes.set_xlabel("epoch")
    last = max(epochs[-1].epoch for epochs in histories.values())
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    found = [_starts(epochs) for epochs in histories.values()]
    if any(each != found[0] for each in found) or len(found[0]) < 2:
        return
    for number, (name, start) in enumerate(found[0]):
        if number:
            axes.axvline(start - 0.5, color=GREY, linewidth=0.9, linestyle=":")
        axes.annotate(
            escaped(name, 16),
            (start - 0.5, 1),
            (4, -3),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            va="top",
            size=8,
            color=INK,
            bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1},
        )


def _starts(epochs: Sequence[Epoch]) -> list[tuple[str, int]]:
    """Returns the stages in their order, each with its first epoch."""
    firsts: dict[str, int] = {}
    for epoch in epochs:
        firsts.setdefault(epoch.stage, epoch.epoch)
    return list(firsts.items())
