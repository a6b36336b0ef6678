"""Shows what is in a data set, or in one of its shards: a table, and a sheet of its first images.

    python tools/inspect_records.py --records=records/dogs-vs-cats --out=sheet.png

Look at the sheet before a long training: wrong labels and odd crops are seen at once. Records are
shuffled when they are built, so the first ones are a random sample of the first split.
"""

import bisect
import collections
import dataclasses
import io
import os
import pathlib
import statistics
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from tfpipe import cli, storage, terminal
from tfpipe.errors import UserError, one_line
from tfpipe.ingest import manifest, verify
from tfpipe.ingest.manifest import Manifest, Shard
from tfpipe.options import option

MAX_COUNT = 400  # makes a sheet of 4,300 x 3,900 pixels

_TABLE_ROWS = 20  # classes shown

# The sheet, in pixels. A cell is a square for the thumbnail, then two lines of text.
_THUMB, _GAP, _MARGIN = 168, 10, 14
_LABEL_SIZE, _NAME_SIZE, _TEXT_HEIGHT, _HEAD = 16, 13, 46, 34

_PAPER, _MAT, _INK, _GREY = "#ffffff", "#f0f0f0", "#1a1a1a", "#5c5c5c"
# Okabe and Ito's colours, which also colour-blind people can tell apart; one for each class.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    records: str = option("the folder that tfpipe.build_records wrote")
    shard: str = option("file name of the one shard to look at; empty for all", "")
    count: int = option(f"images on the sheet, from 1 to {MAX_COUNT}", 24)
    out: str = option("PNG file to write the sheet to; empty for none", "sheet.png")


class Facts(NamedTuple):
    """One record without its image.

    Attributes:
        label: name of its class.
        format: "jpeg" or "png".
        width, height: in pixels.
        bytes: of the encoded image.
    """

    label: str
    format: str
    width: int
    height: int
    bytes: int


class Picture(NamedTuple):
    """One record for the sheet; the image is RGB and not larger than a thumbnail."""

    label: str
    color: str
    filename: str
    image: Image.Image


def main(options: Options) -> None:
    """Prints the table and writes the sheet."""
    if not 1 <= options.count <= MAX_COUNT:
        raise UserError(f"--count={options.count} is not from 1 to {MAX_COUNT}", status=2)
    if options.out and not options.out.lower().endswith(".png"):
        raise UserError(f"--out={options.out}: the sheet is a PNG, end its name in .png", status=2)
    if not pathlib.Path(options.out).parent.is_dir():
        raise UserError(f"--out={options.out}: its folder does not exist: make it, or name another")
    described = manifest.load(options.records)
    verify.check_fields(described)
    chosen = _choose(described, options.shard)
    expected = sum(shard.records for shard in chosen)
    with terminal.progress("reading", expected, "records") as advance:
        facts, pictures = read(described, chosen, options.count if options.out else 0, advance)
    if len(facts) != expected:  # cut between two records, which a reader does not notice
        raise UserError(
            f"{options.records} has {len(facts)} records where {manifest.MANIFEST} says {expected}:"
            f" {_hint(described)}"
        )
    where = os.path.join(options.records, options.shard) if options.shard else options.records
    shards = "" if options.shard else f"{len(chosen)} shards, "
    megabytes = sum(shard.bytes for shard in chosen) / 10**6
    title = f"{where}: {shards}{len(facts)} records, {megabytes:,.1f} MB"
    _show(facts, title)
    if options.out:
        sheet = draw_sheet(pictures, f"{title} (first {len(pictures)} shown)")
        with storage.atomic_file(options.out, "wb") as file:
            sheet.save(file, "PNG", optimize=True)
        terminal.say(f"{len(pictures)} images are on {options.out}")


def read(
    described: Manifest, chosen: list[Shard], count: int, advance: Callable[[], object]
) -> tuple[list[Facts], list[Picture]]:
    """Reads shards of a data set.

    Args:
        described: the data set.
        chosen: its shards to be read.
        count: the records at the start to make pictures of.
        advance: called after each record.

    Raises:
        UserError: a shard is missing or damaged.
    """
    import tensorflow as tf  # here, because it takes seconds to start

    from tfpipe.ingest import example

    facts, pictures = [], []
    for shard in chosen:
        path = described.folder / shard.name
        try:
            data = tf.data.TFRecordDataset(os.fspath(path)).map(example.parse)
            for record in data.prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
                encoded = record["image/encoded"]
                width, height = int(record["image/width"]), int(record["image/height"])
                label = _text(record["image/class/text"])
                facts.append(
                    Facts(label, _text(record["image/format"]), width, height, len(encoded))
                )
                if len(pictures) < count:
                    color = _COLORS[int(record["image/class/label"]) % len(_COLORS)]
                    name = _text(record["image/filename"])
                    pictures.append(Picture(label, color, name, _thumbnail(encoded)))
                advance()
        except (tf.errors.OpError, OSError, ValueError, Image.DecompressionBombError) as error:
            lost = isinstance(error, tf.errors.DataLossError)  # whose text is about its graph
            raise UserError(
                f"{path} cannot be read ({'damaged' if lost else error}): {_hint(described)}"
            ) from None
    return facts, pictures


