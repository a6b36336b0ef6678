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

import os
import pathlib

import tfpipe
from tfpipe import screens, sources
from tfpipe.building import catalog, exclude, splits
from tfpipe.building.builder import Build, Options, arguments, choose_runner, digest
from tfpipe.building.selection import CHOSEN
from tfpipe.building.tasks import Job
from tfpipe.building.work import finish, open_work, publish, remove_leftovers
from tfpipe.core import cli, remote, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.images import store as stores
from tfpipe.records import manifest, rejects
from tfpipe.sources import labels

TOO_MANY_REJECTS = 3  # exit status

_TABLE_ROWS = 20  # classes shown at the end; the manifest has them all


def main(options: Options) -> None:
    """Builds the data set, unless it is there already."""
    terminal.be_quiet(options.quiet)
    _check_ranges(options)
    splits.parse(options.splits)
    splits.check_folds(options.folds)
    labels.check(options.labels)
    store = stores.parse(options.store, options.jpeg_quality)
    open_runner = choose_runner(options)
    opened = [sources.open_source(path) for path in options.source]
    _check_out(options)
    out = remote.to_path(options.out)
    if not remote.is_remote(out) and out.is_symlink():
        out = out.resolve()  # the link stays, what it leads to is written
    given, fingerprint = arguments(options), _fingerprint(options, opened)
    key = digest([fingerprint, repr(given), tfpipe.__version__])
    if finish(out, key):
        _show(manifest.load(out), options.out)
    elif manifest.is_current(out, given, fingerprint, replace=options.overwrite):
        terminal.say(f"{options.out} is up to date: it was built from these images and options")
        remove_leftovers(out)
    else:
        files = catalog.read(opened, options.labels, options.group_column)
        classes = labels.order(files.label_of.values(), options.classes)
        prepared = screens.prepare(options, classes)
        with open_work(out, key) as work:
            job = Job(tuple(opened), str(work), store, options.seed)
            with open_runner(job) as runner:
                Build(options, files, classes, prepared, fingerprint, job, runner).run()
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
    return digest(parts)


def _check_ranges(options: Options) -> None:
    for name, least in {"shards": 0, "shard_size_mb": 1, "workers": 0, "max_rejects": 0}.items():
        value = getattr(options, name)
        if value < least:
            raise UserError(f"--{name}={value} is too small; {least} is the least", status=2)


def _check_out(options: Options) -> None:
    """Checks, before hours of work, that --out is no part of a source and may be written."""
    if remote.is_remote(options.out):
        _check_remote_out(options)
        return
    out = pathlib.Path(os.path.realpath(options.out))
    for source in options.source:
        if out.is_relative_to(os.path.realpath(source)):
            raise _inside(options.out, source)
    parent = next((path for path in out.parents if path.exists()), out)
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise UserError(
            f"--out={options.out}: nothing can be written to {parent}: name a folder elsewhere"
        )


def _inside(out: str, source: str) -> UserError:
    return UserError(
        f"--out={out} lies in --source={source}, where it would be taken for input the next time:"
        " name a folder elsewhere"
    )


def _check_remote_out(options: Options) -> None:
    out = remote.to_path(options.out)
    if not out.name or out.parent.endswith("/"):
        raise UserError(f"--out={options.out} is no folder: name one, as in gs://bucket/folder")
    for source in options.source:
        if out.startswith(f"{source.rstrip('/')}/"):
            raise _inside(options.out, source)
    try:
        storage.exists(out)
    except OSError as error:
        raise UserError(
            f"--out={options.out} cannot be reached ({error.strerror}): name another folder"
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
    terminal.show_table(f"Records in {out}", ["class", *built.splits, "all"], rows)
    terminal.say(
        f"{len(built.shards)} shards are in {out}; next:"
        f" python -m tfpipe.train --records={out} --run_dir=runs/NAME"
    )


def _judge_rejects(options: Options, out: remote.Path) -> None:
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


if __name__ == "__main__":
    cli.run(main, Options)
