"""Measures the input pipeline beside libjpeg-turbo, which only decodes, and beside its peers.

    python tools/bench_input.py --source=train.zip [--counts=1000,8000] [--json=FILE]

All get the same images: those that `tfpipe.build_records` accepts, as records in four stores
(original, resized to the model's size at JPEG quality 95 and at 75, raw) and as a folder for each
class. What is measured:

    limit               simplejpeg.decode_jpeg, from memory, a process on each core, fast transform
    STORE-host          batches of the pipeline, which the host resizes
    STORE-device        batches of the pipeline with resize_on=device: the host's part only
    ...-augment         with recipe R3's augmentation on the device, compiled, and for -device the
                        resize; each batch is waited for
    opencv              seed recipe R1's Python generator
    keras-dataset       image_dataset_from_directory
    keras-generator     ImageDataGenerator with recipe R3's augmentation
    pytorch             DataLoader, Pillow
    augment-...         augmentation alone, of a batch in memory: tfpipe's under XLA and without,
                        tfa.image.transform, Keras' random layers
    count-N             original-host with the first N images of --counts, all classes in turn
    memory              what the process of original-host-augment holds after each epoch

Each is a process of its own, which warms up for an epoch and then measures whole epochs (see
`timed` in bench_input_peers.py); each round runs all of them, one after the other. What is
tfpipe's runs as `tfpipe.train` does, with `tfpipe.core.allocator`; peers run as users run them.
A ratio is the median of the rounds' ratios. A peer that is not installed is listed as such;
--peers_python names a Python that has it.
"""

import dataclasses
import fnmatch
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

from tfpipe import sources
from tfpipe.building import catalog
from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

ROOT = pathlib.Path(__file__).resolve().parent.parent


# The flags of `tfpipe.build_records` for each store, whose images have the side that is given.
STORES = {
    "original": ("--store=original",),
    "resized": ("--store=resized:{0}x{0}",),
    "resized75": ("--store=resized:{0}x{0}", "--jpeg_quality=75"),
    "raw": ("--store=raw:{0}",),
}
PIPELINES = tuple(
    f"{store}-{resize_on}{augment}"
    for store in STORES
    for resize_on in ("host", "device")
    for augment in ("", "-augment")
)
LIMIT, MEMORY, COUNT = "limit", "memory", "count-"
PEERS = ("opencv", "keras-dataset", "keras-generator", "pytorch")
INPUTS = (LIMIT, *PEERS)
AUGMENT_PEERS = ("augment-tfa", "augment-keras")
AUGMENT = ("augment-xla", "augment-graph", *AUGMENT_PEERS)


class Target(NamedTuple):
    """The least that the rate of one measurement is to be of another's."""

    name: str
    to: str
    least: float


TARGETS = (
    Target("original-host", LIMIT, 0.55),
    Target("original-device", LIMIT, 0.7),
    Target("resized-host", LIMIT, 1.1),
    Target("resized75-host", LIMIT, 1.1),
    *(
        Target(name, "keras-generator", 10.0)
        for name in ("original-host-augment", "original-device-augment", "resized-host-augment")
    ),
)
# "Constant" and "flat" leave a shared machine's noise that much.
_CONSTANT, _FLAT = 0.9, 1.05


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    source: tuple[str, ...] = option("as of tfpipe.build_records")
    rounds: int = option("measurements of each kind", 3)
    seconds: float = option("how long to measure, after as long or an epoch to warm up", 4.0)
    size: int = option("side of the model's input in pixels", 299)
    batch_size: int = option("images in a batch", 32)
    workers: int = option(
        "processes of the limit and of PyTorch, threads of the pipeline; 0 for one on each core", 0
    )
    only: str = option("what to measure, as in limit,original-*,memory; empty for all", "")
    counts: str = option("numbers of images for count-N, as in 1000,8000; empty for none", "")
    peers_python: str = option("the Python that runs the peers; empty for this one", "")
    json: str = option("file for the figures; empty for none", "")
    work: str = option("folder for temporary files; empty for the system's", "")


