"""Measures the embedded server beside calls of the same model in one process.

    python -m tools.bench.serving --export=export/NAME --images=FOLDER [--json=FILE]

    in-process   the SavedModel by tf.saved_model.load, called with 32 images at a time
    server       one image a request, 32 requests under way, on this machine
    one-image    one image at a time, from bytes to arrays, in process and through serving.client,
                 a second each in turn; medians
    start        the command `python -m serving.client` with one image
    swap         8 requests under way, before and while a new version is loaded and takes over

A relative --export is a folder of each checkout, so that each serves its own.
"""

import contextlib
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from tools.bench import harness, report, saved_model
from tools.bench.harness import Case, Tree
from tools.bench.report import Figures, Ratio, Round


def main() -> int:
    """Print the tables; return the exit status."""
    parser = harness.parser(__doc__)
    add = parser.add_argument
    add("--export", required=True, type=pathlib.Path, help="folder of the model's versions")
    add("--images", required=True, type=pathlib.Path, help="folder of image files")
    add("--seconds", type=float, default=10.0, help="how long to measure each")
    add("--swap_seconds", type=float, default=40.0, help="how long to measure a swap")
    add("--server_flags", default="", help="more flags of the server, separated by blanks")
    flags = parser.parse_args()
    images = flags.images.resolve()
    first = next(iter(sorted(images.glob("*"))), None)
    if first is None:
        sys.exit(f"error: --images={flags.images}: the folder has no files")
    given = {"images": str(images), "seconds": flags.seconds}

    def serve(tree: Tree, export: pathlib.Path | None = None) -> contextlib.AbstractContextManager:
        return started(tree, export or tree.root / flags.export, flags.server_flags)

    def in_process(tree: Tree) -> Figures:
        export = tree.root / flags.export
        return harness.call(tree, "saved_model.in_process", export=export, **given)

    def server(tree: Tree) -> Figures:
        with serve(tree) as address:
            found = load(tree, address, images, saved_model.BATCH, flags.seconds)
        return {"images/s": found["images_per_s"], "p99 ms": found["latency_ms"]["p99"]}

    def one_image(tree: Tree) -> Figures:
        with serve(tree) as address:
            more = {"export": tree.root / flags.export, "server": address}
            return harness.call(tree, "saved_model.one_image", **more, **given)

    def start(tree: Tree) -> Figures:
        with serve(tree) as address:
            command = ["serving.client", str(first), f"--server={address}"]
            done = harness.process(tree, "-m", *command, f"--model_name={saved_model.NAME}")
        return {"s": done.seconds}

    def swap(tree: Tree) -> Figures:
        version, path = saved_model.newest(tree.root / flags.export)
        with tempfile.TemporaryDirectory() as work:
            base, copy = pathlib.Path(work, saved_model.NAME), pathlib.Path(work, "copy")
            shutil.copytree(path, base / str(version))
            shutil.copytree(path, copy)
            with serve(tree, base) as address:
                before = load(tree, address, images, 8, flags.seconds)["latency_ms"]
                copy.rename(base / str(version + 1))
                during = load(tree, address, images, 8, flags.swap_seconds, warm_up=0)
        during = during["latency_ms"]
        return {"p99 ms": during["p99"], "slowest ms": during["max"], "p99 before": before["p99"]}

    cases = [Case(each.__name__.replace("_", "-"), each) for each in
             (in_process, server, one_image, start, swap)]  # fmt: skip

    def slowest(one: Round) -> float:
        return one["swap"]["slowest ms"] / one["swap"]["p99 before"]

    comparisons = [
        report.ratio("images/s", "server", "in-process", least=0.85),
        Ratio("one-image, ms more", lambda one: one["one-image"]["ms more"], most=2.5),
        Ratio("start, s", lambda one: one["start"]["s"], most=1.0),
        Ratio("swap, slowest / p99 before", slowest, most=5.0),
    ]
    with harness.session(flags) as session:
        return harness.run(session, cases, ("in-process",), comparisons)


@contextlib.contextmanager
def started(tree: Tree, export: pathlib.Path, flags: str) -> Iterator[str]:
    """Run the server; yield its address."""
    command = [tree.python, "-m", "serving.server", "--port=0", f"--model_name={saved_model.NAME}"]
    command += [f"--model_base_path={export}", *flags.split()]
    where = {"cwd": tree.root, "env": harness.environment(tree)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **where) as process:
        try:
            line = ""
            for line in process.stderr:
                if match := re.match(r"serving \S+ version \S+ at (\S+)", line):
                    yield match[1]
                    return
            raise harness.Failed(f"the server says: {line.strip()}")
        finally:
            process.terminate()


def load(
    tree: Tree, address: str, images: pathlib.Path, under_way: int, seconds: float, warm_up: int = 3
) -> dict:
    """Return what `serving.loadtest` measures with this number of concurrent requests."""
    with tempfile.TemporaryDirectory() as work:
        path = pathlib.Path(work, "load.json")
        command = ["serving.loadtest", str(images), f"--server={address}", f"--json={path}"]
        command += [f"--model_name={saved_model.NAME}", f"--concurrency={under_way}"]
        command += [f"--seconds={seconds:g}", f"--warm_up={warm_up}", "--timeout=60"]
        harness.process(tree, "-m", *command)
        found = json.loads(path.read_text())
    if set(found["codes"]) != {"OK"}:
        raise harness.Failed(f"the server refused requests: {found['codes']}")
    return found


if __name__ == "__main__":
    sys.exit(main())
