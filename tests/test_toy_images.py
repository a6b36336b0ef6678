"""The drawn cats and dogs: named as Kaggle's, the same every time, told apart by shape alone."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.refusals import refused
from tools import make_toy_images as toy


def contents(folder):
    """Every file of the folder, by its path inside."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def draw(folder, **changes):
    toy.main(toy.Options(out=str(folder), **{"count": 5, "test_count": 3, **changes}))
    return contents(folder)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "images"
    draw(folder)
    return folder


def test_files_are_named_as_kaggle_names_them(drawn):
    files = contents(drawn)
    assert set(files) == {
        *(f"train/cat.{n}.jpg" for n in range(3)),
        *(f"train/dog.{n}.jpg" for n in range(2)),
        *(f"test1/{n}.jpg" for n in range(1, 4)),
        "toy.json",
    }
    assert json.loads(files.pop(toy.MARKER)) == {"count": 5, "test_count": 3, "seed": 0}
    assert len(set(files.values())) == len(files), "no two are the same"
    for data in files.values():
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.format == "JPEG"
            assert toy.MIN_SIDE <= min(image.size) <= max(image.size) <= toy.LONG_SIDE[1]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(drawn, tmp_path):
    assert draw(tmp_path / "again") == contents(drawn)
    other = draw(tmp_path / "other", seed=1)
    assert all(other[name] != data for name, data in contents(drawn).items())


def test_a_higher_count_only_adds_images(drawn, tmp_path):
    more = draw(tmp_path / "more", count=8, test_count=4)
    before = {name: data for name, data in contents(drawn).items() if name != toy.MARKER}
    assert before.items() <= more.items()
    assert len(more) == 8 + 4 + 1


def test_a_folder_that_exists_is_left_alone(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "render", None)
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    draw(drawn)
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before
    with refused(r"was drawn with .*'seed': 0.*, not .*'seed': 7"):
        draw(drawn, seed=7)
    (tmp_path / "mine.txt").write_text("mine")
    with refused("exists already"):
        draw(tmp_path)
    (tmp_path / toy.MARKER).write_text("{")
    with refused("remove the folder"):
        draw(tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"mine", toy.MARKER: b"{"}


@pytest.mark.parametrize("flag", ["--count=1", "--test_count=-1", "--seed=-1"])
def test_wrong_numbers_are_refused(flag, tmp_path):
    done = commands.run(toy.main, toy.Options, f"--out={tmp_path}/images", flag)
    commands.assert_one_error(done, flag)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # draws 160 images
def test_only_shapes_tell_the_classes_apart():
    def statistics(kind, index):
        data = toy.render(kind, index, seed=0)
        image = Image.open(io.BytesIO(data))
        pixels = np.asarray(image.convert("RGB"), np.float32)
        return [len(data), *image.size, *pixels.mean(axis=(0, 1)), *pixels.std(axis=(0, 1))]

    cats, dogs = (np.array([statistics(kind, n) for n in range(80)]) for kind in toy.CLASSES)
    spread = np.sqrt((cats.var(axis=0) + dogs.var(axis=0)) / 2)
    # The difference of two means of 80 has a standard deviation of 0.16 in this unit.
    assert np.all(np.abs(cats.mean(axis=0) - dogs.mean(axis=0)) / spread < 0.5)
