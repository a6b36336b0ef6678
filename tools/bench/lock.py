"""Measures what holds Python's lock in the input pipeline, and how far threads help until then.

    python -m tools.bench.lock --records=records/NAME

The first table has the microseconds of Python for each image of a batch of 32, by part: no other
thread runs Python meanwhile. In the second one, decoding is a sleep without the lock, so a few
cores show how many images/s one process could feed with many.
"""

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf

from tfpipe.augment import Augment
from tfpipe.images import preprocess_host
from tfpipe.input import pipeline, stateless_random
from tfpipe.input.example_source import RecordSource
from tfpipe.input.input_config import InputConfig
from tfpipe.input.threads import parallel_map
from tfpipe.records import example
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset

THREADS = (16, 32, 64)
BATCH = 32
SIDE = 32  # small, so that memory bandwidth does not limit the second table
REPEATS = 30


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", required=True, help="folder of tfpipe.build_records")
    parser.add_argument("--sleep_ms", type=float, default=8.0, help="the decoding of an image")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    flags = parser.parse_args()
    part = Subset(manifests.load(flags.records), ("train",))
    print("| part | microseconds an image |\n| --- | --- |")
    parts = list(microseconds(part))
    total = sum(value for _, value in parts)
    for name, value in [*parts, ("together", total)]:
        print(f"| {name} | {value:.1f} |")
    print(f"\nOne process can feed at most {1e6 / total:,.0f} images/s.\n")
    print("| threads | images/s | of threads / sleep | CPU, microseconds an image |")
    print("| --- | --- | --- | --- |")
    for threads in THREADS:
        rate, busy = images_per_s(part, threads, flags.sleep_ms / 1e3, flags.seconds)
        ideal = threads / (flags.sleep_ms / 1e3)
        print(f"| {threads} | {rate:,.0f} | {rate / ideal:.2f} | {busy:.0f} |", flush=True)


def microseconds(part: Subset) -> Iterator[tuple[str, float]]:
    """Yield each part of a batch's work that is Python, and its microseconds for an image."""
    config = InputConfig(SIDE, BATCH)
    source = RecordSource(part, config)
    records = batch_of_records(source, part)
    images = source.get(records).images
    digests = [image.sha256 for image in images]
    ids = np.arange(BATCH)
    augment = Augment("flip_lr|zoom(0.8,1.2)")
    pixels = config.decode(images).image

    def tensors() -> None:
        for value in (ids, ids, ids, np.zeros(BATCH, np.float32)):
            tf.convert_to_tensor(value)
        tf.experimental.dlpack.from_dlpack(pixels.__dlpack__())

    def calls() -> None:
        list(parallel_map(int, ((1,) for _ in range(BATCH)), threads=1, ahead=8))

    yield "fields of a record", timed(lambda: [example.deserialize_image(r) for r in records])
    yield "id of an example", timed(lambda: [stateless_random.example_id(d) for d in digests])
    with mock.patch.object(preprocess_host, "square", _nothing):
        yield "around the decoder", timed(functools.partial(config.decode, images))
    numbers = functools.partial(stateless_random.uniform, 0, 0, ids, augment.num_random)
    yield "random numbers, a batch", timed(numbers)
    yield "tensors, a batch", timed(tensors)
    yield "a call on a thread, a batch", timed(calls) / BATCH
    following = functools.partial(next, record_batches(source))
    following()
    yield "records from tf.data, a batch", timed(following, clock=time.thread_time)


def _nothing(*_: Any) -> None:
    """Stands for a decoder; a mock itself would take 5 microseconds."""


def timed(function: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the least time of some calls, in microseconds for each image of a batch."""
    found = []
    for _ in range(REPEATS):
        start = clock()
        function()
        found.append(clock() - start)
    return min(found) / BATCH * 1e6


def record_batches(source: RecordSource) -> Iterator[np.ndarray]:
    """Yield batches of serialized records, as the pipeline reads them, without an end."""
    for epoch in itertools.count():
        keys = source.keys(tf.constant([0, epoch], tf.int64))
        yield from keys.batch(BATCH, drop_remainder=True).prefetch(2).as_numpy_iterator()


def batch_of_records(source: RecordSource, part: Subset) -> np.ndarray:
    """Return one of `record_batches`; the part needs as many records."""
    pipeline.steps_per_epoch(part, BATCH)
    return next(record_batches(source))


def images_per_s(part: Subset, threads: int, sleep_s: float, seconds: float) -> tuple[float, float]:
    """Return images/s, and microseconds of all cores for each, if decoding is a sleep."""
    config = InputConfig(SIDE, BATCH, threads=threads)

    def sleep(*_: Any) -> None:
        time.sleep(sleep_s)

    with mock.patch.object(preprocess_host, "square", sleep):
        batches = pipeline.train_batches(part, config, epochs=10**6)
        for _ in range(2 * threads):  # until all threads have begun
            next(batches)
        start, busy, count = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < seconds:
            next(batches)
            count += BATCH
        rate = count / (time.perf_counter() - start)
        busy = time.process_time() - busy
        batches.close()
    return rate, busy / count * 1e6


if __name__ == "__main__":
    main()