def draw_sheet(pictures: list[Picture], title: str) -> Image.Image:
    """Returns an RGB image of thumbnails in rows, each with its label and file name below."""
    columns = min(max(len(pictures), 3), max(6, round((1.5 * len(pictures)) ** 0.5)))
    rows = -(-len(pictures) // columns)  # rounded up
    step_x, step_y = _THUMB + _GAP, _THUMB + _TEXT_HEIGHT + _GAP
    size = (2 * _MARGIN + columns * step_x - _GAP, 2 * _MARGIN + _HEAD + rows * step_y - _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    fonts = [ImageFont.load_default(points) for points in (_LABEL_SIZE, _NAME_SIZE)]
    head = _shorten(title, fonts[0], size[0] - 2 * _MARGIN)
    pen.text((_MARGIN, _MARGIN), head, fill=_INK, font=fonts[0])
    for index, (label, color, filename, image) in enumerate(pictures):
        left = _MARGIN + index % columns * step_x
        top = _MARGIN + _HEAD + index // columns * step_y
        pen.rectangle((left, top, left + _THUMB - 1, top + _THUMB - 1), fill=_MAT)
        sheet.paste(image, (left + (_THUMB - image.width) // 2, top + (_THUMB - image.height) // 2))
        top += _THUMB
        pen.rectangle((left, top, left + _THUMB - 1, top + 3), fill=color)
        text = _shorten(label, fonts[0], _THUMB)
        pen.text((left, top + 7), text, fill=_INK, font=fonts[0])
        text = _shorten(filename, fonts[1], _THUMB)
        pen.text((left, top + 28), text, fill=_GREY, font=fonts[1])
    return sheet


def _hint(described: Manifest) -> str:
    return f"`python -m tfpipe.verify_records --records={described.folder}` tells what is damaged"


def _choose(described: Manifest, name: str) -> list[Shard]:
    chosen = [shard for shard in described.shards if name in ("", shard.name)]
    if not chosen:
        raise UserError(
            f"--shard={name} is not in {described.folder}, which has {len(described.shards)}"
            f" shards, {described.shards[0].name} the first: name one of those in manifest.json"
        )
    return chosen


def _thumbnail(encoded: bytes) -> Image.Image:
    with Image.open(io.BytesIO(encoded), formats=("JPEG", "PNG")) as image:
        image.draft("RGB", (2 * _THUMB, 2 * _THUMB))  # decodes a large JPEG at a fraction
        small = image.convert("RGB")
    small.thumbnail((_THUMB, _THUMB), Image.Resampling.LANCZOS)
    return small


def _shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Returns `text` on one line, without its middle if it is wider than `width` pixels."""
    text = one_line(text)
    if font.getlength(text) <= width:
        return text
    most = min(len(text), int(4 * width / font.size))  # more would not fit; names may be long
    fits = bisect.bisect(
        range(1, most), width, key=lambda keep: font.getlength(_without_middle(text, keep))
    )
    return _without_middle(text, fits)


def _without_middle(text: str, keep: int) -> str:
    return f"{text[: keep - keep // 2]}...{text[len(text) - keep // 2 :]}"


def _show(facts: list[Facts], title: str) -> None:
    """Prints one row for each class and one for all; sizes are minimum/median/maximum."""
    groups = collections.defaultdict(list)
    for each in facts:
        groups[each.label].append(each)
    formats = sorted({each.format for each in facts})
    rows = [_row(name, groups[name], formats) for name in sorted(groups)]
    if len(rows) > _TABLE_ROWS:
        rows = [*rows[:_TABLE_ROWS], [f"({len(rows) - _TABLE_ROWS} more)"]]
    rows.append(_row("all", facts, formats))
    columns = ["class", "images", *formats, "width, px", "height, px", "image, kB"]
    terminal.show_table(f"{title}\n(sizes: min / median / max)", columns, rows)


def _row(name: str, facts: list[Facts], formats: list[str]) -> list[object]:
    counts = collections.Counter(each.format for each in facts)
    return [
        name,
        len(facts),
        *(counts[each] for each in formats),
        _spread([each.width for each in facts]),
        _spread([each.height for each in facts]),
        _spread([each.bytes / 1000 for each in facts]),
    ]


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    return " / ".join(f"{f(values):,.0f}" for f in (min, statistics.median, max))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


if __name__ == "__main__":
    cli.run(main, Options)
