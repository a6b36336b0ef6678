"""Measures precision and XLA: ms an image of each backbone and kind of training, on this device.

    python tools/bench_precision.py [--backbones=mobilenet,resnet50] [--json=FILE]

The kinds, each with random weights and images:

    features    frozen backbones, forward only
    all         an update of everything: forward, backward, Adam
    head        an update of `--head` on features that are there already

Each is measured in every precision of the device, with XLA and without, in turn within each round;
a ratio is the median of the rounds' ratios. A kind is a process of its own, which is ended and
started again without the cell that takes longer than --seconds: XLA on a CPU, and bfloat16 on one
that has none, can be many times slower.
"""

import dataclasses
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence

from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

ROOT = pathlib.Path(__file__).resolve().parent.parent

STAGES = ("features", "all", "head")
PRECISIONS = ("float32", "mixed_bfloat16")
GPU_PRECISIONS = (*PRECISIONS, "mixed_float16")
BASE = "float32"  # what the others are compared with
XLA = " XLA"

# How long the steps of one measurement take together, at least, so that the clock is not what is
# measured; and how long a process may take to start.
_SPAN_S = 0.3
_START_S = 180.0


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    backbones: str = option(
        "names as in tfpipe.train, separated by commas", "mobilenet,resnet50,xception,small_cnn"
    )
    stages: str = option("kinds of training, separated by commas", ",".join(STAGES))
    image_size: int = option("side of the images in pixels, 0 for what each was made for", 0)
    batch_size: int = option("images in a step", 32)
    head: str = option("layers between features and output, as in tfpipe.train", "dense(64)")
    rounds: int = option("measurements of each cell, fewer where they would take too long", 5)
    seconds: float = option("how long a cell may take to be built, and again to be measured", 60.0)
    json: str = option("file for the figures; empty for none", "")
    child: str = option("used by the command itself: BACKBONE,STAGE,CELL,CELL...", "")


def main(options: Options) -> None:
    """Prints tables of medians and ratios."""
    for flag, least in (("image_size", 0), ("batch_size", 1), ("rounds", 1)):
        value = getattr(options, flag)
        if value < least:
            raise UserError(f"--{flag}={value}: it must be at least {least}", status=2)
    if not 0 < options.seconds < math.inf:
        raise UserError(f"--seconds={options.seconds:g}: it must be above 0", status=2)
    if options.child:
        for line in measure(options):
            print(json.dumps(line), flush=True)
        return
    rows = [(name, stage) for name in _backbones(options) for stage in _stages(options)]
    device, cells = _device()
    figures: dict[str, dict] = {}
    with terminal.progress("measuring", len(rows), "rows") as advance:
        for backbone, stage in rows:
            found = run(options, backbone, stage, cells)
            figures.setdefault(backbone, {})[stage] = summary(found, options.batch_size)
            advance(note=f"{backbone} {stage}")
    _show(figures, cells, f"{device}, batches of {options.batch_size}")
    if options.json:
        about = {"device": device, "options": dataclasses.asdict(options)}
        storage.write_json(options.json, about | {"figures": figures})


def _backbones(options: Options) -> list[str]:
    from tfpipe.model import backbones

    return [backbones.get(name).name for name in options.backbones.split(",")]


def _stages(options: Options) -> list[str]:
    stages = options.stages.split(",")
    for stage in stages:
        if stage not in STAGES:
            raise UserError(f"--stages: {stage!r} is none of {', '.join(STAGES)}", status=2)
    return stages


def _device() -> tuple[str, list[str]]:
    """Returns the device's name, and its cells: a precision, and whether with XLA."""
    from tfpipe.training import runtime

    chosen = runtime.choose(BASE, "auto")
    precisions = PRECISIONS if chosen.device == "CPU" else GPU_PRECISIONS
    return chosen.device, [precision + xla for precision in precisions for xla in ("", XLA)]


def measure(options: Options) -> Iterator[dict]:
    """Measures the cells of one row, as a process of its own does.

    Yields:
        {"begins": cell} before anything of a cell is run; {"cell", "s"}, round by round, with the
        mean seconds of its steps. The first cell begins as soon as the process has started.
    """
    backbone, stage, *cells = options.child.split(",")
    from tfpipe.model import backbones, classifier
    from tfpipe.training import trial

    side = options.image_size or backbones.get(backbone).input_size
    branch = classifier.BackboneConfig(backbone, side, backbones.NO_WEIGHTS)

    def build() -> classifier.Classifier:
        return classifier.build([branch], 2, pooling="avg", head=options.head, output="auto")

    steps, repeats, rounds = {}, {}, {}
    for cell in cells:
        yield {"begins": cell}
        policy, xla = cell.removesuffix(XLA), cell.endswith(XLA)
        steps[cell] = trial.make(build, stage, options.batch_size, policy=policy, xla=xla)
        steps[cell]()
        second = trial.seconds(steps[cell])
        repeats[cell] = math.ceil(_SPAN_S / second)
        rounds[cell] = max(1, int(options.seconds / (repeats[cell] * second)))
    for number in range(options.rounds):
        for cell, step in steps.items():
            if number < rounds[cell]:
                yield {"begins": cell}
                times = [trial.seconds(step) for _ in range(repeats[cell])]
                yield {"cell": cell, "s": statistics.mean(times)}


