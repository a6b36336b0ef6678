"""Calibration against formulas, brute force and draws from known distributions."""

import csv
import dataclasses
import json
import os
import shutil

import hypothesis
import hypothesis.extra.numpy
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from conftest import TINY

from tfpipe import train
from tfpipe.core.errors import UserError
from tfpipe.model import classifier
from tfpipe.model.calibration import Calibration
from tfpipe.runs import calibration_fit, run_calibration
from tfpipe.runs.calibration_fit import Method
from tfpipe.training import run_folder as runs
from tfpipe.training.train_config import TrainConfig

SIGMOID, SOFTMAX = "sigmoid", "softmax"
BOUNDED = Method("auto", bounds=True)


def draw(count, seed, *, temperature=1.0, shift=0.0, distance=3.0):
    """Returns logits [n, 1] and labels; the true log odds are those of two normals, then spoiled.

    For normals of one deviation `distance`, means apart by its square, x itself is the log odds.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count)
    odds = (2 * labels - 1) * distance**2 / 2 + rng.normal(0, distance, count)
    return ((odds - shift) * temperature)[:, None].astype(np.float32), labels


def draw_many(count, seed, *, classes=4, temperature=1.0):
    """Returns logits [n, C] and labels, drawn from them before `temperature`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, classes))
    uniform = rng.gumbel(size=logits.shape)  # the largest of logit + Gumbel is a draw
    return (logits * temperature).astype(np.float32), (logits + uniform).argmax(1)


def log_loss(found, logits, labels, output):
    given = found.apply(tf.constant(logits), output).numpy()[np.arange(len(labels)), labels]
    return -np.log(given.astype(np.float64).clip(1e-12)).mean()


