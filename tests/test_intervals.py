"""95 % intervals: against SciPy and formulas, at the edges, and how often they hold the truth."""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tfpipe.evaluation import bootstrap, class_balance, proportions
from tfpipe.evaluation.compare import compare, sentence
from tfpipe.evaluation.metrics import LabeledPredictions, metrics, names
from tfpipe.evaluation.summary import summary

Z = scipy.stats.norm.ppf(0.975)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 1), (125, 125), (7, 10), (306, 313)])
def test_a_proportion_has_the_interval_of_wilson(k, n):
    center, p = (k + Z**2 / 2) / (n + Z**2), k / n
    half = Z / (n + Z**2) * math.sqrt(n * p * (1 - p) + Z**2 / 4)
    assert proportions.wilson(k, n) == pytest.approx((center - half, center + half), abs=1e-12)


def test_125_right_of_125_are_not_certain():
    labels = np.arange(125) % 2
    found = summary(np.eye(2)[labels] * 0.8 + 0.1, labels, ("a", "b"))
    expected = scipy.stats.binomtest(125, 125).proportion_ci(method="wilson")
    assert found["intervals"]["accuracy"] == pytest.approx((expected.low, 1))
    low, high = found["intervals"]["balanced_accuracy"]
    assert (low, high) == (pytest.approx(expected.low, abs=0.02), 1)
    for name in ("f1_macro", "roc_auc", "average_precision", "log_loss"):
        assert found["intervals"][name] is None
        assert "same in every sample" in found["reasons"][f"intervals.{name}"]


def coverage(draw, truth, *, rounds=800, seed=0):
    """The share of intervals from `draw(rng)` that hold the truth."""
    rng = np.random.default_rng(seed)
    intervals = [draw(rng) for _ in range(rounds)]
    return np.mean([low <= truth <= high for low, high in intervals])


# Four standard deviations of 800 rounds around 0.95.
ABOUT_95 = pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 800))


@pytest.mark.parametrize(("p", "n"), [(0.5, 40), (0.9, 100), (0.97, 313)])
def test_proportions_are_covered(p, n):
    assert coverage(lambda rng: proportions.wilson(rng.binomial(n, p), n), p) == ABOUT_95


@pytest.mark.parametrize("recalls", [(0.98, 0.7), (0.9, 0.95, 0.6)])
def test_means_of_proportions_are_covered(recalls):
    totals = np.array([60, 15, 30][: len(recalls)])
    found = coverage(
        lambda rng: proportions.mean(rng.binomial(totals, recalls), totals), np.mean(recalls)
    )
    assert found == ABOUT_95


@pytest.mark.parametrize(
    "cells", [(0.9, 0.05, 0.02, 0.03), pytest.param((0.6, 0.15, 0.15, 0.1), marks=pytest.mark.slow)]
)
def test_paired_differences_are_covered_and_their_p_value_is_exact(cells):
    """Of images that both have right, only the first, only the second, and neither."""
    outcomes = np.array([(1, 1), (1, 0), (0, 1), (0, 0)], bool)

    def draw(rng):
        first, second = outcomes[rng.choice(4, 120, p=cells)].T
        interval, p_value = proportions.paired_difference(first, second)
        one, two = (first & ~second).sum(), (second & ~first).sum()
        tail = scipy.stats.binom.cdf(min(one, two), one + two, 0.5) if one + two else 1
        assert p_value == pytest.approx(min(1, 2 * tail))
        low, high = proportions.paired_difference(second, first)[0]
        assert (-high, -low) == pytest.approx(interval)
        assert interval[0] <= first.mean() - second.mean() <= interval[1]
        return interval

    found = coverage(draw, cells[1] - cells[2])
    assert found >= ABOUT_95.expected - ABOUT_95.abs


def test_the_bootstrap_covers_a_mean_loss():
    def draw(rng):
        values = rng.exponential(size=60)
        weights = next(bootstrap.weights(60, 200, int(rng.integers(2**31))))
        return bootstrap.interval(weights @ values / 60, values.mean())[0]

    assert coverage(draw, 1.0, rounds=400) == pytest.approx(0.93, abs=0.05)


