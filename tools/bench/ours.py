"""The functions of tfpipe that benchmarks call within a process. All else they call as commands.

Only this file names them, and `lock`, which measures parts of the input.
"""

import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from tools.bench import peers
from tools.bench.worker import Epoch

R3_AUGMENT = "shear(0.2)|zoom(0.8,1.2)|flip_lr"


def tune() -> None:
    """Set up the process as `tfpipe.train` does."""
    from tfpipe.core import onednn

    onednn.use()


def folded(model: Any) -> Any:
    """Return the model with BatchNorm folded into convolutions, as frozen layers run."""
    from tfpipe.model import fold

    return fold.folded(model)


def pipeline(
    folder: str, size: int, batch_size: int, workers: int, resize_on: str, augment: bool, **_: float
) -> Epoch:
    """Batches of the input pipeline from records, augmented on the device if asked for.

    Epochs flow into one another, as in training. Each augmented batch is waited for.
    """
    tune()
    import cv2
    import tensorflow as tf

    from tfpipe.augment import Augment
    from tfpipe.input import pipeline
    from tfpipe.records import manifest as manifests
    from tfpipe.records.subset import Subset

    cv2.setNumThreads(1)  # as `tfpipe.train`
    manifest = manifests.load(folder)
    chain = Augment(R3_AUGMENT) if augment else None
    reading = pipeline.InputConfig(
        image_size=size, batch_size=batch_size, resize_on=resize_on, threads=workers
    )
    train = Subset(manifest, ("train",))
    # More epochs than there is time for.
    batches = iter(pipeline.train_batches(train, reading, augment=chain, epochs=10**6))
    steps = pipeline.steps_per_epoch(train, batch_size)

    @tf.function(jit_compile=True)
    def on_device(batch: dict) -> tf.Tensor:
        labels = tf.one_hot(batch["label"], len(manifest.classes))
        sizes = batch.get("size")
        return chain(batch["image"], labels, batch["random"], side=size, sizes=sizes)[0]

    def epoch() -> Iterator[int]:
        for batch in itertools.islice(batches, steps):
            if augment:
                on_device(batch)[0, 0, 0, 0].numpy()
            yield int((batch["sample_weight"].numpy() > 0).sum())  # padding has weight 0

    return epoch


def dataset(folder: str, size: int, batch_size: int, workers: int, dtype: str, **_: float) -> Epoch:
    """Batches of `as_dataset`, shuffled; each epoch begins anew, as in `model.fit`."""
    tune()
    import tfpipe

    batches = tfpipe.load_records(folder).as_dataset(
        image_size=size, batch_size=batch_size, shuffle=True, dtype=dtype, decode_threads=workers
    )
    return lambda: (len(labels) for _, labels in batches)


def memory(**arguments: object) -> dict[str, float]:
    """Return the resident memory of `pipeline` after epochs 2 and 10; see proc(5)."""
    epoch, resident = pipeline(**arguments), []
    for _ in range(10):
        for _ in epoch():
            pass
        status = pathlib.Path("/proc/self/status").read_text()
        resident.append(int(re.search(r"VmRSS:\s*(\d+) kB", status)[1]) * 1024 / 10**6)
    return {"MB after epoch 2": resident[1], "MB after epoch 10": resident[-1]}


def augment(size: int, batch_size: int, compiled: bool, **_: float) -> Epoch:
    """Recipe R3's augmentation of one batch in memory, with XLA or in a plain graph."""
    tune()
    import tensorflow as tf

    from tfpipe.augment import Augment

    chain = Augment(R3_AUGMENT)
    labels = tf.zeros([batch_size, 2])
    draws = tf.random.uniform([batch_size, chain.num_random])

    @tf.function(jit_compile=compiled)
    def augmented(images: tf.Tensor) -> tf.Tensor:
        return chain(images, labels, draws)[0]

    return peers.one_batch(augmented, size, batch_size)
