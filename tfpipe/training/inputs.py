"""What the steps of a stage are fed with: images, or what the frozen layers made of them before.

    images: read, augmented, through the frozen layers            in each epoch
    or:     the tensors at the boundary, from the feature cache   after one pass over the images

Both give batches of the same form to the trained layers, and one function takes either.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.input import pipeline, service, stateless_random
from tfpipe.input.input_config import InputConfig
from tfpipe.input.threads import parallel_map
from tfpipe.model.classifier import Classifier
from tfpipe.model.split import Split
from tfpipe.records import salvage
from tfpipe.records.part import Part
from tfpipe.training.config import TrainConfig
from tfpipe.training.frozen import Frozen, Rows
from tfpipe.training.run import Run
from tfpipe.training.stages import Stage
from tfpipe.training.strategy import Cluster

Batch = dict[str, Any]

_SHOWN = 16  # images of a sample

# Batches that are taken from the cache before they are asked for.
_AHEAD = 4


class Inputs:
    """The batches of one stage: the part of each that is this worker's.

    Made in the scope of a tf.distribute strategy, if there is one.

    Attributes:
        steps: in an epoch.
        images: in an epoch.
        validation_images: how many are validated on.
    """

    def __init__(
        self,
        run: Run,
        train: Part,
        val: Part,
        classifier: Classifier,
        stage: Stage,
        split: Split,
        earlier: Split | None = None,
    ):
        """Chooses what is cached, and computes it if it is not there.

        Args:
            run: whose options and folder they are.
            train: the records to train on.
            val: those to validate on.
            classifier: of the run.
            stage: whose inputs these are.
            split: of the classifier, for this stage.
            earlier: at the earliest boundary of the stages to come, if that is another.

        Raises:
            UserError: an option does not fit, or the cache cannot be written.
        """
        self._train, self._val = train, val
        self._stage, self._split = stage, split
        self._config = config = stage.config
        self._classes = len(train.manifest.classes)
        self._side = classifier.image_size
        self._cluster = cluster = Cluster(tf.distribute.get_strategy())
        self._input = input_config(
            config, self._side, worker=cluster.worker, workers=cluster.workers
        )
        self._augment = Augment(config.augment, crop_on_host=self._input.crops)
        # Gathers are several times faster compiled, also on a CPU, where the model itself is not.
        self._augment_batch = tf.function(self._augment, autograph=False, jit_compile=True)
        self.steps = pipeline.steps_per_epoch(train, config.batch_size)
        self.images, self.validation_images = train.count, val.images
        frozen = Frozen(run, config, classifier, split, cluster, earlier)
        views = self._views if self._fits(frozen, train, self._views) else 0
        val_fits = self._fits(frozen, val, 1)
        with cluster.chief_first():
            self._views_kept = [
                frozen.rows(train, view if self._augment else None, views) for view in range(views)
            ]
            self._val_kept = frozen.rows(val).without_copies() if val_fits else None

    def training(self, first_epoch: int, first_step: int, epochs: int) -> Iterator[Batch | None]:
        """Yields the batches of epochs `first_epoch` to `epochs` - 1, `steps` for each.

        Args:
            first_epoch: the epoch to begin with, from 0.
            first_step: of that epoch.
            epochs: the epoch to end before.

        Yields:
            "image" and what belongs to it, as `pipeline.train_batches` says, or "boundary", a list
            of tensors; "label" int64 [B], "example_id" int64 [B], "sample_weight" float32 [B],
            which is 0 for a repetition. None where an epoch has fewer.
        """
        if self._views_kept:
            yield from parallel_map(
                self._take,
                self._orders(first_epoch, first_step, epochs),
                threads=self._input.cores,
                ahead=_AHEAD,
            )
            return
        with salvage.explained(self._train.manifest):
            yield from pipeline.train_batches(
                self._train,
                self._input,
                augment=self._augment,
                first_epoch=first_epoch,
                first_step=first_step,
                epochs=epochs,
            )

    def validation(self) -> Iterator[Batch]:
        """Yields the batches of the validation images, filled up with weight 0.

        Every worker gets as many, and together all images.
        """
        own = self._input
        if self._val_kept is not None:
            rows, batch = self._val_kept, self._config.batch_size
            for start in range(0, len(rows), batch):
                indices = np.arange(start, min(start + batch, len(rows)))
                yield rows.batch(indices, batch, own.rows)
            return
        batches = pipeline.eval_batches(
            self._val,
            image_size=self._side,
            batch_size=own.local_size,
            worker=own.worker,
            workers=own.workers,
        )
        most = math.ceil(self._val.images / own.workers)
        missing = math.ceil(most / own.local_size)
        with salvage.explained(self._val.manifest):
            for batch in batches:
                missing -= 1
                yield _on_device(batch)
        for _ in range(missing):
            yield _on_device(
                {k: tf.zeros(s.shape, s.dtype) for k, s in batches.element_spec.items()}
            )

    def sample(self) -> tf.Tensor:
        """Returns some training images as the first epoch has them, [N, S, S, 3] in 0..255."""
        with salvage.explained(self._train.manifest):
            batch = next(
                iter(pipeline.eval_batches(self._train, image_size=self._side, batch_size=_SHOWN))
            )
        real = batch["sample_weight"] > 0
        images, number = batch["image"][real], batch["example_id"][real]
        augment = Augment(self._config.augment)
        key = (np.array([self._config.seed]), np.array([0]), number.numpy())
        numbers = stateless_random.uniform(*key, augment.num_random)
        labels = tf.one_hot(batch["label"][real], self._classes)
        return augment(images, labels, tf.constant(numbers), side=self._side)[0]

    def forward(self, batch: Batch, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns logits float32 [B, 1 or C], and the labels they should fit, float32 [B, C]."""
        labels = tf.one_hot(batch["label"], self._classes)
        boundary = batch.get("boundary")
        if boundary is None:
            images = batch["image"]
            if training and (self._augment or "size" in batch):
                images, labels = self._augment_batch(
                    images, labels, batch["random"], side=self._side, sizes=batch.get("size")
                )
            boundary = self._split.boundary(images)
        return self._split.trained(boundary, training=training), labels

    @property
    def _views(self) -> int:
        """How many augmented views of each training image are to be kept; 0 for none at all."""
        if not self._augment:
            return 1
        views = self._config.feature_views
        if views and self._augment.mixes:
            raise UserError(
                f"--feature_views={views}: --augment={self._config.augment} mixes the pictures of a"
                " batch, so none has features of its own: give --feature_views=0"
            )
        return views

    def _fits(self, frozen: Frozen, part: Part, views: int) -> bool:
        """Tells whether so many views of a part are kept, and the user if they are too large."""
        if frozen.fits(part, views):
            return True
        if self._split.any_frozen and views and self._config.feature_gb:
            terminal.say(
                f"stage {self._stage.name}: what the frozen layers make of {part.name} would take"
                f" {frozen.gigabytes(part, views):.1f} GB, more than"
                f" --feature_gb={self._config.feature_gb:g}: it is computed in each epoch"
            )
        return False

    def _orders(self, first_epoch: int, first_step: int, epochs: int) -> Iterator[tuple]:
        """Yields (view, indices of rows) of each batch; another order in each epoch."""
        total, batch = len(self._views_kept[0]), self._config.batch_size
        for epoch in range(first_epoch, epochs):
            order = np.random.default_rng([self._config.seed, epoch]).permutation(total)
            for step in range(first_step if epoch == first_epoch else 0, self.steps):
                indices = order[step * batch : (step + 1) * batch]
                yield self._views_kept[epoch % len(self._views_kept)], indices

    def _take(self, rows: Rows, indices: np.ndarray) -> Batch:
        return rows.batch(indices, self._config.batch_size, self._input.rows)


def _on_device(batch: Batch) -> Batch:
    """Leaves strings out, which have no place on a device, nor in a compiled step."""
    return {key: value for key, value in batch.items() if value.dtype != tf.string}


def input_config(
    config: TrainConfig, image_size: int, *, worker: int = 0, workers: int = 1
) -> InputConfig:
    """Returns how the options ask for training records to be read, by one of the workers.

    Raises:
        UserError: one of them is out of range.
    """
    least = {"shuffle_mb": 1, "decode_threads": 0, "buffer_mb": 0, "feature_views": 0}
    for flag, bound in least.items():
        if getattr(config, flag) < bound:
            raise UserError(f"--{flag}={getattr(config, flag)}: give {bound} or more", status=2)
    if not config.feature_gb >= 0:
        raise UserError(f"--feature_gb={config.feature_gb:g}: give 0 or more", status=2)
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
    )
