"""Input of a stage's steps: images, or the features of frozen layers.

    images: read, augmented, through the frozen layers    in each epoch
    or:     features from the cache                       after one pass over the images

`Inputs.forward` takes the batches of both.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.input import pipeline, sampling, service, stateless_random
from tfpipe.input.input_config import InputConfig
from tfpipe.input.threads import parallel_map
from tfpipe.model.classifier import Classifier
from tfpipe.model.partition import Partition
from tfpipe.records import salvage
from tfpipe.records.subset import Subset
from tfpipe.training.cluster import Cluster, share_out
from tfpipe.training.feature_dataset import FeatureDataset
from tfpipe.training.feature_extractor import FeatureExtractor
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.stages import Stage
from tfpipe.training.train_config import TrainConfig

Batch = dict[str, Any]

# From the ids of images, int64 [B], and their labels, to their targets, float32 [B, C].
Targets = Callable[[np.ndarray, np.ndarray], np.ndarray]

# The fields of a batch that a step takes. Others may be strings, which no device takes.
_USED = ("image", "features", "size", "random", "label", "target", "sample_weight")

_AHEAD = 4  # batches that are read from the cache ahead of the step


class Inputs:
    """The batches of one stage: this worker's rows of each.

    Build it in the scope of the tf.distribute strategy, if there is one. `steps` and `images` are
    the numbers in an epoch, `validation_images` that of the validation.
    """

    def __init__(
        self,
        run: RunFolder,
        train_split: Subset,
        val_split: Subset,
        classifier: Classifier,
        stage: Stage,
        split: Partition,
        earlier: Partition | None = None,
        targets: Targets | None = None,
    ):
        """Choose what to cache, and compute it if it is missing.

        `split` is of this stage, and `earlier` of the earliest of the next ones, if it differs.
        `targets` gives what to train towards; without it, that is the labels.
        Raises UserError if an option does not fit, or the cache cannot be written.
        """
        self._train_split, self._val_split = train_split, val_split
        self._targets = targets
        self._stage, self._split = stage, split
        self._strategy = tf.distribute.get_strategy()
        self._several = self._strategy.num_replicas_in_sync > 1
        self._config = config = stage.config
        self._encoding = train_split.manifest.encoding
        self._side = side = classifier.image_size
        cluster = Cluster(self._strategy)
        self._input = input_config(config, side, worker=cluster.worker, workers=cluster.workers)
        self._augment = Augment(config.augment, crop_on_host=True)
        # XLA makes gathers several times faster, on a CPU too.
        self._augment_batch = tf.function(self._augment, autograph=False, jit_compile=True)
        self.steps = pipeline.steps_per_epoch(train_split, config.batch_size)
        self.images, self.validation_images = train_split.count, val_split.images
        extractor = FeatureExtractor(run, config, classifier, split, cluster, earlier)
        views = self._views if self._fits(extractor, train_split, self._views) else 0
        val_fits = self._fits(extractor, val_split, 1)
        with cluster.chief_first():
            self._train_features = [
                extractor.get(train_split, view if self._augment else None, views)
                for view in range(views)
            ]
            self._val_features = extractor.get(val_split).without_copies() if val_fits else None

    def training(self, first_epoch: int, first_step: int, epochs: int) -> Iterator[Batch | None]:
        """Yield the batches of epochs `first_epoch`, from its `first_step`, to `epochs` - 1.

        Yields:
            "image" and its fields, as of `pipeline.train_batches`, or "features", a list of
            tensors; "label" as of `pipeline.train_batches`, "example_id" int64 [B],
            "sample_weight" float32 [B], 1; "target" float32 [B, C] with a teacher. All but
            "example_id" are shared out among the replicas (`cluster.share_out`). None where an
            epoch has fewer steps.
        """
        if self._train_features:
            orders = self._orders(first_epoch, first_step, epochs)
            yield from parallel_map(self._take, orders, threads=self._input.cores, ahead=_AHEAD)
            return
        with salvage.explained(self._train_split.manifest):
            yield from pipeline.train_batches(
                self._train_split,
                self._input,
                augment=self._augment,
                first_epoch=first_epoch,
                first_step=first_step,
                epochs=epochs,
                place=self._place,
            )

    def validation(self) -> Iterator[Batch]:
        """Yield the batches of the validation images, padded with weight 0, shared out.

        Every worker gets the same number of batches, and together they get all images.
        """
        own = self._input
        if self._val_features is not None:
            features = self._val_features.batches(self._config.batch_size, own.rows)
            yield from map(self._shared, features)
            return
        batches = self._val_batches
        most = math.ceil(self._val_split.images / own.workers)
        missing = math.ceil(most / own.local_size)
        with salvage.explained(self._val_split.manifest):
            for batch in batches:
                missing -= 1
                yield self._shared(batch)
        for _ in range(missing):
            spec = batches.element_spec.items()
            yield self._shared({k: tf.zeros(s.shape, s.dtype) for k, s in spec})

    @functools.cached_property
    def _val_batches(self) -> tf.data.Dataset:
        """The validation images; made once, because tracing it takes longer than a small epoch."""
        return pipeline.eval_batches(
            self._val_split,
            image_size=self._side,
            batch_size=self._input.local_size,
            worker=self._input.worker,
            workers=self._input.workers,
        )

    def features(self) -> Iterator[np.ndarray]:
        """Yield what the head takes of the training images, float32 [N, F], all images once.

        They are the cached views of the images, or else the images as they are.
        """

        @functools.partial(tf.function, autograph=False)
        def head_input(tensors: list[tf.Tensor]) -> tf.Tensor:
            return tf.cast(self._split.features(tensors, training=False), tf.float32)

        size = self._config.batch_size
        for dataset in self._train_features:
            for batch in dataset.batches(size):
                yield head_input(batch["features"]).numpy()[batch["sample_weight"] > 0]
        if self._train_features:
            return
        boundary = tf.function(self._split.boundary, autograph=False)
        part, side = self._train_split, self._side
        batches = pipeline.eval_batches(part, image_size=side, batch_size=size, copies=True)
        title = f"mean and deviation of the features of {part.name}"
        with salvage.explained(part.manifest), terminal.progress(title, part.count) as advance:
            for batch in batches:
                real = batch["sample_weight"] > 0
                yield head_input(boundary(batch["image"])).numpy()[real]
                advance(int(real.numpy().sum()))

    def sample(self) -> tf.Tensor:
        """Return up to 16 training images as in the first epoch, [N, S, S, 3] in 0..255."""
        crop = pipeline.first_crop(self._augment, self._config.seed, epoch=0)
        batches = pipeline.eval_batches(
            self._train_split, image_size=self._side, batch_size=16, crop=crop
        )
        with salvage.explained(self._train_split.manifest):
            batch = next(iter(batches))
        images, ids, labels = (
            batch[name][batch["sample_weight"] > 0] for name in ("image", "example_id", "label")
        )
        numbers = stateless_random.uniform(
            self._config.seed, 0, ids.numpy(), self._augment.num_random
        )
        shares = self._encoding.shares(labels)
        return self._augment(images, shares, numbers, side=self._side)[0]

    def forward(self, batch: Batch, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Return logits float32 [B, 1 or C], and their target labels, float32 [B, C]."""
        taught = training and "target" in batch
        labels = batch["target"] if taught else self._encoding.shares(batch["label"])
        features = batch.get("features")
        if features is None:
            images = batch["image"]
            if training and (self._augment or "size" in batch):
                images, labels = self._augment_batch(
                    images, labels, batch["random"], side=self._side, sizes=batch.get("size")
                )
            features = self._split.boundary(images)
        return self._split.trained(features, training=training), labels

    @property
    def _views(self) -> int:
        """Number of views of each training image to cache; 0 for none."""
        if not self._augment:
            return 1
        views = self._config.feature_views
        if views and self._augment.mixes:
            raise UserError(
                f"`feature_views={views}`: `augment={self._config.augment}` mixes the images of a"
                " batch, so no image has features of its own: give `feature_views=0`"
            )
        return views

    def _fits(self, extractor: FeatureExtractor, part: Subset, views: int) -> bool:
        """Return whether to cache the views of a part; inform the user if they are too large."""
        if extractor.fits(part, views):
            return True
        if self._split.any_frozen and views and self._config.feature_gb:
            left, limit = extractor.left_gb, self._config.feature_gb
            terminal.say(
                f"stage {self._stage.name}: the frozen layers' features of {part.name} would take"
                f" {extractor.gigabytes(part, views):.1f} GB, more than the {left:.3g} GB left of"
                f" {limit:g} GB (feature_gb): they are computed in each epoch"
            )
        return False

    def _orders(self, first_epoch: int, first_step: int, epochs: int) -> Iterator[tuple]:
        """Yield (features, indices of rows) of each batch; another order in each epoch."""
        total, batch = len(self._train_features[0]), self._config.batch_size
        sampler = self._input.sampler(lambda: self._train_features[0].labels)
        for epoch in range(first_epoch, epochs):
            rows = sampling.repeated(sampler.counts(epoch))[0] if sampler else total
            order = np.random.default_rng([self._config.seed, epoch]).permutation(rows)
            for step in range(first_step if epoch == first_epoch else 0, self.steps):
                # The last batch is filled with rows of the one before, as of `train_batches`.
                start = min(step * batch, total - batch)
                indices = order[start : start + batch]
                yield self._train_features[epoch % len(self._train_features)], indices

    def _take(self, dataset: FeatureDataset, indices: np.ndarray) -> Batch:
        with tf.device("CPU:0") if self._several else contextlib.nullcontext():
            batch = dataset.batch(indices, self._config.batch_size, self._input.rows)
        return self._shared(self._with_target(batch))

    def _place(self, batch: Batch) -> Batch:
        """Move a batch of images to the devices."""
        batch = self._with_target(batch)
        return self._shared(batch) if self._several else pipeline.on_device(batch)

    def _with_target(self, batch: Batch) -> Batch:
        if self._targets is None:
            return batch
        ids, labels = np.asarray(batch["example_id"]), np.asarray(batch["label"])
        return batch | {"target": self._targets(ids, labels)}

    def _shared(self, batch: Batch) -> Batch:
        """Return the fields that a step uses, shared out, and the ids of the examples."""
        ids = {"example_id": batch["example_id"]}
        return ids | share_out(self._strategy, {k: v for k, v in batch.items() if k in _USED})


def input_config(
    config: TrainConfig, image_size: int, *, worker: int = 0, workers: int = 1
) -> InputConfig:
    """Return how a worker reads the training records; raise UserError for a wrong option."""
    for flag in ("shuffle_mb", "decode_threads", "buffer_mb", "feature_views", "feature_gb"):
        value, bound = getattr(config, flag), int(flag == "shuffle_mb")
        if not value >= bound:
            raise UserError(f"`{flag}={value:g}`: give {bound} or more", status=2)
    return InputConfig(
        image_size=image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        shuffle_mb=config.shuffle_mb,
        cache=config.cache,
        resize_on=config.resize_on,
        deterministic=config.deterministic,
        threads=config.decode_threads,
        ram_mb=config.buffer_mb,
        service=service.parse(config.data_service),
        worker=worker,
        workers=workers,
        sampling=sampling.parse(config.sampling),
    )
