"""What a training step is fed with: images, or features that were computed once.

Both kinds give the loop the same: batches to train on, epoch by epoch, and how many `steps` one
has; batches to validate on, of `validation_images`; and the way from a batch to logits and labels.
"""

import hashlib
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow as tf

from tfpipe import storage, terminal
from tfpipe.config import TrainConfig
from tfpipe.errors import UserError
from tfpipe.fit.run import Run
from tfpipe.ingest import salvage
from tfpipe.ingest.manifest import Manifest
from tfpipe.input import pipeline, service
from tfpipe.input.augment import Augment
from tfpipe.input.samples import Reading
from tfpipe.model.classifier import Classifier

Batch = dict[str, tf.Tensor]


class ImageInputs:
    """Images through the whole model, augmented on the device."""

    def __init__(self, run: Run, manifest: Manifest, classifier: Classifier):
        self._config = config = run.config
        self._manifest = manifest
        self._classifier = classifier
        self._classes = len(manifest.classes)
        self._train_backbones = config.trainable == "all"
        self._reading = reading(config, classifier.image_size)
        self._augment = Augment(config.augment, crop_on_host=self._reading.crops)
        # Gathers are several times faster compiled, also on a CPU, where the model itself is not.
        self._augment_batch = tf.function(self._augment, jit_compile=True)
        self.steps = pipeline.steps_per_epoch(manifest, config.train_split, config.batch_size)
        self.validation_images = manifest.images(config.val_split)
        validation = pipeline.eval_batches(
            manifest,
            config.val_split,
            image_size=classifier.image_size,
            batch_size=config.batch_size,
        )
        # Strings have no place on a device, nor in a compiled step.
        self._validation = validation.map(
            lambda batch: {key: value for key, value in batch.items() if key != "name"}
        )

    def training(self, first_epoch: int) -> Iterator[Batch]:
        """Yields the batches of all epochs from `first_epoch` on, `steps` for each."""
        with salvage.explained(self._manifest):
            yield from pipeline.train_batches(
                self._manifest,
                self._config.train_split,
                self._reading,
                augment=self._augment,
                first_epoch=first_epoch,
                epochs=self._config.epochs,
            )

    def validation(self) -> Iterator[Batch]:
        """Yields the batches of the validation split, filled up with weight 0."""
        with salvage.explained(self._manifest):
            yield from self._validation

    def forward(self, batch: Batch, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns logits float32 [B, 1 or C], and the labels they should fit, float32 [B, C]."""
        images, labels = batch["image"], tf.one_hot(batch["label"], self._classes)
        if training and (self._augment or "size" in batch):
            images, labels = self._augment_batch(
                images,
                labels,
                batch["draws"],
                side=self._classifier.image_size,
                sizes=batch.get("size"),
            )
        images = tf.cast(images, tf.float32)
        # Frozen backbones run as in inference: no dropout, and BatchNorm keeps its statistics.
        features = self._classifier.features(images, training=training and self._train_backbones)
        return self._classifier.head(features, training=training), labels


class FeatureInputs:
    """Features of frozen backbones, computed once and kept beside the run.

    Possible where the backbones are frozen and nothing is augmented: then each image has the same
    features in every epoch.
    """

    def __init__(self, run: Run, manifest: Manifest, classifier: Classifier):
        self._config = config = run.config
        self._head = classifier.head
        self._classes = len(manifest.classes)
        self.steps = pipeline.steps_per_epoch(manifest, config.train_split, config.batch_size)
        self.validation_images = manifest.images(config.val_split)
        folder, key = run.folder / "features", _key(run, classifier)
        arrays = {
            copies: _cached(manifest, split, copies, classifier, config.batch_size, folder, key)
            for split, copies in ((config.train_split, True), (config.val_split, False))
        }
        features, labels = arrays[True]
        self._features, self._labels = tf.constant(features), tf.constant(labels)
        features, labels = arrays[False]
        samples = tf.data.Dataset.from_tensor_slices(
            {"features": features, "label": labels, "weight": np.ones(len(labels), np.float32)}
        )
        self._validation = pipeline.padded_batches(samples, config.batch_size)

    def training(self, first_epoch: int) -> Iterator[Batch]:
        """Yields the batches of all epochs from `first_epoch` on, `steps` for each."""
        size = self._config.batch_size
        for epoch in range(first_epoch, self._config.epochs):
            order = np.random.default_rng([self._config.seed, epoch]).permutation(len(self._labels))
            for step in range(self.steps):
                rows = order[step * size : (step + 1) * size]
                yield {
                    "features": tf.gather(self._features, rows),
                    "label": tf.gather(self._labels, rows),
                    "weight": tf.ones([size]),
                }

    def validation(self) -> Iterable[Batch]:
        """Returns the batches of the validation split, filled up with weight 0."""
        return self._validation

    def forward(self, batch: Batch, *, training: bool) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns logits float32 [B, 1 or C], and the labels they should fit, float32 [B, C]."""
        labels = tf.one_hot(batch["label"], self._classes)
        return self._head(batch["features"], training=training), labels


def reading(config: TrainConfig, image_size: int) -> Reading:
    """Returns how the options ask for training records to be read.

    Raises:
        UserError: one of them is out of range.
    """
    for flag, least in (("shuffle_mb", 1), ("decode_threads", 0), ("buffer_mb", 0)):
        if getattr(config, flag) < least:
            raise UserError(f"--{flag}={getattr(config, flag)}: give {least} or more", status=2)
    return Reading(
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
    )


def make(run: Run, manifest: Manifest, classifier: Classifier) -> ImageInputs | FeatureInputs:
    """Chooses the kind of inputs for a run."""
    frozen = run.config.trainable == "head"
    kind = FeatureInputs if frozen and not Augment(run.config.augment) else ImageInputs
    return kind(run, manifest, classifier)


def _key(run: Run, classifier: Classifier) -> str:
    """Names everything that the features follow from; another value means other features."""
    resolved = run.resolved
    causes = (resolved.records_fingerprint, resolved.branches, resolved.precision)
    digest = hashlib.sha256(repr((*causes, run.config.pooling)).encode())
    for weight in classifier.features.get_weights():
        digest.update(np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:16]


def _cached(
    manifest: Manifest,
    split: str,
    copies: bool,
    classifier: Classifier,
    batch_size: int,
    folder: pathlib.Path,
    key: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (features float32 [n, F], labels int64 [n]) of a split, in the shards' order."""
    copies &= manifest.images(split) < manifest.count(split)
    path = folder / f"{split}{'-copies' if copies else ''}-{key}.npz"
    if not path.exists():
        folder.mkdir(exist_ok=True)
        with storage.atomic_file(path, "wb") as file:
            features, labels = _compute(manifest, split, copies, classifier, batch_size)
            np.savez(file, features=features, labels=labels)
    with np.load(path, allow_pickle=False) as saved:
        return saved["features"], saved["labels"]


def _compute(
    manifest: Manifest, split: str, copies: bool, classifier: Classifier, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    batches = pipeline.eval_batches(
        manifest, split, image_size=classifier.image_size, batch_size=batch_size, copies=copies
    )
    total = manifest.count(split) if copies else manifest.images(split)
    extract = tf.function(lambda images: classifier.features(images, training=False))
    features, labels = [], []
    with terminal.progress(f"features of {split}", total) as advance:
        for batch in batches:
            real = batch["weight"].numpy() > 0
            values = extract(tf.cast(batch["image"], tf.float32))
            features.append(tf.cast(values, tf.float32).numpy()[real])
            labels.append(batch["label"].numpy()[real])
            advance(int(real.sum()))
    return np.concatenate(features), np.concatenate(labels)