def main(options: Options) -> None:
    """Prints tables of medians and ratios."""
    if options.seconds <= 0:
        raise UserError(f"--seconds={options.seconds:g}: it must be above 0", status=2)
    for flag, least in (("rounds", 1), ("size", 1), ("batch_size", 1), ("workers", 0)):
        value = getattr(options, flag)
        if value < least:
            raise UserError(f"--{flag}={value}: it must be at least {least}", status=2)
    options = dataclasses.replace(options, workers=options.workers or _cores())
    names = _names(options)
    with tempfile.TemporaryDirectory(dir=options.work or None) as work:
        bench = Bench(options, pathlib.Path(work).resolve())
        names = [name for name in names if bench.has(name)]
        repeated = [name for name in names if name != MEMORY]
        rounds: list[dict] = [{} for _ in range(options.rounds)]
        total = options.rounds * len(repeated) + (MEMORY in names)
        with terminal.progress("measuring", total, "processes") as advance:
            for measured in rounds:
                for name in repeated:
                    missing = rounds[0].get(name, {}).get("missing")
                    measured[name] = {"missing": missing} if missing else bench.measure(name)
                    advance(note=name)
            memory = bench.measure(MEMORY) if MEMORY in names else {}
    report = {"images": bench.images, "memory": memory} | summary(rounds)
    _show(report, options.rounds)
    if options.json:
        about = {"options": dataclasses.asdict(options), "machine": _machine()}
        storage.write_json(options.json, about | report | {"rounds": rounds})


def _names(options: Options) -> list[str]:
    """Returns the measurements that --only and --counts choose."""
    if not re.fullmatch(r"(\d+(,\d+)*)?", options.counts):
        raise UserError(f"--counts={options.counts!r}: write numbers, as in 1000,8000", status=2)
    counts = sorted({int(part) for part in options.counts.split(",") if part})
    names = [LIMIT, *PIPELINES, *PEERS, *AUGMENT, *(f"{COUNT}{n}" for n in counts), MEMORY]
    patterns = options.only.split(",") if options.only else ["*"]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(
                f"--only: {pattern!r} is none of {', '.join(names)}, and * stands for any letters",
                status=2,
            )
    return [name for name in names if any(fnmatch.fnmatch(name, p) for p in patterns)]


class Bench:
    """Images in all forms, each made when it is first needed, and the processes that read them."""

    def __init__(self, options: Options, work: pathlib.Path):
        """Builds records of the originals, and writes their images into a folder for each class."""
        self._options, self._work = options, work
        self.tree = work / "images"
        records = self._build("original", options.source, "original")
        files = catalog.read([sources.open_source(str(records))], "auto", "")
        rows: dict[str, list[tuple[str, str]]] = {}
        for number, item in enumerate(files.refs):
            label = files.label_of[item]
            data = files.sources[0].read(item.name)
            suffix = "jpg" if data.startswith(b"\xff\xd8") else "png"
            path = self.tree / label / f"{number:08d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            rows.setdefault(label, []).append((str(path), label))
        # The classes in turn, so that the first few images are of all of them.
        ranked = sorted((rank, row) for each in rows.values() for rank, row in enumerate(each))
        self._rows = [row for _, row in ranked]
        self.images = len(self._rows)

    def has(self, name: str) -> bool:
        """Returns whether there are images enough for a measurement, and warns if not."""
        enough = not name.startswith(COUNT) or int(name.removeprefix(COUNT)) <= self.images
        if not enough:
            terminal.warn(f"{name} is left out: --source has {self.images:,} images")
        return enough

    def measure(self, name: str) -> dict:
        """Runs one measurement; returns what its process printed."""
        python, module, path = sys.executable, "bench_input_pipeline", self.tree
        if name in (LIMIT, *PEERS, *AUGMENT_PEERS):
            module = "bench_input_peers"
            if name != LIMIT:  # which is no peer, and simplejpeg is there in any case
                python = self._options.peers_python or python
        elif name not in AUGMENT:
            path = self.records(name)
        flags = ("size", "batch_size", "seconds", "workers")
        command = [python, "-m", f"tools.{module}", f"--name={name}", f"--folder={path}"]
        command += [f"--{flag}={getattr(self._options, flag)}" for flag in flags]
        return json.loads(_output(command).splitlines()[-1])

    def records(self, name: str) -> pathlib.Path:
        """Returns the records for a measurement, which are built if they are not there."""
        store = name if name.startswith(COUNT) else name.partition("-")[0]
        store = "original" if name == MEMORY else store
        folder = self._work / store
        if folder.exists():
            return folder
        if name.startswith(COUNT):
            rows = self._rows[: int(name.removeprefix(COUNT))]
            listed = self._work / f"{name}.jsonl"
            listed.write_text(
                "".join(json.dumps({"path": path, "label": label}) + "\n" for path, label in rows),
                encoding="utf-8",
            )
            return self._build(name, [str(listed)], "original")
        return self._build(store, [str(self.tree)], store)

    def _build(self, name: str, paths: Sequence[str], store: str) -> pathlib.Path:
        folder = self._work / name
        command = [sys.executable, "-m", "tfpipe.build_records", "--noreport", "--quiet"]
        command += [f"--source={path}" for path in paths]
        command += [flag.format(self._options.size) for flag in STORES[store]]
        command += [f"--out={folder}", f"--max_rejects={2**31 - 1}"]
        # One split, and copies are images too.
        _output([*command, "--splits=train:1", "--duplicates=keep"])
        return folder


