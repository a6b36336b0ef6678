"""Classes and splits from file and folder names, and from lists."""

import collections
import contextlib

import pytest

from tfpipe.core.errors import UserError
from tfpipe.sources import Annotation, class_order, labels, list_beside, split_name
from tfpipe.sources.list_columns import Columns
from tfpipe.sources.member import is_image_name


def files(*patterns, source="in"):
    """Expand "cat/{}.jpg*4" to the names of four files in a source."""
    return [
        (source, pattern.format(number))
        for pattern, _, count in (each.partition("*") for each in patterns)
        for number in range(int(count or 1))
    ]


def read(images, mode="auto", **options):
    """Count the images by split and class."""
    found, _ = labels.annotate(images, mode, **options)
    return dict(collections.Counter("/".join(filter(None, (f.split, f.label))) for f in found))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["cat.{}.jpg*2", "dog.12.JPEG"], {"cat": 2, "dog": 1}),
        (["golden retriever.1.jpg", "犬.2.jpg"], {"golden retriever": 1, "犬": 1}),
        (["a/cat.0.jpg", "b/dog.1.jpg", "b/0.jpg"], {"a": 1, "b": 2}),  # one name is of no form
        (["cats/cat.{}.jpg*2", "dogs/dog.{}.jpg*2"], {"cats": 2, "dogs": 2}),  # they agree
        (["rose/image.{}.jpg*3", "tulip/image.{}.jpg*3"], {"rose": 3, "tulip": 3}),
        # The first folder is the class, below a folder around everything.
        (["cat/day{}/x.jpg*2", "dog/day{}/x.jpg*2"], {"cat": 2, "dog": 2}),
        (["a/b/cat/{}.jpg*2", "a/b/dog/{}.jpg*2", "a/b/c.jpg"], {"cat": 2, "dog": 2, "": 1}),
        (["cat/{}.jpg*2", "cat/more/{}.jpg*2", "dog/{}.jpg*2"], {"cat": 4, "dog": 2}),
        (["cat /{}.jpg*2", "cat/2.jpg", "dog/{}.jpg*2"], {"cat": 3, "dog": 2}),
        # Splits above the classes, and what has no class there.
        (
            ["Training/cat/{}.jpg*3", "Training/dog/{}.jpg*3", "test/cat.jpg"],
            {"train/cat": 3, "train/dog": 3, "test": 1},
        ),
        (
            [
                "x/train/n1/images/{}.JPEG*2",
                "x/train/n2/images/{}.JPEG*2",
                "x/val/images/{}.JPEG*3",
            ],
            {"train/n1": 2, "train/n2": 2, "val": 3},
        ),
        (
            [
                "seg_train/seg_train/sea/{}.jpg*2",
                "seg_train/seg_train/ice/{}.jpg*2",
                "seg_test/ice/{}.jpg*2",
            ],
            {"train/sea": 2, "train/ice": 2, "test/ice": 2},
        ),
        (
            ["cat/{}.jpg*2", "dog/{}.jpg*2", "test1/cat/{}.jpg*2", "dev/dog/{}.jpg*2"],
            {"cat": 2, "dog": 2, "test/cat": 2, "val/dog": 2},
        ),
        (["test/train/cat/1.jpg", "test/train/dog/1.jpg"], {"train/cat": 1, "train/dog": 1}),
        (
            ["train/train/cat/1.jpg", "train/train/dog/1.jpg", "train/val/cat/1.jpg"],
            {"train/cat": 1, "train/dog": 1, "val/cat": 1},
        ),
        (
            ["train/images/cat/1.jpg", "train/images/dog/1.jpg", "test/images/dog/1.jpg"],
            {"train/cat": 1, "train/dog": 1, "test/dog": 1},
        ),
        (
            ["train/cat.{}.jpg*2", "train/dog.{}.jpg*2", "test1/{}.jpg*3"],
            {"train/cat": 2, "train/dog": 2, "test": 3},
        ),
        (
            ["train.zip/train/cat.1.jpg", "train.zip/train/dog.1.jpg", "test1.zip/test1/1.jpg"],
            {"train/cat": 1, "train/dog": 1, "test": 1},
        ),
        # Splits below them.
        (
            ["cat/train/{}.jpg*2", "cat/test/{}.jpg*2", "dog/train/{}.jpg*2"],
            {"train/cat": 2, "test/cat": 2, "train/dog": 2},
        ),
    ],
)
def test_one_reading(patterns, expected):
    assert read(files(*patterns)) == expected


