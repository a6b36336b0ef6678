"""Records to batches: what runs on the host while the device computes.

    epochs -> shards in a new order -> records, interleaved -> shuffled as encoded bytes
           -> batches -> decoded, a batch on each thread -> uint8 on the device

Decoded images never sit in the shuffle buffer: its bound in megabytes holds some twenty times as
many encoded ones. The order and every sample's random numbers follow from (seed, epoch, sample),
so an epoch can be begun again, or at any step, and gives the same batches.
"""

import math
import uuid
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.images import preprocess
from tfpipe.input import cache, draws, service, tuning
from tfpipe.input.samples import DEVICE, Reading, RecordSource, Rows, of_part
from tfpipe.input.threads import in_threads
from tfpipe.records import example
from tfpipe.records.subset import Subset

Batch = dict[str, tf.Tensor]


def train_batches(
    part: Subset,
    reading: Reading,
    *,
    augment: Augment | None = None,
    first_epoch: int = 0,
    first_step: int = 0,
    epochs: int = 1,
) -> Iterator[Batch | None]:
    """Yields the batches of epochs `first_epoch` to `epochs` - 1, one epoch after the other.

    Each epoch has `steps_per_epoch` batches, with each record once. The last one is filled up with
    repetitions of its own that do not count, so that every batch has one shape.

    Args:
        part: the records.
        reading: how they become batches.
        augment: what is done to the batches later.
        first_epoch: the epoch to begin with, from 0.
        first_step: the step to begin that epoch with, from 0. Its batches are those that the whole
            epoch would have had from there on, and nothing of the others is decoded. Where no seed
            determines the order (`reading.deterministic`, or a data service), they are just so many
            fewer.
        epochs: the epoch to end before.

    Yields:
        Batches, and None at the end of an epoch that has fewer of them, as one does of whose
        records a data service lost some. "image" uint8 [B, S, S, 3]; "label" int64 [B]; "draws"
        float32 [B, D] in [0, 1), the uniform numbers that `augment` takes; "number" int64 [B],
        which tells the records (`draws.number`); "weight" float32 [B], B / N for each of a batch's
        N records and 0 for a repetition, so that a weighted mean over B is that over N. If the
        device resizes, "image" is uint8 [B, P, 3], the pixels row by row and then others, and
        "size" int32 [B, 2] their height and width. On the first GPU, if there is one. With W
        workers these are the worker's own B / W rows of each batch.

    Raises:
        UserError: the part has not as many records as a batch, the cache does not fit, or a
            record is damaged.
    """
    size, seed = reading.batch_size, reading.seed
    steps = steps_per_epoch(part, size)
    columns = augment.draws if augment else 0
    if reading.service:
        wanted = {
            epoch: part.count - (first_step * size if epoch == first_epoch else 0)
            for epoch in range(first_epoch, epochs)
        }
        yield from _from_service(RecordSource(part, reading), reading, wanted, columns)
        return
    crops = augment is not None and augment.crops_on_host
    source = (RecordSource if reading.cache == cache.NONE else Rows)(part, reading)

    @tf.autograph.experimental.do_not_convert
    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        # In this graph alone: the order is not to depend on the process' own seed, and beside 0
        # Dataset.shuffle takes no tensor as another.
        tf.random.set_seed(1)
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        begun = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
        batches = source.samples(key).batch(size).take(steps).skip(begun)
        return batches.map(lambda batch: (epoch, batch))

    def finish(epoch: np.ndarray, batch: np.ndarray) -> Batch:
        rows, weight = filled(batch, size)
        found = source.get(rows[reading.rows])
        numbers = draws.uniform(np.array([seed]), epoch[np.newaxis], found.number, columns)
        windows = augment.window(numbers).numpy() if crops else None
        pictures = found.pictures or reading.decode(found.images, windows)
        result = {"label": found.label, "draws": numbers, "number": found.number}
        result["weight"] = weight[reading.rows]
        if reading.resize_on == DEVICE:
            result["size"] = pictures.size
        result = {key: tf.convert_to_tensor(value) for key, value in result.items()}
        return result | {"image": _without_copy(pictures.image)}

    dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch)
    dataset = tuning.untuned(dataset.prefetch(tuning.AHEAD)).with_options(reading.options())
    yield from in_threads(
        finish,
        dataset.as_numpy_iterator(),
        threads=reading.cores,
        ahead=reading.batches_ahead,
        in_order=reading.in_order,
    )