def _output(command: Sequence[str]) -> str:
    """Returns what a command prints, which is run where `tools` can be imported."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
    except OSError as error:
        raise UserError(f"{command[0]} cannot be run: {error.strerror}") from None
    if done.returncode:
        raise UserError(f"{' '.join(command[1:4])} failed: {done.stderr.strip()[-500:]}")
    return done.stdout


def summary(rounds: Sequence[dict[str, dict]]) -> dict:
    """Returns what the rounds say.

    Args:
        rounds: of each, what every measurement's process printed, by its name.

    Returns:
        `figures` of each measurement: `images_per_s` (median, min, max), `peak_mb` and `versions`,
        or the module that is `missing`. `ratios` of the rates, name / other name: of the pipeline
        and the peers to the limit and to the peers, and of augmentation to its peers. `targets`
        with the `ratio` that was reached. A ratio is None if either was not measured.
    """
    figures = {}
    for name, first in rounds[0].items():
        if "missing" in first:
            figures[name] = {"missing": first["missing"]}
            continue
        rates = [_rate(each, name) for each in rounds]
        figures[name] = {
            "images_per_s": {
                "median": statistics.median(rates),
                "min": min(rates),
                "max": max(rates),
            },
            "peak_mb": statistics.median(each[name]["peak_mb"] for each in rounds),
            "versions": first["versions"],
        }
    ratios = {
        name: {to: ratio(rounds, name, to) for to in (AUGMENT_PEERS if name in AUGMENT else INPUTS)}
        for name in figures
    }
    targets = list(TARGETS)
    counts = [name for name in figures if name.startswith(COUNT)]
    if len(counts) > 1:
        targets.append(Target(counts[-1], counts[0], _CONSTANT))
    targets = [each._asdict() | {"ratio": ratio(rounds, each.name, each.to)} for each in targets]
    return {"figures": figures, "ratios": ratios, "targets": targets}


def ratio(rounds: Sequence[dict[str, dict]], name: str, to: str) -> float | None:
    """Returns the median of the rounds' ratios of two rates; None if either was not measured."""
    pairs = [(_rate(each, name), _rate(each, to)) for each in rounds]
    known = [one / other for one, other in pairs if one and other]
    return statistics.median(known) if known else None


def _rate(measured: dict[str, dict], name: str) -> float | None:
    found = measured.get(name, {})
    return found["images"] / found["seconds"] if "images" in found else None


def _show(report: dict, rounds: int) -> None:
    figures, of = report["figures"], f"{report['images']:,} images, medians of {rounds} rounds"
    for what, others in (("Input", INPUTS), ("Augmentation", AUGMENT_PEERS)):
        names = [name for name in figures if (name in AUGMENT) == (others is AUGMENT_PEERS)]
        if names:
            columns = ["", "images/s", "min", "max", "ms an image", "peak MB"]
            rows = [_rates(name, figures[name]) for name in names]
            terminal.show_table(f"{what}: {of}", columns, rows)
            rows = [
                [name, *(_cell(report["ratios"][name][other]) for other in others)]
                for name in names
            ]
            columns = [other.replace("-", " ") for other in others]  # so that they wrap
            terminal.show_table(f"{what}: images/s, divided by those of", ["", *columns], rows)
    rows = []
    for target in report["targets"]:
        found, least = target["ratio"], target["least"]
        reached = "not measured" if found is None else "yes" if found >= least else "no"
        rows.append([f"{target['name']} / {target['to']}", _cell(found), f">= {least}", reached])
    terminal.show_table("Targets", ["images/s", "measured", "target", "reached"], rows)
    if epochs := report["memory"].get("resident_mb"):
        rows = [[f"epoch {n}", f"{mb:,.0f}"] for n, mb in enumerate(epochs, start=1)]
        rows.append([f"last / second (target <= {_FLAT})", f"{epochs[-1] / epochs[1]:.3f}"])
        terminal.show_table("Memory: original-host-augment", ["after", "resident MB"], rows)


def _rates(name: str, figures: dict) -> list[str]:
    if "missing" in figures:
        return [name, "not installed", "", "", "", ""]
    rate = figures["images_per_s"]
    cells = [f"{rate[key]:,.0f}" for key in ("median", "min", "max")]
    return [name, *cells, f"{1000 / rate['median']:.3f}", f"{figures['peak_mb']:,.0f}"]


def _cell(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:,.2f}"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _machine() -> dict:
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": _cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    cli.run(main, Options, tuned=False)
