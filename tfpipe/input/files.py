"""Images that were never made into records, as batches."""

import tensorflow as tf

from tfpipe.ingest import scan
from tfpipe.ingest.sources import Rejected, Source
from tfpipe.input import preprocess
from tfpipe.input.pipeline import Batch, padded_batches


def file_batches(
    source: Source,
    names: list[str],
    *,
    image_size: int,
    batch_size: int,
    rejects: list[tuple[str, str, str]],
) -> tf.data.Dataset:
    """Returns the images of a source that was never made into records, in the order of `names`.

    They are read and converted by the same rules as records are (`tfpipe.ingest.scan`).

    Args:
        source: where the files are.
        names: which of them.
        image_size: the side of the images in pixels.
        batch_size: images in a batch.
        rejects: gets (name, reason, detail) of each file that cannot be used; its picture is black.

    Returns:
        A dataset of batches: "image" uint8 [B, S, S, 3], "name" string [B], "weight" float32 [B].
    """
    black = tf.io.encode_png(tf.zeros([1, 1, preprocess.CHANNELS], tf.uint8)).numpy()

    def read(name: bytes) -> bytes:
        text = name.decode("utf-8", "surrogateescape")
        try:
            return scan.inspect(source.read(text)).encoded
        except Rejected as rejected:
            rejects.append((text, rejected.reason, rejected.detail))
            return black

    def decode(name: tf.Tensor) -> Batch:
        encoded = tf.numpy_function(read, [name], tf.string)
        return {
            "image": preprocess.decode_image(encoded, image_size),
            "name": name,
            "weight": tf.constant(1.0),
        }

    encoded_names = [name.encode("utf-8", "surrogateescape") for name in names]
    dataset = tf.data.Dataset.from_tensor_slices(encoded_names)
    return padded_batches(dataset.map(decode, tf.data.AUTOTUNE, deterministic=True), batch_size)
