"""Records to batches: the work of the host while the device computes.

    epochs -> shards in a new order -> records, interleaved -> shuffled as encoded bytes
           -> batches -> decoded, a batch on each thread -> uint8 on the device

The shuffle buffer holds encoded images: some twenty times as many as decoded ones. The order and
each example's random numbers follow from (seed, epoch, example). So an epoch that starts again, at
any step, gives the same batches.
"""

import math
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.core.cores import cores
from tfpipe.core.errors import UserError
from tfpipe.images import preprocess
from tfpipe.input import sampling, service, stateless_random, stored_records, tuning
from tfpipe.input.example_source import RecordSource, of_part, open_source
from tfpipe.input.input_config import DEVICE, InputConfig
from tfpipe.input.threads import parallel_map
from tfpipe.records import example
from tfpipe.records.subset import Subset

Batch = dict[str, Any]


def on_device(batch: Batch) -> Batch:
    """Return arrays as tensors: the images on the first GPU, if there is one, else uncopied.

    Args:
        batch: arrays, or tensors; "image" is an array from `input_config.aligned`, whose alignment
            TensorFlow does not check.
    """
    result = {key: tf.convert_to_tensor(v) for key, v in batch.items() if key != "image"}
    image = batch["image"]
    if not isinstance(image, np.ndarray):
        return result | {"image": image}
    image = tf.experimental.dlpack.from_dlpack(image.__dlpack__())
    if gpus := tf.config.list_logical_devices("GPU"):
        with tf.device(gpus[0].name):
            image = tf.identity(image)
    return result | {"image": image}


def train_batches(
    part: Subset,
    config: InputConfig,
    *,
    augment: Augment | None = None,
    first_epoch: int = 0,
    first_step: int = 0,
    epochs: int = 1,
    place: Callable[[Batch], Batch] = on_device,
) -> Iterator[Batch | None]:
    """Yield the batches of epochs `first_epoch` to `epochs` - 1, one epoch after the other.

    Each epoch has `steps_per_epoch` batches. Together they have each record. The last batch is
    filled up with the last records of the batch before it, so no batch has a record twice, and all
    weigh the same in its mean and in BatchNorm's statistics.

    The first epoch begins at `first_step`, and the batches before are not decoded. If the order is
    not fixed (`config.deterministic`, or a data service), this only gives fewer batches.

    Several workers share each batch of all records. If there are `stored_records.READERS` shards
    or more for each, a worker reads only its share of the shards, drawn anew in each epoch: then
    the batches depend on the number of workers too.

    `place` moves a batch of arrays to the devices, on the thread that has decoded it, so ahead of
    its step.

    Yields:
        Batches as of `place`, and None at the end of an epoch that has fewer batches because a data
        service lost records. With W workers, a batch is this worker's own B / W rows. Its keys:
            "image": uint8 [B, S, S, 3]. If the device resizes, uint8 [B, P, 3]: the pixels row by
                row, then others.
            "size": int32 [B, 2], height and width; only if the device resizes.
            "label": of the manifest's `encoding`: int64 [B], or float32 [B, C] where an image may
                have several classes.
            "random": float32 [B, D] in [0, 1), the uniform numbers that `augment` takes.
            "example_id": int64 [B] (`stateless_random.example_id`).
            "sample_weight": float32 [B], 1.

    Raises:
        UserError: the part has fewer records than a batch, the cache does not fit, or a record
            is damaged.
    """
    size, seed = config.batch_size, config.seed
    steps = steps_per_epoch(part, size)
    augment = augment or Augment("")
    config.check(augment)
    if config.service:
        wanted = {
            epoch: part.count - (first_step * size if epoch == first_epoch else 0)
            for epoch in range(first_epoch, epochs)
        }
        yield from _from_service(part, config, wanted, augment, place)
        return
    source = open_source(part, config)
    rows = config.rows
    if source.own_shards:
        size, rows = config.local_size, slice(None)

    @tf.autograph.experimental.do_not_convert
    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        # In this graph only, so that the order does not depend on the process's seed. With 0,
        # Dataset.shuffle would not accept a tensor as its seed.
        tf.random.set_seed(1)
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        begun = tf.where(epoch == first_epoch, tf.constant(first_step, tf.int64), 0)
        batches = filled(source.keys(key).batch(size), size).take(steps).skip(begun)
        return batches.map(lambda *batch: (epoch, batch))

    def finish(epoch: np.ndarray, batch: tuple[np.ndarray, ...]) -> Batch:
        keys, occurrence = batch if len(batch) == 2 else (*batch, np.zeros(size, np.int64))
        found = source.get(keys[rows])
        drawn = sampling.key(found.example_id, occurrence[rows])
        numbers = stateless_random.uniform(seed, epoch, drawn, augment.num_random)
        windows = augment.window(numbers).numpy() if augment.crops_on_host else None
        pictures = found.pictures or config.decode(found.images, windows)
        result = {"label": found.label, "random": numbers, "example_id": found.example_id}
        result["sample_weight"] = np.ones(len(found.label), np.float32)
        if config.resize_on == DEVICE:
            result["size"] = pictures.size
        return place(result | {"image": pictures.image})

    dataset = tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch)
    dataset = tuning.without_autotune(dataset.prefetch(tuning.AHEAD)).with_options(config.options())
    yield from parallel_map(
        finish,
        dataset.as_numpy_iterator(),
        threads=config.cores,
        ahead=config.batches_ahead,
        in_order=config.in_order,
    )


