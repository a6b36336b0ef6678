"""Build a data set: from sources to the folder that is published."""

import collections
import contextlib
import dataclasses
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

import tfpipe
from tfpipe import screens, sources
from tfpipe.building import build_options, catalog, exclude, notes, shards, splits, statistics, work
from tfpipe.building.build_options import Options
from tfpipe.building.catalog import Catalog
from tfpipe.building.job import Job, Runner
from tfpipe.building.scan import scan
from tfpipe.building.selection import SCREENED, Selection
from tfpipe.building.splits import SplitPlan
from tfpipe.building.workers import Pool, start_early
from tfpipe.core import remote, storage, terminal
from tfpipe.core.cores import cores
from tfpipe.images import duplicates
from tfpipe.images import store as stores
from tfpipe.images.image_table import DIGEST, ImageTable, to_hex
from tfpipe.records import class_counts, manifest, rejects, tfds
from tfpipe.records.class_counts import RecordKind
from tfpipe.records.label_set import MANY, ONE
from tfpipe.records.manifest import Manifest, Shard
from tfpipe.reporting import dataset_report as report
from tfpipe.sources import class_order, labels


def build(options: Options) -> tuple[remote.Path, bool]:
    """Build a data set, unless it is up to date.

    Args:
        options: what to build; all of them are checked before anything is written.

    Returns:
        The folder of the data set, and whether it is new.

    Raises:
        UserError: an option is wrong, there is nothing to build, or nothing can be written.
    """
    if isinstance(options.source, str):  # one source, not one for each of its characters
        options = dataclasses.replace(options, source=(options.source,))
    build_options.check(options)
    open_runner = _choose_runner(options)
    opened = sources.open_sources(options.source, options, options.columns)
    out = work.check_out(options.out, options.source)
    excluded = exclude.load(options.exclude) if options.exclude else ()
    fingerprint = _fingerprint(options, opened, excluded)
    named = class_order.parse(options.classes)
    files = catalog.read(
        opened,
        options.labels,
        options.columns,
        excluded=excluded,
        exclude_path=options.exclude,
        classes=named,
        ask_splits=options.splits == splits.AUTO,
    )
    many = build_options.has_sets(options, files)
    plan = splits.plan(options.splits, files.split_counts, options.folds)
    classes = class_order.order(files.class_counts, named)
    arguments = build_options.arguments(options, plan)
    key = _digest([fingerprint, repr(arguments), tfpipe.__version__])
    if work.finish(out, key):
        return out, True
    if manifest.is_current(
        out,
        build_options.deciding(options, plan),
        fingerprint,
        replace=options.overwrite,
        defaults=build_options.defaults(),
    ):
        notes.check_classes(manifest.load(out), classes)
        terminal.say(f"{options.out} is up to date: it was built from these images and options")
        work.remove_leftovers(out)
        return out, False
    notes.tell(files, plan, classes, named)
    prepared = screens.prepare(options, classes)
    store = stores.parse(options.store, options.jpeg_quality, options.depth16)
    with work.open_work(out, key) as folder:
        job = Job(opened, str(folder), store, options.seed, classes)
        with open_runner(job) as runner:
            _Build(options, files, classes, many, plan, prepared, fingerprint, job, runner).run()
        work.publish(folder, out)
    return out, True


def _choose_runner(options: Options) -> Callable[[Job], AbstractContextManager[Runner]]:
    """Return a function from a job to what runs its tasks."""
    if options.runner == "local":
        start_early()
        return lambda job: Pool(job, options.workers or cores())
    from tfpipe.building import beam  # here, because Beam takes seconds to import

    flags = beam.parse(options.beam_args, options.workers)
    return lambda job: contextlib.nullcontext(beam.BeamRunner(job, flags))


def _fingerprint(
    options: Options, opened: Sequence[sources.Source], excluded: Sequence[str]
) -> str:
    """Return a digest that changes when the images or lists do."""
    return _digest(_fingerprints(options, opened, excluded))


def _fingerprints(
    options: Options, opened: Sequence[sources.Source], excluded: Sequence[str]
) -> Iterator[str]:
    """Yield what changes when the images or lists do."""
    for source in opened:
        yield source.fingerprint()
    for source in opened:
        said = source.annotations(options.columns)
        yield repr([(name, said[name].group) for name in sorted(said) if said[name].group])
        # Added only where there are any: a data set of an older version stays current.
        for name in sorted(said):
            if said[name].label or said[name].split:
                yield repr((name, *said[name]))
    yield labels.fingerprint(options.labels)
    if options.exclude:
        yield repr(excluded)
    for path in (options.screen_model, options.screen_weights) if options.screens else ():
        if os.path.isfile(path):  # not the name of a model
            yield repr((os.path.getsize(path), os.stat(path).st_mtime_ns))


