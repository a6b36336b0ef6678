"""Screens: the suspects of each, their lists and pages, and the options that each refuses."""

import csv
import dataclasses
import hashlib
import io
import zipfile

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_dataset_report import Page

from tfpipe import screens
from tfpipe.core.errors import UserError
from tfpipe.images.image_info import ImageInfo, ImageRef
from tfpipe.model import backbones
from tfpipe.page import thumbnail
from tfpipe.screens import (
    imagenet,
    imagenet_classes,
    imagenet_model,
    label_issues,
    size,
    suspect_lists,
)

CLASSES = ("cat", "dog")
RED, BLUE = (200, 40, 40), (40, 40, 200)


def plain_png(colour, side=24):
    data = io.BytesIO()
    noise = np.random.default_rng(sum(colour)).normal(0, 12, (side, side, 3))
    pixels = (noise + colour).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def describe(index, data=b"", width=24, height=24, file_bytes=None):
    sha = hashlib.sha256(b"%d" % index + data).hexdigest()
    count = len(data) if file_bytes is None else file_bytes
    stored = {"format": "png", "converted": "", "color": (0.0, 0.0, 0.0), "hash": "0" * 16}
    sizes = {"height": height, "width": width, "file_height": height, "file_width": width}
    files = {"bytes": count, "file_bytes": count, "sha256": sha, "file_sha256": sha}
    return ImageInfo(ref=ImageRef(0, f"{index}.png"), **stored, **sizes, **files)


def described(shapes, limit=1.5):
    """The suspects of the screen `size` of images with these widths, heights and bytes."""
    found = [describe(i, width=w, height=h, file_bytes=b) for i, (w, h, b) in enumerate(shapes)]
    images = screens.ScreenedImages(found, [""] * len(found), [0] * len(found), CLASSES, None, None)
    return size.Size(screens.Options(screen_iqrs=limit), CLASSES).find(images)


def images_of(pictures, labels, cache, **changes):
    """Return `ScreenedImages` of encoded pictures, which are read from memory."""
    given_ = {
        "found": [describe(index, data) for index, data in enumerate(pictures)],
        "paths": [f"images/{index}.png" for index in range(len(pictures))],
        "labels": labels,
        "classes": CLASSES,
        "read": pictures.__getitem__,
        "cache": cache,
    }
    return screens.ScreenedImages(**{**given_, **changes})


@pytest.fixture
def reds_and_blues(tmp_path):
    """20 red cats and 20 blue dogs; the picture of cat 0 is blue."""
    colours = [(BLUE if i == 0 or i >= 20 else RED) for i in range(40)]
    pictures = [plain_png((r, g + i, b)) for i, (r, g, b) in enumerate(colours)]
    return images_of(pictures, [0] * 20 + [1] * 20, tmp_path)


def save_red_and_blue_classifier(path, side=16, outputs=1000):
    """Saves a model that gives a red picture class 281, a blue one class 151, after class 7."""
    image = tf_keras.Input([side, side, 3])
    pooled = tf_keras.layers.GlobalAveragePooling2D()(image)
    weights = np.zeros([3, outputs], np.float32)
    if outputs == 1000:
        weights[:, 7], weights[0, 281], weights[2, 151] = 0.05, 0.04, 0.04
        weights[2, 281] = weights[0, 151] = -0.1
    dense = tf_keras.layers.Dense(outputs, activation="softmax", use_bias=False)
    model = tf_keras.Model(image, dense(pooled))
    dense.set_weights([weights])
    model.save(path)
    return str(path)


