"""The style and the colours of all plots, and how a plot becomes a PNG file.

Equal plots give equal bytes. The functions import matplotlib themselves: it takes a second, and
only the optional packages install it.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tfpipe.core.errors import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, safe for colour-blind readers; one colour for each class.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
INK, GREY, _GRID = "#1a1a1a", "#5c5c5c", "#d9d9d9"

WIDTH, HEIGHT, _DPI = 5.6, 3.2, 160  # inches, inches, dots per inch
_LEGEND_LETTERS = 72  # in one row of a legend

# Applied after matplotlib's own defaults, so that a user's matplotlibrc changes nothing.
_STYLE = {
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 9,
    "axes.labelcolor": GREY,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelsize": 9,
    "ytick.color": GREY,
    "ytick.labelsize": 9,
}


@contextlib.contextmanager
def canvas(height: float = HEIGHT, width: float = WIDTH) -> Iterator[tuple["Figure", io.BytesIO]]:
    """Yield an empty figure, and a buffer that holds the PNG file after the block.

    Args:
        height: in inches.
        width: in inches.
    """
    from matplotlib import style
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure in memory

    done = io.BytesIO()
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the font lacks a name's script
        figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08)
        yield figure, done
        figure.savefig(done, format="png", metadata={"Software": None})  # no version


@contextlib.contextmanager
def drawing(title: str, height: float = HEIGHT) -> Iterator[tuple["Figure", "Axes", io.BytesIO]]:
    """Yield a figure with one plot, the axes of that plot, and the buffer; see `canvas`."""
    with canvas(height) as (figure, done):
        yield figure, figure.add_subplot(title=title), done


def legend(figure: "Figure", names: Sequence[str]) -> None:
    """Add a legend of colours below the plot, unless there is only one name."""
    if len(names) < 2:
        return
    from matplotlib.patches import Patch

    keys = [
        Patch(color=COLORS[number % len(COLORS)], label=escaped(name))
        for number, name in enumerate(names)
    ]
    longest = max(len(key.get_label()) for key in keys)
    columns = max(1, min(len(names), 4, _LEGEND_LETTERS // (longest + 6)))
    figure.legend(handles=keys, loc="outside lower center", ncols=columns)


def escaped(name: str, most: int = 28) -> str:
    """Return a name on one line, shortened to `most` letters, with `$` escaped for matplotlib."""
    text = one_line(name)
    if len(text) > most:
        text = f"{text[: most // 2]}...{text[-most // 2 :]}"
    return text.replace("$", r"\$")