class TestApply:
    logits = np.array([[-30.0], [-2.0], [0.0], [0.5], [30.0]], np.float32)
    several = np.random.default_rng(0).normal(0, 5, (6, 3)).astype(np.float32)

    @pytest.mark.parametrize("output", [SIGMOID, SOFTMAX])
    def test_none_is_the_classifier_bit_for_bit(self, output):
        logits = self.logits if output == SIGMOID else self.several
        built = classifier.Classifier(None, None, (), None, output, 0)
        expected = built.probabilities(tf.constant(logits)).numpy()
        found = Calibration().apply(tf.constant(logits), output).numpy()
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, expected)

    def test_temperature(self):
        found = Calibration("temperature", scale=1 / 2.5).apply(self.several, SOFTMAX)
        expected = scipy.special.softmax(self.several.astype(np.float64) / 2.5, axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_platt_of_either_output(self):
        found = Calibration("platt", 0.5, -1.0)
        second = scipy.special.expit(0.5 * self.logits[:, 0].astype(np.float64) - 1)
        expected = np.stack([1 - second, second], 1)
        np.testing.assert_allclose(found.apply(self.logits, SIGMOID), expected, rtol=1e-5)
        pair = np.concatenate([self.logits * 0 + 3, self.logits + 3], axis=1)
        np.testing.assert_allclose(found.apply(pair, SOFTMAX), expected, rtol=1e-4)
        with pytest.raises(ValueError, match="two classes"):
            found.apply(self.several, SOFTMAX)

    def test_bounds_of_two_classes(self):
        found = Calibration(clip_min=0.01, clip_max=0.95).apply(self.logits, SIGMOID).numpy()
        second = scipy.special.expit(self.logits[:, 0].astype(np.float64)).clip(0.01, 0.95)
        np.testing.assert_allclose(found, np.stack([1 - second, second], 1), rtol=1e-5)

    def test_a_bound_of_more_classes(self):
        found = Calibration(clip_min=0.1).apply(self.several, SOFTMAX).numpy()
        raised = np.maximum(scipy.special.softmax(self.several.astype(np.float64), axis=1), 0.1)
        np.testing.assert_allclose(found, raised / raised.sum(1, keepdims=True), rtol=1e-5)

    @pytest.mark.parametrize(
        "changes",
        [
            {"method": "isotonic"},
            {"scale": 0.0},
            {"scale": float("nan")},
            {"shift": float("inf")},
            {"clip_min": -0.1},
            {"clip_min": 0.5, "clip_max": 0.5},
            {"clip_max": 1.1},
        ],
    )
    def test_what_is_no_calibration_is_refused(self, changes):
        with pytest.raises(ValueError, match=r"is none of|out of range|bounds"):
            Calibration(**changes)

    def test_survives_json(self):
        found = Calibration("platt", 1 / 3, -0.1, 1e-5, 0.999)
        text = json.dumps(found.to_json())
        assert Calibration.from_json(json.loads(text)) == found


class TestFit:
    @pytest.mark.parametrize("temperature", [0.5, 3.0])
    def test_finds_the_temperature(self, temperature):
        logits, labels = draw_many(20_000, 1, temperature=temperature)
        found = calibration_fit.fit(logits, labels, SOFTMAX, Method("temperature"))
        assert found.method == "temperature"
        assert 1 / found.scale == pytest.approx(temperature, rel=0.04)

    def test_finds_scale_and_shift_of_either_output(self):
        logits, labels = draw(20_000, 2, temperature=2.0, shift=1.0)
        pair = np.concatenate([logits * 0 + 7, logits + 7], axis=1)
        for given, output in ((logits, SIGMOID), (pair, SOFTMAX)):
            found = calibration_fit.fit(given, labels, output, Method("platt"))
            assert 1 / found.scale == pytest.approx(2, rel=0.05)
            assert found.shift == pytest.approx(1, abs=0.1)

    def test_the_temperature_is_the_most_probable_under_its_prior(self):
        """By a grid: the likelihood of all images and a normal prior of the logarithm."""
        logits, labels = draw_many(40, 6, temperature=3.0)
        grid = np.linspace(-3, 3, 6001)
        likelihood = [
            scipy.special.log_softmax(logits * np.exp(a), 1)[np.arange(40), labels].sum()
            for a in grid
        ]
        best = grid[np.argmax(likelihood + scipy.stats.norm.logpdf(grid, scale=0.5))]
        found = calibration_fit.fit(logits, labels, SOFTMAX, Method("temperature"))
        assert np.log(found.scale) == pytest.approx(best, abs=2e-3)

    def test_a_few_images_that_are_all_right_change_little(self):
        labels = np.arange(40) % 2
        logits = np.float32(np.where(labels, 5.0, -5.0))[:, None]
        found = calibration_fit.fit(logits, labels, SIGMOID, Method("temperature"))
        assert 1 <= found.scale < 1.2

    def test_minimises_the_smoothed_loss_of_platt_and_lin(self):
        """By brute force over a grid around it, with targets as their papers print them."""
        logits, labels = draw(60, 3, temperature=2.0, shift=0.5)
        found = calibration_fit.fit(logits, labels, SIGMOID, Method("platt"))
        positives = labels.sum()
        negatives = len(labels) - positives
        targets = np.where(labels, (positives + 1) / (positives + 2), 1 / (negatives + 2))

        def loss(scale, shift):
            p = scipy.special.expit(scale * logits[:, 0].astype(np.float64) + shift)
            return -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).sum()

        best = min(
            loss(found.scale + a, found.shift + b)
            for a in np.linspace(-0.1, 0.1, 21)
            for b in np.linspace(-0.5, 0.5, 21)
        )
        assert loss(found.scale, found.shift) == pytest.approx(best, abs=1e-6)

    @pytest.mark.parametrize(
        ("sample", "output", "methods"),
        [
            (draw(4000, 4), SIGMOID, ("none",)),
            (draw(4000, 4, temperature=2.0), SIGMOID, ("temperature", "platt")),
            (draw(4000, 4, shift=1.5), SIGMOID, ("platt",)),
            (draw_many(4000, 4, temperature=2.0), SOFTMAX, ("temperature",)),
        ],
    )
    def test_auto_takes_what_gains(self, sample, output, methods):
        found = calibration_fit.fit(*sample, output, Method("auto"))
        assert found.method in methods
        assert found == calibration_fit.fit(*sample, output, Method("auto"))  # the same folds

    def test_none_leaves_everything_as_it_is(self):
        assert (
            calibration_fit.fit(*draw(100, 5, temperature=9.0), SIGMOID, Method("none", True))
            == Calibration()
        )

    def test_platt_is_for_two_classes(self, tiny_config):
        with pytest.raises(ValueError, match="two classes"):
            calibration_fit.fit(*draw_many(50, 0), SOFTMAX, Method("platt"))
        with pytest.raises(UserError, match=r"calibration=platt. is for two classes.* have 3"):
            run_calibration.check(tiny_config(calibration="platt"), 3)

    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    @pytest.mark.parametrize("classes", [2, 4])
    def test_fresh_draws_lose_no_more_than_raw_ones(self, classes, temperature):
        """Within what 1,000 samples leave open: a parameter costs 1 / 2n nats, a bound 1e-3."""
        make, output = (draw, SIGMOID) if classes == 2 else (draw_many, SOFTMAX)
        fresh = make(50_000, 99, temperature=temperature)
        raw = log_loss(Calibration(), *fresh, output)
        for seed in range(5):
            found = calibration_fit.fit(*make(1000, seed, temperature=temperature), output, BOUNDED)
            assert log_loss(found.unclipped, *fresh, output) < raw + 2e-3
            assert log_loss(found, *fresh, output) < raw + 4e-3
            if temperature > 2:
                assert log_loss(found, *fresh, output) < raw - 0.05