@pytest.fixture(scope="module")
def red_and_blue(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "red_and_blue.keras"
    return save_red_and_blue_classifier(path)


@pytest.fixture
def small_features(monkeypatch):
    """Make mean colours the features of `small_cnn`."""
    small = backbones.Architecture(
        "small_cnn", 16, _identity, backbones.scale_to_unit, imagenet=_identity
    )
    monkeypatch.setattr(backbones, "get", lambda name: small)


def _identity(side):
    image = tf_keras.Input([side, side, 3])
    return tf_keras.Model(image, tf_keras.layers.MaxPooling2D(1)(image))


OPTIONS = {
    "size": {},
    "imagenet": {"screen_classes": "cat:281,dog:151", "screen_top_k": 2},
    "labels": {"screen_features": "small_cnn", "screen_share": 0.05},
}


def prepare(name, classes=CLASSES, **changes):
    return screens.prepare(screens.Options(screens=name, **{**OPTIONS[name], **changes}), classes)


def read_csv(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# Every screen.


@pytest.mark.parametrize("name", screens.screens)
def test_every_screen_writes_its_list_and_its_page(
    name, reds_and_blues, red_and_blue, small_features, tmp_path
):
    prepared = prepare(name, screen_model=red_and_blue)
    (screen,) = prepared
    assert screen.name == name
    assert screen.question.endswith("?")
    first, again = tmp_path / "first", tmp_path / "again"
    for folder in (first, again):
        folder.mkdir()
        found = screens.run(prepared, reds_and_blues, screens.REPORT, folder)
    assert list(found) == [name]
    scores = [suspect.score for suspect in found[name]]
    assert scores == sorted(scores, reverse=True)
    rows = read_csv(first / f"screen-{name}.csv")
    assert [row["path"] for row in rows] == [
        reds_and_blues.paths[suspect.index] for suspect in found[name]
    ]
    assert all(row["action"] == "kept" and row["reason"] for row in rows)
    text = (first / f"screen-{name}.html").read_text(encoding="utf-8")
    page = Page(text)
    page.assert_self_contained(text)
    assert screen.question in page.words
    assert screen.score in page.words
    assert len(page.images) == len(rows)
    for written in first.iterdir():
        assert written.read_bytes() == (again / written.name).read_bytes()


def test_screens_keep_their_order_and_none_is_the_default():
    assert screens.prepare(screens.Options(), CLASSES) == []
    prepared = screens.prepare(screens.Options(screens=" size , size"), CLASSES)
    assert [screen.name for screen in prepared] == ["size"]
    with pytest.raises(UserError, match="unknown screen 'sizes'; did you mean 'size'"):
        screens.prepare(screens.Options(screens="sizes"), CLASSES)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(screens.Labels, "needs", ("no_such_package",))
    with pytest.raises(UserError, match=r"needs no_such_package.*tfpipe\[screen\]"):
        prepare("labels")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("size", {"screen_iqrs": 0.0}, "`screen_iqrs=0`"),
        ("size", {"screen_iqrs": float("nan")}, "`screen_iqrs=nan`"),
        ("imagenet", {"screen_top_k": 0}, "`screen_top_k=0`"),
        ("imagenet", {"screen_classes": ""}, "`screen_classes`"),
        ("imagenet", {"screen_model": "nosuchnet"}, "`screen_model=nosuchnet`"),
        ("imagenet", {"screen_model": "small_cnn"}, "`screen_model=small_cnn`"),
        ("labels", {"screen_share": 1.5}, "`screen_share=1.5`"),
        ("labels", {"screen_weights": "none"}, "`screen_weights=none`"),
        ("labels", {"screen_weights": "no/such.h5"}, "`screen_weights=no/such.h5`"),
        ("labels", {"screen_features": "nosuchnet"}, "`screen_features=nosuchnet`"),
    ],
)
def test_wrong_options_are_found_before_the_images_are_read(name, changes, message):
    with pytest.raises(UserError) as refused:
        prepare(name, **changes)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_drop_is_written_and_never_takes_a_whole_class(tmp_path):
    class Everything(size.Size):
        def find(self, images):
            return [screens.Suspect(i, 1.0, "x") for i in self.chosen]

    pictures = [plain_png(RED), plain_png(BLUE), plain_png(RED)]
    images = images_of(pictures, [0, 1, 0], tmp_path)
    screen = Everything(screens.Options(), CLASSES)
    screen.chosen = [0]
    screens.run([screen], images, screens.DROP, tmp_path)
    assert read_csv(tmp_path / "screen-size.csv")[0]["action"] == "dropped"
    screen.chosen = [0, 1]
    with pytest.raises(UserError, match="no image of class 'dog'"):
        screens.run([screen], images, screens.DROP, tmp_path)


