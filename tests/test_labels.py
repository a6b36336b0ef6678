"""Classes from file and folder names, and from lists."""

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


def test_a_list_labels_by_member_or_file_name(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("path,label\n1.jpg,cat\nb/1.jpg,dog\n2.jpg,bird\nunused.jpg,cow\n")
    mode = f"csv:{path}"
    assert labels.assign(["1.jpg", "b/1.jpg", "c/2.jpg"], mode) == ["cat", "dog", "bird"]
    with pytest.raises(UserError, match=r"does not have 'c/3\.jpg', nor '3\.jpg'"):
        labels.assign(["1.jpg", "c/3.jpg"], mode)
    with pytest.raises(UserError, match=r"'2\.jpg' may be 'c/2\.jpg' or 'd/2\.jpg'"):
        labels.assign(["c/2.jpg", "d/2.jpg"], mode)
    with pytest.raises(UserError, match="'cat' is the only class by the list"):
        labels.assign(["1.jpg"], mode)
    before = labels.fingerprint(mode)
    path.write_text("path,label\n1.jpg,cat\nb/1.jpg,cow\n")
    assert labels.fingerprint(mode) != before
    assert labels.fingerprint("auto") == ""
    with pytest.raises(UserError, match=r"none\.csv"):
        labels.assign(["1.jpg"], "csv:none.csv")


def test_a_sources_own_labels_count_and_do_not_decide_auto():
    names, own = ["x/1.jpg", "cat.0.jpg", "dog.1.jpg"], ["cow", None, None]
    assert labels.assign(names, "auto", own) == ["cow", "cat", "dog"]
    assert labels.assign(names[:2], "filename", own[:2]) == ["cow", "cat"]
    assert labels.assign(["1", "2"], "folder", ["a", "b"]) == ["a", "b"]
    with pytest.raises(UserError, match="'cow' is the only class by the list"):
        labels.assign(["1.jpg"], "auto", ["cow"])


@pytest.mark.parametrize("mode", ["colour", "csv:", "csv", "", "AUTO"])
def test_unknown_rule(mode):
    with pytest.raises(UserError, match="auto, filename, folder or csv:FILE") as caught:
        labels.check(mode)
    assert caught.value.status == 2


def test_order():
    assert labels.order(["b", "a", "b"], "") == ("a", "b")
    assert labels.order(["a", "b"], "b, a") == ("b", "a")
    assert labels.order(["golden retriever", "犬"], "犬,golden retriever") == (
        "犬",
        "golden retriever",
    )


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("cat", ["'dog' is not there"]),
        ("cat,dog,cow", ["no image is of class 'cow'", "'cat', 'dog'"]),
        ("cat,dog,cat", ["'cat' is there twice"]),
        ("cat,,dog", ["'' is no class"]),
        (",", ["'' is no class"]),
        ("Cat,dog", ["'cat' is not there"]),
    ],
)
def test_order_that_does_not_fit_is_a_user_error(classes, words):
    with pytest.raises(UserError) as caught:
        labels.order(["cat", "dog"], classes)
    for word in [f"--classes={classes}", *words]:
        assert word in str(caught.value)