@pytest.mark.parametrize(
    ("patterns", "words", "choices"),
    [
        (
            ["rose/frame.{}.jpg*3", "rose/photo.{}.jpg*2", "tulip/frame.{}.jpg*5"],
            ["rose 5, tulip 5", "frame 8, photo 2"],
            {"folder": {"rose": 5, "tulip": 5}, "filename": {"frame": 8, "photo": 2}},
        ),
        (
            ["cat/{}.jpg*2", "dog/{}.jpg*2", "test/{}.jpg*3"],
            ["cat 2, dog 2 and 3 unlabelled", "cat 2, dog 2, test 3"],
            {
                "folder": {"cat": 2, "dog": 2, "test": 3},
                "folder:1": {"cat": 2, "dog": 2, "test": 3},
            },
        ),
        (
            ["train/cat/{}.jpg*2", "train/dog/{}.jpg*2", "docs/figure.png"],
            ["train/", "docs/", "cat 2, dog 2 and 1 unlabelled", "docs 1, train 4"],
            {"folder": {"train/cat": 2, "train/dog": 2, "": 1}},
        ),
        (
            ["train/cat/1.jpg", "train/dog/1.jpg", "holdout/cat/1.jpg", "holdout/dog/1.jpg"],
            ["cat 1, dog 1 and 2 unlabelled", "cat 2, dog 2"],
            {"folder:2": {"train/cat": 1, "train/dog": 1, "cat": 1, "dog": 1}},
        ),
        (
            ["pics/cat/{}.jpg*2", "pics/dog/{}.jpg*2", "cover/x.jpg"],
            ["cover 1, pics 4", "cat 2, cover 1, dog 2"],
            {"folder:-1": {"cat": 2, "dog": 2, "cover": 1}, "folder": {"pics": 4, "cover": 1}},
        ),
        (
            ["cat/{}.jpg*2", "dog/{}.jpg*2", "more/cat/{}.jpg*3"],
            ["cat 2, dog 2, more 3", "cat 5, dog 2"],
            {"folder:-1": {"cat": 5, "dog": 2}},
        ),
        (
            ["data/train/cat/{}.jpg*2", "data/train/dog/{}.jpg*2", "samples/x.jpg"],
            ["data 4, samples 1", "cat 2, dog 2 and 1 unlabelled"],
            {"folder:3": {"train/cat": 2, "train/dog": 2, "": 1}},
        ),
        (
            ["cat/train/{}.jpg*2", "cat/test/{}.jpg*2", "dog/{}.jpg*3"],
            ["cat/train/", "dog/", "4 images", "`splits="],
            {"folder": {"train/cat": 2, "test/cat": 2, "dog": 3}},
        ),
        (["images/{}.jpg*3", "masks/{}.png*3"], ["images 3, masks 3", "`exclude`"], {}),
        (["cat/1.jpg", "dog/1.jpg", "unlabeled/{}.jpg*3"], ["unlabeled/", "`exclude`"], {}),
        (["train/cat/1.jpg", "train/test/1.jpg", "val/cat/1.jpg"], ["test/"], {}),
        (
            ["{}.jpg*9", "a/1.jpg", "b/1.jpg"],
            ["9 images", "a 1, b 1"],
            {"folder": {"a": 1, "b": 1, "": 9}},
        ),
        (
            ["train/a/{}.jpg*2", "train/b/{}.jpg*2", "val/a/1.jpg", "val/c/1.jpg"],
            ["c/", "`labels=folder`", "`exclude`"],
            {"folder": {"train/a": 2, "train/b": 2, "val/a": 1, "val/c": 1}},
        ),
        (
            ["cat.{}.jpg*20", "dog.{}.jpg*20", "logo.jpg"],
            ["1 of 41", "'logo.jpg'", "cat 20, dog 20", "`exclude`"],
            {"filename": {"cat": 20, "dog": 20, "": 1}},
        ),
        (
            ["cat.{}.jpg*20", "dog.{}.jpg*20", "cover.1.jpg"],
            ["'cover.1.jpg'", "cover 1"],
            {"filename": {"cat": 20, "dog": 20, "cover": 1}},
        ),
    ],
)
def test_two_readings_are_a_question(patterns, words, choices):
    with pytest.raises(UserError) as caught:
        read(files(*patterns))
    for word in [*words, *(f"`labels={mode}`" for mode in choices)]:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    for mode, expected in choices.items():
        assert read(files(*patterns), mode) == expected


