"""Other ways to do what tfpipe's input does: one function each, as its documentation shows it.

A peer gets a `folder` of CLASS/IMAGE, the `size` of the model's input, the `batch_size` and the
number of `workers`, and returns an `Epoch` (worker.py). It imports its package itself, and nothing
of tfpipe, so that `--peers_python` may name any Python. To add one, write it and list it below.
"""

import functools
import itertools
import math
import multiprocessing
import pathlib
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tools.bench.worker import Epoch

_CHUNK = 16  # images that a process of the limit takes at once
_STEPS = 8  # batches in an epoch of `one_batch`
_encoded: list[bytes] = []  # what the processes of the limit inherit


def _files(folder: str) -> list[pathlib.Path]:
    return sorted(path for path in pathlib.Path(folder).glob("*/*") if path.is_file())


def limit(folder: str, workers: int, size: int = 0, *, scaled: bool = False, **_: object) -> Epoch:
    """libjpeg-turbo alone: processes that decode JPEGs from memory and keep no pixels.

    Full size, or if `scaled` the smallest scale of which no side is below `size`; with the fast
    inverse transform and the fast chroma upsampling.
    """
    decode = functools.partial(_decode, least=size if scaled else 0)
    _encoded[:] = [p.read_bytes() for p in _files(folder) if p.suffix in (".jpg", ".jpeg")]
    pool = multiprocessing.get_context("fork").Pool(workers)  # it ends with this process

    def epoch() -> Iterator[int]:
        counts = pool.imap_unordered(decode, range(0, len(_encoded), _CHUNK))
        try:
            yield from counts
        finally:
            for _ in counts:  # leaves nothing of a cut epoch to the next
                pass

    return epoch


def _decode(first: int, least: int) -> int:
    import simplejpeg

    chunk, fast = _encoded[first : first + _CHUNK], {"fastdct": True, "fastupsample": True}
    for data in chunk:
        simplejpeg.decode_jpeg(data, min_height=least, min_width=least, **fast)
    return len(chunk)


def opencv(folder: str, size: int, batch_size: int, **_: object) -> Epoch:
    """Seed recipe R1: one Python generator that reads, transforms and resizes with OpenCV."""
    import cv2

    paths, rng = [str(path) for path in _files(folder)], random.Random(0)

    def epoch() -> Iterator[int]:
        rng.shuffle(paths)
        for first in range(0, len(paths), batch_size):
            batches: tuple[list, list] = ([], [])
            for path in paths[first : first + batch_size]:
                image = _r1_transform(cv2, cv2.imread(path), rng)
                for images, side in zip(batches, (size, 224), strict=True):
                    rgb = cv2.cvtColor(cv2.resize(image, (side, side)), cv2.COLOR_BGR2RGB)
                    images.append(rgb.astype(np.float64) / 127.5 - 1.0)
            yield len([np.stack(images) for images in batches].pop())

    return epoch


def _r1_transform(cv2: Any, image: np.ndarray, rng: random.Random) -> np.ndarray:
    """Crop, rotate, shear or flip the image, at random, by one `cv2.warpAffine`."""
    height, width = image.shape[:2]
    kind = rng.choice(("crop", "rotate", "shear", "flip"))
    angle = rng.uniform(-20.0, 20.0)
    if kind == "crop":
        left, top = (rng.uniform(0.0, 0.1) * side for side in (width, height))
        matrix = np.array([[1 / 0.9, 0.0, -left / 0.9], [0.0, 1 / 0.9, -top / 0.9]])
    elif kind == "rotate":
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)
    elif kind == "shear":
        lean = math.tan(math.radians(angle))
        matrix = np.array([[1.0, lean, -lean * height / 2], [0.0, 1.0, 0.0]])
    else:
        matrix = np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]])
    return cv2.warpAffine(image, matrix, (width, height))


def keras_dataset(folder: str, size: int, batch_size: int, **_: object) -> Epoch:
    """Keras' `image_dataset_from_directory`: batches of float32."""
    import tf_keras

    dataset = tf_keras.utils.image_dataset_from_directory(
        folder, image_size=(size, size), batch_size=batch_size
    )
    return lambda: (len(images) for images, _ in dataset)


def keras_generator(folder: str, size: int, batch_size: int, **_: object) -> Epoch:
    """Keras' `ImageDataGenerator`, with the augmentation of seed recipe R3."""
    import tf_keras

    generator = tf_keras.preprocessing.image.ImageDataGenerator(
        shear_range=0.2, zoom_range=0.2, horizontal_flip=True
    )
    batches = generator.flow_from_directory(folder, target_size=(size, size), batch_size=batch_size)
    return lambda: (len(images) for images, _ in itertools.islice(batches, len(batches)))