@pytest.mark.parametrize("scale", [1, 2], ids=["calibrated", "overconfident"])
def test_calibration_errors_are_covered(scale):
    """Of scores whose log odds are `scale` times the true ones."""
    metric = metrics["calibration_error"]

    def drawn(rng, n):
        odds = rng.normal(0, 2.5, n)
        p = scipy.special.expit(scale * odds)
        labels = rng.uniform(size=n) < scipy.special.expit(odds)
        return LabeledPredictions(np.stack([1 - p, p], axis=1), labels)

    def draw(rng):
        found = drawn(rng, 200)
        samples = metric.of(found)(next(bootstrap.weights(200, 200, int(rng.integers(2**31)))))
        correct = functools.partial(metric.correct, found)
        return bootstrap.interval(samples, metric.value(found), correct)[0]

    truth = metric.value(drawn(np.random.default_rng(1), 400_000)) if scale > 1 else 0.0
    assert coverage(draw, truth, rounds=300) == pytest.approx(0.95, abs=0.06)


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    n=st.integers(0, 40),
    classes=st.integers(2, 5),
    digits=st.integers(0, 3),
    there=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_an_interval_holds_its_estimate(n, classes, digits, there, seed):
    """With any number of images of a class, 0 and 1 too, and with equal scores."""
    rng = np.random.default_rng([n, seed])
    labels = np.minimum(rng.integers(0, classes, n), there - 1)
    two = [
        LabeledPredictions(rng.dirichlet(np.ones(classes), n).round(digits), labels) for _ in "ab"
    ]
    found = summary(two[0].probabilities, labels, tuple("abcde"[:classes]), rounds=20)
    pairs = [(found[name], found["intervals"][name]) for name in names(classes)]
    for key in ("recall", "precision"):
        pairs += [(found[key][c], found[f"{key}_intervals"][c]) for c in found["classes"]]
    compared = compare(*two, rounds=20)["measures"].values()
    pairs += [(each["difference"], each["interval"]) for each in compared]
    for value, interval in pairs:
        assert interval is None or (interval[0] <= value + 1e-12 and value - 1e-12 <= interval[1])
        assert value is not None or interval is None


def test_a_single_image_of_a_class_gives_no_ranking_an_interval():
    labels = np.array([1] + [0] * 30)
    scores = np.linspace(0.8, 0.1, 31)
    found = summary(np.stack([1 - scores, scores], 1), labels, ("a", "b"))
    for name in ("roc_auc", "average_precision", "f1_macro"):
        assert found["reasons"][f"intervals.{name}"] == "needs two images of each class"
    low, high = found["intervals"]["balanced_accuracy"]
    assert high - low > 0.35  # half of what a single image leaves open
    assert found["recall_intervals"]["b"] == pytest.approx(proportions.wilson(1, 1))


def test_two_models_that_are_right_on_the_same_images_may_differ_on_others():
    labels = np.arange(125) % 2
    one, two = (LabeledPredictions(np.eye(2)[labels] * p + (1 - p) / 2, labels) for p in (0.5, 0.6))
    compared = compare(one, two, rounds=100)
    found = compared["measures"]["accuracy"]
    assert found["interval"] == pytest.approx((-0.0298, 0.0298), abs=1e-4)
    assert (found["difference"], found["p_value"]) == (0, 1)
    assert "cannot be told apart in accuracy" in sentence(compared, "a", "b", "accuracy")


class TestClassBalance:
    def test_missing_classes_are_named_and_counted(self):
        (line,) = class_balance.warnings({"cat": 60, "dog": 40, "fox": 0}, (0.5, 0.4, 0.1))
        assert line.startswith("no image of fox among these 100 (1 of 3 classes)")
        many = {f"c{n}": int(n > 30) for n in range(100)}
        (line,) = class_balance.warnings(many, None)
        assert "c0, c1, c2, c3, c4, and 26 more" in line

    @pytest.mark.parametrize(
        ("counts", "far"),
        [
            ((10, 90), "cat 10 of 100 (10.0%), in training 50.0%"),
            ((40, 60), ""),  # less than a factor of two
            ((1, 4), ""),  # may be chance
        ],
    )
    def test_other_shares_than_in_training(self, counts, far):
        support = dict(zip(("cat", "dog"), counts, strict=True))
        found = class_balance.warnings(support, (0.5, 0.5))
        assert len(found) == bool(far)
        assert far in "".join(found)
        assert class_balance.warnings(support, None) == []

    def test_draws_in_the_shares_of_training_are_not_warned_of(self):
        rng, shares = np.random.default_rng(0), np.full(50, 0.02)
        for _ in range(100):
            support = dict(enumerate(rng.multinomial(500, shares).tolist()))
            assert not any(
                "other shares" in each for each in class_balance.warnings(support, shares)
            )
