"""Images with several classes, or none: reading, splits, records and counts."""

import collections
import csv
import hashlib
import itertools
import json
import pathlib
import random
import shutil

import numpy as np
import pytest
import tensorflow as tf
from conftest import draw
from json_schema import violations

from tfpipe import build_records, inspect_records, verify_records
from tfpipe.building import splits
from tfpipe.core.errors import UserError
from tfpipe.records import label_set, limit, manifest, salvage
from tfpipe.records.subset import Subset
from tfpipe.sources import Columns, label_list

SCHEMA = json.loads(
    pathlib.Path(manifest.__file__).with_name("manifest.schema.json").read_text(encoding="utf-8")
)


def read(tmp_path, text, suffix=".csv", **columns):
    """The classes of each file by a list, or the message of the error."""
    path = tmp_path / f"list{suffix}"
    path.write_text(text, encoding="utf-8")
    found = label_list.read(str(path), Columns(**columns), [is_here])
    return {row.path: row.annotation.label for row in found.rows}


def is_here(cell):
    return [cell.removeprefix("./")] if cell.endswith(".jpg") else []


def sets(found):
    return {path: set(label_set.names(label)) for path, label in found.items()}


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("path,label\n1.jpg,cat|dog\n2.jpg,dog\n3.jpg,cat\n4.jpg,\n", ".csv"),
        ("path\tlabel\n1.jpg\tdog | cat\n2.jpg\tdog\n3.jpg\tcat\n4.jpg\t\n", ".tsv"),
        ("1.jpg,cat|dog\n2.jpg,dog\n3.jpg,cat\n4.jpg,\n", ".csv"),
        (
            '{"path": "1.jpg", "label": ["cat", "dog"]}\n{"path": "2.jpg", "label": ["dog"]}\n'
            '{"path": "3.jpg", "label": "cat"}\n{"path": "4.jpg", "label": []}\n',
            ".jsonl",
        ),
        (
            '[{"path": "1.jpg", "label": "cat|dog"}, {"path": "2.jpg", "label": "dog"},'
            ' {"path": "3.jpg", "label": "cat"}, {"path": "4.jpg", "label": null}]',
            ".json",
        ),
    ],
)
def test_plainly_several_classes_in_every_form_of_a_list(tmp_path, text, suffix):
    expected = {"1.jpg": {"cat", "dog"}, "2.jpg": {"dog"}, "3.jpg": {"cat"}, "4.jpg": set()}
    assert sets(read(tmp_path, text, suffix)) == expected


def test_many_classes_in_a_list_without_a_header_do_not_become_columns(tmp_path):
    text = "1.jpg,a|b|c|d\n2.jpg,a|b\n3.jpg,c|d\n"
    assert sets(read(tmp_path, text))["1.jpg"] == set("abcd")
    text = "1.jpg a|b|c|d\n2.jpg a|b\n3.jpg c|d\n"
    assert sets(read(tmp_path, text, ".txt"))["2.jpg"] == set("ab")


@pytest.mark.parametrize(
    "labels",
    [["a|b", "a|b", "c"], ["a|b", "a", "c"], ["x|y", "x|z", "q"], ["a|", "a", "b|a", "b"]],
)
def test_two_readings_stop_with_both_counted(tmp_path, labels):
    text = "path,label\n" + "".join(f"{i}.jpg,{label}\n" for i, label in enumerate(labels))
    with pytest.raises(UserError) as stopped:
        read(tmp_path, text)
    message = str(stopped.value)
    counts = collections.Counter(labels)
    assert "`multi_label`" in message
    assert "`multi_label=false`" in message
    assert all(f"{label} {count}" in message for label, count in counts.items())
    parts = collections.Counter(p or "(empty)" for label in labels for p in label.split("|"))
    assert all(f"{part} {count}" in message for part, count in parts.items())
    one = read(tmp_path, text, many=False)
    assert list(one.values()) == labels


@pytest.mark.parametrize("separator", ["|", ";", " ", "//"])
def test_a_person_chooses_reading_and_separator(tmp_path, separator):
    label = separator.join(("red", "blue"))
    text = f'path,label\n1.jpg,"{label}"\n2.jpg,green\n3.jpg,\n'
    found = read(tmp_path, text, many=True, separator=separator)
    assert sets(found) == {"1.jpg": {"red", "blue"}, "2.jpg": {"green"}, "3.jpg": set()}