def bounds_of(logits, labels, output):
    """Returns the calibration of logits that are not scaled."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration_fit, "choose", lambda *_: "none")
        return calibration_fit.fit(logits, labels, output, BOUNDED)


class TestBounds:
    """The formula, in Python's own floats, over the same grid."""

    @staticmethod
    def expected(probability, right):
        def loss(e):
            beyond = probability < e
            k, m = (beyond & right).sum(), beyond.sum()
            own = -((k + 0.5) * np.log(e) + (m - k + 0.5) * np.log(1 - e))
            kept = np.where(right, probability, 1 - probability)[~beyond]
            return own - np.log(kept[kept > 0]).sum()

        return min(np.geomspace(1e-5, 0.05, 75), key=loss)

    @pytest.mark.parametrize("seed", [0, 2, 4])
    def test_two_classes_against_brute_force(self, seed):
        logits, labels = draw(int(50 * 4**seed), seed, temperature=1.5, distance=3 + seed / 2)
        found = bounds_of(logits, labels, SIGMOID)
        second = scipy.special.expit(logits[:, 0].astype(np.float64))
        assert found.clip_min == pytest.approx(self.expected(second, labels == 1))
        assert 1 - found.clip_max == pytest.approx(self.expected(1 - second, labels == 0))

    def test_several_classes_against_brute_force(self):
        logits, labels = draw_many(500, 0, classes=3, temperature=3.0)
        found = bounds_of(logits, labels, SOFTMAX)
        raw = scipy.special.softmax(logits.astype(np.float64), axis=1)

        def loss(e):
            raised = np.maximum(raw, e)
            raised /= raised.sum(1, keepdims=True)
            given = raised[np.arange(len(labels)), labels]
            return -np.log(given).sum() - 0.5 * np.log(e) - 0.5 * np.log(1 - e)

        assert found.clip_min == pytest.approx(min(np.geomspace(1e-5, 0.05, 75), key=loss))
        assert found.clip_max == 1.0

    def test_certain_and_right_is_bounded_by_how_often(self):
        """Of m right answers the share of mistakes to be expected is (1/2) / (m + 1)."""
        for m in (30, 500, 20_000):
            labels = np.arange(2 * m) % 2
            found = calibration_fit.fit(200.0 * labels[:, None] - 100, labels, SIGMOID, BOUNDED)
            assert found.clip_min == pytest.approx(
                0.5 / (m + 1), rel=0.13
            )  # the grid's step is 12 %
            assert 1 - found.clip_max == pytest.approx(0.5 / (m + 1), rel=0.13)


LOGITS = st.floats(-(2.0**100), 2.0**100, width=32) | st.floats(-20, 20, width=32)


@st.composite
def samples(draw):
    classes = draw(st.integers(2, 4))
    output = draw(st.sampled_from([SIGMOID, SOFTMAX])) if classes == 2 else SOFTMAX
    units = 1 if output == SIGMOID else classes
    count = draw(st.integers(1, 30))
    logits = draw(hypothesis.extra.numpy.arrays(np.float32, (count, units), elements=LOGITS))
    labels = draw(
        hypothesis.extra.numpy.arrays(np.int64, count, elements=st.integers(0, classes - 1))
    )
    methods = ["none", "auto", "temperature"] + ["platt"] * (classes == 2)
    return logits, labels, output, Method(draw(st.sampled_from(methods)), draw(st.booleans()))


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(samples())
def test_nothing_makes_it_blow_up(sample):
    logits, labels, output, method = sample
    found = calibration_fit.fit(logits, labels, output, method)
    assert 0 <= found.clip_min < found.clip_max <= 1
    assert method.name in ("auto", found.method)
    assert method.bounds or found == found.unclipped
    probabilities = found.apply(tf.constant(logits), output).numpy()
    assert probabilities.dtype == np.float32
    assert np.isfinite(probabilities).all()
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)


