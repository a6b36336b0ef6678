"""Measures the input where images or storage are unusual.

    python -m tools.bench.extremes --source=train.zip [--json=FILE]

The figure is images/s, of batches at the size of the model's input.

    photosM-limit     libjpeg-turbo alone, at the smallest scale that covers the input, from memory
    photosM-host      photographs of M megapixels, resized on the host
    photosM-device    the same with resize_on=device: the host's part only
    tiny-host         records of 32 x 32
    tiny-tf-data      the same records through a hand-written tf.data pipeline
    disk              the images as they are, from a disk, resized on the host
    url-Nms           the same from a store that answers every request after N milliseconds

Photographs and tiny images are made of the first images of the source: enlarged, with noise, or
cut to pieces. The store is a file system of fsspec that reads a disk and sleeps.
"""

import functools
import os
import pathlib
import sys
import time
import zipfile
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from tools.bench import data, harness, ours, report
from tools.bench.harness import Case, Tree
from tools.bench.worker import Epoch

PHOTOS = {12: (4000, 3000), 48: (8000, 6000)}  # width and height by megapixels
TINY_SIDE = 32
LATENCIES = (0, 20)  # milliseconds
TARGETS = {
    ("photos12-host", "photos12-limit"): 0.6,
    ("photos48-host", "photos48-limit"): 0.6,
    ("tiny-host", "tiny-tf-data"): 1.0,
    ("url-20ms", "url-0ms"): 0.9,
}


def main() -> int:
    """Print the tables; return the exit status."""
    parser = data.parser(__doc__, images=1600)
    add = parser.add_argument
    add("--photos", type=int, default=64, help="photographs of each size to make")
    add("--tiny", type=int, default=100_000, help="tiny images to make")
    flags = parser.parse_args()
    with harness.session(flags) as session:
        folder = data.prepare(session, flags.source, flags.images)
        given = data.settings(flags)
        paths = [path for path, _ in data.in_turn(folder)]

        @functools.cache
        def photos(megapixels: int) -> pathlib.Path:
            return photographs(paths[: flags.photos], session.work, megapixels)

        @functools.cache
        def records(tree: Tree, name: str) -> str:
            if name == "tiny":
                source = tiny_images(paths, session.work / "tiny.zip", flags.tiny)
            else:
                source = photos(int(name)) if name else folder
            out = session.work / f"records-{name}-{tree.name}"
            data.build(tree, [source], out, "--splits=train:1", "--duplicates=keep")
            return str(out)

        def pipeline(case: str, stored: str, resize_on: str = "host", **changes: Any) -> Case:
            def measure(tree: Tree) -> dict:
                chosen = {"resize_on": resize_on, "augment": False} | given | changes
                return harness.call(tree, "ours.pipeline", folder=records(tree, stored), **chosen)

            return Case(case, measure)

        def limit(megapixels: int) -> Case:
            def measure(tree: Tree) -> dict:
                source = photos(megapixels)
                return harness.call(tree, "peers.limit", folder=source, scaled=True, **given)

            return Case(f"photos{megapixels}-limit", measure, ours=False)

        def tiny_peer(tree: Tree) -> dict:
            stored = records(session.trees[0], "tiny")
            side = given | {"size": TINY_SIDE}
            return harness.call(tree, "peers.tf_data_records", records=stored, **side)

        def url(milliseconds: int) -> Case:
            def measure(tree: Tree) -> dict:
                latency = {"folder": records(tree, ""), "latency_s": milliseconds / 1000}
                return harness.call(tree, "extremes.from_store", **latency, **given)

            return Case(f"url-{milliseconds}ms", measure)

        cases = []
        for megapixels in PHOTOS:
            name = str(megapixels)
            cases += [limit(megapixels), pipeline(f"photos{name}-host", name)]
            cases += [pipeline(f"photos{name}-device", name, "device")]
        cases += [pipeline("tiny-host", "tiny", size=TINY_SIDE)]
        cases += [Case("tiny-tf-data", tiny_peer, ours=False), pipeline("disk", "")]
        cases += [url(each) for each in LATENCIES]
        rates = [report.ratio("images/s", *pair, least=least) for pair, least in TARGETS.items()]
        return harness.run(session, cases, (), rates)


def photographs(paths: list[pathlib.Path], work: pathlib.Path, megapixels: int) -> pathlib.Path:
    """Write enlarged images with noise, as a camera's; return their folder, CLASS/IMAGE."""
    out, rng = work / f"photos{megapixels}", np.random.default_rng(0)
    for path in paths:
        image = cv2.resize(cv2.imread(str(path)), PHOTOS[megapixels], interpolation=cv2.INTER_CUBIC)
        noise = rng.integers(0, 9, image.shape, np.uint8)
        encoded = _jpeg(cv2.subtract(cv2.add(image, noise), np.full_like(image, 4)), 90)
        (out / path.parent.name).mkdir(parents=True, exist_ok=True)
        (out / path.parent.name / f"{path.stem}.jpg").write_bytes(encoded)
    return out


def tiny_images(paths: list[pathlib.Path], out: pathlib.Path, count: int) -> pathlib.Path:
    """Write windows of images to a zip archive, CLASS/NUMBER.jpg; return its path."""
    rng, each = np.random.default_rng(0), -(-count // len(paths))
    with zipfile.ZipFile(out, "w") as archive:
        for number in range(count):
            path = paths[number // each]
            if number % each == 0:
                image = cv2.resize(cv2.imread(str(path)), (160, 160))
            x, y = rng.integers(0, 160 - TINY_SIDE, 2, endpoint=True)
            encoded = _jpeg(image[y : y + TINY_SIDE, x : x + TINY_SIDE], 95)
            archive.writestr(f"{path.parent.name}/{number:08d}.jpg", encoded)
    return out


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def from_store(folder: str, latency_s: float, **given: Any) -> Epoch:
    """Batches of records in a store that answers after `latency_s`, resized on the host."""
    register("slow", lambda: time.sleep(latency_s))
    return ours.pipeline(f"slow://{folder}", resize_on="host", augment=False, **given)


def register(scheme: str, before: Callable[[], None]) -> None:
    """Make fsspec open SCHEME:///path on this disk; `before` is called before each request."""
    import fsspec

    class SlowFiles(fsspec.AbstractFileSystem):
        protocol = scheme
        cachable = False

        def cat_file(
            self, path: str, start: int | None = None, end: int | None = None, **_: Any
        ) -> bytes:
            before()
            with open(path.removeprefix(f"{scheme}://"), "rb") as file:
                file.seek(start or 0)
                return file.read() if end is None else file.read(end - file.tell())

        def info(self, path: str, **_: Any) -> dict:
            before()
            status = os.stat(path := path.removeprefix(f"{scheme}://"))
            kind = "directory" if os.path.isdir(path) else "file"
            return {"name": path, "size": status.st_size, "type": kind, "mtime": status.st_mtime}

    fsspec.register_implementation(scheme, SlowFiles, clobber=True)


if __name__ == "__main__":
    sys.exit(main())
