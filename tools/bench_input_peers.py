"""One measurement of what the input pipeline is compared with, in a process of its own.

    python -m tools.bench_input_peers --name=NAME --folder=FOLDER [--seconds=4]

`tools/bench_input.py` calls it, if need be with another Python that has the peers; so it imports
nothing of tfpipe, and a peer only when it is measured. Each peer is used as its documentation
shows, with its defaults and without `tfpipe.core.allocator`. The last line of the output is JSON.
"""

import argparse
import importlib
import itertools
import json
import math
import multiprocessing
import pathlib
import random
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

Epoch = Callable[[], Iterable[int]]

_CHUNK = 16  # images that a process of the limit takes at once
_STEPS = 8  # batches in an epoch of what is in memory already
_RESNET_SIDE = 224  # the second size of recipe R1


def main(argv: list[str]) -> None:
    """Prints what was measured, or the module that is `missing`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", required=True, choices=sorted(PEERS))
    parser.add_argument("--folder", type=pathlib.Path, help="images, in a folder for each class")
    parser.add_argument("--size", type=int, default=299)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(argv)
    try:
        epoch, versions = PEERS[arguments.name](arguments)
    except ModuleNotFoundError as error:
        print(json.dumps({"missing": error.name}))
        return
    print(json.dumps(timed(epoch, arguments.seconds) | {"versions": versions}))


def timed(epoch: Epoch, seconds: float) -> dict:
    """Measures whole epochs after one to warm up, or parts of them if they take too long.

    Args:
        epoch: begins an epoch and yields the number of images of each batch that is ready.
        seconds: epochs are begun until so many have passed; if the first is not over by then, it
            is cut there, and so is the one before that warms up.

    Returns:
        How many `images` took how many `seconds`, the `epochs` that were completed, and the
        process's `peak_mb`, resident, in 10^6 bytes.
    """
    start = time.perf_counter()
    for _ in epoch():
        if time.perf_counter() - start >= seconds:
            break
    images = epochs = 0
    elapsed, cut = 0.0, False
    start = time.perf_counter()
    while elapsed < seconds and not cut:
        for count in epoch():
            images += count
            elapsed = time.perf_counter() - start
            cut = epochs == 0 and elapsed >= seconds
            if cut:
                break
        else:
            epochs += 1
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 10**6
    return {"images": images, "seconds": elapsed, "epochs": epochs, "peak_mb": peak_mb}


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.glob("*/*") if path.is_file())


def _limit(arguments: argparse.Namespace) -> tuple[Epoch, dict]:
    """libjpeg-turbo: as many processes as cores, which decode JPEGs from memory, as fast as can be.

    Full size, with the fast inverse transform and the fast chroma upsampling; nothing is resized.
    """
    simplejpeg = importlib.import_module("simplejpeg")
    _encoded[:] = [p.read_bytes() for p in _files(arguments.folder) if p.suffix == ".jpg"]
    pool = multiprocessing.get_context("fork").Pool(arguments.workers)  # ends with this process

    def epoch() -> Iterator[int]:
        counts = pool.imap_unordered(_decode, range(0, len(_encoded), _CHUNK))
        try:
            yield from counts
        finally:
            for _ in counts:  # of an epoch that was cut, nothing is left for the next
                pass

    # No function tells which libjpeg-turbo it was linked with, but its name is in the library.
    library = pathlib.Path(simplejpeg._jpeg.__file__).read_bytes()
    _, _, turbo = library.partition(b"libjpeg-turbo version ")
    turbo = turbo[: turbo.find(b" ")].decode() if turbo else ""
    return epoch, {"simplejpeg": simplejpeg.__version__, "libjpeg-turbo": turbo}


_encoded: list[bytes] = []  # which the processes of the limit inherit


def _decode(first: int) -> int:
    simplejpeg = importlib.import_module("simplejpeg")
    chunk = _encoded[first : first + _CHUNK]
    for data in chunk:
        simplejpeg.decode_jpeg(data, fastdct=True, fastupsample=True)
    return len(chunk)


def _opencv_generator(arguments: argparse.Namespace) -> tuple[Epoch, dict]:
    """Seed recipe R1: one Python generator that reads, transforms and resizes with OpenCV."""
    cv2 = importlib.import_module("cv2")
    paths = [str(path) for path in _files(arguments.folder)]
    rng = random.Random(0)

    def epoch() -> Iterator[int]:
        rng.shuffle(paths)
        for batch in _batched(paths, arguments.batch_size):
            large: list[np.ndarray] = []
            small: list[np.ndarray] = []
            for path in batch:
                image = _transformed(cv2, cv2.imread(path), rng)
                for images, side in ((large, arguments.size), (small, _RESNET_SIDE)):
                    resized = cv2.resize(image, (side, side))
                    rgb = cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)
                    images.append(rgb.astype(np.float64) / 127.5 - 1.0)
            made = [np.stack(large), np.stack(small)]
            yield len(made[0])

    return epoch, {"opencv": cv2.__version__}


def _transformed(cv2: Any, image: np.ndarray, rng: random.Random) -> np.ndarray:
    """Crops, rotates, shears or flips by `cv2.warpAffine`; see `tfpipe.building.balance`."""
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


def _keras_dataset(arguments: argparse.Namespace) -> tuple[Epoch, dict]:
    """Keras' `image_dataset_from_directory`: batches of float32."""
    tf = importlib.import_module("tensorflow")
    tf_keras = importlib.import_module("tf_keras")
    side = (arguments.size, arguments.size)
    dataset = tf_keras.utils.image_dataset_from_directory(
        str(arguments.folder), image_size=side, batch_size=arguments.batch_size
    )
    return lambda: (len(images) for images, _ in dataset), {"tensorflow": tf.__version__}