def tf_data(folder: str, size: int, batch_size: int, *, resize: bool = True, **_: object) -> Epoch:
    """A hand-written tf.data pipeline: read, decode, resize, batch, prefetch."""
    import tensorflow as tf

    def load(path: Any) -> Any:
        image = tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)
        return tf.cast(tf.image.resize(image, [size, size]), tf.uint8) if resize else image[:1, :1]

    paths = [str(path) for path in _files(folder)]
    dataset = tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths))
    dataset = dataset.map(load, tf.data.AUTOTUNE, deterministic=False)
    dataset = dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    return lambda: (len(images) for images in dataset)


def tf_data_records(records: str, batch_size: int, **_: object) -> Epoch:
    """A hand-written tf.data pipeline from TFRecords: parse, decode, batch, prefetch."""
    import tensorflow as tf

    def load(record: Any) -> Any:
        fields = {"image/encoded": tf.io.FixedLenFeature([], tf.string)}
        encoded = tf.io.parse_single_example(record, fields)["image/encoded"]
        return tf.io.decode_jpeg(encoded, 3)

    shards = tf.data.Dataset.list_files(f"{records}/*.tfrecord*")
    dataset = shards.interleave(tf.data.TFRecordDataset, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.shuffle(10_000).map(load, tf.data.AUTOTUNE, deterministic=False)
    dataset = dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    return lambda: (len(images) for images in dataset)


def tf_data_decode(**arguments: Any) -> Epoch:
    """The same without the resize: it keeps one pixel of each image."""
    return tf_data(**arguments, resize=False)


def pytorch(folder: str, size: int, batch_size: int, workers: int, **_: object) -> Epoch:
    """PyTorch's `DataLoader`: Pillow in worker processes, as torchvision's Resize and ToTensor."""
    import torch

    classes = sorted(path.name for path in pathlib.Path(folder).iterdir())

    class Images(torch.utils.data.Dataset, _PillowImages):
        def __getitem__(self, index: int) -> tuple:
            pixels = torch.from_numpy(super().__getitem__(index)).permute(2, 0, 1).contiguous()
            label = classes.index(self.paths[index].parent.name)
            return pixels.to(torch.float32).div(255), label

    loader = torch.utils.data.DataLoader(
        Images(folder, size), batch_size=batch_size, shuffle=True, num_workers=workers
    )
    return lambda: (len(images) for images, _ in loader)


class _PillowImages:
    """The images of a folder as a sequence of uint8 [size, size, 3]."""

    def __init__(self, folder: str, size: int):
        self.paths, self._size = _files(folder), (size, size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        from PIL import Image

        with Image.open(self.paths[index]) as file:
            return np.array(file.convert("RGB").resize(self._size, Image.Resampling.BILINEAR))


class _TurboImages(_PillowImages):
    """The same by libjpeg-turbo, at the smallest scale that covers the result, and OpenCV."""

    def __getitem__(self, index: int) -> np.ndarray:
        import cv2
        import simplejpeg

        width, height = self._size
        pixels = simplejpeg.decode_jpeg(
            self.paths[index].read_bytes(), min_height=height, min_width=width
        )
        return cv2.resize(pixels, self._size, interpolation=cv2.INTER_LINEAR)


def grain_turbo(**arguments: Any) -> Epoch:
    """Google's grain with the decoder and the resize of tfpipe, in threads."""
    return grain(**arguments, images=_TurboImages)


def grain(
    folder: str, size: int, batch_size: int, workers: int,
    *, images: type[_PillowImages] = _PillowImages, **_: object,
) -> Epoch:  # fmt: skip
    """Google's grain: the same decoding with Pillow, in threads."""
    import grain

    images = grain.MapDataset.source(images(folder, size)).seed(0).shuffle()
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=4 * batch_size)
    dataset = images.to_iter_dataset(options).batch(batch_size)
    return lambda: (len(batch) for batch in dataset)


def spdl(folder: str, size: int, batch_size: int, workers: int, **_: object) -> Epoch:
    """Meta's SPDL: FFmpeg decodes and resizes in threads, from memory."""
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    encoded = [path.read_bytes() for path in _files(folder)]
    try:
        spdl.io.load_image(encoded[0])
    except (RuntimeError, ImportError) as error:
        if "libspdl" not in str(error):
            raise
        raise ModuleNotFoundError(str(error), name="FFmpeg, which spdl calls,") from error

    def decode(batch: Sequence[bytes]) -> int:
        images = spdl.io.load_image_batch(batch, width=size, height=size, pix_fmt="rgb24")
        return len(spdl.io.to_numpy(images))

    def epoch() -> Iterator[int]:
        builder = PipelineBuilder().add_source(encoded).aggregate(batch_size)
        builder = builder.pipe(decode, concurrency=workers).add_sink(4)
        with (pipeline := builder.build(num_threads=workers, max_failures=0)).auto_stop():
            yield from pipeline

    return epoch


def dali(
    folder: str, size: int, batch_size: int, workers: int,
    *, resize: bool = True, augment: bool = False, **_: object,
) -> Epoch:  # fmt: skip
    """NVIDIA DALI on the CPU: read, decode, resize."""
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=batch_size, num_threads=workers, device_id=None)
    def build() -> Any:
        encoded, _ = fn.readers.file(file_root=folder, random_shuffle=True, name="files")
        images = fn.decoders.image(encoded, device="cpu", output_type=types.RGB)
        if resize:
            images = fn.resize(images, size=(size, size), interp_type=types.INTERP_LINEAR)
        if augment:
            zoom = fn.random.uniform(range=(0.8, 1.2))
            lean = fn.random.uniform(range=(-0.2, 0.2))
            center = np.array([size / 2, size / 2], np.float32)
            scale = fn.transforms.scale(scale=fn.stack(zoom, zoom), center=center)
            shear = fn.transforms.shear(angles=fn.stack(lean, lean * 0.0), center=center)
            images = fn.warp_affine(images, fn.transforms.combine(scale, shear))
            images = fn.flip(images, horizontal=fn.random.coin_flip())
        return images

    pipeline = build()
    pipeline.build()
    images = pipeline.epoch_size("files")

    def epoch() -> Iterator[int]:
        for first in range(0, images, batch_size):
            batch = len(pipeline.run()[0])
            yield min(batch, images - first)  # the last one begins the next epoch

    return epoch


