"""What a model makes of every image, computed once and kept in the cache."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core import storage, terminal
from tfpipe.core.errors import UserError
from tfpipe.images import preprocess
from tfpipe.input import tuning
from tfpipe.screens.screen import Images

BATCH_SIZE = 64


def compute(
    images: Images,
    model: Callable[[tf.Tensor], tf.Tensor],
    size: int,
    *,
    screen: str,
    key: Sequence[object],
) -> np.ndarray:
    """Runs a model on every image, unless the cache has what it gave for the same images.

    The images are read one after the other, decoded in parallel, and never all in memory.

    Args:
        images: which.
        model: from RGB in 0..255, float32 [B, size, size, 3], to float32 [B, F].
        size: the side of its input in pixels.
        screen: the name of the screen, for the file in the cache and for the progress bar.
        key: all else that the result depends on, as the fingerprint of the weights.

    Returns:
        float32 [N, F].

    Raises:
        UserError: an image cannot be read any more.
    """
    parts = [*key, size, *(found.sha256 for found in images.found)]
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    path = images.cache / f"screen-{screen}-{digest[:16]}.npy"
    cached = storage.read_whole(path)
    if cached is not None:
        terminal.say(f"screen {screen}: using what an earlier build computed, {path}")
        return np.load(io.BytesIO(cached), allow_pickle=False)
    rows: list[np.ndarray] = []
    step = tf.function(
        lambda batch: model(tf.cast(batch, tf.float32)),
        autograph=False,
        input_signature=[tf.TensorSpec([None, size, size, preprocess.CHANNELS], tf.uint8)],
    )
    with terminal.progress(f"screen {screen}", len(images.found)) as advance:
        for batch in _batches(images, size):
            rows.append(step(batch).numpy())
            advance(len(batch))
    result = np.concatenate(rows)
    storage.make_folder(images.cache)
    with storage.atomic_file(path, "wb") as file:
        np.save(file, result, allow_pickle=False)
    return result


def _batches(images: Images, size: int) -> Iterator[tf.Tensor]:
    """Yields uint8 [B, size, size, 3] in the images' order."""
    failures: list[UserError] = []

    def read() -> Iterator[bytes]:
        for index in range(len(images.found)):
            try:
                yield images.read(index)
            except UserError as error:  # which would come out of TensorFlow as its own
                failures.append(error)
                return

    @tf.autograph.experimental.do_not_convert
    def decode(encoded: tf.Tensor) -> tf.Tensor:
        return preprocess.decode_image(encoded, size)

    dataset = tf.data.Dataset.from_generator(
        read, output_signature=tf.TensorSpec([], tf.string)
    ).map(decode, tuning.cores(), deterministic=True)
    yield from tuning.without_autotune(dataset.batch(BATCH_SIZE).prefetch(tuning.AHEAD))
    if failures:
        raise failures[0]