@pytest.mark.parametrize("separator", [",", ";", " "])
def test_other_separators_stop_where_they_plainly_join_classes(tmp_path, separator):
    labels = [separator.join(pair) for pair in ("ab", "bc", "ca")] + ["a", "b"]
    text = "path\tlabel\n" + "".join(f"{i}.jpg\t{label}\n" for i, label in enumerate(labels))
    with pytest.raises(UserError, match="label_separator") as stopped:
        read(tmp_path, text, ".tsv")
    assert "a 3" in str(stopped.value)
    assert f"{labels[0]} 1" in str(stopped.value)
    assert sets(read(tmp_path, text, ".tsv", separator=separator))["0.jpg"] == {"a", "b"}
    assert list(read(tmp_path, text, ".tsv", many=False).values()) == labels


@pytest.mark.parametrize(
    "labels",
    [
        ["golden retriever", "golden eagle", "bald eagle"],
        ["black cat", "white cat", "black dog", "white dog"],
        ["tench, Tinca tinca", "goldfish, Carassius auratus"],
    ],
)
def test_names_of_several_words_are_names(tmp_path, labels):
    text = "path\tlabel\n" + "".join(f"{i}.jpg\t{label}\n" for i, label in enumerate(labels))
    assert list(read(tmp_path, text, ".tsv").values()) == labels


def test_a_separator_that_no_label_holds_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="label_separator"):
        read(tmp_path, "path,label\n1.jpg,a\n2.jpg,b\n", separator=";")


def test_rows_of_one_image_add_up_only_on_request(tmp_path):
    text = "path,label\n1.jpg,cat\n2.jpg,dog\n./1.jpg,dog\n1.jpg,cat\n2.jpg,\n"
    found = read(tmp_path, text, many=True)
    assert sets(found) == {"1.jpg": {"cat", "dog"}, "2.jpg": {"dog"}}
    plain = "path,label\n1.jpg,cat\n2.jpg,dog\n1.jpg,dog\n"
    with pytest.raises(UserError, match=r"1.jpg.*dog.*cat.*multi_label"):
        read(tmp_path, plain)
    with pytest.raises(UserError, match="train"):  # their splits must agree
        text = "path,label,split\n1.jpg,cat,train\n1.jpg,dog,val\n2.jpg,cat,train\n"
        read(tmp_path, text, many=True)


@pytest.mark.parametrize(
    ("label", "many", "what"),
    [
        ('"a||b"', True, "empty part"),
        ('["a", ""]', True, "empty part"),
        ('["a", ["b"]]', True, "empty part"),
        ("true", True, "bool"),
        ('["a", "b"]', False, "array"),
        ('""', None, "multi_label"),
    ],
)
def test_labels_that_are_none(tmp_path, label, many, what):
    text = f'{{"path": "1.jpg", "label": {label}}}\n{{"path": "2.jpg", "label": "c"}}\n'
    with pytest.raises(UserError, match=what) as stopped:
        read(tmp_path, text, ".jsonl", many=many)
    assert "\n" not in str(stopped.value)


def test_label_texts_are_sets():
    for names in itertools.chain.from_iterable(
        itertools.permutations(["b", "a", "c|d"], k) for k in range(4)
    ):
        label = label_set.join(names)
        assert label_set.names(label) == tuple(sorted(names))
        assert label
        assert label_set.mapped(label, str.upper) == label_set.join(n.upper() for n in names)
        assert label_set.is_set(label) == (len(names) != 1)
    labels = [label_set.join(names) for names in ("ab", "a", "", "b", "ab")]
    assert label_set.count(labels) == {"a": 3, "b": 3}
    images, classes = label_set.memberships(labels)
    by_image = collections.defaultdict(set)
    for image, number in zip(images.tolist(), classes.tolist(), strict=True):
        by_image[image].add(number)
    assert [len(by_image[i]) for i in range(5)] == [2, 1, 1, 1, 2]
    assert by_image[0] == by_image[4] == by_image[1] | by_image[3] != by_image[2]


