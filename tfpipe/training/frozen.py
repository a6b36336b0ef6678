"""What frozen layers make of the records, by the shortest way: from the cache, or computed for it.

    images --> earlier boundary --> boundary        each computed once, and kept

Where later stages begin earlier in the backbone, the images go through the layers before that once
for all stages; from there to a stage's own boundary it is not far.
"""

import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.augment import Augment
from tfpipe.core import terminal
from tfpipe.images.preprocess import CHANNELS
from tfpipe.input import pipeline, stateless_random, tuning
from tfpipe.model.classifier import Classifier, as_list
from tfpipe.model.constants import with_constant_weights
from tfpipe.model.split import Split, between
from tfpipe.records import salvage
from tfpipe.records.part import Part
from tfpipe.training.config import TrainConfig
from tfpipe.training.features import Cache, Column, size
from tfpipe.training.run import Run
from tfpipe.training.strategy import Cluster, joined, share_out

# Decoded images that may wait: while the layers are being compiled, the host is ahead of them.
_AHEAD_BYTES = 128 << 20

# What the records say of themselves, beside the boundary's tensors.
_FIELDS = tuple(Column(name, (), "int64") for name in ("label", "example_id", "fold", "copy"))


class Frozen:
    """The frozen part of a split, and what it made of a run's records."""

    def __init__(
        self,
        run: Run,
        config: TrainConfig,
        classifier: Classifier,
        split: Split,
        cluster: Cluster,
        earlier: Split | None = None,
    ):
        """Opens the cache; nothing is computed yet.

        Args:
            run: whose folder and resolved options they are.
            config: the options, of a stage or of the run.
            classifier: whose layers they are, with the weights that count.
            split: of the classifier.
            cluster: of the workers; each batch is shared by this one's replicas.
            earlier: a split whose boundary lies before this one, or at it, and whose values are
                worth keeping too; None for none.
        """
        self._config, self._side = config, classifier.image_size
        self._classes = len(run.resolved.classes)
        self._strategy = cluster.strategy
        self._cache = Cache(
            pathlib.Path(config.feature_cache) if config.feature_cache else run.folder / "features",
            config.feature_gb,
        )
        self._columns = [
            Column(f"boundary{index}", tuple(each.shape[1:]), each.dtype.name)
            for index, each in enumerate(split.frozen.outputs)
        ] + list(_FIELDS)
        self._causes = {
            "branches": run.resolved.branches,
            "pooling": config.pooling,
            "precision": run.resolved.precision,
            "boundary": split.firsts,
            "weights": _digest(split),
        }
        self._any = split.any_frozen

        self._from_images = with_constant_weights(lambda images: self._run(split.boundary, images))
        self._augment = Augment(config.augment)
        self._augment_batch = tf.function(self._augment, autograph=False, jit_compile=True)
        self._earlier = None
        if earlier is not None and earlier.firsts != split.firsts and earlier.any_frozen:
            self._earlier = Frozen(run, config, classifier, earlier, cluster)
            way = functools.partial(between(classifier, earlier, split), training=False)
            self._from_earlier = with_constant_weights(lambda tensors: self._run(way, tensors))

    def gigabytes(self, part: Part, views: int) -> float:
        """Returns what so many views of a part would take on the disk, in 10^9 bytes."""
        return size(self._columns, _whole(part).count * views) / 1e9

    def fits(self, part: Part, views: int) -> bool:
        """Tells whether so many views of a part are worth keeping, and may be."""
        rows = _whole(part).count * views
        return self._any and rows > 0 and self._cache.fits(self._columns, rows)

    def rows(self, part: Part, view: int | None = None, views: int = 1) -> "Rows":
        """Returns what was made of a part, computing it if it is not there.

        Args:
            part: of the records; what is kept of its splits serves every fold.
            view: the number of an augmented view, as augmentation draws it in the epoch of that
                number; None for the images themselves.
            views: how many views of the part will be asked for.
        """
        whole = _whole(part)
        compute = self._compute(whole, view, views)
        arrays = self._cache.get(self._causes_of(whole, view), self._columns, whole.count, compute)
        return self._chosen(part, arrays)

    def found(self, part: Part) -> "Rows | None":
        """Returns what was made of a part's images, or None if it is not there."""
        whole = _whole(part)
        arrays = self._cache.find(self._causes_of(whole, None), self._columns, whole.count)
        return None if arrays is None else self._chosen(part, arrays)

    def _causes_of(self, whole: Part, view: int | None) -> dict[str, Any]:
        causes = self._causes | {"shards": [shard.sha256 for shard in whole.shards]}
        if view is not None:
            causes |= {"augment": self._config.augment, "seed": self._config.seed, "view": view}
        return causes

    def _chosen(self, part: Part, arrays: list[np.ndarray]) -> "Rows":
        fold, copy = arrays[-2], arrays[-1]
        chosen = np.broadcast_to(part.holds(fold, copy), fold.shape)
        return Rows(self._columns, arrays, np.flatnonzero(chosen))

    def _compute(self, whole: Part, view: int | None, views: int) -> Iterator[list[np.ndarray]]:
        """Yields the columns of some records at a time."""
        of = "" if view is None else f", view {view + 1} of {views}"
        if self._earlier and self._earlier.fits(whole, views):
            rows = self._earlier.rows(whole, view, views)
            batches = self._rows_batches(rows)
            title = f"features of {whole.name}{of}, from an earlier boundary"
        else:
            batches = self._image_batches(whole, view)
            title = f"features of {whole.name}{of}"
        with salvage.explained(whole.manifest), terminal.progress(title, whole.count) as advance:
            for found, batch in batches:
                real = batch["sample_weight"].numpy() > 0
                yield [each.numpy()[real] for each in [*found, *(batch[f.name] for f in _FIELDS)]]
                advance(int(real.sum()))

    def _rows_batches(self, rows: "Rows") -> Iterator[tuple[list[tf.Tensor], dict]]:
        batch_size = self._config.batch_size
        for start in range(0, len(rows), batch_size):
            batch = rows.batch(np.arange(start, min(start + batch_size, len(rows))), batch_size)
            yield self._shared(self._from_earlier, batch["boundary"]), batch

    def _image_batches(
        self, whole: Part, view: int | None
    ) -> Iterator[tuple[list[tf.Tensor], dict]]:
        size = self._config.batch_size
        batches = pipeline.eval_batches(
            whole,
            image_size=self._side,
            batch_size=size,
            copies=True,
            ahead=max(tuning.AHEAD, _AHEAD_BYTES // (size * self._side**2 * CHANNELS)),
        )
        for batch in batches:
            images = batch["image"]
            if view is not None:
                seed, epoch = np.array([self._config.seed]), np.array([view])
                numbers = stateless_random.uniform(
                    seed, epoch, batch["example_id"].numpy(), self._augment.num_random
                )
                labels = tf.one_hot(batch["label"], self._classes)
                images, _ = self._augment_batch(images, labels, numbers, side=self._side)
            yield self._shared(self._from_images, images), batch

    def _shared(self, function: Any, values: Any) -> list[tf.Tensor]:
        """Calls a function of a batch, of which each replica does its share."""
        found = function(share_out(self._strategy, values))
        return [joined(self._strategy, each) for each in found]

    def _run(self, layers: Callable[[Any], Any], values: Any) -> list[tf.Tensor]:
        return self._strategy.run(lambda part: as_list(layers(part)), args=(values,))


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some rows of an entry of the cache, that is some records.

    Attributes:
        columns: of the entry.
        arrays: of each column, as stored, with all rows of the entry.
        rows: which of them.
    """

    columns: list[Column]
    arrays: list[np.ndarray]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def without_copies(self) -> "Rows":
        """Returns the rows that are images, not transformed copies."""
        return dataclasses.replace(self, rows=self.rows[self.arrays[-1][self.rows] == 0])

    def batch(
        self, indices: np.ndarray, size: int | None = None, part: slice = slice(None)
    ) -> dict[str, Any]:
        """Returns rows as a batch.

        Args:
            indices: of the rows.
            size: to which the batch is filled up as by `pipeline.pad_batch`; None to leave it so.
            part: of the batch that is returned.

        Returns:
            "boundary", a list of tensors [B, ...], as they cross it; what the records say of
            themselves, int64 [B] each; and "sample_weight" float32 [B], as of `pipeline.pad_batch`.
        """
        chosen, weight = pipeline.pad_batch(self.rows[indices], size or len(indices))
        tensors = {
            column.name: column.tensor(np.take(array, chosen[part], axis=0))
            for column, array in zip(self.columns, self.arrays, strict=True)
        }
        fields = {each.name: tensors.pop(each.name) for each in _FIELDS}
        boundary = list(tensors.values())
        return {"boundary": boundary, **fields, "sample_weight": tf.constant(weight[part])}


def _whole(part: Part) -> Part:
    """Returns the records of all folds."""
    return Part(part.manifest, part.splits)


def _digest(split: Split) -> str:
    """Returns a digest of the frozen layers' weights."""
    digest = hashlib.sha256()
    for weight in split.frozen.get_weights():
        digest.update(str((weight.shape, weight.dtype)).encode())
        digest.update(np.ascontiguousarray(weight).data)
    return digest.hexdigest()
