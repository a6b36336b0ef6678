"""The contact sheet: one page of thumbnails, on which a person judges a screen's suspects."""

import base64
import io
import pathlib
from collections.abc import Sequence

import PIL.Image

from tfpipe.core import storage
from tfpipe.core.errors import one_line
from tfpipe.screens.screen import DROP, Images, Screen, Suspect

MAX_THUMBNAILS = 500  # some 4 MB, which a phone still shows
SIDE = 192  # pixels of a thumbnail's longer side
QUALITY = 75

_TEMPLATE = "sheet.html.j2"


def save(
    path: pathlib.Path, screen: Screen, images: Images, suspects: Sequence[Suspect], action: str
) -> None:
    """Writes the page: self-contained, and with the worst `MAX_THUMBNAILS` suspects.

    Args:
        path: where to.
        screen: that listed them.
        images: what the suspects' indices refer to.
        suspects: worst first.
        action: "report" or "drop".
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,  # file names and labels are not ours
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(_TEMPLATE).render(
        screen=screen,
        dropped=action == DROP,
        suspects=len(suspects),
        images=len(images.found),
        csv=f"screen-{screen.name}.csv",
        cards=[_card(images, suspect) for suspect in suspects[:MAX_THUMBNAILS]],
    )
    with storage.atomic_file(path) as file:
        file.write(page)


def _card(images: Images, suspect: Suspect) -> dict[str, object]:
    thumbnail, width, height = _thumbnail(images.read(suspect.index))
    return {
        "path": one_line(images.paths[suspect.index]),
        "label": one_line(images.classes[images.labels[suspect.index]]),
        "score": f"{suspect.score:.4g}",
        "reason": one_line(suspect.reason),
        "src": f"data:image/jpeg;base64,{base64.b64encode(thumbnail).decode()}",
        "width": width,
        "height": height,
    }


def _thumbnail(encoded: bytes) -> tuple[bytes, int, int]:
    """Returns a small JPEG, its width and its height."""
    with PIL.Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as picture:
        picture.draft("RGB", (SIDE, SIDE))
        small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    small.save(data, "JPEG", quality=QUALITY)
    return data.getvalue(), *small.size
