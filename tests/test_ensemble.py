"""Ensembles: every method against a formula, and two runs as one from training to the export."""

import csv
import dataclasses
import json
import pathlib
import re
import shutil

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from json_schema import violations

from tfpipe import ensemble, evaluate, export, predict
from tfpipe.core.errors import UserError
from tfpipe.evaluation import metrics
from tfpipe.model import inference
from tfpipe.model.calibration import Calibration
from tfpipe.model.combination import Combination, combiners
from tfpipe.model.predictor import EnsemblePredictor
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.runs import combination_fit, loaded_run, predictions_file
from tfpipe.training import run_folder as runs

METHODS = sorted(combiners)
METRICS_SCHEMA = json.loads(
    pathlib.Path(metrics.__file__).with_name("metrics.schema.json").read_text(encoding="utf-8")
)


def members_of(count, classes, *, members=3, seed=0):
    """Returns log-probabilities [M, n, C] of members that are right more or less often; labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    strength = np.array([3.0, 2.0, 0.3, 1.0])[:members, None, None]
    logits = rng.normal(0, 1.5, (members, count, classes)) + strength * np.eye(classes)[labels]
    return scipy.special.log_softmax(logits, axis=2), labels


def combine(members, combination):
    return combination.combine(members).numpy()


def log_loss(log_probabilities, labels):
    return -log_probabilities[np.arange(len(labels)), labels].mean()


# Probabilities of two members for three images, and what each method makes of the second class.
TWO = np.array([[[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], [[0.7, 0.3], [0.9, 0.1], [0.6, 0.4]]])
ODDS = scipy.special.logit(TWO[..., 1])
FORMULAS = {
    "mean": ({}, [0.2, 0.45, 0.4]),
    "geometric": ({}, scipy.special.expit(ODDS.mean(axis=0))),
    "vote": ({}, [0, 0.5, 0]),
    "blend": ({"weights": (0.25, 0.75)}, scipy.special.expit(ODDS[0] / 4 + ODDS[1] * 3 / 4)),
    "stack": (
        {"weights": ((2.0,), (-1.0,)), "bias": (0.5,)},
        scipy.special.expit(2 * ODDS[0] - ODDS[1] + 0.5),
    ),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_its_formula(method):
    numbers, expected = FORMULAS[method]
    found = np.exp(combine(np.log(TWO), Combination(method, **numbers)))
    np.testing.assert_allclose(found[:, 1], expected, atol=1e-6)


def test_votes_of_three_classes():
    votes = np.log([[[0.5, 0.3, 0.2]], [[0.1, 0.8, 0.1]], [[0.4, 0.4, 0.2]]])  # of equals: 0
    found = np.exp(combine(votes, Combination("vote")))
    np.testing.assert_allclose(found, [[2 / 3, 1 / 3, 0]], atol=1e-6)
    assert metrics.log_loss(found, np.array([2])) == pytest.approx(16.1, abs=0.1)


def test_log_probabilities_of_either_output():
    logits = np.array([[-800.0], [0.0], [3.0]])
    both = np.concatenate([np.zeros_like(logits), logits], axis=1) + 5
    expected = np.array([[0, -800], [np.log(0.5)] * 2, np.log([1 - 0.95257413, 0.95257413])])
    for given in (logits, both):
        np.testing.assert_allclose(combination_fit.log_probabilities(given), expected, rtol=1e-7)


class TestFits:
    @pytest.mark.parametrize("classes", [2, 4])
    def test_blend_against_a_grid(self, classes):
        members, labels = members_of(300, classes)
        found = combination_fit.fit("blend", members, labels, 1.0)
        assert sum(found.weights) == pytest.approx(1)
        assert min(found.weights) >= 0
        loss = log_loss(combine(members, found), labels)
        steps = np.linspace(0, 1, 51)
        grid = [(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9]
        best = min(
            log_loss(combine(members, Combination("blend", weights)), labels) for weights in grid
        )
        assert best - 1e-3 < loss < best + 1e-9

    def test_blend_leaves_out_what_only_harms(self):
        members, labels = members_of(400, 2, members=2)
        found = combination_fit.fit("blend", np.concatenate([members, -members[:1]]), labels, 1.0)
        assert found.weights[2] == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
    @pytest.mark.parametrize("classes", [2, 4])
    def test_stack_has_the_least_penalised_loss(self, classes, l2):
        members, labels = members_of(200, classes)
        found = combination_fit.fit("stack", members, labels, l2)
        best = np.array(found.weights), np.array(found.bias)

        def loss(weights, bias):
            changed = Combination("stack", weights.tolist(), bias.tolist())
            total = log_loss(combine(members, changed), labels) * len(labels)
            return total + l2 / 2 * (weights**2).sum()

        rng = np.random.default_rng(0)
        for size in (1e-3, 1e-2, 1.0):
            for _ in range(20):
                other = [each + size * rng.normal(size=each.shape) for each in best]
                assert loss(*best) <= loss(*other) + 1e-6

    def test_stack_gives_a_class_without_images_the_least_bias(self):
        members, labels = members_of(50, 4)
        for there in ([0, 2], [1], [0, 1, 3]):
            chosen = np.isin(labels, there)
            found = combination_fit.fit("stack", members[:, chosen], labels[chosen], 1.0)
            probabilities = np.exp(combine(members, found))
            assert set(probabilities.argmax(1)) <= set(there)
            assert probabilities[:, np.setdiff1d(range(4), there)].max() < 1e-6

    @pytest.mark.parametrize("method", METHODS)
    def test_cross_fit_never_sees_the_image(self, method):
        """Other labels in one fold leave that fold's answers as they are."""
        members, labels = members_of(60, 3)
        before = combination_fit.cross_fit(method, members, labels, 1.0)
        fold = np.random.default_rng(0).permutation(60) % 5
        labels[fold == 2] = (labels[fold == 2] + 1) % 3
        after = combination_fit.cross_fit(method, members, labels, 1.0)
        np.testing.assert_array_equal(after[fold == 2], before[fold == 2])
        changes = np.abs(after - before)[fold != 2].max()
        assert (changes > 1e-3) == (method in combination_fit.FITTED)

    def test_fits_gain_on_fresh_images(self):
        """One of the members knows next to nothing, and all are wrongly certain."""
        members, labels = members_of(4000, 2)
        fresh, its = members_of(4000, 2, seed=1)
        fits = {name: combination_fit.fit(name, members, labels, 1.0) for name in METHODS}
        losses = {name: log_loss(combine(fresh, fit), its) for name, fit in fits.items()}
        assert losses["stack"] < losses["blend"] < losses["geometric"] < losses["vote"]
        crossed = log_loss(combination_fit.cross_fit("stack", members, labels, 1.0), labels)
        assert crossed == pytest.approx(losses["stack"], abs=0.02)