def eval_batches(
    part: Subset,
    *,
    image_size: int,
    batch_size: int,
    copies: bool = False,
    described: bool = False,
    crop: Callable[[tf.Tensor], tf.Tensor | None] = lambda number: None,
    worker: int = 0,
    workers: int = 1,
    ahead: int = tuning.AHEAD,
) -> tf.data.Dataset:
    """Return every image of a part once, in the shards' order.

    The last batch is padded with zeros of sample weight 0, so that all batches have one shape and
    no image is dropped.

    Args:
        part: the records.
        image_size: side of the images in pixels, S.
        batch_size: records in a batch, B.
        copies: whether to include transformed copies; do not measure anything by them.
        described: whether to add properties of the images.
        crop: returns the window of an image, as `preprocess.decode_record` takes it, for the
            example's id, int64 []; see `first_crop`.
        worker: index of this worker, from 0; it gets a share of the records.
        workers: number of workers.
        ahead: batches to prefetch.

    Returns:
        A dataset of batches: "image" uint8 [B, S, S, 3]; "label" int64 [B], or float32 [B, C] where
        an image may have several classes; "name" string [B];
        "example_id" int64 [B] (`stateless_random.example_id`); "fold" and "copy" int64 [B] as the
        records have them; "sample_weight" float32 [B], 1 for a record and 0 for padding. If
        `described`, "height" and "width" int64 [B], of the records' images in pixels, and
        "brightness" float32 [B], the mean luma of the resized ones in 0..255.
    """
    encoding = part.manifest.encoding

    @tf.autograph.experimental.do_not_convert
    def decode(record: tf.Tensor) -> Batch:
        fields = example.parse(record, many=encoding.many)
        number = stateless_random.example_id(fields["image/key/sha256"])
        image = preprocess.decode_record(fields, image_size, crop(number))
        found = {
            "image": image,
            "label": encoding.parsed(fields),
            "name": fields["image/filename"],
            "example_id": number,
            "fold": fields["image/fold"],
            "copy": fields["image/copy"],
            "sample_weight": tf.constant(1.0),
        }
        if described:
            found["height"], found["width"] = fields["image/height"], fields["image/width"]
            found["brightness"] = preprocess.brightness(image)
        return found

    if part.fold is None and (copies or part.images == part.count):
        dataset = stored_records.in_order(part.pieces, worker=worker, workers=workers)
    else:  # nobody knows how many of a shard's records stay
        dataset = of_part(stored_records.in_order(part.pieces), part, copies=copies)
        dataset = dataset.shard(workers, worker)
    dataset = dataset.map(decode, cores(), deterministic=True)
    return padded_batches(dataset, batch_size, ahead)


def first_crop(augment: Augment, seed: int, epoch: int) -> Callable[[tf.Tensor], tf.Tensor | None]:
    """Return a function from an example's id, int64 [], to its window in an epoch, float32 [4].

    It returns None if `augment` does not begin with a crop. It runs in any graph.
    """

    def window(number: tf.Tensor) -> tf.Tensor | None:
        if not augment.crops_on_host:
            return None
        numbers = stateless_random.uniform(seed, epoch, number[tf.newaxis], augment.num_random)
        return augment.window(numbers)[0]

    return window


