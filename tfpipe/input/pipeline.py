"""Records to batches: what runs on the host while the device computes.

    epochs -> shards in a new order -> records, interleaved -> shuffled as encoded bytes
           -> decoded and resized, in parallel -> batches of uint8 -> prefetched

Decoded images never sit in the shuffle buffer: its bound in megabytes holds some twenty times as
many encoded ones. The order and every sample's random numbers follow from (seed, epoch, sample),
so an epoch can be begun again, or at any step, and gives the same batches.
"""

import tensorflow as tf

from tfpipe.errors import UserError
from tfpipe.ingest import example, scan
from tfpipe.ingest.manifest import Manifest
from tfpipe.ingest.sources import Rejected, Source
from tfpipe.input import preprocess

# Shards read at once; their records alternate, which mixes neighbours on the disk.
READERS = 4

Batch = dict[str, tf.Tensor]


def train_batches(
    manifest: Manifest,
    split: str,
    *,
    image_size: int,
    batch_size: int,
    draws: int,
    seed: int,
    first_epoch: int,
    epochs: int,
    shuffle_mb: int,
) -> tf.data.Dataset:
    """Returns the batches of epochs `first_epoch` to `epochs` - 1, one epoch after the other.

    Each epoch has `steps_per_epoch` full batches; the few records that would be left over are
    others in each epoch.

    Args:
        manifest: the records.
        split: which part of them.
        image_size: the side of the images in pixels.
        batch_size: records in a batch.
        draws: how many uniform numbers the augmentation takes for each image.
        seed: of the order and of the uniform numbers.
        first_epoch: the epoch to begin with, from 0.
        epochs: the epoch to end before.
        shuffle_mb: encoded bytes that the shuffle buffer may hold, in megabytes.

    Returns:
        A dataset of batches: "image" uint8 [B, S, S, 3], "label" int64 [B], "draws" float32
        [B, draws] in [0, 1), "weight" float32 [B], all ones.
    """
    steps = steps_per_epoch(manifest, split, batch_size)
    shards = [str(manifest.folder / shard.name) for shard in manifest.shards_of(split)]
    record_bytes = sum(s.bytes for s in manifest.shards_of(split)) / manifest.count(split)
    buffer = max(1, min(manifest.count(split), int(shuffle_mb * 2**20 / record_bytes)))

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(shards)), key)
        records = tf.data.Dataset.from_tensor_slices(order).interleave(
            lambda shard: _numbered(shards, shard),
            cycle_length=READERS,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        mixed = tf.random.stateless_uniform([], key, None, None, tf.int64)
        records = records.shuffle(buffer, seed=mixed, reshuffle_each_iteration=False)
        return records.take(steps * batch_size).map(lambda sample, record: (key, sample, record))

    def decode(key: tf.Tensor, sample: tf.Tensor, record: tf.Tensor) -> Batch:
        fields = example.parse(record)
        own = tf.random.experimental.stateless_fold_in(key, sample)
        return {
            "image": preprocess.decode_record(fields, image_size),
            "label": fields["image/class/label"],
            "draws": tf.random.stateless_uniform([draws], own),
            "weight": tf.constant(1.0),
        }

    dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch)
    dataset = dataset.map(decode, tf.data.AUTOTUNE, deterministic=True)
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE)


def eval_batches(
    manifest: Manifest, split: str, *, image_size: int, batch_size: int, copies: bool = False
) -> tf.data.Dataset:
    """Returns every image of a split once, in the shards' order.

    The last batch is filled up with samples of weight 0, so that every batch has one shape and
    none is dropped.

    Args:
        manifest: the records.
        split: which part of them.
        image_size: the side of the images in pixels.
        batch_size: records in a batch.
        copies: whether transformed copies are returned too; nothing is to be measured by them.

    Returns:
        A dataset of batches: "image" uint8 [B, S, S, 3], "label" int64 [B], "name" string [B],
        "weight" float32 [B], 1 for a record and 0 for filling.
    """
    shards = [str(manifest.folder / shard.name) for shard in manifest.shards_of(split)]

    def decode(record: tf.Tensor) -> Batch:
        fields = example.parse(record)
        return {
            "image": preprocess.decode_record(fields, image_size),
            "label": fields["image/class/label"],
            "name": fields["image/filename"],
            "weight": tf.constant(1.0),
        }

    dataset = tf.data.TFRecordDataset(shards)
    if not copies and manifest.images(split) < manifest.count(split):
        dataset = dataset.filter(lambda record: example.parse(record)["image/copy"] == 0)
    dataset = dataset.map(decode, tf.data.AUTOTUNE, deterministic=True)
    return padded_batches(dataset, batch_size)


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


def padded_batches(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Batches samples, filling the last batch up with zeros (so of weight 0), and prefetches."""

    def pad(batch: Batch) -> Batch:
        def fill(values: tf.Tensor) -> tf.Tensor:
            missing = batch_size - tf.shape(values)[0]
            padding = [[0, missing]] + [[0, 0]] * (values.shape.rank - 1)
            if values.dtype == tf.string:
                filled = tf.concat([values, tf.fill([missing], "")], 0)
            else:
                filled = tf.pad(values, padding)
            return tf.ensure_shape(filled, [batch_size, *values.shape[1:]])

        return {key: fill(values) for key, values in batch.items()}

    return dataset.batch(batch_size).map(pad).prefetch(tf.data.AUTOTUNE)


def steps_per_epoch(manifest: Manifest, split: str, batch_size: int) -> int:
    """Returns how many full batches a split holds; raises UserError for a batch larger than it."""
    count = manifest.count(split)
    if not 1 <= batch_size <= count:
        raise UserError(
            f"--batch_size={batch_size}: {manifest.folder} has {count} {split} records; give 1 to"
            f" {count}"
        )
    return count // batch_size


def _numbered(shards: list[str], shard: tf.Tensor) -> tf.data.Dataset:
    """Yields (sample, record): the sample's number is unique among the shards and never changes."""
    path = tf.gather(tf.constant(shards), shard)
    first = tf.bitwise.left_shift(tf.cast(shard, tf.int64), tf.constant(40, tf.int64))
    return (
        tf.data.TFRecordDataset(path)
        .enumerate()
        .map(lambda number, record: (first + number, record))
    )