@pytest.mark.parametrize(
    ("sources", "mode", "expected"),
    [
        ({"x/train": ["cat/1.jpg", "dog/1.jpg"], "x/test.zip": ["cat/1.jpg"]}, "auto",
         {"train/cat": 1, "train/dog": 1, "test/cat": 1}),
        ({"train.zip": ["train/cat.1.jpg", "train/dog.1.jpg"], "test1.zip": ["test1/1.jpg"]},
         "auto", {"train/cat": 1, "train/dog": 1, "test": 1}),
        ({"cat.zip": ["cat/1.jpg"], "b": ["dog/1.jpg"]}, "auto", {"cat": 1, "dog": 1}),
        ({"a": ["Pets/cat/1.jpg", "Pets/dog/1.jpg"], "b": ["cat/2.jpg", "dog/2.jpg"]}, "auto",
         {"cat": 2, "dog": 2}),
        ({"x/cat.zip": ["1.jpg"], "x/dog": ["1.jpg"]}, "folder:0", {"cat": 1, "dog": 1}),
        ({"train/cat": ["1.jpg"], "train/dog": ["1.jpg"], "test/cat": ["1.jpg"]}, "folder:0",
         {"train/cat": 1, "train/dog": 1, "test/cat": 1}),
        ({"test": ["cat/1.jpg", "dog/1.jpg"]}, "auto", {"cat": 1, "dog": 1}),
    ],
)  # fmt: skip
def test_several_sources(sources, mode, expected):
    images = [image for root, names in sources.items() for image in files(*names, source=root)]
    assert read(images, mode) == expected


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"x/cat": ["{}.jpg*5"], "x/dog": ["{}.jpg*4"]}, ["cat 5, dog 4", "`labels=folder:0`"]),
        (
            {"a": ["cat/1.jpg", "dog/1.jpg"], "cow": ["1.jpg"]},
            ["`source=cow`", "`labels=folder:0`"],
        ),
        (
            {"a": ["cat/1/x.jpg", "cat/2/x.jpg"], "b": ["dog/1/x.jpg", "dog/2/x.jpg"]},
            ["1 2, 2 2", "cat 2, dog 2", "`labels=folder:1`"],
        ),
    ],
)
def test_several_sources_with_two_readings(sources, words):
    images = [image for root, names in sources.items() for image in files(*names, source=root)]
    with pytest.raises(UserError) as caught:
        read(images)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("patterns", "mode", "words"),
    [
        (
            ["train/{}.jpg*3", "test/{}.jpg*3"],
            "auto",
            ["6 images", "test/, train/", "`labels=csv:"],
        ),
        (["cat/{}.jpg*3"], "auto", ["3 images", "cat/"]),
        (["cat.{}.jpg*3"], "auto", ["'cat' is the only class (file name)", "two"]),
        (["cat/{}.jpg*3"], "filename", ["3 names", "word.number.ext", "`labels=folder`"]),
        (["2.0.jpg", "a.b.jpg"], "filename", ["2 names"]),
        (["cat/{}.jpg*3"], "folder:2", ["`labels=folder:2`", "in/cat"]),
    ],
)
def test_no_label_is_a_user_error(patterns, mode, words):
    with pytest.raises(UserError) as caught:
        read(files(*patterns), mode)
    for word in words:
        assert word in str(caught.value)