LOGITS = st.floats(-(2.0**60), 2.0**60, width=32) | st.floats(-20, 20, width=32)


@st.composite
def answers(draw):
    """Logits float32 [M, n, K] and labels."""
    units = draw(st.sampled_from([1, 2, 3, 5]))
    shape = (draw(st.integers(1, 4)), draw(st.integers(5, 12)), units)
    logits = draw(hypothesis.extra.numpy.arrays(np.float32, shape, elements=LOGITS))
    label = st.integers(0, max(units, 2) - 1)
    return logits, draw(hypothesis.extra.numpy.arrays(np.int64, shape[1], elements=label))


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(answers(), st.sampled_from(METHODS))
def test_nothing_makes_it_blow_up(sample, method):
    logits, labels = sample
    members = np.stack([combination_fit.log_probabilities(each) for each in logits])
    found = combination_fit.fit(method, members, labels, 1.0)
    found.check(*members.shape[::2])
    probabilities = np.exp(combine(members, found))
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-9)
    if method == "blend":
        assert min(found.weights) >= 0
        mean = log_loss(combine(members, Combination("geometric")), labels)
        assert log_loss(combine(members, found), labels) <= mean * (1 + 1e-9) + 1e-12


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A member that answers the same logits whatever it is shown, and keeps what that was."""

    answer: np.ndarray
    image_size: int = 8
    shown: list = dataclasses.field(default_factory=list)
    variables: tuple = ()

    @property
    def output(self):
        return "sigmoid" if self.answer.shape[1] == 1 else "softmax"

    def logits(self, images):
        self.shown.append(images)
        return tf.constant(self.answer)


class TestPredictor:
    @pytest.mark.parametrize("units", [1, 2, 3, 6])
    @pytest.mark.parametrize("method", METHODS)
    def test_the_graph_is_the_formula(self, method, units):
        rng = np.random.default_rng(units)
        logits = rng.normal(0, 6, (3, 50, units)).astype(np.float32)
        members = np.stack([combination_fit.log_probabilities(each) for each in logits])
        found = combination_fit.fit(method, members, rng.integers(0, max(units, 2), 50), 1.0)
        output = "sigmoid" if units < 3 else "softmax"
        predictor = EnsemblePredictor(tuple(map(Fixed, logits)), found, output)
        images = tf.zeros([50, 8, 8, 3], tf.uint8)
        expected = combine(members, found)
        np.testing.assert_allclose(predictor.classify(images), np.exp(expected), atol=2e-6)
        if output == "sigmoid":
            expected = expected[:, 1:] - expected[:, :1]
        np.testing.assert_allclose(predictor.logits(images), expected, rtol=1e-4, atol=1e-4)
        calibrated = dataclasses.replace(predictor, calibration=Calibration("temperature", 0.5))
        scores = np.concatenate([0 * expected, expected], 1) if units < 3 else expected
        halved = scipy.special.softmax(scores / 2, axis=1)
        np.testing.assert_allclose(calibrated.classify(images), halved, atol=2e-6)

    def test_certainty_stays_finite_in_float32(self):
        for method in METHODS:
            numbers = {"blend": ((0.5, 0.5), ()), "stack": (((1.0,), (1.0,)), (0.0,))}
            found = Combination(method, *numbers.get(method, ()))
            far = Fixed(np.array([[3000.0], [-3000.0]], np.float32))
            predictor = EnsemblePredictor((far, far), found, "sigmoid")
            logits = predictor.logits(tf.zeros([2, 8, 8, 3])).numpy()[:, 0]
            assert np.isfinite(logits).all()
            assert logits[0] > 15
            assert logits[1] < -15

    def test_each_member_gets_its_own_size(self):
        large, small = (Fixed(np.zeros([1, 1], np.float32), side) for side in (16, 8))
        predictor = EnsemblePredictor((small, large), Combination("mean"), "sigmoid")
        assert predictor.image_size == 16
        images = np.random.default_rng(0).integers(0, 256, (1, 16, 16, 3)).astype(np.uint8)
        predictor.logits(tf.constant(images))
        np.testing.assert_array_equal(large.shown[0], images)
        halved = images.reshape(1, 8, 2, 8, 2, 3).mean(axis=(2, 4))  # bilinear at half the size
        np.testing.assert_allclose(small.shown[0], halved, atol=1e-4)


@pytest.fixture(scope="module")
def pair(run_dir, second_run, tmp_path_factory):
    """Copies of both runs, in one folder, to be changed by nobody."""
    folder = tmp_path_factory.mktemp("pair")
    shutil.copytree(run_dir, folder / "a")
    shutil.copytree(second_run, folder / "b")
    return folder


def make(folder, *, runs="a,b", out="ens", **changes):
    names = ",".join(str(folder / name) for name in runs.split(","))
    ensemble.main(ensemble.Options(runs=names, out=str(folder / out), **changes))
    return folder / out


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def odds(row):
    """The second class's log-odds of a line of a predictions.csv, whatever the output."""
    return float(row["logit_dog"]) - float(row.get("logit_cat", 0))


