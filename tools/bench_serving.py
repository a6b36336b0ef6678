"""Measures the embedded server beside calls of the same model in one process.

    python tools/bench_serving.py --export=export/NAME --images=FOLDER [--rounds=3] [--json=FILE]

    inside, 32      the SavedModel as tf.saved_model.load gives it, called with 32 images at a time
    server, 32      one image a request, 32 requests under way; server and client on this machine
    inside, 1       one image at a time: the median of the time from bytes to arrays
    server, 1       the same through serving.client, one request at a time
    servable, 1     as inside, by what the server itself calls, in place of tf.saved_model.load
    swap, 8         8 requests under way for --swap_seconds, in which a new version is loaded and
                    takes the place of the old one
    client start    the whole command `python -m serving.client` with one image, as a shell sees it

All of each round, one after the other, those at one image in turn, a second each; a ratio or a
difference is the median of what stood side by side.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from serving.client import IMAGE_INPUT, Client
from serving.versions import version_folders
from tfpipe.core import cli, storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.core.options import option

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAME = "model"
MANY, SOME = 32, 8
_MOST_IMAGES = 64

# The least throughput of the server, and the most milliseconds that it adds to one call.
TARGET_RATIO, TARGET_MS, TARGET_START_S = 0.9, 1.5, 1.0


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    export: str = option("folder of the model's versions")
    images: str = option("folder of image files")
    rounds: int = option("measurements of each kind", 3)
    seconds: float = option("how long each takes", 10.0)
    swap_seconds: float = option("how long, for a swap; 0 for none", 40.0)
    flags: str = option("further flags of the server, separated by blanks", "")
    json: str = option("file for the figures; empty for none", "")
    child: str = option("used by the command itself: a key of CALLS", "")


def main(options: Options) -> None:
    """Prints a table of medians and ratios."""
    if options.child:
        measure_inside(options)
        return
    if not list(pathlib.Path(options.images).glob("*")):
        raise UserError(f"--images={options.images} holds no files")
    rounds = []
    with terminal.progress("measuring", options.rounds, "rounds") as advance:
        for _ in range(options.rounds):
            rounds.append(_round(options))
            advance()
    figures = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    _show(figures, options)
    if options.json:
        storage.write_json(options.json, {"figures": figures, "rounds": rounds})


def _round(options: Options) -> dict[str, float]:
    with (
        _inside(options, "tensorflow") as inside,
        _inside(options, "servable") as servable,
        _server(options) as address,
        tempfile.TemporaryDirectory() as work,
    ):
        found = {"inside_per_s": inside(MANY, options.seconds)["images_per_s"]}
        many = _loaded(options, address, MANY, work)
        found |= {"server_per_s": many["images_per_s"], "p99_ms": many["latency_ms"]["p99"]}
        with Client(address, NAME) as client:
            found |= _at_one(options, inside, servable, _client_call(client))
        found["start_s"] = _start(options, address)
    if options.swap_seconds:
        found |= _swap(options)
    found["ratio"] = found["server_per_s"] / found["inside_per_s"]
    return found


def _at_one(options: Options, inside: Callable, servable: Callable, call: Callable) -> dict:
    rows, images = [], _images(options)
    for _ in range(max(2, round(options.seconds))):
        server = _timed(call, images, 1, 1)["median_ms"]
        rows.append((inside(1, 1)["median_ms"], server, servable(1, 1)["median_ms"]))
    rows = rows[1:]  # the first of each is cold
    inside_ms, server_ms, servable_ms = map(statistics.median, zip(*rows, strict=True))
    return {
        "inside_ms": inside_ms,
        "server_ms": server_ms,
        "servable_ms": servable_ms,
        "added_ms": statistics.median(server - inside for inside, server, _ in rows),
        "added_to_servable_ms": statistics.median(server - own for _, server, own in rows),
    }


def _swap(options: Options) -> dict[str, float]:
    """Measures the load before and while a copy of the version is loaded as the next one."""
    version, path = max(version_folders(pathlib.Path(options.export)).items())
    with tempfile.TemporaryDirectory() as work:
        base, copy = pathlib.Path(work, NAME), pathlib.Path(work, "copy")
        shutil.copytree(path, base / str(version))
        shutil.copytree(path, copy)
        with _server(dataclasses.replace(options, export=str(base))) as address:
            before = _loaded(options, address, SOME, work)["latency_ms"]
            copy.rename(base / str(version + 1))
            longer = dataclasses.replace(options, seconds=options.swap_seconds)
            during = _loaded(longer, address, SOME, work, warm_up=0)["latency_ms"]
    return {
        "before_p99_ms": before["p99"],
        "swap_p99_ms": during["p99"],
        "swap_max_ms": during["max"],
    }


@contextlib.contextmanager
def _inside(options: Options, kind: str) -> Iterator[Callable[[int, float], dict[str, float]]]:
    """Yields a function of images in a batch and seconds to what a process of its own measures."""
    command = [sys.executable, "-m", "tools.bench_serving", f"--child={kind}"]
    command += [f"--{name}={getattr(options, name)}" for name in ("export", "images")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, text=True, bufsize=1, **pipes) as process:

        def measure(batch: int, seconds: float) -> dict[str, float]:
            print(json.dumps([batch, seconds]), file=process.stdin)
            line = process.stdout.readline()
            if not line:
                raise UserError(f"--export={options.export}: its model cannot be called here")
            return json.loads(line)

        measure(MANY, 1)  # what is built at the first call
        yield measure


def measure_inside(options: Options) -> None:
    """Reads batch sizes and seconds, a pair a line, and prints what is measured, as JSON."""
    _, path = max(version_folders(pathlib.Path(options.export)).items())
    call, images = CALLS[options.child](path), _images(options)
    for line in sys.stdin:
        print(json.dumps(_timed(call, images, *json.loads(line))), flush=True)


def _tensorflow_call(path: pathlib.Path) -> Callable[[list[bytes]], object]:
    import tensorflow as tf

    model = tf.saved_model.load(str(path))

    def call(images: list[bytes]) -> dict:
        # Its signatures do not keep the model itself alive, nor with it the variables.
        outputs = model.signatures["serving_default"](**{IMAGE_INPUT: tf.constant(images)})
        return {alias: output.numpy() for alias, output in outputs.items()}

    return call


def _servable_call(path: pathlib.Path) -> Callable[[list[bytes]], object]:
    import numpy as np

    from serving.servable import Servable

    servable = Servable(path, 1)
    return lambda images: servable.run("", {IMAGE_INPUT: np.array(images, object)})


def _client_call(client: Client) -> Callable[[list[bytes]], object]:
    return lambda images: client.predict({IMAGE_INPUT: images})


# What measures inside, by the name of its kind.
CALLS = {"tensorflow": _tensorflow_call, "servable": _servable_call}


def _timed(call: Callable, images: Iterator[bytes], batch: int, seconds: float) -> dict[str, float]:
    """Returns the rate and the median time of calls, one after the other."""
    times = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        given = list(itertools.islice(images, batch))
        start = time.monotonic()
        call(given)
        times.append(time.monotonic() - start)
    return {
        "images_per_s": batch * len(times) / sum(times),
        "median_ms": 1000 * statistics.median(times),
    }


def _images(options: Options) -> Iterator[bytes]:
    """Yields whole files, the first ones of the folder, again and again."""
    files = sorted(pathlib.Path(options.images).glob("*"))[:_MOST_IMAGES]
    return itertools.cycle([file.read_bytes() for file in files])


@contextlib.contextmanager
def _server(options: Options) -> Iterator[str]:
    """Runs the server; yields its address."""
    command = [sys.executable, "-m", "serving.server", "--port=0", f"--model_name={NAME}"]
    command += [f"--model_base_path={options.export}", *options.flags.split()]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        line = ""
        for line in process.stderr:
            if match := re.match(r"serving \S+ version \S+ at (\S+)", line):
                yield match[1]
                process.terminate()
                break
        else:
            raise UserError(f"the server says: {line.strip()}")


def _loaded(options: Options, address: str, under_way: int, work: str, warm_up: float = 3) -> dict:
    path = os.path.join(work, "load.json")
    _run(
        [
            *(sys.executable, "-m", "serving.loadtest", options.images, f"--server={address}"),
            *(f"--model_name={NAME}", f"--concurrency={under_way}", f"--json={path}"),
            *(f"--seconds={options.seconds:g}", f"--warm_up={warm_up:g}", "--timeout=60"),
        ]
    )
    with open(path, encoding="utf-8") as file:
        found = json.load(file)
    if set(found["codes"]) != {"OK"}:
        raise UserError(f"the server refused requests: {found['codes']}")
    return found


def _start(options: Options, address: str) -> float:
    image = str(sorted(pathlib.Path(options.images).glob("*"))[0])
    command = [sys.executable, "-m", "serving.client", image, f"--server={address}"]
    start = time.monotonic()
    _run([*command, f"--model_name={NAME}"])
    return time.monotonic() - start


def _run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(command[1:4])} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


def _show(figures: dict[str, float], options: Options) -> None:
    rows = [
        ["inside, 32", f"{figures['inside_per_s']:.1f} images/s", "", ""],
        [
            "server, 32",
            f"{figures['server_per_s']:.1f} images/s, p99 {figures['p99_ms']:.0f} ms",
            f"{figures['ratio']:.2f} of inside",
            f">= {TARGET_RATIO}",
        ],
        ["inside, 1", f"{figures['inside_ms']:.1f} ms", "", ""],
        [
            "server, 1",
            f"{figures['server_ms']:.1f} ms",
            f"{figures['added_ms']:+.1f} ms",
            f"<= {TARGET_MS} ms",
        ],
        [
            "servable, 1",
            f"{figures['servable_ms']:.1f} ms",
            f"server {figures['added_to_servable_ms']:+.1f} ms",
            "",
        ],
        ["client start", f"{figures['start_s']:.2f} s", "", f"<= {TARGET_START_S:g} s"],
    ]
    if options.swap_seconds:
        slowest = f"p99 {figures['swap_p99_ms']:.0f} ms, slowest {figures['swap_max_ms']:.0f} ms"
        before = f"before, p99 {figures['before_p99_ms']:.0f} ms"
        rows.append(["swap, 8", slowest, before, "slowest <= 2 p99"])
    columns = ["", "median", "beside", "target"]
    terminal.show_table(f"Serving: medians of {options.rounds} rounds", columns, rows)


if __name__ == "__main__":
    cli.run(main, Options)