def test_a_list_beside_the_images_is_named():
    with pytest.raises(UserError, match=r"in/labels\.csv.*`labels=csv:in/labels\.csv`"):
        read(files("train/{}.jpg*3", "test/{}.jpg*3"), lists=["in/labels.csv", "in/other.csv"])


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("lesion,image_id,dx\n1,ISIC_0,nv\n2,ISIC_1,nv\n3,ISIC_2,mel\n", True),
        ("image;Finding Labels\nISIC_0.jpg;a\npart_1/ISIC_1.jpg;a\nISIC_2.jpg;b\n", True),
        ("file,label\nISIC_0.jpg,zero\nISIC_1.jpg,one\nISIC_2.jpg,zero\n", False),  # as the folders
        ("file,x,y\nISIC_0.jpg,1,2\nISIC_1.jpg,2,3\nISIC_2.jpg,1,1\n", False),  # no labels
        ("file,label\nother.jpg,nv\nothers.jpg,mel\n", False),  # of other files
        ("file,label\n", False),
        ("", False),
        ('"file,label\nISIC_0', False),
    ],
)
def test_a_list_beside_class_folders_that_says_other_classes_is_a_question(text, asks):
    images = [(f"part_{i % 2}/ISIC_{i}.jpg", f"part_{i % 2}") for i in range(3)]
    said = "`labels=folder` reads part_0 2, part_1 1; `labels=csv:in/x.csv`"
    with pytest.raises(UserError, match=said) if asks else contextlib.nullcontext():
        list_beside.check("in/x.csv", text.encode(), images)


def test_named_classes_are_neither_splits_nor_around_everything():
    vehicles = files("bus/{}.jpg*2", "car/{}.jpg*2", "train/{}.jpg*2")
    assert read(vehicles, classes=("bus", "car", "train")) == {"bus": 2, "car": 2, "train": 2}
    assert read(files("lion/{}.jpg*2"), classes=("ant", "lion")) == {"lion": 2}


def test_a_note_about_spellings():
    assert labels.spellings(["cat/1.jpg", "dog/1.jpg"], ["cat", "dog"]) == []
    (note,) = labels.spellings(["cat /1.jpg", "cat/2.jpg", "dog/1.jpg"], ["cat", "dog"])
    assert "'cat'" in note
    assert "'cat '" in note


def test_image_names():
    for name in ("a.jpg", "x/A.JPEG", "b.Png", "c.webp", "d.tif", "e.gif", "f.bmp", "g.heic"):
        assert is_image_name(name)
    for name in ("README", "index.csv", "x.jpg.txt", "jpg", "notes.txt", "Thumbs.db"):
        assert not is_image_name(name)


def test_a_list_labels_by_member_or_file_name(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        "path,label,patient\n1.jpg,cat,p1\nb/1.jpg,dog, p2 \n2,bird,\nunused.jpg,cow,\n"
    )
    mode = f"csv:{path}"
    found, origin = labels.annotate(
        files("1.jpg", "b/1.jpg", "c/2.jpg"), mode, columns=Columns(group="patient")
    )
    assert [each[:2] for each in found] == [("cat", "p1"), ("dog", "p2"), ("bird", "")]
    assert origin == "list"
    assert read(files("train/1.jpg", "train/2.jpg", "test/3.jpg"), mode) == {
        "train/cat": 1,
        "train/bird": 1,
        "test": 1,  # which the list lacks
    }
    with pytest.raises(UserError, match=r"none of the 1 images.*c/3\.jpg'"):
        read(files("c/3.jpg"), mode)
    with pytest.raises(UserError, match=r"'2' may be '.*c/2\.jpg' or '.*d/2\.jpg'"):
        read(files("c/2.jpg", "d/2.jpg"), mode)
    with pytest.raises(UserError, match=r"'cat' is the only class \(list\)"):
        read(files("1.jpg"), mode)
    before = labels.fingerprint(mode)
    path.write_text(path.read_text().replace("bird", "cow"))
    assert labels.fingerprint(mode) != before
    assert labels.fingerprint("auto") == ""
    with pytest.raises(UserError, match=r"none\.csv"):
        read(files("1.jpg"), "csv:none.csv")


