"""Compute the output of a model for every image once, and keep it in the cache."""

import hashlib
import io
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core import storage, terminal
from tfpipe.images import preprocess
from tfpipe.input import decoded_batches
from tfpipe.screens.screen import ScreenedImages

BATCH_SIZE = 64


def compute(
    images: ScreenedImages,
    model: Callable[[tf.Tensor], tf.Tensor],
    size: int,
    *,
    screen: str,
    key: Sequence[object],
) -> np.ndarray:
    """Run a model on every image, or return its output for the same images from the cache.

    Images are read one by one and decoded in parallel; memory holds a few batches at most.

    Args:
        images: of the data set.
        model: maps RGB in 0..255, float32 [B, size, size, 3], to float32 [B, F].
        size: the side of its input in pixels.
        screen: the name of the screen, for the cache file and the progress bar.
        key: everything else that the output depends on, such as the fingerprint of the weights.

    Returns:
        float32 [N, F].

    Raises:
        UserError: an image can no longer be read.
    """
    parts = [*key, size, *(found.sha256 for found in images.found)]
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    path = images.cache / f"screen-{screen}-{digest[:16]}.npy"
    cached = storage.read_whole(path)
    if cached is not None:
        terminal.say(f"screen {screen}: using the output that an earlier build cached, {path}")
        return np.load(io.BytesIO(cached), allow_pickle=False)
    rows: list[np.ndarray] = []
    step = tf.function(
        lambda batch: model(tf.cast(batch, tf.float32)),
        autograph=False,
        input_signature=[tf.TensorSpec([None, size, size, preprocess.CHANNELS], tf.uint8)],
    )
    with terminal.progress(f"screen {screen}", len(images.found)) as advance:
        files = ((images.read(index), "", 0, 0) for index in range(len(images.found)))
        for batch, count in decoded_batches.batches(files, size, BATCH_SIZE):
            rows.append(step(batch).numpy()[:count])
            advance(count)
    result = np.concatenate(rows)
    storage.make_folder(images.cache)
    with storage.atomic_file(path, "wb") as file:
        np.save(file, result, allow_pickle=False)
    return result