def run(options: Options, backbone: str, stage: str, cells: Sequence[str]) -> dict[str, dict]:
    """Measures one row in processes, leaving out the cells that take too long or fail.

    Returns:
        For each cell the `seconds` of a step in each round; or why it has none: `over`, the
        seconds after which it was ended, or `failed`, the last line that its process wrote.
    """
    found: dict[str, dict] = {}
    while left := [cell for cell in cells if cell not in found]:
        lines, trouble = _watch(options, ",".join([backbone, stage, *left]))
        times = {cell: [line["s"] for line in lines if line.get("cell") == cell] for cell in left}
        begun = [line["begins"] for line in lines if "begins" in line]
        if not begun:
            raise UserError(f"the measurement of {backbone} {stage} does not start: {trouble}")
        if not trouble:
            found |= {cell: {"seconds": times[cell]} for cell in left}
        elif times[begun[-1]]:
            found[begun[-1]] = {"seconds": times[begun[-1]]}
        else:
            found[begun[-1]] = trouble
    return {cell: found[cell] for cell in cells}


def _watch(options: Options, child: str) -> tuple[list[dict], dict]:
    """Runs one process; returns the lines it printed, and why it ended before its time, if so."""
    flags = [f"--{name}={value}" for name, value in dataclasses.asdict(options).items()]
    command = [sys.executable, __file__, *flags, f"--child={child}"]  # the later --child wins
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    lines, limit, over = [], _START_S, threading.Event()
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as process,
    ):

        def end() -> None:
            over.set()
            process.kill()

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            for line in process.stdout:
                timer.cancel()
                lines.append(json.loads(line))
                limit = options.seconds
                timer = threading.Timer(limit, end)
                timer.start()
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
        if over.is_set():
            return lines, {"over": limit}
        log.seek(0)
        said = log.read().strip().splitlines()
        return lines, {"failed": said[-1] if said else f"status {status}"} if status else {}


def summary(found: dict[str, dict], batch_size: int) -> dict[str, dict]:
    """Returns what the rounds say of one row.

    Args:
        found: what `run` returns.
        batch_size: images in a step.

    Returns:
        For each cell that was measured `ms_per_image` (median, min, max) and `ratio`, how many
        times as fast it is as float32 without XLA, None if that was not measured; for the others
        what `run` says.
    """
    figures = {}
    base = found[BASE].get("seconds", [])
    for cell, value in found.items():
        if "seconds" not in value:
            figures[cell] = value
            continue
        times = [1000 * each / batch_size for each in value["seconds"]]
        pairs = zip(base, value["seconds"], strict=False)  # a slow cell has fewer rounds
        ratios = [one / other for one, other in pairs]
        figures[cell] = {
            "ms_per_image": {
                "median": statistics.median(times),
                "min": min(times),
                "max": max(times),
                "rounds": len(times),
            },
            "ratio": statistics.median(ratios) if ratios else None,
        }
    return figures


def _show(figures: dict[str, dict], cells: Sequence[str], of: str) -> None:
    rows = [
        (f"{backbone} {stage}", [row[cell] for cell in cells])
        for backbone, stages in figures.items()
        for stage, row in stages.items()
    ]
    columns = ["", *cells]
    terminal.show_table(
        f"ms an image, median (least to most): {of}",
        columns,
        [[name, *map(_time, values)] for name, values in rows],
    )
    terminal.show_table(
        f"Times as fast as {BASE} without XLA: {of}",
        columns,
        [[name, *map(_ratio, values)] for name, values in rows],
    )


def _time(figure: dict) -> str:
    if "over" in figure:
        return f"skipped: over {figure['over']:g} s"
    if "failed" in figure:
        return f"failed: {figure['failed']}"
    median, least, most = (f"{figure['ms_per_image'][key]:.3g}" for key in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def _ratio(figure: dict) -> str:
    ratio = figure.get("ratio")
    return "" if ratio is None else f"{ratio:.2f}"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    cli.run(main, Options)