# Size.


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 10**7)),
        min_size=4,
        max_size=60,
    ),
    st.sampled_from([1.5, 3.0]),
)
def test_size_is_tukeys_rule(shapes, limit):
    width, height, count = np.array(shapes, float).T
    surely, perhaps = np.zeros([2, len(shapes)], bool)  # they differ in rounding only
    for values in (width, height, width * height, width / height, count / (width * height)):
        lower, upper = np.percentile(values, [25, 75])
        if upper - lower <= 0.01 * upper:
            return  # the documented exception
        reach = limit * (upper - lower)
        beyond = np.maximum(lower - values, values - upper)
        surely |= beyond > reach * (1 + 1e-9)
        perhaps |= beyond > reach * (1 - 1e-9)
    listed = described(shapes, limit)
    indices = {suspect.index for suspect in listed}
    assert set(np.flatnonzero(surely)) <= indices <= set(np.flatnonzero(perhaps))


def test_size_says_what_is_far_from_what():
    (suspect,) = described([(w, 100, 1000 * w) for w in (90, 95, 100, 105, 110, 300)])
    # Quartiles 96.25 and 108.75 by hand, so (300 - 108.75) / 12.5.
    assert (suspect.index, suspect.score) == (5, pytest.approx(15.3))
    assert "width 300 (median 102.5)" in suspect.reason
    assert "height" not in suspect.reason


def test_size_of_equal_images_suspects_none_but_those_that_differ():
    assert size.distance(np.full(8, 500.0)).tolist() == [0.0] * 8
    assert size.distance(np.array([500.0] * 7 + [499.0]))[-1] == pytest.approx(0.2)
    assert size.distance(np.array([500.0] * 7 + [50.0]))[-1] == pytest.approx(90.0)


# ImageNet.


def test_imagenet_lists_what_shows_no_expected_class(tmp_path, red_and_blue):
    pictures = [plain_png(colour) for colour in (RED, BLUE, (40, 200, 40), RED, (40, 200, 40))]
    images = images_of(pictures, [0, 0, 1, 2, 2], tmp_path, classes=(*CLASSES, "other"))
    (screen,) = prepare("imagenet", images.classes, screen_model=red_and_blue)
    listed = screen.find(images)
    # Blue "cat" 1 shows an expected class; no class is expected of "other".
    assert [suspect.index for suspect in listed] == [2]
    assert listed[0].score > 2
    assert "ImageNet class 7" in listed[0].reason


def test_imagenet_ranks_as_a_sort_does():
    scores = np.random.default_rng(0).normal(size=(50, 1000)).astype(np.float32)
    wanted = [3, 500, 501, 999]
    got = imagenet.rank(tf.constant(scores), wanted).numpy()
    order = np.argsort(-scores, axis=1)
    for row, (place, expected, first) in zip(order, got, strict=True):
        positions = {int(np.flatnonzero(row == w)[0]): w for w in wanted}
        assert (place, expected) == (min(positions) + 1, positions[min(positions)])
        assert first == row[0]


def test_classes_parse():
    parsed = imagenet_classes.parse("cat:281-285, dog : 151-268+999", CLASSES)
    assert parsed == {"cat": set(range(281, 286)), "dog": {*range(151, 269), 999}}
    assert imagenet_classes.parse("a:b:0", ("a:b",)) == {"a:b": {0}}


