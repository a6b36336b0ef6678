"""What tfpipe.evaluate writes and shows, from records to metrics.json."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from conftest import TINY, draw
from json_schema import ANNOTATIONS, CHECKED, violations, words
from PIL import Image

from tfpipe import build_records, evaluate, evaluation, train
from tfpipe.core.errors import UserError
from tfpipe.evaluation.metrics import metrics, names
from tfpipe.evaluation.slices import attributes
from tfpipe.records import manifest as manifests
from tfpipe.runs import predictions_file
from tfpipe.training.train_config import TrainConfig

PATH = pathlib.Path(evaluation.__file__).with_name("metrics.schema.json")
SCHEMA = json.loads(PATH.read_text(encoding="utf-8"))


def refuse(constant):
    raise AssertionError(f"metrics.json has {constant}")


def evaluated(folder, **changes):
    """Runs the command; returns metrics.json, which is valid whatever was measured."""
    changes.setdefault("rounds", 100)
    evaluate.main(evaluate.Options(run_dir=str(folder), **changes))
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=refuse)
    assert list(violations(found, SCHEMA)) == []
    return found


def build(out, counts, **changes):
    """Records of so many images of each kind."""
    folder = out.with_name(out.name + "-images")
    folder.mkdir()
    for kind, count in counts.items():
        for number in range(count):
            draw(kind, 200 + number).save(folder / f"{kind}.{number}.jpg")
    options = {"source": (str(folder),), "out": str(out), "workers": 1, "report": False}
    build_records.main(build_records.Options(**{**options, **changes}))
    return out


@pytest.fixture(scope="module")
def run(run_dir, tmp_path_factory):
    """A copy of the run that others share."""
    folder = tmp_path_factory.mktemp("evaluated") / "a"
    shutil.copytree(run_dir, folder)
    return folder


@pytest.fixture(scope="module")
def other(second_run):
    """Another run on the same records."""
    return second_run


def test_the_schema_uses_only_words_that_are_checked():
    assert set(words(SCHEMA)) <= CHECKED | ANNOTATIONS
    assert SCHEMA["properties"]["schema_version"]["const"] == evaluate.SCHEMA_VERSION


def test_every_measure_is_everywhere(run, other, capsys):
    found = evaluated(run, against=str(other))
    assert set(names(2)) <= set(found)
    assert set(found["intervals"]) == {*names(2), "log_loss_raw", "log_loss_calibrated"}
    assert set(found["against"]["measures"]) == set(names(2))
    assert all(set(names(2)) <= set(part) for part in found["slices"])
    shown = capsys.readouterr().out
    for name in names(2):
        assert shown.count(f"  {metrics[name].title} ") >= 2, name
        assert f"{found[name]:.4f}" in shown
    # Only a run with a reject rate has this key: tests/test_familiarity.py.
    usual = set(SCHEMA["properties"]) - {"unfamiliar"}
    assert set(SCHEMA["required"]) <= usual <= set(found)
    for key in SCHEMA["required"]:
        assert list(violations({k: v for k, v in found.items() if k != key}, SCHEMA)), key
    for key in SCHEMA["properties"]:
        assert list(violations(found | {key: [None]}, SCHEMA)), key


def test_slices_are_of_the_images_as_they_are(run, records, image_folder):
    found = evaluated(run, split="all")
    pictures = [Image.open(path) for path in image_folder.iterdir()]
    expected = {
        "size": [min(picture.size) for picture in pictures],
        "aspect": [picture.width / picture.height for picture in pictures],
        "brightness": [np.asarray(picture.convert("L")).mean() for picture in pictures],
    }
    assert {part["by"] for part in found["slices"]} == set(attributes) == {*expected, "source"}
    for name, values in expected.items():
        parts = [part for part in found["slices"] if part["by"] == name]
        tolerance = 1.5 if name == "brightness" else 1e-6  # it is that of the resized image
        assert parts[0]["from"] == pytest.approx(min(values), abs=tolerance)
        assert parts[-1]["to"] == pytest.approx(max(values), abs=tolerance)
        assert parts[1]["to"] == pytest.approx(np.median(values), rel=0.05)
        assert [part["n"] for part in parts] == pytest.approx([20] * 4, abs=5)
    (folder,) = [part for part in found["slices"] if part["by"] == "source"]
    assert (folder["value"], folder["n"]) == (".", 80)


def test_predictions_are_those_of_the_run(run, tmp_path, capsys):
    out = tmp_path / "out.csv"
    found = evaluated(run, predictions=str(out))
    own, written = predictions_file.read(run / "predictions.csv"), predictions_file.read(out)
    assert written["name"].tolist() == own["name"].tolist()
    np.testing.assert_allclose(written["probabilities"], own["probabilities"], atol=1e-5)
    given = written["probabilities"][np.arange(found["n"]), written["label"]]
    assert found["log_loss"] == pytest.approx(-np.log(given.astype(float)).mean())
    assert str(out) in capsys.readouterr().err


def test_predictions_that_cannot_be_written_are_refused_at_once(run, tmp_path):
    before = (run / "predictions.csv").read_bytes()
    for path, message in (
        (tmp_path / "nowhere/out.csv", r"--predictions=.*: give a file in a folder that exists"),
        (tmp_path, r"--predictions=.*: give a file in a folder that exists"),
        (run / "predictions.csv", "run's own file"),
    ):
        with pytest.raises(UserError, match=message):
            evaluated(run, split="train", predictions=str(path))
    assert (run / "predictions.csv").read_bytes() == before


@pytest.mark.parametrize("rounds", [0, 99, 100_001])
def test_too_few_or_too_many_rounds_are_refused(rounds):
    with pytest.raises(UserError, match=rf"--rounds={rounds}: give 100 to 100,000") as caught:
        evaluated(pathlib.Path("nowhere"), rounds=rounds)
    assert caught.value.status == 2


class TestAgainst:
    def test_both_are_measured_on_the_same_images(self, run, other, tmp_path, capsys):
        files = [tmp_path / "a.csv", tmp_path / "b.csv"]
        options = {"split": "train", "tta": "none", "rounds": 200}
        found = evaluated(run, against=str(other), predictions=str(files[0]), **options)
        shown = capsys.readouterr()
        alone = evaluated(other, predictions=str(files[1]), **options)
        for name, each in found["against"]["measures"].items():
            assert each["value"] == found[name]
            assert each["against"] == pytest.approx(alone[name], rel=1e-5)
        one, two = (predictions_file.read(file) for file in files)
        rows = np.arange(found["n"]), one["label"]
        losses = [-np.log(p["probabilities"][rows].astype(float)).mean() for p in (one, two)]
        difference = found["against"]["measures"]["log_loss"]["difference"]
        assert difference == pytest.approx(losses[0] - losses[1], rel=1e-4)
        assert (found["against"]["run_dir"], found["against"]["tta"]) == (str(other), "none")
        sentence = shown.out.strip().splitlines()[-1]
        assert all(word in sentence for word in (str(run), str(other), "log loss"))
        assert "may have been trained" not in shown.err
        assert "against" not in evaluated(run)

    def test_other_classes_are_refused(self, run, other, tmp_path):
        shutil.copytree(other, tmp_path / "fox")
        path = tmp_path / "fox" / "config.json"
        path.write_text(path.read_text().replace('"dog"', '"fox"'))
        with pytest.raises(UserError, match=r"--against=.*fox has the classes cat, fox, but"):
            evaluated(run, against=str(tmp_path / "fox"))

    def test_a_folder_that_is_no_run_is_refused_before_anything_is_measured(self, run, tmp_path):
        (run / "metrics.json").unlink(missing_ok=True)
        with pytest.raises(UserError, match="nowhere"):
            evaluated(run, against=str(tmp_path / "nowhere"))
        assert not (run / "metrics.json").exists()

    def test_a_run_that_was_validated_elsewhere_may_know_the_images(
        self, run, other, tmp_path, capsys
    ):
        shutil.copytree(other, tmp_path / "swapped")
        path = tmp_path / "swapped" / "config.json"
        text = path.read_text().replace('"train_split": "train"', '"train_split": "val"')
        path.write_text(text.replace('"val_split": "val"', '"val_split": "train"'))
        evaluated(run, against=str(tmp_path / "swapped"))
        error = capsys.readouterr().err
        assert "swapped was not validated on val of" in error
        assert "may have been trained on these images" in error


def split_with(records, counts):
    """Returns the split of these counts."""
    (name,) = [name for name, found in manifests.load(records).splits.items() if found == counts]
    return name


class TestClasses:
    """Records with few images, without images of a class, or with other classes than the run."""

    def test_a_class_without_images(self, run, tmp_path, capsys):
        records = build(
            tmp_path / "records",
            {"cat": 40, "dog": 1},
            labels="filename",
            splits="train:0.5,val:0.5",
        )
        found = evaluated(
            run, records=str(records), split=split_with(records, {"cat": 20, "dog": 0})
        )
        assert found["support"]["dog"] == 0
        for key in ("recall", "precision", "f1"):
            assert found[key]["dog"] is None
            assert found["reasons"][f"{key}.dog"] == "no images"
        assert found["roc_auc"] is found["average_precision"] is None
        assert found["reasons"]["roc_auc"] == "needs images of two classes"
        assert found["intervals"]["log_loss"] is not None
        shown = capsys.readouterr()
        assert "warning: no image of dog among these 20 (1 of 2 classes)" in shown.err
        assert "ROC AUC: undefined: it needs images of two classes" in shown.err
        assert "no images" in shown.out

    def test_shares_far_from_those_of_training(self, run, tmp_path, capsys):
        counts = {"cat": 20, "dog": 2}
        records = build(tmp_path / "records", counts, splits="test:1")
        found = evaluated(run, records=str(records), split="test")
        (warning,) = found["warnings"]
        assert "dog 2 of 22 (9.1%), in training 50.0%" in warning
        assert f"warning: {warning}" in capsys.readouterr().err

    def test_labels_are_matched_by_name(self, run, tmp_path, capsys):
        counts = {"cat": 5, "dog": 9}
        records = build(tmp_path / "records", counts, splits="test:1", classes="dog,cat")
        out = tmp_path / "out.csv"
        found = evaluated(run, records=str(records), split="test", predictions=str(out))
        assert found["support"] == counts
        rows = predictions_file.read(out)
        assert (rows["label"] == [name.startswith("dog") for name in rows["name"]]).all()
        assert "labels are matched by name" in capsys.readouterr().err

    def test_a_class_that_the_run_does_not_know_is_named(self, run, tmp_path):
        records = build(tmp_path / "records", {"dog": 3, "fox": 3}, splits="test:1")
        with pytest.raises(UserError, match=r"has the class fox, but .* trained on cat, dog: give"):
            evaluated(run, records=str(records), split="test")

    def test_one_image(self, run, other, tmp_path, capsys):
        records = build(tmp_path / "records", {"cat": 2, "dog": 1}, splits="train:0.5,val:0.5")
        split = split_with(records, {"cat": 1, "dog": 0})
        found = evaluated(run, records=str(records), split=split, against=str(other))
        assert found["n"] == 1
        known = {name for name, interval in found["intervals"].items() if interval}
        assert known == {"accuracy", "balanced_accuracy"}
        assert found["against"]["measures"]["log_loss"]["p_value"] is None
        assert {part["n"] for part in found["slices"]} == {1}
        shown = capsys.readouterr()
        assert ": 1 image\n" in shown.out
        assert "better in log loss cannot be said: needs 10 images" in shown.out
        assert "no interval: needs 10 images" in shown.err

    def test_no_image(self, run, records, tmp_path):
        shutil.copytree(records, tmp_path / "records")
        path = tmp_path / "records" / "manifest.json"
        value = json.loads(path.read_text())
        value["splits"]["test"] = {"cat": 0, "dog": 0}
        path.write_text(json.dumps(value))
        with pytest.raises(UserError, match=r"has no images of test: give another .split., one of"):
            evaluated(run, records=str(tmp_path / "records"), split="test")


@pytest.mark.slow
def test_three_classes(tmp_path, capsys):
    images = {"cat": 20, "dog": 20, "fox": 20}
    records = build(tmp_path / "records", images, splits="train:0.5,val:0.5")
    folder = tmp_path / "run"
    options = {**TINY, "epochs": 1, "tta": ""}
    train.main(TrainConfig(records=str(records), run_dir=str(folder), **options))
    out = tmp_path / "out.csv"
    found = evaluated(folder, predictions=str(out), against=str(folder))
    assert found["classes"] == ["cat", "dog", "fox"]
    assert np.array(found["confusion"]).sum() == found["n"] == sum(found["support"].values())
    assert found["against"]["measures"]["log_loss"]["p_value"] == 1
    fewer = build(tmp_path / "fewer", {"dog": 12, "fox": 12}, splits="test:1")
    found = evaluated(folder, records=str(fewer), split="test")
    assert found["support"] == {"cat": 0, "dog": 12, "fox": 12}
    assert found["recall"]["cat"] is found["precision"]["cat"] is None
    assert found["roc_auc"] is not None
    shown = capsys.readouterr().err
    assert "2 of the 3 classes" in shown
    assert "warning: no image of cat among these 24" in shown
