"""Turns labelled images into TFRecord shards that training reads.

    python -m tfpipe.build_records --source=train.zip --out=records/dogs-vs-cats

The images lie in folders, zip or tar archives and are labelled by their file name (cat.0.jpg), by
their folder (cat/0.jpg) or by a list; or a list (CSV or JSONL) is the source and names both. Every
image is decoded as a check; what TensorFlow would read wrongly is converted, and what is damaged is
listed in rejects.csv. The folder --out appears only when it is complete, and is the same for any
number of workers. records/README.md describes it.

Exit status: 0 all is well, 1 nothing was built, 2 wrong flags, 3 the data set was built but more
images were rejected than --max_rejects allows.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable, Sequence

from tfpipe import cli, storage, terminal
from tfpipe.errors import UserError
from tfpipe.ingest import labels, manifest, rejects, scan, shards, sources, splits, workers
from tfpipe.ingest.rejects import Reject
from tfpipe.ingest.shards import Entry
from tfpipe.ingest.workers import Found, Item
from tfpipe.options import option

# The reason for a file that was never meant as an image, as a read-me; it is listed, no more.
NOT_AN_IMAGE_NAME = "not an image name"

TOO_MANY_REJECTS = 3  # exit status

_TABLE_ROWS = 20  # classes shown at the end; the manifest has them all


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    source: tuple[str, ...] = option(
        "a folder, zip or tar archive of images, or a list of images and labels (.csv with the"
        " columns path,label or .jsonl); several add up"
    )
    out: str = option("the folder to write; its parents are made")
    splits: str = option(
        "names of the splits and their fractions of the images, which sum to 1",
        "train:0.8,val:0.2",
    )
    seed: int = option("chooses the partition into splits and the order of the records", 0)
    labels: str = option(
        "where the label is: filename (cat.0.jpg), folder (cat/0.jpg), auto (the file name if every"
        " image's has that form and else the folder), or csv:FILE, a list with the columns"
        " path,label; a list given as --source has its own labels",
        "auto",
    )
    classes: str = option(
        "the classes in the order of their numbers, as in dog,cat; by default they are sorted", ""
    )
    shards: int = option("shards for each split; 0 lets --shard_size_mb decide", 0)
    shard_size_mb: int = option("size that a shard is to have, in 10^6 bytes", 128)
    workers: int = option("processes that decode images; 0 for one on each CPU core", 0)
    max_rejects: int = option("rejected images that are no failure", 0)
    overwrite: bool = option("replace the data set that is in --out", False)


def main(options: Options) -> None:
    """Builds the data set, unless it is there already."""
    _check_ranges(options)
    fractions = splits.parse(options.splits)
    labels.check(options.labels)
    opened = [sources.open_source(path) for path in options.source]
    _check_out(options)
    out = pathlib.Path(options.out)
    if out.is_symlink():  # the link stays, what it leads to is written
        out = out.resolve()
    # What decides the contents; another number of workers, say, gives the same data set.
    arguments = {
        "source": list(options.source),
        "splits": options.splits,
        "seed": options.seed,
        "labels": options.labels,
        "classes": options.classes,
        "shards": options.shards,
        "shard_size_mb": options.shard_size_mb,
    }
    parts = [*(source.fingerprint() for source in opened), labels.fingerprint(options.labels)]
    fingerprint = _digest(filter(None, parts))
    if manifest.is_current(out, arguments, fingerprint, replace=options.overwrite):
        terminal.say(f"{options.out} is up to date: it was built from these images and options")
    else:
        items, lost = _list_files(opened)
        label_of = _label(opened, items, options.labels)
        classes = labels.order(label_of.values(), options.classes)
        found = []
        with terminal.progress("checking", len(items)) as advance:
            count = options.workers or os.cpu_count() or 1
            for outcome in workers.inspect_all(opened, items, workers=count, advance=advance):
                (lost if isinstance(outcome, Reject) else found).append(outcome)
        _check_no_class_is_lost(opened, label_of, found, lost)
        entries = _split(found, label_of, fractions, options.seed)
        described = _describe(entries, lost, classes, fractions, arguments, fingerprint)
        _publish(options, out, opened, entries, lost, described)
        _show(manifest.load(out), options.out)
    _judge_rejects(options, out)


def _check_ranges(options: Options) -> None:
    for name, least in {"shards": 0, "shard_size_mb": 1, "workers": 0, "max_rejects": 0}.items():
        value = getattr(options, name)
        if value < least:
            raise UserError(f"--{name}={value} is too small; {least} is the least", status=2)


def _check_out(options: Options) -> None:
    """Checks, before hours of work, that --out is no part of a source and may be written."""
    out = pathlib.Path(os.path.realpath(options.out))
    for source in options.source:
        if out.is_relative_to(os.path.realpath(source)):
            raise UserError(
                f"--out={options.out} lies in --source={source}, where it would be taken for input"
                " the next time: name a folder elsewhere"
            )
    parent = next((path for path in out.parents if path.exists()), out)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(
            f"--out={options.out}: nothing can be written to {parent}: name a folder elsewhere"
        )


def _list_files(opened: Sequence[sources.Source]) -> tuple[list[Item], list[Reject]]:
    """Returns the files that are meant as images, and all others."""
    items, lost = [], []
    for index, source in enumerate(opened):
        lost += [Reject(source.locate(name), why, more) for name, why, more in source.skipped]
        for name in source.names():
            if labels.is_image_name(name):
                items.append(Item(index, name))
            else:
                detail = "its name does not end like an image's, as in .jpg or .png"
                lost.append(Reject(source.locate(name), NOT_AN_IMAGE_NAME, detail))
    if not items:
        raise UserError(
            f"--source: none of the {len(lost)} files in"
            f" {' and '.join(repr(source.path) for source in opened)} has a name that ends like an"
            " image's: name folders, archives or lists with .jpg or .png files"
        )
    return items, lost


def _label(opened: Sequence[sources.Source], items: list[Item], mode: str) -> dict[Item, str]:
    """Returns the label of each item and of each file that a list names, though it be missing."""
    brought = [source.labels for source in opened]
    own = [brought[item.source].get(item.name) for item in items]
    named = labels.assign([item.name for item in items], mode, own)
    listed = {
        Item(i, name): label for i, all_ in enumerate(brought) for name, label in all_.items()
    }
    return listed | dict(zip(items, named, strict=True))


def _check_no_class_is_lost(
    opened: Sequence[sources.Source],
    label_of: dict[Item, str],
    found: list[Found],
    lost: list[Reject],
) -> None:
    gone = sorted(set(label_of.values()) - {label_of[each.item] for each in found})
    if gone:
        paths = {opened[i.source].locate(i.name) for i in label_of if label_of[i] == gone[0]}
        first = min(reject for reject in lost if reject.path in paths)
        raise UserError(
            f"no image of class {gone[0]!r} can be used, so nothing was written; the first of"
            f" {len(paths)} is {first.path} ({first.reason}: {first.detail}): mend them, or"
            " remove the class"
        )


def _split(
    found: list[Found], label_of: dict[Item, str], fractions: dict[str, float], seed: int
) -> list[Entry]:
    named = [label_of[each.item] for each in found]
    assigned = splits.assign([each.image.sha256 for each in found], named, fractions, seed)
    empty = [split for split in fractions if split not in assigned]
    if empty:
        raise UserError(
            f"split {empty[0]!r} would have none of the {len(found)} images, as no class has one"
            " for each split: add images, or give fewer --splits"
        )
    return [Entry(*each) for each in zip(found, named, assigned, strict=True)]


def _describe(
    entries: list[Entry],
    lost: list[Reject],
    classes: tuple[str, ...],
    fractions: dict[str, float],
    arguments: dict,
    fingerprint: str,
) -> manifest.Manifest:
    """Returns the manifest, as yet without shards."""
    counts = collections.Counter((entry.split, entry.label) for entry in entries)
    converted = collections.Counter(entry.found.image.converted for entry in entries)
    del converted[""]
    return manifest.Manifest(
        arguments=arguments,
        input_fingerprint=fingerprint,
        classes=classes,
        splits={split: {name: counts[split, name] for name in classes} for split in fractions},
        accepted=len(entries),
        converted=dict(sorted(converted.items())),
        rejected=dict(sorted(collections.Counter(each.reason for each in lost).items())),
        fingerprint=_digest(sorted(f"{e.found.image.sha256} {e.label} {e.split}" for e in entries)),
        mean_record_bytes=0.0,
        shards=(),
    )


def _publish(
    options: Options,
    out: pathlib.Path,
    opened: Sequence[sources.Source],
    entries: list[Entry],
    lost: list[Reject],
    described: manifest.Manifest,
) -> None:
    from tfpipe.ingest import example  # here, because it takes TensorFlow seconds to start

    label = {name: index for index, name in enumerate(described.classes)}
    plans = shards.plan(
        entries,
        described.splits,
        seed=options.seed,
        shards=options.shards,
        shard_bytes=options.shard_size_mb * 10**6,
    )
    with (
        # `is_current` has seen to it that what is there may give way.
        storage.atomic_folder(out, replace=True) as folder,
        terminal.progress("writing", len(entries)) as advance,
    ):

        def record(entry: Entry) -> bytes:
            image = _reread(opened, entry.found)
            advance()
            return example.serialize(
                image,
                label=label[entry.label],
                text=entry.label,
                filename=entry.found.item.name,
            )

        written = tuple(shards.write(folder, plans, record))
        mean = sum(shard.bytes for shard in written) / len(entries)
        rejects.save(folder / rejects.REJECTS, lost)
        dataclasses.replace(described, shards=written, mean_record_bytes=mean).save(folder)


def _reread(opened: Sequence[sources.Source], found: Found) -> scan.Image:
    """Reads an image a second time; to keep them all would take their memory."""
    source = opened[found.item.source]
    try:
        return scan.repeat(source.read(found.item.name), found.image)
    except scan.Rejected:
        raise UserError(
            f"{source.locate(found.item.name)!r} changed while the data set was built: run the"
            " command again when nothing writes to --source"
        ) from None


def _show(built: manifest.Manifest, out: str) -> None:
    rows = [
        [name, *counts, sum(counts)]
        for name in built.classes
        for counts in [[built.splits[split][name] for split in built.splits]]
    ]
    if len(rows) > _TABLE_ROWS:
        rows = [*rows[:_TABLE_ROWS], [f"({len(rows) - _TABLE_ROWS} more)"]]
    rows.append(["all", *(built.count(split) for split in built.splits), built.count()])
    terminal.show_table(f"Images in {out}", ["class", *built.splits, "all"], rows)
    terminal.say(
        f"{len(built.shards)} shards are in {out}; next:"
        f" python -m tfpipe.train --records={out} --run_dir=runs/NAME"
    )


def _judge_rejects(options: Options, out: pathlib.Path) -> None:
    """Tells of rejected files; more images than --max_rejects are an error, also in a later run."""
    lost = rejects.load(out)
    path = os.path.join(options.out, rejects.REJECTS)
    images = [reject for reject in lost if reject.reason != NOT_AN_IMAGE_NAME]
    if len(images) < len(lost):
        others = len(lost) - len(images)
        are = "file is" if others == 1 else "files are"
        terminal.say(f"{others} other {are} no image; {path} lists them")
    if not images:
        return
    message = (
        f"{len(images)} {'image was' if len(images) == 1 else 'images were'} rejected, the first"
        f" {images[0].path} ({images[0].reason}: {images[0].detail}); {path} lists them"
    )
    if len(images) <= options.max_rejects:
        terminal.warn(message)
    else:
        raise UserError(
            f"{message}; the good images are in {options.out}: mend or remove the rejected ones, or"
            f" allow them with --max_rejects={len(images)}",
            status=TOO_MANY_REJECTS,
        )


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


if __name__ == "__main__":
    cli.run(main, Options)