@pytest.mark.parametrize(
    "text",
    [
        *("cat", "cat:", "cat:x", "cat:5-3", "cat:0-1000", "cat:-1", "cat:1,", "cat:1,cat:2"),
        *("bird:1", "cat:1++2", "cat:1-2-3", ":1", "cat:1;dog:2", "cat:²"),
    ],
)
def test_classes_refuse(text):
    with pytest.raises(UserError, match=r"`screen_classes=.*cat:281-285"):
        imagenet_classes.parse(text, CLASSES)


@pytest.mark.slow  # builds MobileNetV2
def test_an_application_is_found_by_any_spelling_and_scores_1000_classes():
    model = imagenet_model.application("MobileNet_V2", None)
    assert model.size == 224
    pixels = tf.random.stateless_uniform([2, 224, 224, 3], [0, 0], 0, 255)
    probabilities = model.classify(pixels).numpy()
    assert probabilities.shape == (2, 1000)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-4)


def test_files_that_are_no_imagenet_classifiers_are_refused(tmp_path):
    """`model_file` has its own tests for damaged and dangerous files."""
    save_red_and_blue_classifier(tmp_path / "ten.keras", outputs=10)
    save_red_and_blue_classifier(tmp_path / "any.keras", side=None)
    for name, message in (
        ("missing", "does not exist"),
        ("ten", r"not \[\*, 1000\]"),
        ("any", "fixed size"),
    ):
        with pytest.raises(UserError, match=rf"^`screen_model=.*{name}\.keras`.*{message}"):
            imagenet_model.load(str(tmp_path / f"{name}.keras"))


@pytest.mark.slow
def test_imagenet_on_real_images(shared, tmp_path):
    """On an original cat and dog, and on noise."""
    archive = zipfile.ZipFile(shared / "data/dogs-vs-cats/train.zip")
    pictures = [archive.read(f"train/{name}.0.jpg") for name in CLASSES]
    pictures.append(plain_png((128, 128, 128), side=100))
    images = images_of(pictures, [0, 1, 0], tmp_path)
    model = str(shared / "weights/squeezenet_1_0_imagenet.keras")
    (screen,) = prepare(
        "imagenet",
        screen_model=model,
        screen_classes="cat:281-285,dog:151-268",
        screen_top_k=20,
    )
    assert [suspect.index for suspect in screen.find(images)] == [2]


# Labels.


def clusters(count, classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    return (rng.normal(0, 1, (count, 16)) + 3 * np.eye(16)[labels]).astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 5])
def test_flipped_labels_are_ranked_worst(classes):
    features, truth = clusters(600, classes)
    flipped = np.arange(0, 600, 30)
    labels = truth.copy()
    labels[flipped] = (labels[flipped] + 1) % classes
    believed = label_issues.out_of_fold(features, labels, classes, None)
    np.testing.assert_allclose(believed.sum(1), 1, atol=1e-6)
    order, is_issue = label_issues.rank(labels, believed)
    assert len(set(order[: 2 * len(flipped)]) & set(flipped)) >= 0.9 * len(flipped)
    assert is_issue[flipped].mean() >= 0.8
    again = label_issues.out_of_fold(features, labels, classes, None)
    np.testing.assert_array_equal(believed, again)