def _digest(lines: Iterable[str]) -> str:
    """Return the SHA-256 of lines, in hexadecimal digits."""
    digest = hashlib.sha256()
    for number, line in enumerate(lines):
        digest.update(("\n" * bool(number) + line).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _sorted_lines(examples: ImageTable) -> Iterator[str]:
    """Yield a line for each example, sorted; only a part of them is in memory at once."""
    digits = np.frombuffer(examples.rows["sha256"].tobytes(), np.uint8)[:: DIGEST.itemsize] >> 4
    for digit in range(16):
        part = examples.take(digits == digit)
        columns = (part.texts("label"), part.texts("split"), part.rows["fold"], part.rows["copy"])
        rows = zip(map(to_hex, part.rows["sha256"]), *columns, strict=True)
        yield from sorted(
            f"{sha} {text} {split} {fold} {copy}" for sha, text, split, fold, copy in rows
        )


@dataclasses.dataclass(frozen=True)
class _Build:
    """A build in its work folder.

    Attributes:
        options: the options.
        files: the files, not yet read.
        classes: in the order of their numbers.
        many: whether an image may have several classes, or none.
        plan: the splits.
        prepared: the screens.
        fingerprint: hex digest of the inputs, for the manifest.
        job: the settings of the tasks.
        runner: runs the tasks.
    """

    options: Options
    files: Catalog
    classes: tuple[str, ...]
    many: bool
    plan: SplitPlan
    prepared: list[screens.Screen]
    fingerprint: str
    job: Job
    runner: Runner

    @property
    def _result(self) -> remote.Path:
        return remote.to_path(self.job.work) / "result"

    def run(self) -> None:
        """Do all steps that are not done yet.

        Raises:
            UserError: a class or split would be empty, or nothing can be written.
        """
        with terminal.progress("checking", len(self.files.images)) as advance:
            images, rejected = scan(
                self.job, self.runner, self.files.images, advance, self.options.max_rejects
            )
        selection = Selection(
            self.files, images, [*self.files.rejects, *rejected], keep_splits=self.plan.keeps
        )
        selection.find_duplicates(self.options.duplicates)
        self.files.check_no_class_is_lost(images.texts("label"), selection.rejects)
        suspects = self._screen(selection) if self.prepared else {}
        self.files.check_no_class_is_lost(selection.labels, selection.rejects)
        examples = selection.assign(
            self.plan,
            folds=self.options.folds,
            rebalance=self.options.rebalance,
            seed=self.options.seed,
        )
        there = set(examples.texts("split"))
        names = [name for name in self.plan.names if name in there]
        plans = shards.plan(
            examples,
            names,
            seed=self.options.seed,
            shards=self.options.shards,
            shard_bytes=self.options.shard_size_mb * 10**6,
        )
        with terminal.progress("writing", len(examples)) as advance:
            written = tuple(shards.write(self._result, self.job, self.runner, plans, advance))
        rejects.save(self._result / rejects.REJECTS, selection.rejects)
        duplicates.save(self._result / duplicates.DUPLICATES, selection.duplicates)
        described = Manifest(
            arguments=build_options.arguments(self.options, self.plan),
            input_fingerprint=self.fingerprint,
            screens=suspects,
            **self._describe(selection, examples, written, names),
        )
        if self.options.report:
            report.save(
                self._result,
                described,
                selection.images,
                selection.shown_labels,
                selection.rejects,
                members=selection.duplicates,
            )
        if self.job.store.form != stores.RAW:
            tfds.save(self._result, described)
        others = {*storage.names_in(self._result)} - {shard.name for shard in written}
        files = tuple(sorted(others - {manifest.MANIFEST}))
        dataclasses.replace(described, files=files).save(self._result)

    def _screen(self, selection: Selection) -> dict[str, int]:
        """Run the screens, drop what they list if asked, and return the number that each lists."""
        images = screens.ScreenedImages(
            found=selection.images,
            paths=[selection.path(i) for i in range(len(selection.images))],
            labels=[self.classes.index(label) for label in selection.labels],
            classes=self.classes,
            read=lambda index: shards.read_encoded(self.job, images.found[index]),
            cache=remote.to_path(self.options.screen_cache or self.job.work),
            groups=selection.clusters,
        )
        listed = screens.run(self.prepared, images, self.options.screen_action, self._result)
        if self.options.screen_action == screens.DROP:
            reasons = {
                suspect.index: f"screen {name}: {suspect.reason}"
                for name, suspects in listed.items()
                for suspect in suspects
            }
            selection.drop(reasons, SCREENED, list(reasons.values()))
        return {name: len(suspects) for name, suspects in listed.items()}

    def _describe(
        self,
        selection: Selection,
        examples: ImageTable,
        written: tuple[Shard, ...],
        names: Sequence[str],
    ) -> dict[str, Any]:
        """Return the fields of the manifest that describe the result."""
        is_copy = (examples.rows["copy"] > 0).tolist()
        columns = (examples.texts("split"), examples.texts("label"), examples.rows["fold"].tolist())
        kinds = collections.Counter(
            itertools.starmap(RecordKind, zip(*columns, is_copy, strict=True))
        )
        labels = MANY if self.many else ONE
        counted = class_counts.describe(
            kinds, self.classes, names, labels=labels, has_folds=bool(self.options.folds)
        )
        converted = collections.Counter(selection.images.texts("converted"))
        del converted[""]
        rejected = collections.Counter(reject.reason for reject in selection.rejects)

        return {
            "classes": self.classes,
            "labels": labels,
            **counted,
            "accepted": len(examples) - sum(is_copy),
            "converted": dict(sorted(converted.items())),
            "rejected": dict(sorted(rejected.items())),
            "fingerprint": _digest(_sorted_lines(examples)),
            "mean_record_bytes": sum(shard.bytes for shard in written) / len(examples),
            "shards": written,
            "duplicates": duplicates.count(selection.duplicates),
            "statistics": statistics.describe(selection.images, selection.labels),
        }
