"""One measurement of tfpipe's own input, in a process of its own.

    python -m tools.bench_input_pipeline --name=original-host --folder=RECORDS [--seconds=4]

`tools/bench_input.py` calls it, and says what the names mean. The process has the settings of
`tfpipe.train`. The last line of the output is JSON.
"""

import dataclasses
import itertools
import json
import pathlib
import re
from collections.abc import Iterator

from tfpipe.core import cli
from tfpipe.core.options import option
from tools import bench_input_peers as peers

R3_AUGMENT = "shear(0.2)|zoom(0.8,1.2)|flip_lr"

MEMORY_EPOCHS = 10
_STEPS = 8  # batches in an epoch of what is in memory already


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of this command."""

    name: str = option("what to measure, see tools/bench_input.py")
    folder: str = option("records; not needed to measure augmentation alone", "")
    size: int = option("side of the model's input in pixels", 299)
    batch_size: int = option("images in a batch", 32)
    seconds: float = option("how long to measure", 4.0)
    workers: int = option("threads of the pipeline; 0 for one on each core", 0)


def main(options: Options) -> None:
    """Prints what was measured."""
    import tensorflow as tf

    if options.name == "memory":
        found = {"resident_mb": list(_resident(_batches(options, device=False, augment=True)))}
    else:
        device, augment = (word in options.name for word in ("-device", "-augment"))
        if options.name.startswith("augment-"):
            epoch = _augment_alone(options)
        else:
            epoch = _batches(options, device=device, augment=augment)
        found = peers.timed(epoch, options.seconds)
    print(json.dumps(found | {"versions": {"tensorflow": tf.__version__}}))


def _batches(options: Options, *, device: bool, augment: bool) -> peers.Epoch:
    """Returns epochs of the pipeline, which flow into one another as they do in training."""
    import tensorflow as tf

    from tfpipe.augment import Augment
    from tfpipe.input import pipeline
    from tfpipe.input.input_config import InputConfig
    from tfpipe.records import manifest as manifests
    from tfpipe.records.part import Part

    manifest = manifests.load(options.folder)
    chain = Augment(R3_AUGMENT) if augment else None
    reading = InputConfig(
        image_size=options.size,
        batch_size=options.batch_size,
        resize_on="device" if device else "host",
        threads=options.workers,
    )
    # More epochs than there is time for.
    part = Part(manifest, ("train",))
    batches = iter(pipeline.train_batches(part, reading, augment=chain, epochs=10**6))
    steps = pipeline.steps_per_epoch(part, options.batch_size)

    @tf.function(jit_compile=True)
    def on_device(batch: dict) -> tf.Tensor:
        labels = tf.one_hot(batch["label"], len(manifest.classes))
        sizes = batch.get("size")
        return chain(batch["image"], labels, batch["random"], side=options.size, sizes=sizes)[0]

    def epoch() -> Iterator[int]:
        for batch in itertools.islice(batches, steps):
            if augment:
                on_device(batch)[0, 0, 0, 0].numpy()  # waits for it
            yield int((batch["sample_weight"].numpy() > 0).sum())  # without repetitions

    return epoch


def _resident(epoch: peers.Epoch) -> Iterator[float]:
    """Yields what the process holds after each epoch, in 10^6 bytes; see man 5 proc."""
    for _ in range(MEMORY_EPOCHS):
        for _ in epoch():
            pass
        status = pathlib.Path("/proc/self/status").read_text()
        yield int(re.search(r"VmRSS:\s*(\d+) kB", status)[1]) * 1024 / 10**6


def _augment_alone(options: Options) -> peers.Epoch:
    """Returns epochs of one batch in memory, augmented under XLA (augment-xla) or without."""
    import tensorflow as tf

    from tfpipe.augment import Augment

    chain = Augment(R3_AUGMENT)
    images = tf.constant(peers.noise(options.batch_size, options.size))
    labels = tf.zeros([options.batch_size, 2])
    draws = tf.random.uniform([options.batch_size, chain.num_random])

    @tf.function(jit_compile=options.name == "augment-xla")
    def augment(images: tf.Tensor, labels: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
        return chain(images, labels, draws)[0]

    def epoch() -> Iterator[int]:
        for _ in range(_STEPS):
            augment(images, labels, draws)[0, 0, 0, 0].numpy()  # waits for it
            yield options.batch_size

    return epoch


if __name__ == "__main__":
    cli.run(main, Options)
