"""Classes from file and folder names, and from lists."""

import pytest

from tfpipe.core.errors import UserError
from tfpipe.sources import labels


@pytest.mark.parametrize(
    ("names", "mode", "expected"),
    [
        (["cat.0.jpg", "dog.12.JPEG"], "auto", ["cat", "dog"]),
        (["train/cat.0.jpg", "train/dog.1.jpg"], "auto", ["cat", "dog"]),
        (["cat/0.jpg", "dog/0.jpg"], "auto", ["cat", "dog"]),
        (["train/cat/0.jpg", "val/dog/x.jpg"], "auto", ["cat", "dog"]),
        # One name has another form, so folders label all images.
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
        (["cat.0.jpg", "dog.0.jpg", "logo.jpg"], "auto", ["'logo.jpg'", "`labels=auto`"]),
        (["cat.0.jpg", "x/dog.jpg"], "filename", ["'x/dog.jpg'", "`labels=folder`"]),
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
        ("cat", ["lacks the images' class 'dog'"]),
        ("cat,dog,cow", ["no image has class 'cow'", "'cat', 'dog'"]),
        ("cat,dog,cat", ["'cat' appears twice"]),
        ("cat,,dog", ["'' is not a class"]),
        (",", ["'' is not a class"]),
        ("Cat,dog", ["lacks the images' class 'cat'"]),
    ],
)
def test_order_that_does_not_fit_is_a_user_error(classes, words):
    with pytest.raises(UserError) as caught:
        labels.order(["cat", "dog"], classes)
    for word in [f"`classes={classes}`", *words]:
        assert word in str(caught.value)