def test_what_a_source_says_counts_and_does_not_decide_for_others():
    own = [Annotation("cow", "g", "TRAIN"), None, None]
    images = files("x/1.jpg", source="l.csv") + files("cat.0.jpg", "dog.1.jpg")
    found, origin = labels.annotate(images, "auto", own)
    assert [each.label for each in found] == ["cow", "cat", "dog"]
    with pytest.raises(UserError, match=r"`labels=csv:x\.csv` labels no image.*omit it"):
        labels.annotate(images[:1], "csv:x.csv", own[:1])
    assert found[0] == Annotation("cow", "g", "train")
    assert origin == "the source says and file name"
    with pytest.raises(UserError, match=r"'cow' is the only class \(the source says\)"):
        read(images[:1], own=own[:1])
    with pytest.raises(UserError, match=r"'fold 3' is no split.*train, val, test"):
        read(images, own=[Annotation("cow", "", "fold 3"), None, None])
    assert read(images, own=[Annotation("cow", "", "fold 3"), None, None], ask_splits=False)


def test_folders_in_a_list_are_splits_below_those_around_everything():
    own = [Annotation("cat"), Annotation("dog"), Annotation("dog")]
    images = files("/test/x/train/1.jpg", "/test/x/train/2.jpg", "/test/x/val/3.jpg")
    assert read(images, own=own) == {"train/cat": 1, "train/dog": 1, "val/dog": 1}
    assert read(files("test/1.jpg", "test/2.jpg", "test/3.jpg"), own=own) == {"cat": 1, "dog": 2}
    lists = files("1.jpg", "2.jpg", source="x/train.csv") + files("3.jpg", source="x/test.csv")
    assert read(lists, own=own) == {"train/cat": 1, "train/dog": 1, "test/dog": 1}


@pytest.mark.parametrize("mode", ["colour", "csv:", "csv", "", "AUTO", "folder:", "folder:x"])
def test_unknown_rule(mode):
    with pytest.raises(UserError, match="auto, filename, folder, folder:N or csv:FILE") as caught:
        labels.check(mode)
    assert caught.value.status == 2


@pytest.mark.parametrize(
    ("found", "named", "expected"),
    [
        ("b a b", "", "a b"),
        ("a b", "b, a", "b a"),
        ("0 1 10 2 011", "", "0 1 2 10 011"),
        ("0.0 10.0 2.0", "", "0.0 2.0 10.0"),
        ("1 10 2 x", "", "1 10 2 x"),
        ("cat", "dog,cat,cow", "dog cat cow"),  # some have no image here
    ],
)
def test_order(found, named, expected):
    assert class_order.order(found.split(), class_order.parse(named)) == tuple(expected.split())


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("cat", ["lacks the images' class 'dog'"]),
        ("cat,dog,cat", ["'cat' appears twice"]),
        ("cafe\u0301,caf\u00e9,cat,dog", ["appears twice"]),
        ("cat,,dog", ["'' is not a class"]),
        (",", ["'' is not a class"]),
        ("Cat,dog", ["lacks the images' class 'cat'"]),
    ],
)
def test_order_that_does_not_fit_is_a_user_error(classes, words):
    with pytest.raises(UserError) as caught:
        class_order.order(["cat", "dog"], class_order.parse(classes))
    for word in [f"`classes={classes}`", *words]:
        assert word in str(caught.value)


def test_remarks_on_classes():
    assert class_order.remarks(("0", "1", "2"), {"0": 1, "1": 1, "2": 1}) == []
    (empty,) = class_order.remarks(("ant", "bee"), {"bee": 3})
    assert "'ant'" in empty
    (numbers,) = class_order.remarks(("1", "2"), {"1": 3, "2": 3})
    assert "index 0" in numbers
    assert class_order.alike({"cat": 1, "dog": 2}) == ""
    counts = {"Cat": 400, "cat": 3, "hot dog": 1, "hot_dog": 2, "\ufb01sh": 5, "fish": 6, "cow": 1}
    said = class_order.alike(counts)
    for word in ("3 classes", "'Cat' 400 and 'cat' 3", "'hot dog' 1 and 'hot_dog' 2", "--classes"):
        assert word in said
    assert "cow" not in said


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("train Training TRAIN train_images trainset seg_train train.tar.gz train2017", "train"),
        ("val valid Validation dev val_0 validation-set", "val"),
        ("test testing test1 test1.zip images_test", "test"),
        ("my_train trainer vali tests pred 01 data set testa test-tube cat", ""),
    ],
)
def test_names_of_splits(names, expected):
    assert {split_name.recognize(name) for name in names.split()} == {expected}
    assert split_name.recognize("0_" * 500) == ""  # in no exponential time
