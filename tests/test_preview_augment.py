"""The grid that shows an augmentation."""

import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.refusals import refused
from tools import preview_augment
from tools.preview_augment import Cell, Options


def grid(source, out, **changes):
    options = {"augment": "flip_lr(1)", "count": 2, "draws": 3, "image_size": 64, **changes}
    preview_augment.main(Options(source=(str(source),), out=str(out), **options))
    with Image.open(out) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.asarray(image)


def cells(image, rows, columns, side=64, lines=1):
    """Cuts out the pictures: uint8 [rows, columns, side, side, 3]."""
    tops = [28 + 22 * lines + r * (side + 30) for r in range(rows)]
    lefts = [14 + c * (side + 8) + 12 * (c > 0) for c in range(columns)]
    return np.stack([[image[y:, x:][:side, :side] for x in lefts] for y in tops])


def test_shows_the_original_and_what_is_made_of_it(image_folder, tmp_path, capsys):
    found = cells(grid(image_folder, tmp_path / "grid.png"), 2, 4)
    for row in found:
        for picture in row[1:]:
            np.testing.assert_array_equal(picture, row[0][:, ::-1])
    assert (found[0, 0] != found[1, 0]).any()
    assert "2 images, 3 times each" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_draws_differ_and_follow_the_seed(image_folder, tmp_path):
    one, same, other = (
        cells(grid(image_folder, tmp_path / "grid.png", augment="rotate(40)", seed=seed), 2, 4)
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (one[:, 1] != one[:, 2]).any()


def test_mixed_pictures_say_of_what(image_folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        preview_augment,
        "draw_grid",
        lambda rows, title: seen.extend(rows) or Image.new("RGB", (1, 1)),
    )
    grid(image_folder, tmp_path / "grid.png", augment="cutmix(1)", count=3)
    for number, row in enumerate(seen):
        for cell in row[1:]:
            own, other = cell.text.split(" + ")
            share, place = other.split(" of row ")
            assert float(own) + float(share) == pytest.approx(1, abs=0.011)
            assert int(place) == (number + 1) % 3 + 1


def test_long_specs_and_names_fit():
    row = tuple(Cell(np.zeros([32, 32, 3], np.uint8), "猫" * 999) for _ in range(2))
    image = np.asarray(preview_augment.draw_grid([row], "rotate(20)|" * 30))
    np.testing.assert_array_equal(image[:, :13], 255)
    np.testing.assert_array_equal(image[:, -13:], 255)


def test_what_cannot_be_read_is_left_out(image_folder, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "cat.1.jpg").write_bytes(b"no image")
    with refused("holds no image that can be read"):
        grid(folder, tmp_path / "grid.png")
    assert "cat.1.jpg is left out: not an image" in capsys.readouterr().err
    (folder / "cat.2.jpg").write_bytes((image_folder / "cat.2.jpg").read_bytes())
    assert cells(grid(folder, tmp_path / "grid.png"), 1, 4).std() > 20


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--count=0", "--count=0"),
        ("--draws=99", "[1, 24]"),
        ("--image_size=8", "[16, 1024]"),
        ("--seed=-1", "--seed=-1"),
        ("--out=grid.gif", "end its name in .png"),
        ("--out=nowhere/grid.png", "its folder does not exist"),
        ("--augment=sharpen", "unknown augmentation 'sharpen'"),
    ],
)
def test_wrong_flags_are_explained(flag, message, image_folder, tmp_path):
    flags = f"--source={image_folder}", "--augment=flip_lr", "--out=grid.png", flag
    done = commands.run(preview_augment.main, Options, *flags, cwd=tmp_path)
    commands.assert_one_error(done, message)
    assert not list(tmp_path.iterdir())
