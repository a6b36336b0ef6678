"""Calls an exported model in this process, and the server through its client."""

import itertools
import pathlib
import statistics
import time
from collections.abc import Callable, Iterator

from tools.bench import ours
from tools.bench.worker import Failed

NAME = "model"
BATCH = 32  # images of a call in process


def newest(export: pathlib.Path) -> tuple[int, pathlib.Path]:
    """Return the number and the folder of the newest version."""
    versions = [(int(path.name), path) for path in export.glob("*") if path.name.isdigit()]
    if not versions:
        raise Failed(f"--export={export}: the folder has no version")
    return max(versions)


def in_process(export: str, images: str, seconds: float) -> dict[str, float]:
    """Return the rate of calls of the SavedModel with `BATCH` images."""
    call, files = _model(export), _cycle(images)
    _times(call, files, BATCH, 1.0)
    times = _times(call, files, BATCH, seconds)
    return {"images/s": BATCH * len(times) / sum(times)}


def one_image(export: str, images: str, server: str, seconds: float) -> dict[str, float]:
    """Return the median milliseconds of one image, by the server and in process, and their gap."""
    from serving.client import Client

    model, files, rows = _model(export), _cycle(images), []
    with Client(server, NAME) as client:
        for _ in range(max(2, round(seconds))):
            calls = (lambda given: client.predict({"image_bytes": given}), model)
            rows.append([1000 * statistics.median(_times(c, files, 1, 1.0)) for c in calls])
    asked, inside = zip(*rows[1:], strict=True)  # the first is cold
    more = statistics.median(a - b for a, b in zip(asked, inside, strict=True))
    medians = {"ms": statistics.median(asked), "ms in process": statistics.median(inside)}
    return medians | {"ms more": more}


def _model(export: str) -> Callable[[list[bytes]], object]:
    ours.tune()
    import tensorflow as tf

    model = tf.saved_model.load(str(newest(pathlib.Path(export))[1]))

    def call(images: list[bytes]) -> dict:
        # The signature alone does not keep the variables alive.
        outputs = model.signatures["serving_default"](image_bytes=tf.constant(images))
        return {name: output.numpy() for name, output in outputs.items()}

    return call


def _cycle(images: str) -> Iterator[bytes]:
    files = sorted(pathlib.Path(images).glob("*"))[:64]
    return itertools.cycle([file.read_bytes() for file in files])


def _times(call: Callable, images: Iterator[bytes], batch: int, seconds: float) -> list[float]:
    times, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        given = list(itertools.islice(images, batch))
        start = time.monotonic()
        call(given)
        times.append(time.monotonic() - start)
    return times
