"""Classes from file and folder names."""

import pytest

from tfpipe.errors import UserError
from tfpipe.ingest import labels


@pytest.mark.parametrize(
    ("names", "mode", "expected"),
    [
        (["cat.0.jpg", "dog.12.JPEG"], "auto", ["cat", "dog"]),
        (["train/cat.0.jpg", "train/dog.1.jpg"], "auto", ["cat", "dog"]),
        (["cat/0.jpg", "dog/0.jpg"], "auto", ["cat", "dog"]),
        (["train/cat/0.jpg", "val/dog/x.jpg"], "auto", ["cat", "dog"]),
        # One name of another form, and the folders decide for all.
        (["a/cat.0.jpg", "b/dog.1.jpg", "b/0.jpg"], "auto", ["a", "b", "b"]),
        (["a/cat.0.jpg", "b/cat.1.jpg"], "folder", ["a", "b"]),
        (["a/cat.0.jpg", "a/dog.1.jpg"], "filename", ["cat", "dog"]),
        (["golden retriever.1.jpg", "shiba-inu.2.jpg"], "auto", ["golden retriever", "shiba-inu"]),
        (["Kätzchen.1.jpg", "犬.2.jpg"], "auto", ["Kätzchen", "犬"]),
    ],
)
def test_assign(names, mode, expected):
    assert labels.assign(names, mode) == expected


@pytest.mark.parametrize(
    ("names", "mode", "words"),
    [
        (["cat.0.jpg", "dog.0.jpg", "logo.jpg"], "auto", ["'logo.jpg'", "--labels=auto"]),
        (["cat.0.jpg", "x/dog.jpg"], "filename", ["'x/dog.jpg'", "--labels=folder"]),
        (["cat/0.jpg", "1.jpg"], "folder", ["'1.jpg'", "cat/0.jpg"]),
        (["cat.0.jpg", "cat.1.jpg"], "auto", ["'cat'", "file names", "two"]),
        (["x/cat.0.jpg", "x/logo.jpg"], "auto", ["'x'", "folder names", "'x/logo.jpg'"]),
        (["2.0.jpg", "a.b.jpg"], "filename", ["'2.0.jpg'"]),
    ],
)
def test_no_label_is_a_user_error(names, mode, words):
    with pytest.raises(UserError) as caught:
        labels.assign(names, mode)
    for word in words:
        assert word in str(caught.value)


def test_image_names():
    for name in ("a.jpg", "x/A.JPEG", "b.Png", "c.webp", "d.tif", "e.gif", "f.bmp", "g.heic"):
        assert labels.is_image_name(name)
    for name in ("README", "index.csv", "x.jpg.txt", "jpg", "notes.txt", "Thumbs.db"):
        assert not labels.is_image_name(name)
