"""Render templates to self-contained HTML pages.

`base.html.j2` is the frame of a page, `macros.html.j2` its parts. A page holds its own pictures and
style, so it works as one file and without a network.
"""

import base64
import importlib.util
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tfpipe.core.errors import one_line

if TYPE_CHECKING:
    import jinja2

NEEDS = ("jinja2", "matplotlib")


class Image(NamedTuple):
    """A picture inside a page: its contents as a data URI, and its alt text."""

    src: str
    alt: str


def missing() -> str | None:
    """Return the first package of `NEEDS` that is not installed, or None."""
    return next((each for each in NEEDS if importlib.util.find_spec(each) is None), None)


def image(content: bytes, alt: str, kind: str = "png") -> Image:
    """Return the contents of a file of type image/KIND as a picture for a page."""
    return Image(f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}", alt)


def environment(*folders: pathlib.Path) -> "jinja2.Environment":
    """Return an environment for the templates in some folders and in this one."""
    import jinja2  # an optional package

    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, pathlib.Path(__file__).parent]),
        autoescape=True,
        # Users choose the names: unprintable characters would break the page.
        finalize=lambda value: one_line(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"number": number, "size": size, "hex": color}
    return found


def number(value: float, digits: int = 0) -> str:
    """Return 1234.5 as "1,234", or with more digits."""
    return f"{value:,.{digits}f}"


def size(value: float) -> str:
    """Return 12345678 bytes as "12.3 MB"; a kB is 1,000 bytes."""
    power = 0
    while value >= 999.5 and power < 4:
        value, power = value / 1000, power + 1
    digits = 1 if power and value < 99.95 else 0
    return f"{value:,.{digits}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def color(value: Sequence[float]) -> str:
    """Return [255, 127.6, 0] as "#ff8000"."""
    return "#" + "".join(f"{round(channel):02x}" for channel in value)