def test_duplicates_do_not_tell_each_others_label():
    """With a twin in the other folds, a wrong label would look right."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(60, 400)).astype(np.float32), 2, axis=0)
    labels = np.repeat(rng.integers(0, 2, 60), 2)
    groups = np.repeat(np.arange(60), 2).tolist()

    def right(groups):
        believed = label_issues.out_of_fold(features, labels, 2, groups)
        return (believed.argmax(1) == labels).mean()

    assert right(None) > 0.85
    assert right(groups) < 0.7


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_a_class_that_cannot_be_learnt_is_believed():
    features, labels = clusters(60, 2)
    labels[0] = 2
    believed = label_issues.out_of_fold(features, labels, 3, None)
    assert believed[0].tolist() == [0, 0, 1]
    np.testing.assert_allclose(believed.sum(1), 1, atol=1e-6)
    with pytest.raises(UserError, match="too few"):
        label_issues.out_of_fold(features[:4], np.array([0, 0, 1, 1]), 2, None)


def test_labels_finds_the_blue_cat_and_computes_features_once(reds_and_blues, small_features):
    (screen,) = prepare("labels")
    listed = screen.find(reds_and_blues)
    assert len(listed) == 2  # 5 % of 40
    assert listed[0].index == 0
    assert listed[0].reason.startswith("predicted dog")
    (cached,) = reds_and_blues.cache.glob("screen-labels-*.npy")
    features = np.load(cached, allow_pickle=False)
    assert (features.shape, features.dtype) == ((40, 3), np.float32)
    unread = dataclasses.replace(reds_and_blues, read=None)
    assert screen.find(unread) == listed
    (screen,) = prepare("labels", screen_share=0.0)  # cleanlab decides
    assert [suspect.index for suspect in screen.find(unread)] == [0]


def test_an_image_that_vanishes_is_the_users_error(reds_and_blues, small_features):
    def read(index):
        if index == 7:
            raise UserError("images/7.png changed")
        return reds_and_blues.read(index)

    gone = dataclasses.replace(reds_and_blues, read=read)
    (screen,) = prepare("labels")
    with pytest.raises(UserError, match=r"images/7\.png changed"):
        screen.find(gone)
    assert not list(reds_and_blues.cache.glob("*.npy"))


# The lists.

HOSTILE = [
    '<script>alert("1")</script>.png',
    '"><img src=x onerror=alert(1)>.png',
    "a\nb,c\u202e\x1b[31m.png",
    "{{ 7 * 7 }}{% raw %}.png",
    "\udcff.png",
]


def test_hostile_names_are_text(tmp_path):
    pictures = [plain_png(RED)] * len(HOSTILE)
    images = images_of(
        pictures, [0] * len(HOSTILE), tmp_path, paths=HOSTILE, classes=("<b>cat</b>", "dog")
    )
    listed = [screens.Suspect(i, 1.0, f"<i>{HOSTILE[i]}") for i in range(len(HOSTILE))]
    suspect_lists.save_list(tmp_path / "x.csv", images, listed, screens.REPORT)
    assert [row["path"] for row in read_csv(tmp_path / "x.csv")][:2] == HOSTILE[:2]
    assert len((tmp_path / "x.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(HOSTILE)
    screen = size.Size(screens.Options(), CLASSES)
    suspect_lists.save_page(tmp_path / "x.html", screen, images, listed, screens.REPORT)
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    page = Page(text)
    page.assert_self_contained(text)
    assert not {"i", "b"} & {tag for tag, _ in page.tags}
    assert len(page.images) == len(HOSTILE)
    alts = [image["alt"] for image in page.images]
    for name in HOSTILE[:2] + HOSTILE[3:4]:
        assert name in page.words
        assert f"{name}, labelled <b>cat</b>" in alts
    assert "49" not in page.words
    assert "\u202e" not in text


def test_the_page_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(suspect_lists, "MAX_THUMBNAILS", 2)
    images = images_of([plain_png(RED)] * 3, [0] * 3, tmp_path)
    listed = [screens.Suspect(i, 3.0 - i, "why") for i in range(3)]
    suspect_lists.save_page(tmp_path / "x.html", size.Size, images, listed, screens.REPORT)
    page = Page((tmp_path / "x.html").read_text(encoding="utf-8"))
    assert len(page.images) == 2
    assert "worst 2; screen-size.csv lists all" in page.words


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_thumbnails_are_small_and_keep_their_proportions(mode):
    data = io.BytesIO()
    Image.new("RGB", (800, 200), RED).convert(mode).save(data, "PNG")
    small = thumbnail.of_file(data.getvalue(), 100)
    assert (small.mode, small.size) == ("RGB", (100, 25))
