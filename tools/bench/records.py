"""Measures how near `tfpipe.build_records` comes to libjpeg-turbo, which only decodes the images.

    python -m tools.bench.records --source=train.zip [--json=FILE]

A build decodes every image completely, hashes it, looks for exact and near duplicates and writes
records; a limit is the same number of processes that call `simplejpeg.decode_jpeg` only.

    limit-reading   reads each file as a build does, and decodes it
    limit-memory    has the files in memory before the time starts
    build           `python -m tfpipe.build_records --noreport`

The figure images/s is without the start: of a limit from when every process is ready until the last
one is done; of a build the images beyond those of a build of 16, in the time beyond that build's.
"""

import contextlib
import functools
import multiprocessing
import pathlib
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence

from tools.bench import data, harness, report
from tools.bench.harness import Case, Tree
from tools.bench.report import Figures

LIMITS = ("limit-reading", "limit-memory")
STARTUP_IMAGES = 16
WHOLE = "images/s, whole command"
_CHUNK = 16  # images that a process of a limit takes at once
_files: list = []  # contents, or (source, name), which the processes inherit
_readers: list[Callable[[str], bytes]] = []  # of each source


def main() -> int:
    """Print the tables; return the exit status."""
    parser = harness.parser(__doc__)
    add = parser.add_argument
    add("--source", action="append", required=True, help="zip files or folders of images")
    add("--workers", type=int, default=2, help="processes that decode")
    flags = parser.parse_args()
    sources = [str(pathlib.Path(path).resolve()) for path in flags.source]
    count = sum(len(names(source)) for source in sources)
    with harness.session(flags) as session:
        rows = data.in_turn(data.prepare(session, sources))[:STARTUP_IMAGES]
        listed = data.write_list(rows, session.work / "first.csv")

        def limit(tree: Tree, kind: str) -> Figures:
            found = harness.call(tree, "records.limit", kind=kind, sources=sources, **given)
            return {"images/s": found["images/s"], WHOLE: count / found["command s"]}

        def build(tree: Tree) -> Figures:
            with tempfile.TemporaryDirectory(dir=session.work) as folder:
                whole, start = (
                    data.build(tree, which, pathlib.Path(folder, name), **given)
                    for name, which in (("all", sources), ("first", [listed]))
                )
            found, further_s = {}, whole.seconds - start.seconds
            if further_s > 0:
                found["images/s"] = (count - len(rows)) / further_s
            found |= {WHOLE: count / whole.seconds, "start s": start.seconds}
            return found | {"peak MB": whole.peak_mb}

        given = {"workers": flags.workers}
        cases = [Case(kind, functools.partial(limit, kind=kind), ours=False) for kind in LIMITS]
        comparisons = [report.ratio("images/s", "build", kind, least=0.7) for kind in LIMITS]
        return harness.run(session, [*cases, Case("build", build)], LIMITS, comparisons)


def names(source: str) -> list[str]:
    """Return the names of all files of a zip file or a folder, sorted."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            return sorted(each.filename for each in archive.infolist() if not each.is_dir())
    root = pathlib.Path(source)
    if not root.is_dir():
        sys.exit(f"error: --source={source}: it is neither a zip file nor a folder")
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def reader(source: str) -> Callable[[str], bytes]:
    """Return what reads a file of a source by its name."""
    if zipfile.is_zipfile(source):
        return zipfile.ZipFile(source).read
    return lambda name: pathlib.Path(source, name).read_bytes()


def limit(kind: str, sources: Sequence[str], workers: int) -> dict[str, float]:
    """Decode all files of `sources` in `workers` processes; leave out what is no JPEG."""
    _open(sources)
    files: list = [(i, name) for i, source in enumerate(sources) for name in names(source)]
    if kind == "limit-memory":
        files = [_readers[i](name) for i, name in files]
    _files[:] = files
    # Forked, so that the processes share the files in memory.
    with multiprocessing.get_context("fork").Pool(workers, _open, (sources,)) as pool:
        pool.map(time.sleep, [0.2] * workers, chunksize=1)  # until every process is ready
        start = time.monotonic()
        images = sum(pool.imap_unordered(_decode, range(0, len(files), _CHUNK)))
        return {"images/s": images / (time.monotonic() - start)}


def _open(sources: Sequence[str]) -> None:
    """Open the sources anew in each process: those of the parent share their position."""
    _readers[:] = [reader(source) for source in sources]


def _decode(first: int) -> int:
    import simplejpeg

    images = 0
    for file in _files[first : first + _CHUNK]:
        encoded = file if isinstance(file, bytes) else _readers[file[0]](file[1])
        with contextlib.suppress(ValueError):
            simplejpeg.decode_jpeg(encoded)
            images += 1
    return images


if __name__ == "__main__":
    sys.exit(main())