def dali_decode(**arguments: Any) -> Epoch:
    """NVIDIA DALI on the CPU: read and decode."""
    return dali(resize=False, **arguments)


def dali_augment(**arguments: Any) -> Epoch:
    """NVIDIA DALI on the CPU: read, decode, resize, then the augmentation of seed recipe R3."""
    return dali(augment=True, **arguments)


def augment_projective(size: int, batch_size: int, **_: object) -> Epoch:
    """TensorFlow's ImageProjectiveTransformV3, which `tfa.image.transform` calls: R3's matrix."""
    import tensorflow as tf

    shape, center = [batch_size], (size - 1) / 2

    @tf.function
    def augment(images: Any) -> Any:
        zoom = tf.random.uniform(shape, 0.8, 1.2)
        lean = tf.random.uniform(shape, -0.2, 0.2) * (math.pi / 180)
        a = zoom * tf.sign(tf.random.uniform(shape, -1.0, 1.0))
        b, zero = zoom * tf.tan(lean), tf.zeros(shape)
        shift_x, shift_y = center * (1 - a - b), center * (1 - zoom)
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.cast(images, tf.float32),
            transforms=tf.stack([a, b, shift_x, zero, zoom, shift_y, zero, zero], 1),
            output_shape=[size, size],
            interpolation="BILINEAR",
            fill_mode="NEAREST",
            fill_value=0.0,
        )

    return one_batch(augment, size, batch_size)


def augment_keras(size: int, batch_size: int, **_: object) -> Epoch:
    """Keras' random layers: flip, rotation, zoom."""
    import tensorflow as tf
    import tf_keras

    layers = tf_keras.layers
    changes = (layers.RandomFlip("horizontal"), layers.RandomRotation(0.05), layers.RandomZoom(0.2))
    chain = tf_keras.Sequential(changes)
    return one_batch(tf.function(lambda images: chain(images, training=True)), size, batch_size)


def one_batch(augment: Callable, size: int, batch_size: int) -> Epoch:
    """Return epochs that augment one batch of noise in memory, again and again."""
    import tensorflow as tf

    noise = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), np.uint8)
    images = tf.constant(noise)

    def epoch() -> Iterator[int]:
        for _ in range(_STEPS):
            augment(images)[0, 0, 0, 0].numpy()  # waits for it
            yield batch_size

    return epoch


INPUT = (
    opencv, keras_dataset, keras_generator, tf_data, tf_data_decode, pytorch, grain, grain_turbo,
    spdl, dali, dali_decode, dali_augment,
)  # fmt: skip
AUGMENT = (augment_projective, augment_keras)