def pad_batch(rows: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the batch padded to `size` rows with repetitions, and its sample weights.

    Args:
        rows: [N, ...], at least one.
        size: of a full batch, B, at least N.

    Returns:
        The rows [B, ...], and float32 [B]: 1, or 0 for a repetition.
    """
    count = len(rows)
    indices = np.arange(size)
    weight = (indices < count).astype(np.float32)
    return (rows if count == size else rows[indices % count]), weight


def filled(batches: tf.data.Dataset, size: int) -> tf.data.Dataset:
    """Fill a last batch of fewer than `size` records with the last ones of the batch before it.

    `batches` are tensors [N], or tuples of them. A first batch that is too small stays so.
    """

    @tf.autograph.experimental.do_not_convert
    def fill(before: Any, batch: Any) -> tuple[Any, Any]:
        def one(before: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
            whole = tf.shape(batch)[0] == size
            return tf.cond(whole, lambda: batch, lambda: tf.concat([before, batch], 0)[-size:])

        batch = tf.nest.map_structure(one, before, batch)
        return batch, batch

    empty = tf.nest.map_structure(lambda spec: tf.constant([], spec.dtype), batches.element_spec)
    return batches.scan(empty, fill)


def padded_batches(
    dataset: tf.data.Dataset, batch_size: int, ahead: int = tuning.AHEAD
) -> tf.data.Dataset:
    """Batch and prefetch examples; pad the last batch with zeros (so of sample weight 0)."""

    @tf.autograph.experimental.do_not_convert
    def pad(batch: Batch) -> Batch:
        def fill(values: tf.Tensor) -> tf.Tensor:
            shape = values.shape[1:]
            padding = tf.zeros([batch_size - tf.shape(values)[0], *shape], values.dtype)
            return tf.ensure_shape(tf.concat([values, padding], 0), [batch_size, *shape])

        return {key: fill(values) for key, values in batch.items()}

    return tuning.without_autotune(dataset.batch(batch_size).map(pad).prefetch(ahead))


def _from_service(
    part: Subset,
    config: InputConfig,
    records: dict[int, int],
    augment: Augment,
    place: Callable[[Batch], Batch],
) -> Iterator[Batch | None]:
    """Yield the batches of a tf.data service, in the order in which they are ready.

    `records` has the number of records to read, by epoch.
    """
    source, encoding, size = RecordSource(part, config), part.manifest.encoding, config.batch_size
    run = uuid.uuid4().hex  # a job's name is used once

    def decode(epoch: int) -> Callable[[tf.Tensor], Batch]:
        crop = first_crop(augment, config.seed, epoch)

        @tf.autograph.experimental.do_not_convert
        def decode_record(record: tf.Tensor, occurrence: tf.Tensor | int = 0) -> Batch:
            fields = example.parse(record, many=encoding.many)
            own = stateless_random.example_id(fields["image/key/sha256"])
            number = sampling.key(own, tf.cast(occurrence, tf.int64))
            found = {"label": encoding.parsed(fields), "example_id": own, "drawn": number}
            if config.resize_on == DEVICE:
                pixels = config.shape[0]
                found["image"], found["size"] = preprocess.record_canvas(
                    fields, config.image_size, pixels, crop(number)
                )
            else:
                found["image"] = preprocess.decode_record(fields, config.image_size, crop(number))
            return found

        return decode_record

    def finish(found: Batch, epoch: int) -> Batch:
        ids = found["drawn"].numpy()
        numbers = stateless_random.uniform(config.seed, epoch, ids, augment.num_random)
        found = {name: value for name, value in found.items() if name != "drawn"}
        return place(found | {"random": numbers, "sample_weight": np.ones(size, np.float32)})

    for epoch, wanted in records.items():
        records_of_epoch = source.keys(tf.constant([config.seed, epoch], tf.int64))
        made = records_of_epoch.map(decode(epoch), tf.data.AUTOTUNE).batch(
            size
        )  # of the workers' cores
        made = service.distribute(made, config.service, job=f"{run}-{epoch}", batch_size=size)
        seen, given, before = 0, 0, None
        for found in service.watched(made.take(math.ceil(wanted / size)), config.service):
            seen += len(found["label"])
            if before is not None and len(found["label"]) < size:
                found = {k: tf.concat([before[k], found[k]], 0)[-size:] for k in found}
            if len(found["label"]) == size:
                given += 1
                yield finish(found, epoch)
            before = found
        if seen < wanted:
            terminal.warn(
                f"epoch {epoch + 1}: {wanted - seen} of {wanted} records are missing: a worker"
                f" of the data service {config.service} died and lost those that it had begun"
            )
        if given < math.ceil(wanted / size):
            yield None


def fitting_batch_size(part: Subset, batch_size: int, replicas: int = 1) -> int:
    """Return `batch_size`, or the largest that a smaller part has records for.

    It is a multiple of the replicas, unless the part has fewer records than these.
    """
    return min(batch_size, part.count // replicas * replicas or batch_size)


def steps_per_epoch(part: Subset, batch_size: int) -> int:
    """Return the number of batches of a part; raise UserError if one is larger than it."""
    if not 1 <= batch_size <= part.count:
        raise UserError(
            f"`batch_size={batch_size}`: {part.manifest.folder} has {part.count} records of"
            f" {part.name}; give 1 to {part.count}"
        )
    return math.ceil(part.count / batch_size)
