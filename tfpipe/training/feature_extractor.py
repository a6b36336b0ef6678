"""Features of frozen layers: from the cache, or computed for it by the shortest way.

    images --> earlier split layer --> split layer        each computed once, and kept

If later stages start earlier in the backbone, images pass the layers before the earliest start once
for all stages. Each stage then computes only the rest, up to its own split layer.
"""

import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.images.preprocess import CHANNELS
from tfpipe.input import pipeline, stateless_random, tuning
from tfpipe.model.classifier import Classifier, as_list
from tfpipe.model.fold import folded
from tfpipe.model.partition import Partition, between
from tfpipe.records import salvage
from tfpipe.records.subset import Subset
from tfpipe.training.cluster import Cluster, joined, share_out
from tfpipe.training.feature_cache import Column, FeatureCache, size
from tfpipe.training.feature_dataset import FeatureDataset, fields_of
from tfpipe.training.run_folder import RunFolder
from tfpipe.training.train_config import TrainConfig

# Bytes of decoded images that may wait while the layers are being compiled.
_AHEAD_BYTES = 128 << 20


class FeatureExtractor:
    """The frozen part of a split, and its features of a run's records."""

    def __init__(
        self,
        run: RunFolder,
        config: TrainConfig,
        classifier: Classifier,
        split: Partition,
        cluster: Cluster,
        earlier: Partition | None = None,
        cache: FeatureCache | None = None,
    ):
        """Open the cache; compute nothing yet.

        The layers of `split` run with the classifier's current weights. `earlier` is a split at an
        earlier layer, or at the same one, whose features are worth keeping too. `cache` is that of
        the configuration by default.
        """
        self._config, self._side = config, classifier.image_size
        self._encoding = run.resolved.encoding
        self._strategy, self._workers = cluster.strategy, cluster.workers
        self._cache = cache or FeatureCache(
            pathlib.Path(config.feature_cache) if config.feature_cache else run.folder / "features",
            config.feature_gb,
        )
        self._columns = [
            Column(f"features{index}", tuple(each.shape[1:]), each.dtype.name)
            for index, each in enumerate(split.frozen.outputs)
        ] + fields_of(self._encoding)
        self._cache_key = {
            "branches": run.resolved.branches,
            "pooling": config.pooling,
            "precision": run.resolved.precision,
            "split_layer": split.firsts,
            "weights": _digest(split),
        }
        self._any = split.any_frozen
        self._from_images = self._folded(split.frozen)
        self._augment = Augment(config.augment, crop_on_host=True)
        self._augment_batch = tf.function(self._augment, autograph=False, jit_compile=True)
        self._earlier = None
        if earlier is not None and earlier.firsts != split.firsts and earlier.any_frozen:
            self._earlier = FeatureExtractor(
                run, config, classifier, earlier, cluster, cache=self._cache
            )
            self._from_earlier = self._folded(between(classifier, earlier, split))

    def gigabytes(self, part: Subset, views: int) -> float:
        """Return the size of this number of views of a part on the disk, in 10^9 bytes."""
        return size(self._columns, _whole(part).count * views) / 1e9

    def fits(self, part: Subset, views: int) -> bool:
        """Reserve room for this number of views of a part; return whether to keep them.

        They must be worth it, and fit the limit beside what is reserved for other parts.
        """
        whole = _whole(part)
        if not self._any or not whole.count * views:
            return False
        name = f"{self._cache_key['split_layer']} {whole.name}"
        return self._cache.reserve(name, self._columns, whole.count * views)

    @property
    def left_gb(self) -> float:
        """The part of the limit that is not reserved, in 10^9 bytes."""
        return self._cache.left_gb

    def get(self, part: Subset, view: int | None = None, views: int = 1) -> FeatureDataset:
        """Return the features of a part; compute them first if they are missing.

        The cache keeps all folds, so that it serves each of them.

        Args:
            part: of the records.
            view: number of an augmented view, drawn like the epoch of that number; None for the
                images themselves.
            views: number of views, for the progress bar and the limit.
        """
        whole = _whole(part)
        compute = self._compute(whole, view, views)
        arrays = self._cache.get(self._key(whole, view), self._columns, whole.count, compute)
        return self._dataset(arrays, part)

    def find(self, part: Subset) -> FeatureDataset | None:
        """Return the features of a part's images, or None if they are missing."""
        whole = _whole(part)
        arrays = self._cache.find(self._key(whole, None), self._columns, whole.count)
        return None if arrays is None else self._dataset(arrays, part)

    def _dataset(self, arrays: list[np.ndarray], part: Subset) -> FeatureDataset:
        return FeatureDataset(self._columns, arrays, np.arange(len(arrays[0]))).only(part)

    def _key(self, whole: Subset, view: int | None) -> dict[str, Any]:
        key = self._cache_key | {"shards": [shard.sha256 for shard in whole.shards]}
        if view is not None:
            key |= {"augment": self._config.augment, "seed": self._config.seed, "view": view}
        return key

    def _compute(self, whole: Subset, view: int | None, views: int) -> Iterator[list[np.ndarray]]:
        """Yield the columns of some records at a time."""
        title = f"features of {whole.name}"
        if view is not None:
            title += f", view {view + 1} of {views}"
        if self._earlier and self._earlier.fits(whole, views):
            batches = self._later_batches(self._earlier.get(whole, view, views))
            title += ", from an earlier layer"
        else:
            batches = self._image_batches(whole, view)
        with salvage.explained(whole.manifest), terminal.progress(title, whole.count) as advance:
            for features, batch in batches:
                real = batch["sample_weight"].numpy() > 0
                fields = (batch[each.name] for each in fields_of(self._encoding))
                yield [each.numpy()[real] for each in [*features, *fields]]
                advance(int(real.sum()))

    def _later_batches(self, dataset: FeatureDataset) -> Iterator[tuple[list[tf.Tensor], dict]]:
        for batch in dataset.batches(self._config.batch_size):
            yield self._on_replicas(self._from_earlier, batch["features"]), batch

    def _image_batches(
        self, whole: Subset, view: int | None
    ) -> Iterator[tuple[list[tf.Tensor], dict]]:
        size, augment = self._config.batch_size, Augment("") if view is None else self._augment
        batches = pipeline.eval_batches(
            whole,
            image_size=self._side,
            batch_size=size,
            copies=True,
            crop=pipeline.first_crop(augment, self._config.seed, view or 0),
            ahead=max(tuning.AHEAD, _AHEAD_BYTES // (size * self._side**2 * CHANNELS)),
        )
        for batch in batches:
            images = batch["image"]
            if view is not None:
                ids = batch["example_id"].numpy()
                numbers = stateless_random.uniform(
                    self._config.seed, view, ids, self._augment.num_random
                )
                labels = self._encoding.shares(batch["label"])
                images, _ = self._augment_batch(images, labels, numbers, side=self._side)
            yield self._on_replicas(self._from_images, images), batch

    def _on_replicas(self, function: Any, values: Any) -> list[tf.Tensor]:
        """Call a function of a batch on the replicas, each with its share."""
        found = function(share_out(self._strategy, values))
        return [joined(self._strategy, each) for each in found]

    def _folded(self, model: tf_keras.Model) -> Callable[[Any], list[tf.Tensor]]:
        """Return a function of images or tensors, with the model's weights at its first call."""

        @functools.cache
        def compiled() -> Callable[[Any], list[tf.Tensor]]:
            with self._strategy.scope():
                layers = folded(model)

            def run(share: Any) -> list[tf.Tensor]:
                return as_list(layers(share, training=False))

            return tf.function(
                lambda values: self._strategy.run(run, args=(values,)), autograph=False
            )

        if self._workers > 1:
            compiled()  # all workers create its variables together; later only the chief computes
        return lambda values: compiled()(values)


def _whole(part: Subset) -> Subset:
    """Return the records of all folds."""
    return Subset(part.manifest, part.splits)


def _digest(split: Partition) -> str:
    """Return a digest of the frozen layers' weights."""
    digest = hashlib.sha256()
    for weight in split.frozen.get_weights():
        digest.update(str((weight.shape, weight.dtype)).encode())
        digest.update(weight.tobytes())  # Python's buffers know no bfloat16
    return digest.hexdigest()
