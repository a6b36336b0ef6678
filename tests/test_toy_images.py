"""The drawn cats and dogs: named as Kaggle's, the same every time, told apart by shape alone."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tfpipe.core.errors import UserError
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
    assert set(contents(drawn)) == {
        *(f"train/cat.{n}.jpg" for n in range(3)),
        *(f"train/dog.{n}.jpg" for n in range(2)),
        *(f"test1/{n}.jpg" for n in range(1, 4)),
        "toy.json",
    }
    assert json.loads((drawn / toy.MARKER).read_text()) == {"count": 5, "test_count": 3, "seed": 0}
    files = contents(drawn)
    assert len(set(files.values())) == len(files), "no two are the same"


def test_every_image_is_a_jpeg_of_the_promised_size(drawn):
    for path in drawn.rglob("*.jpg"):
        with Image.open(path) as image:
            image.load()
            assert image.format == "JPEG"
            assert min(image.size) >= toy.MIN_SIDE
            assert max(image.size) <= toy.LONG_SIDE[1]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(drawn, tmp_path):
    assert draw(tmp_path / "again") == contents(drawn)
    other = draw(tmp_path / "other", seed=1)
    assert all(other[name] != data for name, data in contents(drawn).items())


def test_a_higher_count_only_adds_images(drawn, tmp_path):
    more = draw(tmp_path / "more", count=8, test_count=4)
    before = {name: data for name, data in contents(drawn).items() if name != toy.MARKER}
    assert before.items() <= more.items()
    assert len(more) == 8 + 4 + 1


def test_a_second_run_draws_nothing(drawn, monkeypatch):
    monkeypatch.setattr(toy, "render", None)
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    draw(drawn)
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_other_arguments_for_a_folder_that_exists_are_refused(drawn):
    with pytest.raises(UserError, match=r"was drawn with .*'seed': 0.*, not .*'seed': 7"):
        draw(drawn, seed=7)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        draw(tmp_path)
    assert contents(tmp_path) == {"mine.txt": b"mine"}


def test_a_damaged_marker_says_what_to_do(tmp_path):
    (tmp_path / toy.MARKER).write_text("{")
    with pytest.raises(UserError, match="remove the folder"):
        draw(tmp_path)


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    render = toy.render

    def fail_at_the_second_dog(kind, index, seed):
        if (kind, index) == ("dog", 1):
            raise KeyboardInterrupt
        return render(kind, index, seed)

    monkeypatch.setattr(toy, "render", fail_at_the_second_dog)
    with pytest.raises(KeyboardInterrupt):
        draw(tmp_path / "images")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [{"count": 1}, {"test_count": -1}, {"seed": -1}])
def test_wrong_numbers_are_refused(wrong, tmp_path):
    with pytest.raises(UserError, match="at least"):
        draw(tmp_path / "images", **wrong)


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


def test_some_images_are_grey_and_most_are_not():
    modes = [Image.open(io.BytesIO(toy.render("cat", n, seed=0))).mode for n in range(60)]
    assert 0 < modes.count("L") < 20
    assert modes.count("RGB") == 60 - modes.count("L")