def _keras_generator(arguments: argparse.Namespace) -> tuple[Epoch, dict]:
    """Keras' `ImageDataGenerator`, with the augmentation of seed recipe R3."""
    tf = importlib.import_module("tensorflow")
    tf_keras = importlib.import_module("tf_keras")
    generator = tf_keras.preprocessing.image.ImageDataGenerator(
        shear_range=0.2, zoom_range=0.2, horizontal_flip=True
    )
    batches = generator.flow_from_directory(
        str(arguments.folder),
        target_size=(arguments.size, arguments.size),
        batch_size=arguments.batch_size,
    )
    return lambda: (len(images) for images, _ in itertools.islice(batches, len(batches))), {
        "tensorflow": tf.__version__
    }


def _pytorch_loader(arguments: argparse.Namespace) -> tuple[Epoch, dict]:
    """PyTorch's `DataLoader`, which reads with Pillow in worker processes.

    What torchvision's `Resize` and `ToTensor` do with a Pillow image, without torchvision.
    """
    torch = importlib.import_module("torch")
    pillow = importlib.import_module("PIL.Image")
    paths = _files(arguments.folder)
    classes = sorted({path.parent.name for path in paths})

    class Images(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> tuple:
            path = paths[index]
            with pillow.open(path) as file:
                image = file.convert("RGB")
            image = image.resize((arguments.size, arguments.size), pillow.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
            return pixels.to(torch.float32).div(255), classes.index(path.parent.name)

    loader = torch.utils.data.DataLoader(
        Images(), batch_size=arguments.batch_size, shuffle=True, num_workers=arguments.workers
    )
    versions = {"torch": torch.__version__, "pillow": importlib.import_module("PIL").__version__}
    return lambda: (len(images) for images, _ in loader), versions


def _augment_tfa(arguments: argparse.Namespace) -> tuple[Epoch, dict]:
    """`tfa.image.transform` of a batch in memory: shear, zoom and flip in one matrix."""
    tf = importlib.import_module("tensorflow")
    tfa = importlib.import_module("tensorflow_addons")
    shape, centre = [arguments.batch_size], (arguments.size - 1) / 2

    @tf.function
    def augment(images: Any) -> Any:
        zoom = tf.random.uniform(shape, 0.8, 1.2)
        lean = tf.random.uniform(shape, -0.2, 0.2) * (math.pi / 180)
        a = zoom * tf.sign(tf.random.uniform(shape, -1.0, 1.0))
        b, zero = zoom * tf.tan(lean), tf.zeros(shape)
        shift_x, shift_y = centre * (1 - a - b), centre * (1 - zoom)
        matrix = tf.stack([a, b, shift_x, zero, zoom, shift_y, zero, zero], 1)
        pixels = tf.cast(images, tf.float32)
        return tfa.image.transform(pixels, matrix, "bilinear", fill_mode="nearest")

    versions = {"tensorflow": tf.__version__, "tensorflow-addons": tfa.__version__}
    return _of_one_batch(tf, augment, arguments), versions


def _augment_keras(arguments: argparse.Namespace) -> tuple[Epoch, dict]:
    """Keras' random layers on a batch in memory."""
    tf = importlib.import_module("tensorflow")
    tf_keras = importlib.import_module("tf_keras")
    layers = tf_keras.Sequential(
        [
            tf_keras.layers.RandomFlip("horizontal"),
            tf_keras.layers.RandomRotation(0.05),
            tf_keras.layers.RandomZoom(0.2),
        ]
    )
    augment = tf.function(lambda images: layers(images, training=True))
    return _of_one_batch(tf, augment, arguments), {"tensorflow": tf.__version__}


def _of_one_batch(tf: Any, augment: Callable, arguments: argparse.Namespace) -> Epoch:
    images = tf.constant(noise(arguments.batch_size, arguments.size))

    def epoch() -> Iterator[int]:
        for _ in range(_STEPS):
            augment(images)[0, 0, 0, 0].numpy()  # waits for it
            yield arguments.batch_size

    return epoch


def noise(batch_size: int, size: int) -> np.ndarray:
    """Returns uint8 [batch_size, size, size, 3], the same in every process."""
    shape = (batch_size, size, size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def _batched(items: list, size: int) -> Iterator[list]:
    return (items[first : first + size] for first in range(0, len(items), size))


PEERS = {
    "limit": _limit,
    "opencv": _opencv_generator,
    "keras-dataset": _keras_dataset,
    "keras-generator": _keras_generator,
    "pytorch": _pytorch_loader,
    "augment-tfa": _augment_tfa,
    "augment-keras": _augment_keras,
}

if __name__ == "__main__":
    main(sys.argv[1:])
