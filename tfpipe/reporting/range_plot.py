"""The plot of the range tests that chose learning rates."""

from collections.abc import Mapping

from tfpipe.page.figure import COLORS, drawing, escaped
from tfpipe.reporting.training_plots import MAX_LEGEND
from tfpipe.training.range_test import RangeTest

NAME = "range_test"


def draw(tests: Mapping[str, Mapping[str, RangeTest]]) -> dict[str, tuple[bytes, str]]:
    """Return the PNG file of the tests with its alt text, by its name; none without a test.

    Args:
        tests: by the name of a run, and then by the label of its stage.
    """
    lines = [(name, label, test) for name, own in tests.items() for label, test in own.items()]
    if not lines:
        return {}
    with drawing("Range test of the learning rate") as (figure, axes, done):
        for number, (name, label, test) in enumerate(lines[:MAX_LEGEND]):
            color = COLORS[number % len(COLORS)]
            title = escaped(label if len(tests) == 1 else f"{name} {label}", 20)
            text = f"{title}: {test.chosen:g}"
            axes.plot(test.rates, test.losses, color=color, linewidth=1.5, label=text)
            axes.axvline(test.chosen, color=color, linewidth=1, linestyle="--")
        axes.set_xscale("log")
        axes.set(xlabel="learning rate", ylabel="smoothed loss")
        figure.legend(loc="outside lower center", ncols=3)
    alt = "Lines: the smoothed loss while the learning rate rises; dashed, the chosen rate."
    return {NAME: (done.getvalue(), alt)}