def test_the_folder_tells_what_it_is(pair):
    folder = make(pair, out="stack", method="stack")
    names = [path.name for path in folder.iterdir()]
    assert sorted(names) == ["calibration.json", "ensemble.json", "predictions.csv"]
    saved = json.loads((folder / "ensemble.json").read_text())
    assert saved["combination"]["method"] == "stack"
    assert saved["classes"] == ["cat", "dog"]
    assert [member["folder"] for member in saved["members"]] == ["../a", "../b"]
    for member in saved["members"]:
        run = runs.load(str(folder / member["folder"]))
        assert member["weights_sha256"] == run.calibrated_for()["weights_sha256"]
    rows, first = read(folder / "predictions.csv"), read(pair / "a" / "predictions.csv")
    assert [(r["name"], r["label"]) for r in rows] == [(r["name"], r["label"]) for r in first]


@pytest.mark.slow
def test_from_training_to_the_saved_model(pair, records, image_folder, tmp_path):
    folder = make(pair, out="exported", method="stack")
    out = tmp_path / "all.csv"
    evaluate.main(evaluate.Options(run_dir=str(folder), split="all", predictions=str(out)))
    measured = json.loads((folder / "metrics.json").read_text())
    assert measured["n"] == manifests.load(records).count()
    rows = read(out)
    files = [(image_folder / row["name"]).read_bytes() for row in rows]
    export.main(export.Options(run_dir=str(folder), export_dir=str(tmp_path / "export")))
    loaded = tf.saved_model.load(str(tmp_path / "export" / "1"))
    answer = loaded.signatures["serving_default"](image_bytes=tf.constant(files))
    expected = [float(row["probability_dog"]) for row in rows]
    np.testing.assert_allclose(answer["probability"], expected, atol=1e-5)
    predicted = tmp_path / "submission.csv"
    given = {"source": (str(image_folder),), "out": str(predicted)}
    assert predict.main(predict.Options(run_dir=str(folder), **given)) == 0
    by_id = {row["name"].removesuffix(".jpg"): p for row, p in zip(rows, expected, strict=True)}
    for row in read(predicted):
        assert float(row["label"]) == pytest.approx(by_id[row["id"]], abs=1e-5)


