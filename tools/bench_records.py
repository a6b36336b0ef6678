"""Measures how near `tfpipe.build_records` comes to libjpeg-turbo, which only decodes the images.

    python tools/bench_records.py --source=train.zip [--counts=1000,8000] [--json=FILE]

A build decodes every image completely, hashes it, looks for exact and near duplicates and writes
records; the limit is the same number of processes that call `simplejpeg.decode_jpeg` and nothing
else. Each round runs these commands, one after the other, after a first one that fills the page
cache:

    build      `python -m tfpipe.build_records --noreport`
    read       reads the files, as a build does, and decodes them
    decode     reads them into memory first, which is not timed, and decodes them
    start-up   a build of a few of the images
    scaling    builds of the first --counts images of all classes in turn

A command's time includes its start. "Further images" are without it: of a build, those that it has
more than start-up, in the time that it takes more; of a limit, all of them, from when every process
is ready until the last is done. Files that `decode_jpeg` refuses are left out of the limits.
"""

import contextlib
import csv
import dataclasses
import json
import multiprocessing
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import PIL
import simplejpeg

from tfpipe import sources
from tfpipe.building import catalog
from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option
from tfpipe.images.image_info import ImageRef

LIMITS = ("read", "decode")
STARTUP_IMAGES = 16
# By their depth in the tree of processes: the command, what forks its workers, and those.
ROLES = ("command", "server", "worker")

_CHUNK = 16  # images that a process of a limit takes at once
_WATCH_S = 0.02


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    source: tuple[str, ...] = option("as of tfpipe.build_records")
    workers: int = option("processes that decode", 2)
    rounds: int = option("measurements of each kind", 5)
    counts: str = option("numbers of images for scaling, as in 1000,8000; empty for none", "")
    json: str = option("file for the figures; empty for none", "")
    work: str = option("folder for temporary files; empty for the system's", "")
    child: str = option("used by the command itself: a limit", "", choices=("", *LIMITS))


def main(options: Options) -> None:
    """Prints tables of medians and ratios."""
    if options.workers < 1 or options.rounds < 1:
        raise UserError("--workers and --rounds must be at least 1", status=2)
    if options.child:
        print(json.dumps(limit(options.child, options.source, options.workers)))
        return
    counts = _parse(options.counts)
    with tempfile.TemporaryDirectory(dir=options.work or None) as work:
        bench = Bench(options, pathlib.Path(work), counts)
        bench.limit("read")
        rounds = []
        with terminal.progress("measuring", options.rounds, "rounds") as advance:
            for _ in range(options.rounds):
                rounds.append(bench.round())
                advance()
    summary = medians([figures(each) for each in rounds])
    _show(summary, options.rounds)
    if options.json:
        about = {
            "options": dataclasses.asdict(options),
            "machine": _machine(),
            "versions": _versions(),
        }
        storage.write_json(options.json, about | summary | {"rounds": rounds})


def _parse(counts: str) -> list[int]:
    if not re.fullmatch(r"(\d+(,\d+)*)?", counts):
        raise UserError(f"--counts={counts!r}: write numbers, as in 1000,8000", status=2)
    return sorted({int(part) for part in counts.split(",") if part})


