"""Records in Python: build them, open them, and read them as a `tf.data.Dataset`."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tfpipe import build_records
from tfpipe.api import html
from tfpipe.api.boundary import public, with_flags
from tfpipe.core import keywords
from tfpipe.records import manifest as manifests
from tfpipe.records import split_spec

if TYPE_CHECKING:
    import tensorflow as tf

Source = str | os.PathLike[str]

# Options that are arguments of `build`, or have no use in Python.
_OTHERS = ("source", "out", "quiet")


class SplitInfo(NamedTuple):
    """A split of a data set.

    Attributes:
        name: as "train".
        num_examples: number of its records.
        class_counts: number of records by class name, in the order of the labels.
    """

    name: str
    num_examples: int
    class_counts: dict[str, int]


class Records:
    """A data set on disk, from `tfpipe.build` or `tfpipe.load_records`."""

    def __init__(self, manifest: manifests.Manifest):
        """Describe the data set of a manifest."""
        self._manifest = manifest

    @property
    def path(self) -> str:
        """Path or URL of the folder."""
        return str(self._manifest.folder)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; a label is an index into them."""
        return self._manifest.classes

    @property
    def splits(self) -> Mapping[str, SplitInfo]:
        """The splits by name."""
        return {
            name: SplitInfo(
                name, self._manifest.count(name), {c: counts[c] for c in self.class_names}
            )
            for name, counts in self._manifest.splits.items()
        }

    @public
    def as_dataset(
        self,
        split: str = "train",
        *,
        image_size: int = 224,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        augment: str = "",
        class_weights: str = "none",
        one_hot: bool = False,
        dtype: str = "float32",
        drop_remainder: bool = False,
        cache: str = "none",
        shuffle_mb: int = 256,
        decode_threads: int = 0,
    ) -> "tf.data.Dataset":
        """Return a finite `tf.data.Dataset` of batches (images, labels).

        Images are decoded and resized as the training does it, by threads outside TensorFlow.
        Every iteration is an epoch, in which each record comes once.

        Args:
            split: what to read: `train`, `train+val`, `all`, or slices as in
                [TFDS](https://www.tensorflow.org/datasets/splits): `train[:10%]`, `train[100:200]`.
            image_size: side S of the images in pixels.
            batch_size: number B of images in a batch; the last one may have fewer.
            shuffle: whether each epoch has another order, the same for the same seed; else the
                order of the shards.
            seed: of the order, and of the random numbers of the augmentation.
            augment: operations as for `tfpipe.train`, such as `flip_lr|rotate(15)`; compiled by
                XLA, on the CPU. On a GPU call `tfpipe.Augment` in your own step instead.
            class_weights: `balanced` or `NAME=W,NAME=W` adds a third element to each batch, the
                weight of each image.
            one_hot: whether labels are shares of the classes, as mixing augmentations need. Where
                images may have several classes, labels are multi-hot in any case.
            dtype: of the images: `float32`, or `uint8`, which is a quarter of the memory.
            drop_remainder: whether to leave out the last batch if it is smaller.
            cache: what stays in memory after it was read: `none`, `encoded` files or `decoded`
                images.
            shuffle_mb: size of the shuffle buffer, in MB of encoded images.
            decode_threads: number of threads that decode; 0 for one on each core.

        Returns:
            images float32 or uint8 [B, S, S, 3], RGB in 0..255; labels int64 [B], or with
            `one_hot`, or where images may have several classes, float32 [B, C]; and with
            `class_weights` weights float32 [B].

        Raises:
            UserError: an argument is wrong, or a shard is missing or has another size. A record
                that proves to be damaged raises a `tf.errors.OpError` in the iteration.
        """
        given = {key: value for key, value in locals().items() if key not in ("self", "split")}
        from tfpipe.api import dataset as datasets  # it imports TensorFlow

        options = keywords.options(datasets.DatasetOptions, "as_dataset", given)
        self._manifest.check()
        return datasets.dataset(split_spec.parse(split, self._manifest), options)

    @public
    def class_weights(self, split: str = "train", weights: str = "balanced") -> dict[int, float]:
        """Return the weight of each label, for `class_weight` of `model.fit`.

        Args:
            split: whose counts decide, as for `as_dataset`.
            weights: `balanced`, the same for all classes, or `NAME=W,NAME=W` and 1 for others.

        Raises:
            UserError: a split or class is unknown, or a class has no record.
        """
        from tfpipe.api import dataset as datasets  # it imports TensorFlow

        found = datasets.class_weights(split_spec.parse(split, self._manifest), weights)
        return dict(enumerate(found or [1.0] * len(self.class_names)))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{each.name}: {each.num_examples:,}" for each in self.splits.values())
        return f"Records({self.path!r}, {len(self.class_names)} classes, {sizes})"

    def _repr_html_(self) -> str:
        splits = self.splits.values()
        rows = [
            [name, *(f"{split.class_counts[name]:,}" for split in splits)]
            for name in self.class_names
        ]
        rows.append(["all", *(f"{split.num_examples:,}" for split in splits)])
        return html.table(self.path, ["class", *(split.name for split in splits)], rows)


@public
@with_flags(lambda: build_records.Options, without=_OTHERS)
def build(
    source: Source | Sequence[Source], out: Source, *, progress: bool = False, **flags: Any
) -> Records:
    """Build a data set of labelled images, unless it is up to date, and open it.

    The work is done by processes, which do not run your script again: it needs no
    `if __name__ == "__main__"`. What was understood goes to the logger `tfpipe` as information.

    Args:
        source: a folder, an archive, a list, records or a URL; or several of them, which add up.
        out: the folder to write. It appears when it is complete. If the build is interrupted, the
            same call continues.
        progress: whether to print what `tfpipe.build_records` prints.
        flags: the flags of `tfpipe.build_records`, such as `splits`, `labels` or `store`.

    Raises:
        UserError: a keyword is wrong, or nothing can be built. With the status 3 the data set was
            built, but more images were rejected than `max_rejects`.
    """
    given = {"source": source, "out": out, **flags}
    build_records.main(keywords.options(build_records.Options, "build", given, without=("quiet",)))
    return _load(os.fspath(out))


@public
def load_records(path: Source) -> Records:
    """Open a data set that `tfpipe.build` or `tfpipe.build_records` wrote.

    Args:
        path: path or URL of its folder.

    Raises:
        UserError: there is none.
    """
    return _load(os.fspath(path))


def _load(path: str) -> Records:
    return Records(manifests.load(path))


def folder_of(data: "Records | Source") -> str:
    """Return the folder of records that are given as an object or a path."""
    return data.path if isinstance(data, Records) else os.fspath(data)
