"""`--limit`: a few records of each split, with the classes' shares as they are."""

import collections
import itertools
import json

import pytest
from conftest import draw

from tests.training import CACHED
from tfpipe import build_records, evaluate, report, train
from tfpipe.records import limit
from tfpipe.records import manifest as manifests
from tfpipe.records.manifest import ALL_SPLITS
from tfpipe.records.subset import Subset
from tfpipe.training import run_folder


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """Records of 90 cats and 30 dogs, with folds."""
    base = tmp_path_factory.mktemp("uneven")
    (base / "in").mkdir()
    for kind, count in {"cat": 90, "dog": 30}.items():
        for number in range(count):
            draw(kind, number).save(base / "in" / f"{kind}.{number}.jpg")
    options = {"workers": 1, "report": False, "folds": 3, "splits": "train:0.6,val:0.2,test:0.2"}
    build_records.main(build_records.Options((str(base / "in"),), str(base / "out"), **options))
    return manifests.load(base / "out")


def digests(manifest, split=ALL_SPLITS):
    return [each.sha256 for each in Subset(manifest, (split,)).records()]


def test_the_shares_stay_and_the_manifest_agrees_with_the_records(uneven, tmp_path):
    found = limit.draw(uneven, 20, 0, tmp_path / "drawn")
    for split in uneven.splits:
        assert found.splits[split] == {"cat": 15, "dog": 5}
        there = collections.Counter(r.text for r in Subset(found, (split,)).records())
        assert there == found.splits[split]
        assert set(digests(found, split)) <= set(digests(uneven, split))
    for fold in range(3):
        for held_out in (True, False):
            part = Subset(found, ("train", "val"), fold, held_out=held_out)
            assert part.count == len(list(part.records()))
    manifests.load(found.folder).check()


def test_the_seed_draws(uneven, tmp_path):
    first = limit.draw(uneven, 10, 0, tmp_path / "a")
    assert digests(limit.draw(uneven, 10, 0, tmp_path / "b")) == digests(first)
    assert digests(limit.draw(uneven, 10, 1, tmp_path / "c")) != digests(first)
    stamp = (tmp_path / "a" / "manifest.json").stat().st_mtime_ns
    limit.draw(uneven, 10, 0, tmp_path / "a")
    assert (tmp_path / "a" / "manifest.json").stat().st_mtime_ns == stamp
    # More of the same draw holds the smaller one.
    more = limit.draw(uneven, 16, 0, tmp_path / "d")
    assert set(digests(first)) <= set(digests(more))


@pytest.mark.parametrize(("most", "expected"), [(1, 1), (2, 2), (3, 3), (500, 120)])
def test_few_and_too_many(uneven, tmp_path, most, expected):
    found = limit.draw(uneven, most, 0, tmp_path / "drawn")
    counts = [found.splits[split] for split in found.splits]
    if most == 500:
        assert found is uneven
    else:
        assert all(sum(each.values()) == expected for each in counts)
        assert most == 1 or all(each["dog"] == 1 for each in counts)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Records of 45 images, each with another pair of ten classes, and of 45 with one and all."""
    base = tmp_path_factory.mktemp("sets")
    pairs = ["|".join(pair) for pair in itertools.combinations("abcdefghij", 2)]
    rows = ["file,label"]
    for number, label in enumerate([*pairs, *["yes"] * 45]):
        draw("cat", number, side=32).save(base / f"{number}.jpg")
        rows.append(f"{number}.jpg,{label}")
    (base / "labels.csv").write_text("\n".join(rows))
    options = {"workers": 1, "report": False, "splits": "train:0.9,val:0.1", "multi_label": True}
    source = (str(base / "labels.csv"),)
    build_records.main(build_records.Options(source, str(base / "out"), **options))
    return manifests.load(base / "out")


@pytest.mark.parametrize("most", [20, 60])  # fewer than there are different labels, and more
def test_rare_sets_of_classes_are_drawn_as_often_as_frequent_ones(sets, tmp_path, most):
    whole, drawn = sets.count("train"), set()
    for seed in range(6):
        found = limit.draw(sets, most, seed, tmp_path / str(seed))
        assert found.count("train") == most
        exact = most * sets.splits["train"]["yes"] / whole
        assert abs(found.splits["train"]["yes"] - exact) < 1
        drawn |= {each.text for each in Subset(found, ("train",)).records()}
    # Each of 40 pairs is missing from all draws with a probability of less than 0.2.
    assert len(drawn) > 25


@pytest.mark.slow  # trains, evaluates twice, and reports
def test_a_run_on_a_few_records_keeps_them(tiny_config, uneven, tmp_path, capsys):
    config = tiny_config(**CACHED, records=str(uneven.folder), limit=20, epochs=1, batch_size=8)
    train.main(config)
    assert "on 20 images" in capsys.readouterr().err
    run = run_folder.load(config.run_dir)
    assert run.records == str(tmp_path / "run" / "limited")
    evaluate.main(evaluate.Options(run_dir=config.run_dir, rounds=100))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["split"], metrics["n"]) == ("test", 20)
    report.main(report.Options(run_dir=config.run_dir, pictures=1, neighbours=0))
    assert "no pictures" not in capsys.readouterr().err
    whole = {"records": str(uneven.folder), "split": "all"}
    evaluate.main(evaluate.Options(run_dir=config.run_dir, rounds=100, **whole))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (metrics["n"], metrics["images_trained_on"]) == (120, 20)