class Bench:
    """What is measured of some images."""

    def __init__(self, options: Options, work: pathlib.Path, counts: Sequence[int]):
        """Lists the images; as many as `counts` needs are copied out of an archive."""
        self._options, self._work = options, work
        opened = [sources.open_source(path) for path in options.source]
        files = catalog.read(opened, "auto", "")
        self._images = len(files.refs)
        self._counts = sorted({min(count, self._images) for count in counts})
        by_class: dict[str, list[ImageRef]] = {}
        for item in files.refs:
            by_class.setdefault(files.label_of[item], []).append(item)
        # The classes in turn, so that the first few images are of all of them.
        ranked = [(rank, item) for items in by_class.values() for rank, item in enumerate(items)]
        chosen = [item for _, item in sorted(ranked)][: max(STARTUP_IMAGES, *self._counts, 0)]
        self._rows = [(self._path(opened, item), files.label_of[item]) for item in chosen]

    def round(self) -> dict:
        """Runs everything once; returns what was measured of each command."""
        return {
            "build": self.build(self._options.source, self._images),
            "read": self.limit("read"),
            "decode": self.limit("decode"),
            "startup": self.build_first(STARTUP_IMAGES),
            "scaling": [self.build_first(count) for count in self._counts],
        }

    def limit(self, kind: str) -> dict:
        """Runs one of `LIMITS`."""
        command = [
            sys.executable,
            __file__,
            f"--child={kind}",
            f"--workers={self._options.workers}",
        ]
        output, figures = _run([*command, *(f"--source={path}" for path in self._options.source)])
        return figures | json.loads(output)

    def build_first(self, count: int) -> dict:
        """Builds records of the first images."""
        rows = self._rows[:count]
        path = self._work / f"first-{count}.csv"
        with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            csv.writer(file).writerows([("path", "label"), *rows])
        return self.build([str(path)], len(rows))

    def build(self, paths: Iterable[str], images: int) -> dict:
        """Builds records of all images in some sources."""
        command = [sys.executable, "-m", "tfpipe.build_records", "--noreport", "--quiet"]
        command += [f"--source={path}" for path in paths]
        command += [f"--workers={self._options.workers}", f"--max_rejects={images}"]
        with tempfile.TemporaryDirectory(dir=self._work) as folder:
            _, figures = _run([*command, f"--out={folder}/records"])
        return {"images": images} | figures

    def _path(self, opened: Sequence[sources.Source], item: ImageRef) -> str:
        """Returns the path of an image's file, which is made if the image lies in an archive."""
        path = pathlib.Path(opened[item.source].locate(item.name)).absolute()
        if not path.is_file():
            path = self._work / "images" / str(item.source) / item.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_read(opened[item.source], item.name))
        return str(path)


