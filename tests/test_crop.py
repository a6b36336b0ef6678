"""A crop at the beginning of an augmentation is the same pixels however images are read.

The images are fine stripes: resized before the crop instead of after it, they become grey.
"""

import contextlib

import numpy as np
import pytest
import scipy.ndimage
import tensorflow as tf
from PIL import Image

from tests.refusals import refused
from tfpipe import build_records, train
from tfpipe.augment import Augment
from tfpipe.input import pipeline, service, stateless_random
from tfpipe.input.input_config import InputConfig
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.training import run_folder

SIDE, CROP, SEED = 48, 0.5, 5
COUNT = 12


def stripes(number):
    """Stripes one pixel wide, of other colours in each image."""
    rng = np.random.default_rng(number)
    height, width = rng.integers(84, 110, 2)
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows if number % 2 else columns) % 2)[..., None]
    return np.where(mask, rng.integers(128, 256, 3), rng.integers(0, 100, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def striped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("striped")
    for number in range(COUNT):
        kind = ("cat", "dog")[number % 2]
        (folder / "in" / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(stripes(number)).save(folder / "in" / kind / f"{number}.png")
    build_records.main(
        build_records.Options(
            source=(str(folder / "in"),),
            out=str(folder / "out"),
            splits="train:0.75,val:0.25",
            workers=1,
            report=False,
        )
    )
    return manifests.load(folder / "out")


def expected(described, epoch=0):
    """The picture of each training image by its id: cut out at whole pixels, resized by SciPy."""
    found = {}
    for record in Subset(described, ("train",)).records():
        pixels = stripes(int(record.filename.split("/")[-1].removesuffix(".png"))).astype(float)
        number = stateless_random.example_id(record.sha256)
        u = stateless_random.uniform(SEED, epoch, np.array([number]), 2)[0]
        sides = np.array(pixels.shape[:2])
        corner = u[::-1] * np.float32(1 - CROP)  # a window's place, of its own side and axis
        top, left = np.round(corner * sides).astype(int)
        bottom, right = np.round((corner + np.float32(CROP)) * sides).astype(int)
        window = pixels[top:bottom, left:right]
        axes = [(np.arange(SIDE) + 0.5) * side / SIDE - 0.5 for side in window.shape[:2]]
        grid = np.meshgrid(*axes, indexing="ij")
        channels = [
            scipy.ndimage.map_coordinates(window[..., c], grid, order=1, mode="nearest")
            for c in range(3)
        ]
        found[number] = np.stack(channels, -1)
    return found


def by_id(batches, augment):
    """The pictures of batches, as the model sees them, by the examples' ids."""
    found = {}
    for batch in batches:
        labels = tf.one_hot(batch["label"], 2)
        ids = batch["example_id"].numpy()
        numbers = stateless_random.uniform(SEED, 0, ids, augment.num_random)
        sizes = batch.get("size")
        images, _ = augment(batch["image"], labels, numbers, side=SIDE, sizes=sizes)
        real = batch["sample_weight"].numpy() > 0
        found |= dict(zip(ids[real].tolist(), images.numpy()[real], strict=True))
    return found


def check(found, described):
    right = expected(described)
    assert found.keys() == right.keys()
    for number, picture in found.items():
        assert np.abs(picture - right[number]).max() <= 1.01


@pytest.mark.parametrize("resize_on", ["host", "device"])
@pytest.mark.parametrize(
    "options", [{}, {"cache": "encoded"}, {"deterministic": False}, {"service": "grpc://here:1"}]
)
def test_the_same_pixels_however_images_are_read(striped, monkeypatch, resize_on, options):
    # What a data service's workers compute; test_data_service.py has a real one.
    monkeypatch.setattr(service, "distribute", lambda dataset, address, **names: dataset)
    monkeypatch.setattr(service, "watched", lambda dataset, address: iter(dataset))
    config = InputConfig(SIDE, 4, seed=SEED, resize_on=resize_on, **options)
    augment = Augment(f"crop({CROP})", crop_on_host=True)
    part = Subset(striped, ("train",))
    check(by_id(pipeline.train_batches(part, config, augment=augment), augment), striped)


@pytest.mark.slow
def test_cached_views_are_of_the_same_pixels(striped, tiny_config):
    config = tiny_config(
        records=str(striped.folder),
        image_size=str(SIDE),
        stages="head",
        augment=f"crop({CROP})",
        feature_views=1,
        seed=SEED,
        epochs=1,
        batch_size=4,
        precision="float32",
    )
    train.main(config)
    features = run_folder.load(config.run_dir).restore_classifier().features
    right = expected(striped)
    compared = 0
    for entry in run_folder.load(config.run_dir).folder.glob("features/*/example_id.npy"):
        ids = np.load(entry).tolist()
        if set(ids) != set(right):  # of the validation images
            continue
        wanted = features(np.stack([right[number] for number in ids])).numpy()
        found = np.load(entry.with_name("features0.npy"))
        assert np.abs(wanted - found).max() < 0.05 * np.abs(wanted).max()
        compared += 1
    assert compared == 1


@pytest.mark.parametrize(
    ("augment", "refusal"),
    [
        ("crop(0.5)", r"augment. begins with a crop.*cache=encoded"),
        ("crop(0.5)|flip_lr", r"augment. begins with a crop.* flip_lr\|crop"),
        ("flip_lr|crop(0.5)", None),
    ],
)
@pytest.mark.parametrize("of_stage", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_resized_images_in_memory_cannot_be_cropped_first(
    striped, tiny_config, augment, refusal, of_stage
):
    options = {"records": str(striped.folder), "cache": "decoded", "epochs": 1, "batch_size": 4}
    if of_stage:
        config = tiny_config(**options, augment="", stages=f"all:from=all,augment={augment}")
    else:
        config = tiny_config(**options, augment=augment)
    with refused(refusal) if refusal else contextlib.nullcontext():
        train.main(config)