@pytest.mark.parametrize("method", ["mean", "geometric", "vote"])
def test_predictions_follow_from_the_members(pair, method):
    folder = make(pair, out=f"of_{method}", method=method)
    parts = [{row["name"]: odds(row) for row in read(pair / n / "predictions.csv")} for n in "ab"]
    for row in read(folder / "predictions.csv"):
        z = np.array([part[row["name"]] for part in parts])
        expected = {
            "mean": scipy.special.logit(scipy.special.expit(z).mean()),
            "geometric": z.mean(),
            "vote": scipy.special.logit((z > 0).mean().clip(1e-7, 1 - 1e-7)),
        }[method]
        assert float(row["logit_dog"]) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_members_keep_their_views_unless_told(pair):
    folder = make(pair, out="views")
    members = loaded_run.load(folder).restore().members
    assert [len(member.views) for member in members] == [3, 1]
    members = loaded_run.load(folder).restore(tta="flip_ud").members
    assert [len(member.views) for member in members] == [2, 2]
    shares = [runs.load(str(pair / name)).class_shares for name in "ab"]
    np.testing.assert_allclose(loaded_run.load(folder).class_shares, np.mean(shares, axis=0))


def test_the_table_compares(pair, capsys):
    capsys.readouterr()
    folder = make(pair, out="table", method="stack")
    lines = capsys.readouterr().out.splitlines()
    figures = {" ".join(line.split()[:-2]): line.split()[-2:] for line in lines if line.split()}
    saved = json.loads((folder / "ensemble.json").read_text())["scores"]
    assert list(saved)[2:] == ["mean", "geometric", "stack, cross-validated"]
    for name, (path, row) in zip("ab", list(saved.items())[:2], strict=True):
        assert path == str(pair / name)
        z = [(odds(line), int(line["label"])) for line in read(pair / name / "predictions.csv")]
        expected = np.mean([np.logaddexp(0, -v if label else v) for v, label in z])
        assert row["log_loss"] == pytest.approx(expected, rel=1e-3)
    assert figures["geometric"][0] == f"{saved['geometric']['log_loss']:.4f}"


