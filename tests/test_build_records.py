"""The command: what it writes, promises and says."""

import collections
import csv
import dataclasses
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile

import commands
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from pictures import exif

from tfpipe import build_records
from tfpipe.building import shards
from tfpipe.core.errors import UserError
from tfpipe.records import example, manifest

ROOT = pathlib.Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"


def picture(number, size=(20, 16)):
    rng = np.random.default_rng(number)
    return PIL.Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8))


def make_images(folder, count=10, kinds=("cat", "dog")):
    """Writes cat.0.png, cat.1.jpg ... dog.9.png, every third a PNG."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        for kind in kinds:
            path = folder / f"{kind}.{i}.{'png' if i % 3 == 0 else 'jpg'}"
            picture([i, *kind.encode()]).save(path)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = make_images(tmp_path_factory.mktemp("in") / "images")
    picture(77).save(folder / "cat.77.jpg", exif=exif(6))
    picture(78).save(folder / "dog.78.gif")
    picture(79).convert("L").save(folder / "dog.79.jpg")
    return folder


def run(*flags, cwd=None):
    flags = ["--noreport", "--workers=2", *flags]
    return commands.run(build_records.main, build_records.Options, *flags, cwd=cwd)


def start(*flags, **options):
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "tfpipe.build_records", "--noreport", *map(str, flags)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, **options)


def build(source, out, *more, **changes):
    options = {"source": tuple(map(str, (source, *more))), "out": str(out), "workers": 2}
    options["report"] = False  # which takes seconds; one test looks at it
    build_records.main(build_records.Options(**{**options, **changes}))
    return manifest.load(out)


def read(m, split="all"):
    paths = [str(m.folder / shard.name) for shard in m.shards_of(split)]
    return [
        {key: value.numpy() for key, value in example.parse(record).items()}
        for record in tf.data.TFRecordDataset(paths)
    ]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def built(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "deep" / "records"
    done = run(f"--source={images}", f"--out={out}", "--shards=2")
    assert done.returncode == 0, done.stderr
    return manifest.load(out), done


def test_records_are_the_images(images, built):
    m, _ = built
    records = read(m)
    assert len(records) == m.count() == m.accepted == 23
    assert m.converted == {"gif": 1, "grey": 1, "rotated": 1}
    assert m.rejected == {}
    seen = set()
    for record in records:
        name = record["image/filename"].decode()
        seen.add(name)
        original = (images / name).read_bytes()
        encoded = record["image/encoded"]
        assert record["image/key/sha256"].decode() == hashlib.sha256(encoded).hexdigest()
        assert record["image/class/text"].decode() == name.split(".")[0]
        assert m.classes[record["image/class/label"]] == name.split(".")[0]
        assert (record["image/format"] == b"png") == encoded.startswith(b"\x89PNG")
        shape = (record["image/height"], record["image/width"], 3)
        assert tf.io.decode_image(encoded, channels=3).shape == shape
        if name not in ("cat.77.jpg", "dog.78.gif"):
            assert encoded == original
    assert seen == {path.name for path in images.iterdir()}


def test_shards_are_as_the_manifest_says(built):
    m, _ = built
    assert [s.name for s in m.shards_of("val")] == [f"val-0000{i}-of-00002.tfrecord" for i in "01"]
    for shard in m.shards:
        data = (m.folder / shard.name).read_bytes()
        assert len(data) == shard.bytes
        assert hashlib.sha256(data).hexdigest() == shard.sha256
        records = list(tf.data.TFRecordDataset(str(m.folder / shard.name)))
        assert len(records) == shard.records
    for split in ("train", "val"):
        counts = [shard.records for shard in m.shards_of(split)]
        assert max(counts) - min(counts) <= 1
        found = collections.Counter(r["image/class/text"].decode() for r in read(m, split))
        assert found == m.splits[split]
    assert m.mean_record_bytes == sum(s.bytes for s in m.shards) / 23
    m.check()


def test_order_is_shuffled(built):
    m, _ = built
    names = [record["image/filename"] for record in read(m, "train")]
    labels = [name[:3] for name in names]
    assert names != sorted(names)
    assert labels != sorted(labels)


def test_the_result_is_shown(built):
    m, done = built
    rows = [line.split() for line in done.stdout.splitlines()]
    counts = [m.splits[s][c] for c in ("cat", "dog") for s in ("train", "val")]
    assert ["cat", *map(str, counts[:2]), "11"] in rows
    assert ["dog", *map(str, counts[2:]), "12"] in rows
    assert ["all", str(m.count("train")), str(m.count("val")), "23"] in rows
    assert f"--records={m.folder}" in done.stderr
    assert "error" not in done.stderr
    assert "warning" not in done.stderr


def test_any_number_of_workers_gives_the_same_bytes(images, built, tmp_path):
    m, _ = built
    for count in (1, 3):
        build(images, tmp_path / str(count), workers=count, shards=2)
        assert contents(tmp_path / str(count)) == contents(m.folder)
    build(images, tmp_path / "seed", seed=1, shards=2)
    assert manifest.load(tmp_path / "seed").fingerprint != m.fingerprint


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.xz"])
def test_an_archive_of_the_folder_gives_the_same_records(
    images, built, tmp_path, monkeypatch, suffix
):
    m, _ = built
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    path = tmp_path / f"x.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for image in sorted(images.iterdir(), reverse=True):
                archive.write(image, image.name)
    else:
        with tarfile.open(path, "w:xz" if suffix == "tar.xz" else "w") as archive:
            archive.add(images, ".")  # members are ./cat.0.jpg
    again = build(path, tmp_path / "out", shards=2)
    assert again.fingerprint == m.fingerprint
    assert again.shards == m.shards
    assert not list((tmp_path / "scratch").glob("[!p]*"))  # but for Python's own pymp-...


def labels_of(m):
    return {r["image/filename"].decode(): r["image/class/text"].decode() for r in read(m)}


def test_lists_folders_and_archives_add_up(tmp_path):
    folder = make_images(tmp_path / "folder", 3)
    odd = make_images(tmp_path / "odd", 3, ("x", "y"))
    rows = [f"odd/{p.name},{'cow' if p.name[0] == 'x' else 'cat'}" for p in sorted(odd.iterdir())]
    listing = tmp_path / "list.csv"
    listing.write_text("\n".join(["path,label", *rows, "gone.jpg,cow"]))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(folder / "dog.1.jpg", "dog.99.jpg")
    with pytest.raises(UserError, match=r"1 image was rejected, .*gone\.jpg \(missing"):
        build(folder, tmp_path / "out", tmp_path / "x.zip", listing)
    m = manifest.load(tmp_path / "out")
    assert m.classes == ("cat", "cow", "dog")
    assert {c: sum(s[c] for s in m.splits.values()) for c in m.classes} == {
        "cat": 6,
        "cow": 3,
        "dog": 4,
    }
    labels = labels_of(m)
    assert labels["odd/x.1.jpg"] == "cow"
    assert labels["odd/y.1.jpg"] == "cat"
    assert labels["dog.99.jpg"] == "dog"
    # Another label in the list is another data set.
    listing.write_text(listing.read_text().replace("x.1.jpg,cow", "x.1.jpg,dog"))
    with pytest.raises(UserError, match="other images"):
        build(folder, tmp_path / "out", tmp_path / "x.zip", listing, max_rejects=1)


def test_class_whose_listed_files_are_all_missing_is_an_error(tmp_path):
    make_images(tmp_path / "in", 3)
    rows = [f"in/{p.name},{p.name[:3]}" for p in (tmp_path / "in").iterdir()]
    (tmp_path / "l.csv").write_text("\n".join(["path,label", *rows, "in/1.jpg,cow"]))
    with pytest.raises(UserError, match=r"'cow' can be used.*in/1\.jpg \(missing"):
        build(tmp_path / "l.csv", tmp_path / "out", max_rejects=9)
    assert not (tmp_path / "out").exists()


def test_labels_of_a_list_and_order_of_classes(images, tmp_path):
    names = sorted(path.name for path in images.iterdir())
    listing = tmp_path / "labels.csv"
    label = {name: "zebra" if name.startswith("cat") else "ant" for name in names}
    listing.write_text("\n".join(["path,label", *(f"{n},{label[n]}" for n in names)]))
    mode = f"csv:{listing}"
    m = build(images, tmp_path / "out", labels=mode, classes="zebra,ant")
    assert m.classes == ("zebra", "ant")
    assert labels_of(m) == label
    assert {(r["image/class/label"], r["image/class/text"]) for r in read(m)} == {
        (0, b"zebra"),
        (1, b"ant"),
    }
    assert [list(counts) for counts in m.splits.values()] == [["zebra", "ant"]] * 2
    build(images, tmp_path / "out", labels=mode, classes="zebra,ant")  # up to date
    with pytest.raises(UserError, match=r"other options \(`classes`\)"):
        build(images, tmp_path / "out", labels=mode)
    with pytest.raises(UserError, match="class 'ant'"):
        build(images, tmp_path / "else", labels=mode, classes="zebra,bee")
    listing.write_text(listing.read_text().replace("cat.1.jpg,zebra", "cat.1.jpg,ant"))
    with pytest.raises(UserError, match="other images"):
        build(images, tmp_path / "out", labels=mode, classes="zebra,ant")


def test_several_sources_add_up_and_images_keep_their_split(images, built, tmp_path):
    m, _ = built
    more = make_images(tmp_path / "more", 4, ("cow", "cat"))
    both = build(images, tmp_path / "out", more)
    assert both.classes == ("cat", "cow", "dog")
    assert both.accepted == 31
    assert len(both.shards) == 2  # small enough for one shard each
    split_of = {r["image/key/sha256"]: s for s in m.splits for r in read(m, s)}
    after = {r["image/key/sha256"]: s for s in both.splits for r in read(both, s)}
    # One may move, as a class of a few images could else not have its share in both.
    assert sum(after[sha] != split for sha, split in split_of.items()) <= 1


def make_tree(folder, *paths, count=4, seed=0):
    """Write `count` images into each of the folders, or one image if a path has an ending."""
    for number, path in enumerate(paths):
        names = [path] if "." in path else [f"{path}/{i}.jpg" for i in range(count)]
        for i, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            picture([seed, number, i]).save(folder / name)
    return folder


THREE = [f"{split}/{kind}" for split in ("train", "val", "test") for kind in ("ant", "bee")]


def split_of(m):
    return {r["image/filename"].decode(): split for split in m.splits for r in read(m, split)}


def test_given_splits_are_kept(tmp_path):
    make_tree(tmp_path / "in", *THREE, "test/loose.jpg")
    done = run(f"--source={tmp_path / 'in'}", f"--out={tmp_path / 'out'}", "--folds=2")
    assert done.returncode == 0, done.stderr
    assert (
        "labels: folder under train/, val/, test/: ant 12, bee 12 and 1 unlabelled" in done.stderr
    )
    assert "splits: as the folders say: train 8, val 8, test 8" in done.stderr
    assert "1 image has no label" in done.stderr
    m = manifest.load(tmp_path / "out")
    assert list(m.splits) == ["train", "val", "test"]
    assert all(name.startswith(f"{split}/") for name, split in split_of(m).items())
    assert (m.arguments["splits"], m.rejected) == ("auto", {"unlabelled": 1})
    folds = collections.Counter((r["image/fold"] >= 0, s) for s in m.splits for r in read(m, s))
    assert folds == {(True, "train"): 8, (True, "val"): 8, (False, "test"): 8}
    assert sum(sum(counts.values()) for counts in m.folds.values()) == 16
    done = run(
        f"--source={tmp_path / 'in'}", f"--out={tmp_path / 'o'}", "--splits=train:0.5,val:0.5"
    )
    assert "not as the folders say (train 8, val 8, test 8); --splits=auto" in done.stderr
    assert set(split_of(manifest.load(tmp_path / "o")).values()) == {"train", "val"}


def test_a_missing_val_is_a_part_of_train_alone(tmp_path):
    source = make_tree(tmp_path / "in", "train/ant", "train/bee", count=10)
    plain = build(source, tmp_path / "plain")
    assert {s: plain.count(s) for s in plain.splits} == {"train": 16, "val": 4}
    # That is the same data set as without the folder, and as by explicit fractions.
    build(source, tmp_path / "plain", splits="train:0.8,val:0.2")  # is up to date
    assert build(source / "train", tmp_path / "inner").fingerprint == plain.fingerprint
    make_tree(source, "test/ant", "test/bee", seed=1)
    both = build(source, tmp_path / "both")
    assert split_of(both) == split_of(plain) | {
        f"test/{kind}/{i}.jpg": "test" for kind in ("ant", "bee") for i in range(4)
    }


def test_one_image_of_each_class_is_trained_on(tmp_path):
    source = make_tree(tmp_path / "in", "a", "b", "c", count=1)
    done = run(f"--source={source}", f"--out={tmp_path / 'out'}")
    assert done.returncode == 0
    assert "warning: there is no split val" in done.stderr
    assert manifest.load(tmp_path / "out").splits == {"train": {"a": 1, "b": 1, "c": 1}}


def test_duplicates_in_several_given_splits_are_told_and_stay(tmp_path):
    source = make_tree(tmp_path / "in", *THREE)
    for name in ("train/ant/7.jpg", "train/ant/8.jpg"):
        (source / name).write_bytes((source / "test/ant/0.jpg").read_bytes())
    for mode, left in (("group", 10), ("drop", 9)):
        done = run(f"--source={source}", f"--out={tmp_path / mode}", f"--duplicates={mode}")
        assert "1 group of duplicates (duplicates.csv) lies in several given splits" in done.stderr
        m = manifest.load(tmp_path / mode)
        assert {s: m.count(s) for s in m.splits} == {"train": left, "val": 8, "test": 8}
        rows = list(csv.DictReader((m.folder / "duplicates.csv").read_text().splitlines()))
        assert {os.path.relpath(row["path"], source) for row in rows} == {
            *("test/ant/0.jpg", "train/ant/7.jpg", "train/ant/8.jpg")
        }
    assert [row["action"] for row in rows] == ["keep", "keep", "drop"]


def test_what_is_excluded_decides_no_label(tmp_path):
    source = make_tree(tmp_path / "in", "cat", "dog", "docs/x/1.jpg", "cat.1.jpg")
    (tmp_path / "list.txt").write_text("docs/\ncat.1.jpg\nnothing.jpg\n")
    done = run(
        f"--source={source}", f"--out={tmp_path / 'o'}", f"--exclude={tmp_path / 'list.txt'}"
    )
    assert done.returncode == 0
    assert "labels: folder: cat 4, dog 4\n" in done.stderr
    assert "match no image, the first 'nothing.jpg'" in done.stderr
    assert manifest.load(tmp_path / "o").rejected == {"excluded": 2}


def test_classes_without_images_and_classes_that_look_alike(tmp_path):
    source = make_tree(tmp_path / "in", "Cat", "cat", "10", "9")
    done = run(f"--source={source}", f"--out={tmp_path / 'out'}")
    assert "warning: 1 class is written in several ways ('Cat' 4 and 'cat' 4)" in done.stderr
    flags = (f"--source={source}", "--splits=test:1", "--classes=Cat,cat,9,10,cow")
    done = run(*flags, f"--out={tmp_path / 'test'}")
    assert "warning" not in done.stderr
    assert "no image is of class 'cow'" in done.stderr
    assert manifest.load(tmp_path / "test").splits == {
        "test": {"Cat": 4, "cat": 4, "9": 4, "10": 4, "cow": 0}
    }


def test_a_data_set_whose_classes_were_read_otherwise_is_another(tmp_path):
    source = make_tree(tmp_path / "in", "1", "2", "10")
    m = build(source, tmp_path / "out")
    assert m.classes == ("1", "2", "10")
    path = tmp_path / "out/manifest.json"
    value = json.loads(path.read_text()) | {"classes": ["1", "10", "2"]}  # as older versions sorted
    path.write_text(json.dumps(value))
    with pytest.raises(
        UserError, match=r"classes as '1', '10', '2', .*'1', '2', '10': .*overwrite"
    ):
        build(source, tmp_path / "out")


def test_shard_size(images, tmp_path):
    for i in range(8):
        picture(i, (400, 400)).save(tmp_path / f"cat.{i}.png")  # 480 KB of noise each
        picture(i + 99, (400, 400)).save(tmp_path / f"dog.{i}.png")
    m = build(tmp_path, tmp_path.parent / "out", shard_size_mb=1, splits="all_of_it:1")
    assert len(m.shards) == 8
    assert all(shard.bytes < 1_100_000 for shard in m.shards)


def test_building_again_does_nothing(images, built):
    m, _ = built
    before = {path: path.stat().st_mtime_ns for path in m.folder.iterdir()}
    done = run(f"--source={images}", f"--out={m.folder}", "--shards=2", "--workers=1")
    assert done.returncode == 0
    assert "up to date" in done.stderr
    assert {path: path.stat().st_mtime_ns for path in m.folder.iterdir()} == before


def assert_one_error(done, status, *words):
    assert done.returncode == status, done.stderr
    return commands.assert_one_error(done, *words)


def test_another_data_set_needs_overwrite(images, tmp_path):
    out = tmp_path / "out"
    build(images, out)
    before = contents(out)
    flags = (f"--source={images}", f"--out={out}", "--seed=5")
    assert_one_error(run(*flags), 1, "--seed", "--overwrite")
    assert contents(out) == before
    (out / "notes.txt").write_text("mine")
    assert_one_error(run(*flags, "--overwrite"), 1, "notes.txt")
    (out / "notes.txt").unlink()
    (out / "rejects.csv").unlink()
    assert_one_error(run(f"--source={images}", f"--out={out}"), 1, "rejects.csv")
    (out / "val-00000-of-00001.tfrecord").write_bytes(b"cut")
    assert_one_error(run(f"--source={images}", f"--out={out}"), 1, "val-00000", "damaged")
    assert build(images, out, seed=5, overwrite=True).arguments["seed"] == 5
    manifest.load(out).check()
    assert os.listdir(tmp_path) == ["out"]


def test_a_folder_of_other_things_is_left_alone(images, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "manifest.json").write_text('{"name": "a web page"}')
    for flags in ([], ["--overwrite"]):
        assert_one_error(run(f"--source={images}", f"--out={out}", *flags), 1, str(out))
    assert os.listdir(out) == ["manifest.json"]
    (out / "manifest.json").rename(out / "diary.txt")
    with pytest.raises(UserError, match="not a data set"):
        build(images, out, overwrite=True)
    assert os.listdir(out) == ["diary.txt"]


def test_an_empty_folder_and_a_link_are_filled(images, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    build(images, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "manifest.json").is_file()
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def spoil(folder):
    """Makes a folder with good images and, of each sort of bad file, one."""
    make_images(folder)
    good = (folder / "cat.1.jpg").read_bytes()
    (folder / "cat.50.jpg").write_bytes(good[: len(good) // 2])
    (folder / "README.txt").write_text("hello")
    (folder / "a\nb, \"c\" -rf.dat").write_text("x")  # fmt: skip
    (folder / "dog.51.jpg").symlink_to("cat.1.jpg")
    (folder / "Thumbs.db").write_text("x")
    os.mkfifo(folder / "dog.52.jpg")
    return folder


def test_rejected_files_are_listed_and_the_others_published(tmp_path):
    source = spoil(tmp_path / "in")
    out = tmp_path / "out"
    flags = (f"--source={source}", f"--out={out}")
    line = assert_one_error(
        run(*flags), 3, "3 images", "cat.50.jpg", "rejects.csv", "--max_rejects=3"
    )
    assert "damaged" in line
    m = manifest.load(out)
    assert m.count() == 20
    assert m.rejected == {
        "damaged": 1,
        "not an image name": 2,
        "special file": 1,
        "symlink": 1,
    }
    text = (out / "rejects.csv").read_text()
    assert len(text.splitlines()) == 6
    rows = {row["path"]: row for row in csv.DictReader(text.splitlines())}
    assert list(rows) == sorted(rows)
    assert rows[f"{source}/cat.50.jpg"]["reason"] == "damaged"
    assert rows[f'{source}/a\\nb, "c" -rf.dat']["reason"] == "not an image name"
    # A second run finds the data set, and the same fault; allowed, it is a warning.
    assert_one_error(run(*flags), 3, "3 images")
    allowed = run(*flags, "--max_rejects=3")
    assert allowed.returncode == 0
    assert "warning: 3 images were rejected" in allowed.stderr
    assert "2 other files are no image;" in allowed.stderr  # which is no failure
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def no_images(folder):
    folder.mkdir()
    (folder / "README.txt").write_text("x")


def all_cats_damaged(folder):
    make_images(folder)
    for path in folder.glob("cat.*"):
        path.write_bytes(path.read_bytes()[:-30])


def too_few_for_splits(folder):
    folder.mkdir()
    picture(1).save(folder / "cat.1.jpg")
    picture(1).save(folder / "dog.1.jpg")


@pytest.mark.parametrize(
    ("make", "flags", "status", "words"),
    [
        (lambda path: None, [], 1, ["'in'", "does not exist"]),
        (lambda path: path.mkdir(), [], 1, ["'in'", "holds no files"]),
        (lambda path: path.write_text("x"), [], 1, ["'in'", "not TFRecords or"]),
        (lambda path: make_images(path, 3, ["cat"]), [], 1, ["'cat'", "two"]),
        (lambda path: picture(0).save(make_images(path) / "x.jpg"), [], 1, ["'x.jpg'"]),
        (no_images, [], 1, ["--source", "none of the 1 files"]),
        (all_cats_damaged, [], 1, ["'cat'", "nothing was written", "in/cat.0.png"]),
        (too_few_for_splits, ["--splits=train:0.8,val:0.2"], 1, ["split 'val'", "2 images"]),
        (make_images, ["--splits=train:0.8,val:0.3"], 1, ["--splits", "1.1"]),
        (make_images, ["--splits=train"], 1, ["--splits"]),
        (make_images, ["--out=in/records"], 1, ["--out", "--source"]),
        (make_images, ["--shards=-1"], 2, ["--shards=-1"]),
        (make_images, ["--shard_size_mb=0"], 2, ["--shard_size_mb=0"]),
        (make_images, ["--labels=colour"], 2, ["--labels", "folder"]),
        (make_images, ["--labels=csv:none.csv"], 1, ["none.csv"]),
        (make_images, ["--classes=cat,cow"], 1, ["--classes=cat,cow", "'dog'"]),
        (make_images, ["--classes=cat,cat"], 2, ["--classes=cat,cat", "twice"]),
        (make_images, ["--seed=x"], 2, ["--seed"]),
        (make_images, ["--nonsense=1"], 2, ["nonsense"]),
        (make_images, ["--out=/"], 1, ["--out=/", "not a data set"]),
        (make_images, ["--out=/dev/null/x"], 1, ["--out", "/dev/null"]),
    ],
)
def test_bad_input_is_one_line(tmp_path, make, flags, status, words):
    make(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    done = run("--source=in", "--out=out", *flags, cwd=tmp_path)
    assert_one_error(done, status, *words)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow  # starts the command
def test_full_disk_then_room_again(images, tmp_path):
    import resource

    def limit():  # a stand-in for a full disk: no file above 20 KB
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    out = tmp_path / "out"
    process = start(f"--source={images}", f"--out={out}", "--workers=2", preexec_fn=limit)
    *_, kept, error = process.communicate()[1].splitlines()
    assert process.returncode == 1
    assert error.startswith("error: cannot write ")
    assert "the same command resumes" in kept
    assert [name.startswith(".partial-out-") for name in os.listdir(tmp_path)] == [True]
    build(images, out)
    assert os.listdir(tmp_path) == ["out"]
    build(images, tmp_path / "whole")
    assert contents(out) == contents(tmp_path / "whole")


def test_file_that_changes_meanwhile_is_an_error(images, tmp_path, monkeypatch):
    source = make_images(tmp_path / "in")
    plan = shards.plan

    def change_and_plan(*arguments, **options):
        picture(12345).save(source / "cat.1.jpg")
        return plan(*arguments, **options)

    monkeypatch.setattr(shards, "plan", change_and_plan)
    with pytest.raises(UserError, match=r"cat\.1\.jpg' changed"):
        build(source, tmp_path / "out")
    assert os.listdir(tmp_path) == ["in"]


@pytest.mark.slow  # starts the command
@pytest.mark.parametrize("delay_s", [0, 0.3])
def test_interrupt_says_that_it_can_go_on(tmp_path, delay_s):
    source = make_images(tmp_path / "in", 400)
    flags = [f"--source={source}", f"--out={tmp_path / 'out'}", "--workers=2"]
    process = start(*flags, start_new_session=True)
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not children.read_text():
        time.sleep(0.01)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers too
    *kept, error = process.communicate()[1].splitlines()
    assert process.returncode == 130
    assert error == "error: interrupted"
    there = [name for name in os.listdir(tmp_path) if name != "in"]
    assert "out" not in there
    # Before there is anything to keep, nothing is said of it.
    assert sum("the same command resumes" in line for line in kept) == len(there)


def test_malformed_images_through_the_command(tmp_path):
    corpus = SHARED / "data/bad-inputs/images.tar"
    if not corpus.is_file():
        pytest.skip(f"{corpus} is not there")
    with tarfile.open(corpus) as archive:
        archive.extractall(tmp_path / "raw", filter="data")
    files = sorted(p for p in (tmp_path / "raw").rglob("*") if p.parent != tmp_path / "raw")
    files = [path for path in files if path.is_file()]
    for index, path in enumerate(files):  # categories would be classes without any good image
        target = tmp_path / "in" / "ab"[index % 2] / path.relative_to(tmp_path / "raw")
        target = target.with_name(f"{index}{path.name}").parents[1] / f"{index}{path.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    done = run(f"--source={tmp_path / 'in'}", f"--out={tmp_path / 'out'}")
    assert_one_error(done, 3, "images were rejected")
    m = manifest.load(tmp_path / "out")
    assert m.accepted + sum(m.rejected.values()) == len(files) == 125
    assert len((m.folder / "rejects.csv").read_text().splitlines()) == 126 - m.accepted
    for record in read(m):
        pixels = tf.io.decode_image(record["image/encoded"], channels=3, expand_animations=False)
        assert pixels.shape == (record["image/height"], record["image/width"], 3)


def test_real_photos(tmp_path):
    source = SHARED / "data/dogs-vs-cats/train.zip"
    if not source.is_file():
        pytest.skip(f"{source} is not there")
    m = build(source, tmp_path / "out")
    assert (m.accepted, m.converted, m.rejected) == (1600, {}, {})
    for kind in ("cat", "dog"):
        assert sum(counts[kind] for counts in m.splits.values()) == 800
    assert 1200 < m.count("train") < 1360
    with zipfile.ZipFile(source) as archive:
        for record in read(m, "val")[:20]:
            assert archive.read(record["image/filename"].decode()) == record["image/encoded"]


def test_plain_reader_of_the_readme_works(images, built):
    m, _ = built
    text = (ROOT / "records/README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    code = code.replace("records/dogs-vs-cats", str(m.folder))
    names = {}
    exec(code, names)  # noqa: S102 (our own)
    assert len(list(names["data"])) == m.count("train")
    fields = {row.split("`")[1] for row in text.splitlines() if row.startswith("| `")}
    assert set(json.loads((m.folder / "manifest.json").read_text())) <= fields
    assert set(example.features()) - fields == {"image/width"}  # it shares a row


def test_a_source_that_is_one_text_is_one_source(images, tmp_path):
    expected = build(images, tmp_path / "tuple")
    out = tmp_path / "text"
    options = build_records.Options(source=str(images), out=str(out), workers=2, report=False)
    build_records.main(options)
    found = manifest.load(out)
    assert found == dataclasses.replace(expected, folder=found.folder)
    assert found.arguments["source"] == [str(images)]
