"""Turns labelled images into TFRecord shards that training reads.

    python -m tfpipe.build_records --source=train.zip --out=records/dogs-vs-cats

The images lie in folders, zip or tar archives or other records and are labelled by their file name
(cat.0.jpg), by their folder (cat/0.jpg) or by a list; or a list (CSV or JSONL) is the source and
names both. Every image is decoded as a check; what TensorFlow would read wrongly is converted, and
what is damaged is listed in rejects.csv. The folder --out appears only when it is complete, and is
the same for any number of workers; a build that was ended goes on where it was when the same
command is given again. records/README.md describes it.

Exit status: 0 all is well, 1 nothing was built, 2 wrong flags, 3 the data set was built but more
images were rejected than --max_rejects allows.
"""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Iterable

import tfpipe
from tfpipe import cli, screens, terminal
from tfpipe.errors import UserError
from tfpipe.ingest import (
    balance,
    catalog,
    duplicates,
    exclude,
    labels,
    manifest,
    rejects,
    report,
    shards,
    sources,
    splits,
    statistics,
    tasks,
)
from tfpipe.ingest import store as stores
from tfpipe.ingest.catalog import Catalog
from tfpipe.ingest.manifest import Manifest, Shard
from tfpipe.ingest.selection import CHOSEN, DUPLICATE_MODES, SCREENED, Selection
from tfpipe.ingest.survey import Runner, survey
from tfpipe.ingest.tasks import Entry, Job
from tfpipe.ingest.work import open_work, publish, remove_leftovers
from tfpipe.ingest.workers import Pool
from tfpipe.options import option

TOO_MANY_REJECTS = 3  # exit status

_TABLE_ROWS = 20  # classes shown at the end; the manifest has them all


@dataclasses.dataclass(frozen=True)
class _BuildOptions:
    """The flags of this command, but for those of the screens."""

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
    group_column: str = option(
        "the column of the lists whose equal values stay in one split, such as patient; empty for"
        " none",
        "group",
    )
    exclude: str = option(
        "a text file of image names, one on each line, that are to be left out; empty for none", ""
    )
    duplicates: str = option(
        "what becomes of images that are there more than once, be it re-encoded or resized: group"
        " (all in one split), drop (all but the first), keep (each by itself)",
        "group",
        choices=DUPLICATE_MODES,
    )
    folds: int = option("parts for cross-validation, whose number each record has; 0 for none", 0)
    rebalance: str = option(
        "how the classes of the first split are made equal: none (not at all), drop (images of the"
        " larger ones), copies (randomly transformed copies of the smaller ones' images)",
        "none",
        choices=balance.MODES,
    )
    store: str = option(
        "what a record holds: original (the file itself), resized:320 (a JPEG whose shorter side is"
        " 320 pixels at most), resized:299x299 (width and height), or raw:256 (bare pixels)",
        "original",
    )
    jpeg_quality: int = option("of JPEGs that are written anew, 1 to 100", stores.JPEG_QUALITY)
    shards: int = option("shards for each split; 0 lets --shard_size_mb decide", 0)
    shard_size_mb: int = option("size that a shard is to have, in 10^6 bytes", 128)
    workers: int = option("processes that decode images; 0 for one on each CPU core", 0)
    max_rejects: int = option("rejected images that are no failure", 0)
    report: bool = option("write report.html, a page about the images, with plots", True)
    overwrite: bool = option("replace the data set that is in --out", False)
    quiet: bool = option("print nothing but warnings and errors", False)


@dataclasses.dataclass(frozen=True)
class Options(screens.Options, _BuildOptions):
    """The flags of this command."""


# Flags that decide where and how the work is done, but not what comes of it.
_NO_ARGUMENTS = ("out", "workers", "max_rejects", "overwrite", "quiet")


