"""Classes from file and folder names, and from lists."""

import pytest

from tfpipe import sources
from tfpipe.core.errors import UserError
from tfpipe.sources import label_list, labels


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
    with pytest.raises(UserError, match=r"neither 'c/3\.jpg' nor '3\.jpg'"):
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


def test_groups_are_found_as_labels_are(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("path,label,patient\n1.jpg,cat,p1\nb/1.jpg,dog, p2 \n2.jpg,bird,\n")
    mode, names = f"csv:{path}", ["1.jpg", "b/1.jpg", "c/2.jpg"]
    assert labels.groups(names, mode, "patient") == ["p1", "p2", ""]
    assert labels.groups(names, mode, "group") == ["", "", ""]
    assert labels.groups(names, mode, "") == ["", "", ""]
    assert labels.groups(names, "auto", "patient") == ["", "", ""]
    with pytest.raises(UserError, match=r"neither 'c/3\.jpg'"):
        labels.groups(["c/3.jpg"], mode, "patient")
    # The source's own group wins, even if it is empty.
    own = ["own", "", None]
    assert labels.groups(["c/3.jpg", "1.jpg", "b/1.jpg"], mode, "patient", own) == [
        *("own", "", "p2")
    ]
    assert labels.groups(names, "auto", "patient", own) == ["own", "", ""]
    before = labels.fingerprint(mode, "patient")
    assert labels.fingerprint(mode, "group") != before
    path.write_text(path.read_text().replace("p1", "p3"))
    assert labels.fingerprint(mode, "patient") != before


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("x.csv", "path,label,group\na.jpg,cat,7\nb.jpg,dog,\n", {"a.jpg": "7"}),
        ("x.csv", ",group,path,label\n0, ann ,a.jpg,cat\n", {"a.jpg": "ann"}),
        ("x.csv", "path,label\na.jpg,cat\n", {}),
        ("x.jsonl", '{"path": "a.jpg", "label": "cat", "group": 7}', {"a.jpg": "7"}),
        ("x.jsonl", '{"path": "a.jpg", "label": "cat", "group": "é"}', {"a.jpg": "é"}),
        ("x.jsonl", '{"path": "a.jpg", "label": "cat", "group": null}', {}),
        ("x.jsonl", '{"path": "a.jpg", "label": "cat"}', {}),
    ],
)
def test_groups_of_a_list(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text)
    (tmp_path / "a.jpg").write_bytes(b"1")
    source = sources.open_source(str(tmp_path / name))
    assert {
        name: each.group for name, each in source.annotations("group").items() if each.group
    } == expected
    # An empty name selects no column, not even one without a name.
    assert not any(each.group for each in source.annotations().values())


def test_a_source_without_a_list_has_no_groups(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"1")
    assert sources.open_source(str(tmp_path)).annotations("group") == {}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("x.csv", "path,label,group,group\n", ["line 1", "2 columns", "'group'"]),
        ("x.csv", "path,label,group\na.jpg,cat,1\na.jpg,cat,2\n", ["line 3", "'2'", "line 2"]),
        ("x.csv", f"path,label,group\na.jpg,cat,{'g' * 201}\n", ["line 2", "not a group", "200"]),
        ("x.csv", "path,label,group\na.jpg,cat,a\tb\n", ["line 2", "not a group"]),
        ("x.jsonl", '{"path": "a", "label": "b", "group": [1]}', ["line 1", "group is a list"]),
        ("x.jsonl", '{"path": "a", "label": "b", "group": true}', ["group is a bool"]),
        ("x.jsonl", '{"path": "a", "label": "b", "group": 1.5}', ["group is a float"]),
        ("x.jsonl", '{"path": "a", "label": "b", "group": "\\ud800"}', ["not a group"]),
    ],
)
def test_bad_group_is_a_user_error(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        label_list.read(str(path), "group")
    for word in [str(path), *words]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


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