def limit(kind: str, paths: Sequence[str], workers: int) -> dict:
    """Decodes all files of some sources.

    Args:
        kind: one of `LIMITS`.
        paths: the sources.
        workers: the number of processes.

    Returns:
        How many `images` were decoded and how many `left_out`, and the `seconds` from when all
        processes have opened the sources, or have the files in memory, until the last is done.
    """
    opened = [sources.open_source(path) for path in paths]
    names = [(i, name) for i, source in enumerate(opened) for name in source.names()]
    files = [_read(opened[i], name) for i, name in names] if kind == "decode" else None
    # Forked, so that the files in memory are shared; this process has no threads of its own.
    context = multiprocessing.get_context("fork")
    ready, taken, results = context.Barrier(workers), context.Value("q"), context.SimpleQueue()

    def work() -> None:
        # Not those of the parent: the position in an archive would be shared.
        own = [sources.open_source(path) for path in paths] if files is None else []
        images = 0
        ready.wait()
        start = time.monotonic()
        while True:
            with taken.get_lock():
                first = taken.value
                taken.value += _CHUNK
            if first >= len(names):
                break
            for n in range(first, min(first + _CHUNK, len(names))):
                data = _read(own[names[n][0]], names[n][1]) if files is None else files[n]
                with contextlib.suppress(ValueError):
                    simplejpeg.decode_jpeg(data)
                    images += 1
        results.put((start, time.monotonic(), images))

    processes = [context.Process(target=work) for _ in range(workers)]
    for process in processes:
        process.start()
    starts, ends, images = zip(*(results.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    left_out = len(names) - sum(images)
    return {"images": sum(images), "left_out": left_out, "seconds": max(ends) - min(starts)}


def _read(source: sources.Source, name: str) -> bytes:
    try:
        return source.read(name)
    except sources.Rejected:
        return b""  # which is no image either


def _run(command: Sequence[str]) -> tuple[str, dict]:
    """Returns what a command prints, its wall time `command_s` and its `peak_mb` by `ROLES`."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=output, stderr=errors)
        with _watched(process.pid) as peak_mb:
            status = process.wait()
            seconds = time.monotonic() - start
        for stream in (output, errors):
            stream.seek(0)
        if status:
            raise UserError(f"{' '.join(command[1:4])} failed: {errors.read().strip()[-500:]}")
        return output.read(), {"command_s": seconds, "peak_mb": peak_mb}


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[dict[str, float]]:
    """Yields the largest peak resident MB of each of `ROLES`, kept up to date in the block."""
    peak_mb: dict[str, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_WATCH_S):
            for depth, peak in _peaks(pid):
                role = ROLES[min(depth, len(ROLES) - 1)]
                peak_mb[role] = max(peak_mb.get(role, 0.0), peak)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak_mb
    finally:
        ended.set()
        thread.join()


def _peaks(pid: int, depth: int = 0) -> Iterator[tuple[int, float]]:
    """Yields depth and peak resident MB of a process and of those below it; see man 5 proc."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        threads = pathlib.Path(f"/proc/{pid}/task").iterdir()
        children = [int(c) for each in threads for c in (each / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # it has ended
        return
    if peak := re.search(r"VmHWM:\s*(\d+) kB", status):
        yield depth, int(peak[1]) * 1024 / 10**6
    for child in children:
        yield from _peaks(child, depth + 1)


def figures(measured: dict) -> dict:
    """Returns what the measurements of one round say.

    Args:
        measured: as from `Bench.round`.

    Returns:
        `images_per_s` of commands and of further images; `ratios`, the build's to the limits'; and
        `scaling`, for each number of images. What is of further images is None where a build took
        no longer than start-up.
    """
    build, read, decode = (measured[kind] for kind in ("build", *LIMITS))
    command = {
        kind: measured[kind]["images"] / measured[kind]["command_s"] for kind in ("build", "read")
    }
    further_ms = _further_ms(build, measured["startup"])
    further = {
        "build": further_ms and 1000 / further_ms,
        "read": read["images"] / read["seconds"],
        "decode": decode["images"] / decode["seconds"],
    }
    return {
        "images": build["images"],
        "left_out": read["left_out"],
        "images_per_s": {"command": command, "further": further},
        "ratios": {
            "command": {"read": command["build"] / command["read"]},
            "further": {
                kind: further["build"] and further["build"] / further[kind] for kind in LIMITS
            },
        },
        "scaling": [
            each | {"further_ms": _further_ms(each, measured["startup"])}
            for each in measured["scaling"]
        ],
    }


def _further_ms(build: dict, startup: dict) -> float | None:
    seconds, images = (build[key] - startup[key] for key in ("command_s", "images"))
    return 1000 * seconds / images if seconds > 0 and images > 0 else None


def medians(rounds: Sequence[Any]) -> Any:
    """Returns the median of each number in equally shaped values, over those that are not None."""
    first = rounds[0]
    if isinstance(first, dict):
        return {key: medians([each[key] for each in rounds]) for key in first}
    if isinstance(first, list):
        return [medians(each) for each in zip(*rounds, strict=True)]
    if isinstance(first, int):  # a number of images, the same in every round
        return first
    known = [each for each in rounds if each is not None]
    return statistics.median(known) if known else None


def _show(summary: dict, rounds: int) -> None:
    def cells(values: dict, keys: Sequence[str], digits: int) -> list[str]:
        known = [values.get(key) for key in keys]
        return ["" if value is None else f"{value:,.{digits}f}" for value in known]

    columns = ("build", *LIMITS)
    rows = [
        [f"{name}, images/s", *cells(summary["images_per_s"][name], columns, 0)]
        for name in ("command", "further")
    ]
    rows += [
        [f"{name}, build / limit", *cells(summary["ratios"][name], columns, 2)]
        for name in ("command", "further")
    ]
    title = f"{summary['images']:,} images, {summary['left_out']} of them not in the limits"
    terminal.show_table(f"{title}; medians of {rounds} rounds", ["", *columns], rows)
    rows = [
        [
            f"{each['images']:,} images",
            *cells(each, ["command_s"], 2),
            *cells(each, ["further_ms"], 3),
            *cells(each["peak_mb"], ROLES, 1),
        ]
        for each in summary["scaling"]
    ]
    if rows:
        columns = ["build of", "s", "ms each further", *(f"{role} MB" for role in ROLES)]
        terminal.show_table("Scaling, peak resident memory", columns, rows)


def _machine() -> dict:
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": platform.platform(),
    }


def _versions() -> dict:
    # No function tells which libjpeg-turbo simplejpeg was linked with, but its name is in there.
    library = pathlib.Path(simplejpeg._jpeg.__file__).read_bytes()
    turbo = re.search(rb"libjpeg-turbo version ([\d.]+)", library)
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "simplejpeg": simplejpeg.__version__,
        "libjpeg-turbo": turbo[1].decode() if turbo else "",
    }


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