class TestFinish:
    """What a training leaves, and what becomes of it when the run changes."""

    @pytest.fixture(scope="class")
    def trained(self, records, tmp_path_factory):
        changes = {"epochs": 1, "augment": "", "tta": "flip_lr,crop(0.9)", "calibration": "platt"}
        folder = tmp_path_factory.mktemp("finish") / "run"
        config = TrainConfig(records=str(records), run_dir=str(folder), **{**TINY, **changes})
        train.main(config)
        return config

    @pytest.fixture
    def finished(self, trained, tmp_path):
        """The options of a finished run, a copy of its own for each test."""
        shutil.copytree(trained.run_dir, tmp_path / "run")
        return dataclasses.replace(trained, run_dir=str(tmp_path / "run"))

    def test_a_training_leaves_its_calibration_and_predictions(self, finished):
        run = runs.load(finished.run_dir)
        saved = json.loads(run.calibration_file.read_text())
        assert saved["calibration"]["method"] == "platt"
        assert saved["n"] > 0
        predictor = run.restore()
        assert len(predictor.views) == 3
        assert predictor.calibration.to_json() == saved["calibration"]
        with open(run.predictions_file, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == "name label probability_cat probability_dog logit_dog".split()
        assert len(rows) == saved["n"]
        for row in rows:
            assert row["name"].startswith(["cat", "dog"][int(row["label"])])
        logits = np.array([[row["logit_dog"]] for row in rows], np.float32)
        found = predictor.calibration.apply(logits, predictor.output)
        np.testing.assert_allclose(
            found[:, 1], [float(row["probability_dog"]) for row in rows], rtol=1e-6
        )

    def test_it_is_kept_while_current_and_made_anew_otherwise(
        self, finished, tiny_config, capsys, monkeypatch
    ):
        run = runs.load(finished.run_dir)
        before = run.calibration_file.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(run_calibration, "calibrate_on", None)  # whoever calls it fails
            train.main(finished)
        assert run.calibration_file.read_bytes() == before
        changed = dataclasses.replace(
            finished, tta="", calibration="temperature", calibration_bounds=False
        )
        train.main(changed)
        assert runs.load(finished.run_dir).restore().calibration.method == "temperature"
        run.calibration_file.write_text("{")
        with pytest.raises(UserError, match=r"calibration\.json is not .* run tfpipe\.train"):
            run.restore()
        train.main(changed)
        assert runs.load(finished.run_dir).restore().calibration.method == "temperature"
        assert "not calibrated" not in capsys.readouterr().err
        train.main(dataclasses.replace(changed, calibration_bounds=True))
        bounded = runs.load(finished.run_dir).restore().calibration
        assert bounded.method == "temperature"
        assert 0 < bounded.clip_min < bounded.clip_max < 1
        assert "kept within" in capsys.readouterr().err

    def test_without_the_flag_the_probabilities_have_no_bounds(self):
        """Of 100 confident images half would lie on one."""
        config = TrainConfig(records="r", run_dir="d")
        assert (config.calibration, config.calibration_bounds) == ("temperature", False)
        labels = np.arange(100) % 2
        logits = np.float32(6 * labels - 3)[:, None] + np.random.default_rng(0).normal(
            size=(100, 1)
        )
        free = calibration_fit.fit(logits, labels, SIGMOID, Method(config.calibration))
        answers = free.apply(tf.constant(logits, tf.float32), SIGMOID).numpy()[:, 1]
        assert len(set(answers.tolist())) == 100

    def test_it_is_not_applied_to_other_weights(self, finished, capsys):
        run = runs.load(finished.run_dir)
        assert len(run.restore(tta="none").views) == 1
        assert len(run.restore(tta="rot90,rot90(2),rot90(3)").views) == 4
        saved = json.loads(run.calibration_file.read_text())
        for damage in ({"low": 2}, {"method": []}, {"scale": "x"}):
            text = json.dumps(saved | {"calibration": saved["calibration"] | damage})
            run.calibration_file.write_text(text)
            with pytest.raises(UserError, match=r"calibration\.json is not a run's calibration"):
                run.restore()
        run.calibration_file.write_text(json.dumps(saved))
        model = run.restore_classifier().model
        model.set_weights([weight + 0.01 for weight in model.get_weights()])
        model.save_weights(run.best_weights)
        capsys.readouterr()
        assert run.restore().calibration == Calibration()
        assert "probabilities are not calibrated: run tfpipe.train" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("changes", "message"),
        [({"tta": "flip"}, "unknown test-time view"), ({"tta": "crop(2)"}, r"crop\(2\)")],
    )
    def test_wrong_options_are_found_before_anything_is_written(
        self, tiny_config, changes, message
    ):
        config = tiny_config(**changes)
        with pytest.raises(UserError, match=message):
            train.main(config)
        assert not os.path.exists(config.run_dir)