def main(options: Options) -> None:
    """Builds the data set, unless it is there already."""
    terminal.be_quiet(options.quiet)
    _check_ranges(options)
    fractions = splits.parse(options.splits)
    splits.check_folds(options.folds)
    labels.check(options.labels)
    store = stores.parse(options.store, options.jpeg_quality)
    opened = [sources.open_source(path) for path in options.source]
    _check_out(options)
    out = pathlib.Path(options.out)
    if out.is_symlink():  # the link stays, what it leads to is written
        out = out.resolve()
    # What decides the contents; another number of workers, say, gives the same data set.
    arguments = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(options).items()
        if name not in _NO_ARGUMENTS
    }
    fingerprint = _fingerprint(options, opened)
    if manifest.is_current(out, arguments, fingerprint, replace=options.overwrite):
        terminal.say(f"{options.out} is up to date: it was built from these images and options")
        remove_leftovers(out)
    else:
        files = catalog.read(opened, options.labels, options.group_column)
        classes = labels.order(files.label_of.values(), options.classes)
        prepared = screens.prepare(options, classes)
        key = _digest([fingerprint, repr(arguments), tfpipe.__version__])
        with open_work(out, key) as work:
            job = Job(tuple(opened), str(work), store, options.seed)
            with Pool(job, options.workers or os.cpu_count() or 1) as pool:
                _build(
                    options, files, classes, prepared, fractions, arguments, fingerprint, job, pool
                )
            publish(work, out)
        _show(manifest.load(out), options.out)
    _judge_rejects(options, out)


def _fingerprint(options: Options, opened: list[sources.Source]) -> str:
    """Returns a digest that changes when the images or lists do."""
    parts = [source.fingerprint() for source in opened]
    parts += [repr(sorted(source.groups(options.group_column).items())) for source in opened]
    parts.append(labels.fingerprint(options.labels, options.group_column))
    if options.exclude:
        parts.append(repr(exclude.load(options.exclude)))
    for path in (options.screen_model, options.screen_weights) if options.screens else ():
        if os.path.isfile(path):  # as against the name of a model
            parts.append(repr((os.path.getsize(path), os.stat(path).st_mtime_ns)))
    return _digest(parts)


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


def _build(
    options: Options,
    files: Catalog,
    classes: tuple[str, ...],
    prepared: list[screens.Screen],
    fractions: dict[str, float],
    arguments: dict,
    fingerprint: str,
    job: Job,
    runner: Runner,
) -> None:
    """Makes the data set in the work folder."""
    result = pathlib.Path(job.work, "result")
    with terminal.progress("checking", len(files.items)) as advance:
        found, lost = survey(job, runner, files.items, advance)
    selection = Selection(files, found, [*files.rejects, *lost])
    if options.exclude:
        selection.exclude(options.exclude)
    selection.find_duplicates(options.duplicates)
    files.check_no_class_is_lost((each.item for each in selection.found), selection.rejects)
    suspects = _screen(options, prepared, selection, classes, job, result)
    entries = selection.assign(
        classes,
        fractions,
        folds=options.folds,
        rebalance=options.rebalance,
        seed=options.seed,
    )
    written = _write(options, fractions, job, runner, entries, result)
    rejects.save(result / rejects.REJECTS, selection.rejects)
    duplicates.save(result / duplicates.DUPLICATES, selection.duplicates)
    shard_names = {shard.name for shard in written}
    described = Manifest(
        arguments=arguments,
        input_fingerprint=fingerprint,
        screens=suspects,
        **_describe(selection, entries, written, classes, fractions),
    )
    if options.report:
        report.save(
            result,
            described,
            selection.found,
            selection.labels,
            selection.rejects,
            members=selection.duplicates,
        )
    own = sorted({*os.listdir(result)} - shard_names - {manifest.MANIFEST})
    dataclasses.replace(described, files=tuple(own)).save(result)


def _screen(
    options: Options,
    prepared: list[screens.Screen],
    selection: Selection,
    classes: tuple[str, ...],
    job: Job,
    result: pathlib.Path,
) -> dict[str, int]:
    """Runs the screens and leaves out what they list, if so asked; returns how many that is."""
    if not prepared:
        return {}
    images = screens.Images(
        found=selection.found,
        paths=selection.paths,
        labels=[classes.index(label) for label in selection.labels],
        classes=classes,
        read=lambda index: tasks.read_encoded(job, selection.found[index]),
        cache=pathlib.Path(job.work),
        groups=selection.clusters,
    )
    listed = screens.run(prepared, images, options.screen_action, result)
    if options.screen_action == screens.DROP:
        reasons = {
            suspect.index: f"screen {name}: {suspect.reason}"
            for name, suspects in listed.items()
            for suspect in suspects
        }
        selection.drop(reasons, SCREENED, list(reasons.values()))
    return {name: len(suspects) for name, suspects in listed.items()}