def eval_batches(
    part: Subset,
    *,
    image_size: int,
    batch_size: int,
    copies: bool = False,
    described: bool = False,
    worker: int = 0,
    workers: int = 1,
    ahead: int = tuning.AHEAD,
) -> tf.data.Dataset:
    """Returns every image of a part once, in the shards' order.

    The last batch is filled up with samples of weight 0, so that every batch has one shape and
    none is dropped.

    Args:
        part: the records.
        image_size: the side of the images in pixels.
        batch_size: records in a batch.
        copies: whether transformed copies are returned too; nothing is to be measured by them.
        described: whether batches tell of the images themselves too.
        worker: which of the workers this process is, from 0; it gets every W-th record.
        workers: how many share the records, W.
        ahead: how many batches are made before they are asked for.

    Returns:
        A dataset of batches: "image" uint8 [B, S, S, 3], "label" int64 [B], "name" string [B],
        "number" int64 [B], which tells the record (`draws.number`), "fold" int64 [B] and "copy"
        int64 [B] as the records have them, "weight" float32 [B], 1 for a record and 0 for filling.
        If `described`, "height" and "width" int64 [B], of the records' images in pixels, and
        "brightness" float32 [B], the mean luma of the resized ones in 0..255.
    """

    @tf.autograph.experimental.do_not_convert
    def decode(record: tf.Tensor) -> Batch:
        fields = example.parse(record)
        image = preprocess.decode_record(fields, image_size)
        found = {
            "image": image,
            "label": fields["image/class/label"],
            "name": fields["image/filename"],
            "number": draws.number(fields["image/key/sha256"]),
            "fold": fields["image/fold"],
            "copy": fields["image/copy"],
            "weight": tf.constant(1.0),
        }
        if described:
            found["height"], found["width"] = fields["image/height"], fields["image/width"]
            found["brightness"] = preprocess.brightness(image)
        return found

    dataset = of_part(tf.data.TFRecordDataset(part.paths), part, copies=copies)
    dataset = dataset.shard(workers, worker)
    dataset = dataset.map(decode, tuning.cores(), deterministic=True)
    return padded_batches(dataset, batch_size, ahead)


def filled(rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Fills a batch up with repetitions.

    Args:
        rows: of the batch, [N, ...], at least one.
        size: of a full batch, B, at least N.

    Returns:
        The rows [B, ...], and their weights float32 [B]: B / N, and 0 for a repetition.
    """
    count = len(rows)
    indices = np.arange(size)
    weight = np.where(indices < count, size / count, 0).astype(np.float32)
    return (rows if count == size else rows[indices % count]), weight


def padded_batches(
    dataset: tf.data.Dataset, batch_size: int, ahead: int = tuning.AHEAD
) -> tf.data.Dataset:
    """Batches samples, filling the last batch up with zeros (so of weight 0), and prefetches."""

    @tf.autograph.experimental.do_not_convert
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

    return tuning.untuned(dataset.batch(batch_size).map(pad).prefetch(ahead))


def _without_copy(array: np.ndarray) -> tf.Tensor:
    """Returns an array as a tensor: itself on a CPU, and, if there is a GPU, a copy there.

    Args:
        array: from `samples.aligned`, for TensorFlow does not check that.
    """
    tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    gpus = tf.config.list_logical_devices("GPU")
    if not gpus:
        return tensor
    with tf.device(gpus[0].name):
        return tf.identity(tensor)


def _from_service(
    source: RecordSource, reading: Reading, records: dict[int, int], columns: int
) -> Iterator[Batch | None]:
    """Yields the batches that a tf.data service makes, in the order in which they are ready.

    Args:
        source: of the records.
        reading: how they become batches.
        records: how many of each epoch are wanted.
        columns: of "draws".
    """
    size = reading.batch_size
    run = uuid.uuid4().hex  # a job's name is used once

    @tf.autograph.experimental.do_not_convert
    def batch(record: tf.Tensor) -> Batch:
        fields = example.parse(record)
        found = {"label": fields["image/class/label"]}
        if reading.resize_on == DEVICE:
            pixels = reading.shape[0]
            found["image"], found["size"] = preprocess.record_canvas(
                fields, reading.image_size, pixels
            )
        else:
            found["image"] = preprocess.decode_record(fields, reading.image_size)
        return found | {"number": draws.number(fields["image/key/sha256"])}

    def finish(found: Batch, epoch: int) -> Batch:
        indices, weight = filled(np.arange(len(found["label"])), size)
        if len(found["label"]) < size:
            found = {key: tf.gather(values, indices) for key, values in found.items()}
        key = (np.array([reading.seed]), np.array([epoch]))
        numbers = draws.uniform(*key, found["number"].numpy(), columns)
        return found | {"draws": tf.constant(numbers), "weight": tf.constant(weight)}

    with service.guard(reading.service):
        for epoch, wanted in records.items():
            samples = source.samples(tf.constant([reading.seed, epoch], tf.int64))
            made = samples.map(batch, tf.data.AUTOTUNE).batch(size)  # of the workers' cores
            made = service.distribute(made, reading.service, job=f"{run}-{epoch}", batch_size=size)
            seen = 0
            for found in made.take(math.ceil(wanted / size)):
                seen += len(found["label"])
                yield finish(found, epoch)
            if seen < wanted:
                terminal.warn(
                    f"epoch {epoch + 1}: {wanted - seen} of {wanted} records are missing: a worker"
                    f" of --data_service={reading.service} was lost with those it had begun"
                )
            if math.ceil(seen / size) < math.ceil(wanted / size):
                yield None


def steps_per_epoch(part: Subset, batch_size: int) -> int:
    """Returns how many batches a part makes; raises UserError for a batch larger than it."""
    if not 1 <= batch_size <= part.count:
        raise UserError(
            f"--batch_size={batch_size}: {part.manifest.folder} has {part.count} records of"
            f" {part.name}; give 1 to {part.count}"
        )
    return math.ceil(part.count / batch_size)