def test_it_is_replaced_only_when_told_and_only_if_it_is_one(pair, tmp_path):
    folder = make(pair, out="again")
    with pytest.raises(UserError, match=r"again exists already"):
        make(pair, out="again")
    make(pair, out="again", method="vote", overwrite=True)
    assert json.loads((folder / "ensemble.json").read_text())["combination"]["method"] == "vote"
    (folder / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"holds mine\.txt, which is no part of an ensemble"):
        make(pair, out="again", overwrite=True)
    assert (folder / "mine.txt").read_text() == "kept"
    assert not list(pair.glob(".partial*"))


def measured(folder, **changes):
    evaluate.main(evaluate.Options(run_dir=str(folder), rounds=100, **changes))
    found = json.loads((folder / "metrics.json").read_text())
    assert list(violations(found, METRICS_SCHEMA)) == []
    return found


def loss_of(rows):
    """The mean log loss of the lines of a predictions.csv."""
    given = [float(row[f"probability_{('cat', 'dog')[int(row['label'])]}"]) for row in rows]
    return -np.mean(np.log(given))


class TestCrossValidated:
    @pytest.fixture(scope="class")
    def folder(self, pair, tmp_path_factory):
        """What tfpipe.train --folds=2 leaves, made of two runs, and a third one."""
        folder = tmp_path_factory.mktemp("folds")
        cv = folder / "cv"
        shutil.copytree(pair / "a", cv / "fold-0")
        shutil.copytree(pair / "b", cv / "fold-1")
        shutil.copytree(pair / "a", folder / "c")
        (cv / "folds.json").write_text('{"folds": ["fold-0", "fold-1"]}')
        first = predictions_file.read(cv / "fold-0" / "predictions.csv")
        second = predictions_file.read(cv / "fold-1" / "predictions.csv")
        logits = second["logits"][:, 1:] - second["logits"][:, :1]
        odd = (np.arange(len(first["label"])) % 2 == 1)[:, None]
        mixed = {
            "name": first["name"],
            "label": first["label"],
            "logits": np.where(odd, first["logits"], logits),
            "probabilities": np.where(odd, first["probabilities"], second["probabilities"]),
        }
        # In another order, as folds are.
        order = np.random.default_rng(0).permutation(len(mixed["label"]))
        mixed = {key: values[order] for key, values in mixed.items()}
        predictions_file.write(cv / "predictions.csv", ("cat", "dog"), mixed)
        value = {"calibration": Calibration("platt", 2.0, 0.5).to_json(), "n": 16}
        folds = [loaded_run.load(cv / name) for name in ("fold-0", "fold-1")]
        value["made_for"] = {"members": [fold.identity() for fold in folds]}
        (cv / "calibration.json").write_text(json.dumps(value))
        return folder

    def test_it_answers_with_the_mean_logits_of_its_runs(self, folder):
        opened = loaded_run.load(folder / "cv")
        predictor = opened.restore()
        assert predictor.calibration == Calibration("platt", 2.0, 0.5)
        images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype(np.uint8)
        first, second = (member.uncalibrated() for member in opened.members)
        smaller = tf.image.resize(images, [24, 24])
        logits = second.logits(smaller)
        expected = (first.logits(images) + logits[:, 1:] - logits[:, :1]) / 2
        np.testing.assert_allclose(predictor.logits(images), expected, atol=1e-5)
        p = scipy.special.expit(2 * expected + 0.5)
        np.testing.assert_allclose(predictor.classify(images)[:, 1:], p, atol=1e-6)

    def test_its_own_figures_are_out_of_fold(self, folder, records, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(inference, "predict", None)  # no model is run
            found = measured(folder / "cv")
        rows = read(folder / "cv" / "predictions.csv")
        assert found["split"] == "out-of-fold"
        assert found["log_loss"] == pytest.approx(loss_of(rows), rel=1e-5)
        opened = {
            fields.filename: fields
            for fields in Subset(manifests.load(records), ("all",)).records()
        }
        sides = [min(opened[row["name"]].height, opened[row["name"]].width) for row in rows]
        parts = [part for part in found["slices"] if part["by"] == "size"]
        assert (parts[0]["from"], parts[-1]["to"]) == (min(sides), max(sides))
        assert sum(part["n"] for part in parts) == found["n"] == len(rows)
        assert measured(folder / "cv", split="train")["split"] == "train"
        with pytest.raises(UserError, match="--tta=none: the out-of-fold predictions"):
            measured(folder / "cv", tta="none")

    def test_without_the_records_there_are_no_slices(self, folder, records, capsys):
        copy = folder / "without"
        shutil.copytree(folder / "cv", copy)
        for path in copy.glob("fold-*/config.json"):
            path.write_text(path.read_text().replace(str(records), "gone"))
        found = measured(copy)
        assert found["slices"] is None
        assert "gone/manifest.json does not exist" in found["reasons"]["slices"]
        assert "no slices: gone/manifest.json" in capsys.readouterr().err

    @pytest.mark.slow
    def test_it_is_compared_with_what_was_not_trained_on_the_images(self, folder):
        out = make(folder, runs="c,cv", out="compared")
        found = measured(folder / "cv", against=str(out))["against"]["measures"]["log_loss"]
        expected = loss_of(read(out / "predictions.csv"))
        assert found["against"] == pytest.approx(expected, rel=1e-5)
        for first, second in (("cv", "c"), ("c", "cv")):
            with pytest.raises(UserError, match=r"only .*cv is a cross-validation"):
                measured(folder / first, against=str(folder / second))
        measured(folder / "c", against=str(folder / "cv"), split="train")
        path = out / "predictions.csv"
        path.write_text(path.read_text().replace("cat.1", "hat.1"))
        with pytest.raises(UserError, match="have predictions of different images"):
            measured(folder / "cv", against=str(out))

    @pytest.mark.slow
    def test_it_is_a_member(self, folder, tmp_path):
        out = make(folder, runs="c,cv", method="geometric")
        own = {row["name"]: odds(row) for row in read(folder / "c" / "predictions.csv")}
        its = {row["name"]: odds(row) for row in read(folder / "cv" / "predictions.csv")}
        for row in read(out / "predictions.csv"):
            expected = (own[row["name"]] + its[row["name"]]) / 2
            assert float(row["logit_dog"]) == pytest.approx(expected, abs=1e-4)
        assert measured(out)["split"] == "out-of-fold"
        predictor = loaded_run.load(out).restore()
        images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
        parts = [loaded_run.load(folder / name).uncalibrated() for name in ("c", "cv")]
        expected = np.mean([part.logits(images) for part in parts], axis=0)
        np.testing.assert_allclose(predictor.logits(images), expected, atol=1e-4)
        export.main(export.Options(run_dir=str(out), export_dir=str(tmp_path / "export")))
        signature = tf.saved_model.load(str(tmp_path / "export/1")).signatures["predict_images"]
        answer = signature(images=tf.constant(images))["probabilities"]
        np.testing.assert_allclose(answer, predictor.classify(images), atol=1e-5)

    def test_damaged_folds_are_explained(self, tmp_path):
        for text in ("{}", "[]", '{"folds": []}', "{"):
            (tmp_path / "folds.json").write_text(text)
            with pytest.raises(UserError, match=r"folds\.json .*: run tfpipe\.train there again"):
                loaded_run.load(tmp_path)


class TestMistakes:
    @pytest.fixture
    def folder(self, pair, tmp_path):
        shutil.copytree(pair, tmp_path / "runs", ignore=lambda *_: {"last", "tensorboard"})
        return tmp_path / "runs"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"runs": "a"}, "name two or more"),
            ({"runs": "a,a"}, "each once"),
            ({"runs": "a,../runs/a"}, "each once"),
            ({"runs": "a,none"}, r"none does not exist"),
            ({"method": "mode"}, r"unknown method of combining 'mode'.*mean"),
            ({"l2": 0.0}, r"--l2=0.0: give a number above 0"),
        ],
    )
    def test_wrong_options(self, folder, changes, message):
        with pytest.raises(UserError, match=message):
            make(folder, out="new", **changes)
        assert not (folder / "new").exists()

    def test_other_images(self, folder):
        path = folder / "b" / "predictions.csv"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join([*lines[:-3], lines[-1].replace(".jpg", "x.jpg")]))
        with pytest.raises(UserError, match="3 names are only in the first, 1 only in the second"):
            make(folder, out="new")

    def test_too_few_images(self, folder):
        for name in "ab":
            path = folder / name / "predictions.csv"
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:8]))
        with pytest.raises(UserError, match="has 7 images: an ensemble needs at least 10"):
            make(folder, out="new")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda lines: [],
            lambda lines: ["name,label"],
            lambda lines: ["a,b", "c"],
            lambda lines: [lines[0], lines[1].rsplit(",", 1)[0] + ",nan"],
            lambda lines: [lines[0], re.sub(",[01],", ",-1,", lines[1])],
            lambda lines: [lines[0], re.sub(",[01],", ",2,", lines[1])],
            None,
        ],
        ids=["empty", "no rows", "short", "nan", "negative", "no class", "missing"],
    )
    def test_damaged_or_missing_predictions(self, folder, damage):
        path = folder / "b" / "predictions.csv"
        lines = path.read_text().splitlines()
        path.unlink()
        if damage:
            path.write_text("\n".join(damage(lines)))
        with pytest.raises(UserError, match=r"b/predictions\.csv .* run tfpipe\.train there again"):
            make(folder, out="new")

    def test_other_classes(self, folder):
        for path in (folder / "b" / "config.json", folder / "b" / "predictions.csv"):
            path.write_text(path.read_text().replace("dog", "fox"))
        with pytest.raises(UserError, match=r"b has the classes cat, fox, but .*a cat, dog"):
            make(folder, out="new")

    def test_an_ensemble_is_no_member(self, folder):
        make(folder, out="new")
        with pytest.raises(UserError, match=r"new is an ensemble: name its members instead"):
            make(folder, runs="a,new", out="newer")

    def test_weights_that_changed(self, folder):
        make(folder, out="new")
        run = runs.load(str(folder / "b"))
        model = run.restore_classifier().model
        model.set_weights([weight + 0.01 for weight in model.get_weights()])
        model.save_weights(run.best_weights)
        with pytest.raises(UserError, match=r"b has other weights or views .* .overwrite"):
            evaluate.main(evaluate.Options(run_dir=str(folder / "new")))
        with pytest.raises(UserError, match=r"b/predictions\.csv is missing or of other weights"):
            make(folder, out="newer")

    def test_members_move_with_the_ensemble_only(self, folder):
        make(folder, out="new")
        moved = pathlib.Path(shutil.move(folder, folder.with_name("moved")))
        assert loaded_run.load(moved / "new").classes == ("cat", "dog")
        (moved / "b").rename(moved / "gone")
        with pytest.raises(UserError, match=r"names the member .*b, which does not exist"):
            loaded_run.load(moved / "new")

    def test_a_damaged_description(self, folder):
        path = make(folder, out="new") / "ensemble.json"
        saved = json.loads(path.read_text())
        combinations = [
            {"method": "mode", "weights": [], "bias": []},
            {"method": "mean", "weights": [1.0, 2.0], "bias": []},
            {"method": "blend", "weights": [1.0], "bias": []},
            {"method": "blend", "weights": ["x", "y"], "bias": []},
            {"method": "stack", "weights": [1.0, 1.0], "bias": [0.0]},
        ]
        changes = [{"combination": each} for each in combinations]
        changes += [{"members": []}, {"members": [{"weights_sha256": "0"}]}, {"classes": None}]
        for change in changes:
            path.write_text(json.dumps(saved | change))
            with pytest.raises(UserError, match=r"ensemble\.json is not an ensemble"):
                loaded_run.load(folder / "new")