@pytest.mark.parametrize("seed", range(6))
def test_splits_and_folds_have_their_share_of_every_class(seed):
    """Ten classes of very different sizes, which occur together."""
    chance = random.Random(seed)
    sizes = {f"c{i}": 0.5 / 1.6**i for i in range(10)}
    labels, n = [], 1500
    for _ in range(n):
        labels.append(label_set.join(c for c, p in sizes.items() if chance.random() < p))
    labels += [label_set.join(["twice", "c0"]), label_set.join(["twice"])]
    keys = [hashlib.sha256(f"{seed} {i}".encode()).hexdigest() for i in range(len(labels))]
    fractions = {"train": 0.8, "val": 0.1, "test": 0.1}
    assigned = splits.assign(keys, labels, fractions, seed)
    of_split = {
        split: label_set.count(x for x, s in zip(labels, assigned, strict=True) if s == split)
        for split in fractions
    }
    totals = label_set.count(labels)
    for split, fraction in fractions.items():
        share = assigned.count(split) / len(labels)
        assert share == pytest.approx(fraction, abs=0.04)
        for name, total in totals.items():
            bound = max(2, 0.06 * total)
            assert of_split[split][name] == pytest.approx(fraction * total, abs=bound), name
    assert of_split["train"]["twice"] >= 1
    assert min(of_split["train"].values()) >= 1
    parts = splits.folds(keys, labels, 4, seed)
    by_fold = [
        label_set.count(x for x, f in zip(labels, parts, strict=True) if f == k) for k in range(4)
    ]
    for name, total in totals.items():
        found = [each[name] for each in by_fold]
        assert max(found) - min(found) <= max(2, 0.1 * total), name


def test_a_rare_class_is_trained_on_whatever_it_occurs_with():
    """Two images of each rare class, all together with the only images of another one."""
    for seed in range(40):
        labels = [label_set.join(["a", "b"]), label_set.join(["a", "c"])]
        labels += [label_set.join(["b", "d"]), label_set.join(["c", "d"])]
        keys = [hashlib.sha256(f"{seed} {i}".encode()).hexdigest() for i in range(4)]
        assigned = splits.assign(keys, labels, {"train": 0.5, "val": 0.5}, seed)
        held = label_set.count(x for x, s in zip(labels, assigned, strict=True) if s == "train")
        assert set(held) == set("abcd"), seed


CLASSES = ("circle", "square", "red")


