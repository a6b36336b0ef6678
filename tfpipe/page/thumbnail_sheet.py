"""A page of thumbnails: what a data set looks like, or which images a screen lists."""

from collections.abc import Sequence
from typing import NamedTuple

from tfpipe.page import template

SIDE = 192  # pixels of a thumbnail's longer side


class SheetItem(NamedTuple):
    """One image of a sheet.

    Attributes:
        picture: a thumbnail; None if the image is not available.
        label: its class.
        path: its file.
        score: how suspicious it is; empty outside a screen's list.
        reason: why it is listed, likewise.
    """

    picture: template.Image | None
    label: str
    path: str
    score: str = ""
    reason: str = ""


def render(title: str, notes: Sequence[str], items: Sequence[SheetItem]) -> str:
    """Return a self-contained HTML page that shows the items in their order.

    Args:
        title: the heading.
        notes: paragraphs below the heading.
        items: the images.
    """
    page = template.environment().get_template("thumbnail_sheet.html.j2")
    return page.render(title=title, notes=notes, items=items)
