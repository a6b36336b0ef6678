"""A data set in the making: from the files of its sources to the folder that is published."""

import collections
import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from tfpipe import screens
from tfpipe.building import balance, shards, splits, statistics, tasks
from tfpipe.building.catalog import Catalog
from tfpipe.building.selection import DUPLICATE_MODES, SCREENED, Selection
from tfpipe.building.survey import Runner, survey
from tfpipe.building.tasks import Entry, Job
from tfpipe.building.workers import Pool, start_early
from tfpipe.core import remote, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.images import duplicates
from tfpipe.images import store as stores
from tfpipe.records import manifest, rejects
from tfpipe.records.manifest import Manifest, Shard
from tfpipe.reporting import dataset_report as report


@dataclasses.dataclass(frozen=True)
class _Options:
    """The flags of a build, but for those of the screens."""

    source: tuple[str, ...] = option(
        "a folder, zip or tar archive of images, a list of images and labels (.csv with the columns"
        " path,label or .jsonl), or a folder of TFRecords; or a URL, as gs://bucket/folder; several"
        " add up"
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
    runner: str = option(
        "what runs the work: local (processes here, with bounded memory and time for each image),"
        " or beam (Apache Beam, also on many machines, without these bounds)",
        "local",
        choices=("local", "beam"),
    )
    beam_args: str = option(
        "flags of Beam in one string, as in --beam_args='--runner=FlinkRunner --parallelism=64';"
        " empty for --workers processes here",
        "",
    )
    max_rejects: int = option("rejected images that are no failure", 0)
    report: bool = option("write report.html, a page about the images, with plots", True)
    overwrite: bool = option("replace the data set that is in --out", False)
    quiet: bool = option("print nothing but warnings and errors", False)


@dataclasses.dataclass(frozen=True)
class Options(screens.Options, _Options):
    """The flags of a build."""


# Flags that decide where and how the work is done, but not what comes of it.
_NO_ARGUMENTS = (
    "out",
    "workers",
    "runner",
    "beam_args",
    "screen_cache",
    "max_rejects",
    "overwrite",
    "quiet",
)


def arguments(options: Options) -> dict[str, Any]:
    """Returns the flags that decide the contents: those by which a data set is current or not."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(options).items()
        if name not in _NO_ARGUMENTS
    }


def digest(lines: Iterable[str]) -> str:
    """Returns the SHA-256 of lines, in hexadecimal digits."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def choose_runner(options: Options) -> Callable[[Job], AbstractContextManager[Runner]]:
    """Returns what makes the runner that --runner names."""
    if options.runner == "local":
        if options.beam_args:
            raise UserError("--beam_args is for --runner=beam only: give both, or none", status=2)
        start_early()
        return lambda job: Pool(job, options.workers or os.cpu_count() or 1)
    from tfpipe.building import beam  # here, because Beam takes seconds to start

    flags = beam.parse(options.beam_args, options.workers)
    return lambda job: contextlib.nullcontext(beam.Runner(job, flags))


@dataclasses.dataclass(frozen=True)
class Build:
    """Makes a data set in the work folder of a job.

    Attributes:
        options: the flags.
        files: the images, not yet looked into.
        classes: in the order of their numbers.
        prepared: the screens.
        fingerprint: hex digest of the inputs, for the manifest.
        job: where to, and how.
        runner: runs the tasks.
    """

    options: Options
    files: Catalog
    classes: tuple[str, ...]
    prepared: list[screens.Screen]
    fingerprint: str
    job: Job
    runner: Runner

    @property
    def _result(self) -> remote.Path:
        return remote.to_path(self.job.work) / "result"

    def run(self) -> None:
        """Does all that is not done yet.

        Raises:
            UserError: nothing would be left of a class or for a split, or nothing can be written.
        """
        with terminal.progress("checking", len(self.files.items)) as advance:
            found, lost = survey(self.job, self.runner, self.files.items, advance)
        selection = Selection(self.files, found, [*self.files.rejects, *lost])
        if self.options.exclude:
            selection.exclude(self.options.exclude)
        selection.find_duplicates(self.options.duplicates)
        self.files.check_no_class_is_lost((each.item for each in found), selection.rejects)
        suspects = self._screen(selection) if self.prepared else {}
        kept = (each.item for each in selection.found)
        self.files.check_no_class_is_lost(kept, selection.rejects)
        fractions = splits.parse(self.options.splits)
        entries = selection.assign(
            self.classes,
            fractions,
            folds=self.options.folds,
            rebalance=self.options.rebalance,
            seed=self.options.seed,
        )
        written = self._write(entries, fractions)
        rejects.save(self._result / rejects.REJECTS, selection.rejects)
        duplicates.save(self._result / duplicates.DUPLICATES, selection.duplicates)
        described = Manifest(
            arguments=arguments(self.options),
            input_fingerprint=self.fingerprint,
            screens=suspects,
            **self._describe(selection, entries, written, fractions),
        )
        if self.options.report:
            report.save(
                self._result,
                described,
                selection.found,
                selection.labels,
                selection.rejects,
                members=selection.duplicates,
            )
        others = {*storage.names_in(self._result)} - {shard.name for shard in written}
        files = tuple(sorted(others - {manifest.MANIFEST}))
        dataclasses.replace(described, files=files).save(self._result)

    def _screen(self, selection: Selection) -> dict[str, int]:
        """Runs the screens and leaves out what they list, if so asked; returns how many that is."""
        images = screens.Images(
            found=selection.found,
            paths=selection.paths,
            labels=[self.classes.index(label) for label in selection.labels],
            classes=self.classes,
            read=lambda index: tasks.read_encoded(self.job, images.found[index]),
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

    def _write(self, entries: list[Entry], fractions: dict[str, float]) -> tuple[Shard, ...]:
        """Writes the shards."""
        plans = shards.plan(
            entries,
            fractions,
            seed=self.options.seed,
            shards=self.options.shards,
            shard_bytes=self.options.shard_size_mb * 10**6,
        )
        # Data that are not on this machine, or not to be worked on here, do not pass through it.
        whole = self.options.runner == "beam" or remote.is_remote(self.job.work)
        with terminal.progress("writing", len(entries)) as advance:
            return tuple(
                shards.write(self._result, self.job, self.runner, plans, advance, whole=whole)
            )

    def _describe(
        self,
        selection: Selection,
        entries: list[Entry],
        written: tuple[Shard, ...],
        fractions: dict[str, float],
    ) -> dict[str, Any]:
        """Returns the fields of the manifest that say what came of the images."""
        records = collections.Counter((entry.split, entry.text) for entry in entries)
        copies = collections.Counter((entry.split, entry.text) for entry in entries if entry.copy)
        folds = collections.Counter((entry.fold, entry.text) for entry in entries if not entry.copy)
        converted = collections.Counter(found.converted for found in selection.found)
        del converted[""]
        rejected = collections.Counter(reject.reason for reject in selection.rejects)

        def table(counts: collections.Counter, rows: Iterable) -> dict[str, dict[str, int]]:
            return {str(row): {name: counts[row, name] for name in self.classes} for row in rows}

        return {
            "classes": self.classes,
            "splits": table(records, fractions),
            "accepted": len(entries) - sum(copies.values()),
            "converted": dict(sorted(converted.items())),
            "rejected": dict(sorted(rejected.items())),
            "fingerprint": digest(
                sorted(f"{e.found.sha256} {e.text} {e.split} {e.fold} {e.copy}" for e in entries)
            ),
            "mean_record_bytes": sum(shard.bytes for shard in written) / len(entries),
            "shards": written,
            "copies": table(copies, sorted({split for split, _ in copies})),
            "folds": table(folds, sorted({fold for fold, _ in folds} - {-1})),
            "duplicates": duplicates.count(selection.duplicates),
            "statistics": statistics.describe(selection.found, selection.labels),
        }