def _write(
    options: Options,
    fractions: dict[str, float],
    job: Job,
    runner: Runner,
    entries: list[Entry],
    result: pathlib.Path,
) -> tuple[Shard, ...]:
    """Writes the shards, those that are not there yet."""
    plans = shards.plan(
        entries,
        fractions,
        seed=options.seed,
        shards=options.shards,
        shard_bytes=options.shard_size_mb * 10**6,
    )
    with terminal.progress("writing", len(entries)) as advance:
        return tuple(shards.write(result, job, runner, plans, advance))


def _describe(
    selection: Selection,
    entries: list[Entry],
    written: tuple[Shard, ...],
    classes: tuple[str, ...],
    fractions: dict[str, float],
) -> dict:
    """Returns the fields of the manifest that say what came of the images."""
    records = collections.Counter((entry.split, entry.text) for entry in entries)
    copies = collections.Counter((entry.split, entry.text) for entry in entries if entry.copy)
    folds = collections.Counter((entry.fold, entry.text) for entry in entries if not entry.copy)
    converted = collections.Counter(found.converted for found in selection.found)
    del converted[""]

    def table(counts: collections.Counter, rows: Iterable) -> dict[str, dict[str, int]]:
        return {str(row): {name: counts[row, name] for name in classes} for row in rows}

    return {
        "classes": classes,
        "splits": table(records, fractions),
        "accepted": len(selection.found),
        "converted": dict(sorted(converted.items())),
        "rejected": dict(sorted(collections.Counter(r.reason for r in selection.rejects).items())),
        "fingerprint": _digest(
            sorted(f"{e.found.sha256} {e.text} {e.split} {e.fold} {e.copy}" for e in entries)
        ),
        "mean_record_bytes": sum(shard.bytes for shard in written) / len(entries),
        "shards": written,
        "copies": table(copies, sorted({split for split, _ in copies})),
        "folds": table(folds, sorted({fold for fold, _ in folds} - {-1})),
        "duplicates": duplicates.count(selection.duplicates),
        "statistics": statistics.describe(selection.found, selection.labels),
    }


def _show(built: manifest.Manifest, out: str) -> None:
    rows = [
        [name, *counts, sum(counts)]
        for name in built.classes
        for counts in [[built.splits[split][name] for split in built.splits]]
    ]
    if len(rows) > _TABLE_ROWS:
        rows = [*rows[:_TABLE_ROWS], [f"({len(rows) - _TABLE_ROWS} more)"]]
    rows.append(["all", *(built.count(split) for split in built.splits), built.count()])
    terminal.show_table(f"Records in {out}", ["class", *built.splits, "all"], rows)
    terminal.say(
        f"{len(built.shards)} shards are in {out}; next:"
        f" python -m tfpipe.train --records={out} --run_dir=runs/NAME"
    )


def _judge_rejects(options: Options, out: pathlib.Path) -> None:
    """Tells of rejected files; more images than --max_rejects are an error, also in a later run."""
    lost = rejects.load(out)
    path = os.path.join(options.out, rejects.REJECTS)
    others = sum(reject.reason == rejects.NOT_AN_IMAGE_NAME for reject in lost)
    if others:
        are = "file is" if others == 1 else "files are"
        terminal.say(f"{others} other {are} no image; {path} lists them")
    chosen = sum(reject.reason in CHOSEN for reject in lost)
    if chosen:
        were = "image was" if chosen == 1 else "images were"
        terminal.say(f"{chosen} good {were} left out as asked; {path} lists them")
    images = [r for r in lost if r.reason not in (rejects.NOT_AN_IMAGE_NAME, *CHOSEN)]
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
