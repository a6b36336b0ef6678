"""Show what is in a data set, or in one of its shards: a table, a page of images, and plots.

    tfpipe inspect --records=records/dogs-vs-cats --out=sheet.html --plots=plots

Look at the page before a long training: it shows wrong labels and odd crops at once. Records are
shuffled when they are built, so the first ones are a random sample of the first split. The plots
show the images as they are stored; report.html shows them as their files have them.
"""

import collections
import dataclasses
import importlib.util
import os
import pathlib
import statistics
from collections.abc import Callable
from typing import NamedTuple

from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.page import template, thumbnail, thumbnail_sheet
from tfpipe.page.thumbnail_sheet import SheetItem
from tfpipe.records import example, label_set, manifest, tfrecord
from tfpipe.records.manifest import Manifest, Shard
from tfpipe.reporting import dataset_plots as plots

_TABLE_ROWS = 20  # classes shown


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    records: str = option("the folder that tfpipe.build_records wrote")
    shard: str = option("file name of the one shard to look at; empty for all", "")
    count: int = option("images on the page, 1 to 400, some 3 MB", 24, minimum=1, maximum=400)
    out: str = option("HTML file to write the images to; empty for none", "sheet.html")
    plots: str = option(
        "folder for size.png, aspect.png and classes.png; created if it is missing", ""
    )


class Facts(NamedTuple):
    """One record without its image: its sizes in pixels, and the bytes of the encoded image.

    The label is as of `label_set`.
    """

    split: str
    label: str
    format: str
    width: int
    height: int
    bytes: int


def main(options: Options) -> None:
    """Prints the table, and writes the page and the plots."""
    _check(options)
    described = manifest.load(options.records)
    chosen = _choose(described, options.shard)
    if options.plots:
        _make_folder(options.plots)
    expected = sum(shard.records for shard in chosen)
    with terminal.progress("reading", expected, "records") as advance:
        facts, items = read(described, chosen, options.count if options.out else 0, advance)
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
        page = thumbnail_sheet.render(where, [f"{title}; the first {len(items)} images."], items)
        with storage.atomic_file(options.out) as file:
            file.write(page)
        terminal.say(f"{len(items)} images are on {options.out}")
    if options.plots:
        terminal.say(f"plots are in {options.plots}: {', '.join(save_plots(facts, options.plots))}")


def read(
    described: Manifest, chosen: list[Shard], count: int, advance: Callable[[], object]
) -> tuple[list[Facts], list[SheetItem]]:
    """Read the chosen shards; return all facts, and the first `count` images to show.

    Raises:
        UserError: a shard is missing or damaged.
    """
    facts, items = [], []
    for shard in chosen:
        path = described.folder / shard.name
        try:
            with open(path, "rb") as file:
                for _, content in tfrecord.read(file):
                    record = example.deserialize(content)
                    sizes = record.width, record.height, len(record.encoded)
                    facts.append(Facts(shard.split, record.text, record.format, *sizes))
                    if len(items) < count:
                        items.append(_item(record))
                    advance()
        except (tfrecord.FrameError, OSError, ValueError, UserError) as error:
            raise UserError(f"{path} cannot be read ({error}): {_hint(described)}") from None
    return facts, items


def _item(record: example.ImageExample) -> SheetItem:
    small, label = thumbnail.of_record(record, thumbnail_sheet.SIDE), label_set.shown(record.text)
    picture = thumbnail.embed(small, f"{record.filename}, labelled {label}")
    return SheetItem(picture, label, record.filename)


def save_plots(facts: list[Facts], folder: str) -> list[str]:
    """Draw the sizes, aspects and classes of records; return the names of the PNG files."""
    columns = [each.width for each in facts], [each.height for each in facts]
    labels = [label_set.shown(each.label) for each in facts]
    splits = collections.defaultdict(collections.Counter)
    for each in facts:
        splits[each.split].update(label_set.names(each.label))
    drawn = {
        "size.png": plots.size(*columns, labels),
        "aspect.png": plots.aspect(*columns, labels),
        "classes.png": plots.classes(splits),
    }
    for name, png in drawn.items():
        with storage.atomic_file(pathlib.Path(folder, name), "wb") as file:
            file.write(png)
    return list(drawn)


def _check(options: Options) -> None:
    """Raise UserError early for flags that would fail after all shards are read."""
    if options.out and not options.out.lower().endswith(".html"):
        raise UserError(f"--out={options.out}: the name must end in .html", status=2)
    if not pathlib.Path(options.out).parent.is_dir():
        raise UserError(f"--out={options.out}: its folder does not exist: make it, or name another")
    needed = {f"--out={options.out}": template.missing() if options.out else None}
    if options.plots and importlib.util.find_spec("matplotlib") is None:
        needed[f"--plots={options.plots}"] = "matplotlib"
    for flag, module in needed.items():
        if module:
            raise UserError(
                f"{flag} needs {module}, which is not installed: run pip install 'tfpipe[screen]',"
                f" or give {flag.partition('=')[0]}= for none"
            )


def _make_folder(plots: str) -> None:
    try:
        pathlib.Path(plots).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--plots={plots}: {error.strerror}: name another folder") from None


def _hint(described: Manifest) -> str:
    return f"run `python -m tfpipe.verify_records --records={described.folder}` to list the damage"


def _choose(described: Manifest, name: str) -> list[Shard]:
    chosen = [shard for shard in described.shards if name in ("", shard.name)]
    if not chosen:
        raise UserError(
            f"--shard={name} is not in {described.folder}, which has {len(described.shards)}"
            f" shards, such as {described.shards[0].name}: name a shard in manifest.json"
        )
    return chosen


def _show(facts: list[Facts], title: str) -> None:
    """Print one row for each class and one for all; sizes are minimum/median/maximum."""
    groups = collections.defaultdict(list)
    for each in facts:
        for name in label_set.names(each.label) or [label_set.shown(each.label)]:
            groups[name].append(each)
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


if __name__ == "__main__":
    cli.run(main, Options)