def make_images(folder, count=40):
    """Images with 0 to 2 classes, and their list."""
    folder.mkdir()
    rows = []
    for i in range(count):
        names = [("circle", "square")[i % 2]] * (i % 5 > 0) + ["red"] * (i % 3 > 0)
        draw("cat", i).save(folder / f"{i}.png")
        rows.append((f"{i}.png", names))
    with open(folder / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("file", "label"), *((n, "|".join(x)) for n, x in rows)])
    return dict(rows)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A data set, and the classes of each image."""
    folder = tmp_path_factory.mktemp("sets")
    truth = make_images(folder / "images")
    options = {"source": (str(folder / "images" / "labels.csv"),), "workers": 1}
    build_records.main(
        build_records.Options(**options, out=str(folder / "records"), folds=2, report=False)
    )
    return folder / "records", truth


def test_records_hold_all_classes(built):
    folder, truth = built
    found = manifest.load(folder)
    assert found.labels == "many"
    assert set(found.classes) == set(CLASSES)
    value = json.loads((folder / "manifest.json").read_text())
    assert list(violations(value, SCHEMA)) == []
    seen = {}
    for path in found.paths():
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            name = features["image/filename"].bytes_list.value[0].decode()
            indices = list(features["image/class/label"].int64_list.value)
            texts = [v.decode() for v in features["image/class/text"].bytes_list.value]
            assert sorted(indices) == indices
            assert sorted(found.classes[i] for i in indices) == sorted(texts)
            seen[name] = sorted(texts)
    assert seen == {name: sorted(names) for name, names in truth.items()}


def test_counts_are_of_images_by_class(built):
    folder, truth = built
    found = manifest.load(folder)
    assert found.count() == found.images() == found.accepted == len(truth)
    everything = Subset(found, ("all",))
    expected = collections.Counter(name for names in truth.values() for name in names)
    assert everything.class_counts == expected
    assert everything.count == len(truth)
    for fold in (0, 1):
        inside, outside = (Subset(found, ("all",), fold, held) for held in (True, False))
        records = list(inside.records())
        assert inside.count == inside.images == len(records) == len(truth) - outside.count
        counts = collections.Counter(n for each in records for n in truth[each.filename])
        assert inside.class_images == {name: counts[name] for name in found.classes}
    verify_records.main(verify_records.Options(records=str(folder)))


def test_inspection_shows_every_class(built, tmp_path, capsys):
    folder, truth = built
    out = tmp_path / "sheet.html"
    inspect_records.main(inspect_records.Options(records=str(folder), out=str(out), count=40))
    shown = capsys.readouterr().out
    for name in CLASSES:
        count = sum(name in names for names in truth.values())
        row = next(line for line in shown.splitlines() if line.split()[:1] == [name])
        assert row.split()[1] == str(count)
    assert "circle|red" in out.read_text()


def test_a_few_records_are_a_data_set_too(built, tmp_path):
    folder, truth = built
    few = limit.draw(manifest.load(folder), 12, 0, tmp_path / "few")
    assert manifest.load(tmp_path / "few").labels == "many"
    records = list(Subset(few, ("all",)).records())
    assert len(records) == few.count() <= 24
    counts = collections.Counter(n for each in records for n in truth[each.filename])
    assert Subset(few, ("all",)).class_images == {name: counts[name] for name in few.classes}
    for fold in (0, 1):
        part = Subset(few, ("train",), fold, held_out=True)
        assert part.count == len(list(part.records()))


def test_the_good_records_of_a_damaged_shard_are_counted(built, tmp_path):
    folder, truth = built
    shutil.copytree(folder, tmp_path / "bad")
    shard = next(iter((tmp_path / "bad").glob("train-*.tfrecord")))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    whole = manifest.load(tmp_path / "bad")
    left = salvage.readable(whole, ("train",), max_corrupt=40, folder=tmp_path / "good")
    part = Subset(left, ("train",))
    records = list(part.records())
    assert 0 < len(records) == part.count == left.count("train") < whole.count("train")
    counts = collections.Counter(n for each in records for n in truth[each.filename])
    assert part.class_images == {name: counts[name] for name in left.classes}


def test_a_data_set_is_a_source(built, tmp_path):
    folder, truth = built
    out = tmp_path / "again"
    build_records.main(
        build_records.Options(source=(str(folder),), out=str(out), workers=1, report=False)
    )
    found = manifest.load(out)
    assert found.labels == "many"
    seen = {r.filename: sorted(label_set.names(r.text)) for r in Subset(found, ("all",)).records()}
    assert seen == {name: sorted(names) for name, names in truth.items()}


def test_tensorflow_datasets_gets_a_sequence_of_class_labels(built):
    folder, truth = built
    value = json.loads((folder / "features.json").read_text())
    label = value["content"]["features"]["image/class/label"]
    assert label["pythonClassName"].endswith("sequence_feature.Sequence")
    assert label["sequence"]["feature"]["classLabel"]["numClasses"] == str(len(CLASSES))
    tfds = pytest.importorskip("tensorflow_datasets")
    data = tfds.builder_from_directory(str(folder)).as_dataset(split="train+val")
    names = manifest.load(folder).classes
    seen = {
        each["image/filename"].decode(): sorted(names[i] for i in each["image/class/label"])
        for each in tfds.as_numpy(data)
    }
    assert seen == {name: sorted(given) for name, given in truth.items()}


@pytest.mark.parametrize(
    "changes", [{"rebalance": "drop"}, {"rebalance": "copies"}, {"screens": "size"}]
)
def test_options_for_single_classes_are_refused(built, tmp_path, changes):
    folder, _ = built
    options = {"source": (str(folder),), "out": str(tmp_path / "x"), "workers": 1}
    with pytest.raises(UserError, match=next(iter(changes))):
        build_records.main(build_records.Options(**options, **changes))
    with pytest.raises(UserError, match="multi_label=false"):
        build_records.main(build_records.Options(**options, multi_label=False))
    assert not (tmp_path / "x").exists()


def test_folders_stay_single_unless_asked_for(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "images" / kind).mkdir(parents=True)
        for i in range(6):
            draw(kind, i).save(tmp_path / "images" / kind / f"{i}.png")
    for many, kind in ((None, "one"), (True, "many")):
        out = tmp_path / kind
        build_records.main(
            build_records.Options(
                source=(str(tmp_path / "images"),),
                out=str(out),
                workers=1,
                report=False,
                multi_label=many,
            )
        )
        found = manifest.load(out)
        assert found.labels == kind
        assert all(np.size(r.labels) == 1 for r in Subset(found, ("all",)).records())
