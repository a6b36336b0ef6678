"""Show what an augmentation does to images: a grid with one row for each image.

    python tools/preview_augment.py --source=train --augment="rotate(20)|flip_lr" --out=grid.png

The first picture of a row is the model's input without augmentation: the whole image as a square.
The others use different random numbers. Look at them before a long training: the model cannot learn
from what you cannot recognise. If pictures are mixed, the line below gives the shares of the label
and their rows.
"""

import dataclasses
import pathlib
import textwrap
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tfpipe import sources
from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError, one_line
from tfpipe.core.options import option
from tfpipe.images import strict
from tfpipe.sources.member import is_image_name

# In pixels. Pictures are shown at the model's size, but not larger than this.
_MAX_CELL = 224
_GAP, _APART, _MARGIN = 8, 12, 14
_TEXT_SIZE, _TITLE_SIZE, _LINE = 13, 16, 22
_PAPER, _INK, _GREY = "#ffffff", "#1a1a1a", "#5c5c5c"


@dataclasses.dataclass(frozen=True)
class _Options:
    """The flags of this command alone."""

    source: tuple[str, ...] = option(
        "images to show: a folder, zip, tar, list or TFRecords; several add up"
    )
    augment: str = option("the augmentation, as the flag of this name of tfpipe.train")
    out: str = option("PNG file to write the grid to")
    count: int = option("images, one a row, 1 to 32; drawn at random", 4, minimum=1, maximum=32)
    draws: int = option("augmented pictures of each, 1 to 24", 8, minimum=1, maximum=24)
    image_size: int = option(
        "side of the model's input, 16 to 1024 pixels", 299, minimum=16, maximum=1024
    )
    seed: int = option("of the choice of images and of the augmentation, 0 or more", 0, minimum=0)


@dataclasses.dataclass(frozen=True)
class Options(sources.Options, _Options):
    """The flags of this command."""


class Cell(NamedTuple):
    """One picture of the grid, uint8 [side, side, 3], and the line below it."""

    pixels: np.ndarray
    text: str


def main(options: Options) -> None:
    """Write the grid."""
    _check(options)
    # Below, because TensorFlow takes seconds, which `--help` and wrong flags need not wait for.
    from tfpipe.augment import Augment

    chain = Augment(options.augment)
    names, images = _choose(options)
    columns = [[Cell(image, name) for image, name in zip(images, names, strict=True)]]
    own = np.eye(len(images), dtype=np.float32)
    for draw in range(options.draws):
        rng = np.random.default_rng([options.seed, draw])
        u = rng.random((len(images), chain.num_random), np.float32)
        found, mixed = chain(images, own, u)
        pixels = np.round(found.numpy()).astype(np.uint8)
        texts = [_shares(row, shares) for row, shares in enumerate(np.asarray(mixed))]
        columns.append([Cell(*pair) for pair in zip(pixels, texts, strict=True)])
    grid = draw_grid(list(zip(*columns, strict=True)), f"--augment={options.augment}")
    with storage.atomic_file(options.out, "wb") as file:
        grid.save(file, "PNG", optimize=True)
    terminal.say(f"{len(images)} images, {options.draws} times each, are on {options.out}")


def draw_grid(rows: list[tuple[Cell, ...]], title: str) -> Image.Image:
    """Return an RGB image of rows of pictures, each with a line of text, below a title."""
    cell = min(len(rows[0][0].pixels), _MAX_CELL)
    # The first column, the originals, stands apart.
    lefts = [_MARGIN + n * (cell + _GAP) + _APART * (n > 0) for n in range(len(rows[0]))]
    width = lefts[-1] + cell + _MARGIN
    font, head = (ImageFont.load_default(size) for size in (_TEXT_SIZE, _TITLE_SIZE))
    letters = int((width - 2 * _MARGIN) / head.getlength("n"))
    lines = textwrap.wrap(one_line(title), max(letters, 8), break_on_hyphens=False)
    top = 2 * _MARGIN + _LINE * len(lines)
    step = cell + _LINE + _GAP
    grid = Image.new("RGB", (width, top + step * len(rows) - _GAP + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(grid)
    for number, line in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + number * _LINE), line, fill=_INK, font=head)
    for number, row in enumerate(rows):
        for left, (pixels, text) in zip(lefts, row, strict=True):
            place = left, top + number * step
            small = Image.fromarray(pixels).resize((cell, cell), Image.Resampling.BILINEAR)
            grid.paste(small, place)
            text = _fitting(one_line(text), font, cell)
            pen.text((place[0], place[1] + cell + 3), text, fill=_GREY, font=font)
    return grid


def _choose(options: Options) -> tuple[list[str], np.ndarray]:
    """Choose readable images at random; return their names and uint8 [n, side, side, 3]."""
    source = sources.join(sources.open_sources(options.source, options))
    names = source.names()
    if not source.holds_images_only:
        names = [name for name in names if is_image_name(name)] or names
    chosen, images, side = [], [], options.image_size
    for index in np.random.default_rng(options.seed).permutation(len(names)):
        try:
            picture = Image.fromarray(strict.decode(source.read(names[index])).pixels)
        except sources.Rejected as error:
            terminal.warn(f"{source.locate(names[index])} is left out: {error}")
            continue
        # Pillow averages where it shrinks, as the input pipeline does on the host.
        images.append(np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR)))
        chosen.append(names[index])
        if len(images) == options.count:
            break
    if not images:
        raise UserError(f"{source.path} holds no image that can be read: name another")
    return chosen, np.stack(images)


def _shares(row: int, shares: np.ndarray) -> str:
    """Return how a label was mixed; "" if it was not."""
    if shares[row] == 1.0:
        return ""
    others = (f"{shares[n]:.2f} of row {n + 1}" for n in np.flatnonzero(shares) if n != row)
    return " + ".join([f"{shares[row]:.2f}", *others])


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the end of a text that fits; of a path, it says most."""
    text = text[-width:]  # no letter is narrower than a pixel
    while font.getlength(text) > width:
        text = text[1:]
    return text


def _check(options: Options) -> None:
    """Raise UserError for wrong flags before anything is read."""
    if not options.out.lower().endswith(".png"):
        raise UserError(f"--out={options.out}: the grid is a PNG, end its name in .png", status=2)
    if not pathlib.Path(options.out).parent.is_dir():
        raise UserError(f"--out={options.out}: its folder does not exist: make it, or name another")


if __name__ == "__main__":
    cli.run(main, Options)
