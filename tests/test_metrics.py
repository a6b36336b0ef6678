"""Measures, their intervals and curves, against scikit-learn and formulas."""

import json
import math

import numpy as np
import pytest
import sklearn.metrics

from tfpipe.evaluation import bootstrap, diagrams
from tfpipe.evaluation.metrics import LabeledPredictions, log_loss, metrics, names
from tfpipe.evaluation.summary import summary


def drawn(classes, n=300, digits=None, seed=0):
    """Probabilities and labels that know something of each other; rounded, many are equal."""
    rng = np.random.default_rng([classes, seed])
    labels = rng.integers(0, classes, n)
    scores = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    if digits is not None:
        probabilities = np.round(probabilities, digits)
    return probabilities, labels


def calibration_error(labels, p):
    """The definition, bar by bar."""
    score, right = (p[:, 1], labels == 1) if p.shape[1] == 2 else (p.max(1), p.argmax(1) == labels)
    error = 0.0
    for tenth in range(10):
        tenths = np.floor(np.round(10 * score, 9))
        inside = (tenths == tenth) | ((tenth == 9) & (tenths == 10))
        if inside.any():
            error += inside.mean() * abs(score[inside].mean() - right[inside].mean())
    return error


def top_k(labels, p, k):
    """scikit-learn ranks equal classes in the other order, so no two are equal here."""
    told_apart = p - 1e-9 * np.arange(p.shape[1])
    return sklearn.metrics.top_k_accuracy_score(labels, told_apart, k=k)


# What each measure is by other code; `of` is P(second class) of two classes.
def one_vs_rest(function):
    def reference(labels, p):
        if p.shape[1] == 2:
            return function(labels, p[:, 1])
        return np.mean([function(labels == c, p[:, c]) for c in range(p.shape[1])])

    return reference


REFERENCES = {
    "log_loss": lambda y, p: -np.log(p[np.arange(len(y)), y]).mean(),
    "accuracy": lambda y, p: sklearn.metrics.accuracy_score(y, p.argmax(1)),
    "balanced_accuracy": lambda y, p: sklearn.metrics.balanced_accuracy_score(y, p.argmax(1)),
    "f1_macro": lambda y, p: sklearn.metrics.f1_score(y, p.argmax(1), average="macro"),
    "brier": lambda y, p: (
        sklearn.metrics.brier_score_loss(y, p[:, 1])
        if p.shape[1] == 2
        else np.mean(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1))
    ),
    "calibration_error": calibration_error,
    "roc_auc": one_vs_rest(sklearn.metrics.roc_auc_score),
    "average_precision": one_vs_rest(sklearn.metrics.average_precision_score),
    "cohen_kappa": lambda y, p: sklearn.metrics.cohen_kappa_score(y, p.argmax(1)),
    "top_3_accuracy": lambda y, p: top_k(y, p, 3),
    "top_5_accuracy": lambda y, p: top_k(y, p, 5),
}


def each_with(*classes):
    """Every metric with each number of classes that it is for."""
    return [(name, count) for count in classes for name in names(count)]


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize(("name", "classes"), each_with(2, 4, 7))
def test_every_measure_agrees_with_a_reference(name, classes, digits):
    probabilities, labels = drawn(classes, digits=digits)
    if name == "log_loss":
        probabilities = probabilities.clip(1e-6, 1 - 1e-6)
    expected = REFERENCES[name](labels, probabilities)
    found = metrics[name].value(LabeledPredictions(probabilities, labels))
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("name", "classes"), each_with(2, 3, 6))
def test_a_weight_is_that_many_images(name, classes):
    answers = LabeledPredictions(*drawn(classes, n=60, digits=1))
    weights = np.random.default_rng(1).integers(0, 4, (5, 60))
    found = metrics[name].of(answers)(weights.astype(np.float64))
    again = [metrics[name].value(answers[np.repeat(np.arange(60), row)]) for row in weights]
    np.testing.assert_allclose(found, again, rtol=1e-12)


@pytest.mark.parametrize(("name", "classes"), each_with(3, 6))
def test_better_probabilities_measure_better(name, classes):
    probabilities, labels = drawn(classes)
    guesses = np.random.default_rng(5).dirichlet(np.ones(classes), 300)
    best, own, worst = (
        metrics[name].value(LabeledPredictions(each, labels))
        for each in (np.eye(classes)[labels], probabilities, guesses)
    )
    assert (best > own > worst) if metrics[name].higher_is_better else (best < own < worst)
    assert best == pytest.approx(1.0 if metrics[name].higher_is_better else 0.0, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 4, 7])
def test_the_summary_agrees_with_scikit_learn(classes):
    probabilities, labels = drawn(classes)
    chosen = probabilities.argmax(1)
    found = summary(probabilities.astype(np.float32), labels, tuple("abcdefg"[:classes]), rounds=50)
    reference = sklearn.metrics.precision_recall_fscore_support(labels, chosen)
    for key, values in zip(("precision", "recall", "f1", "support"), reference, strict=True):
        assert list(found[key].values()) == pytest.approx(values.tolist())
    assert found["confusion"] == sklearn.metrics.confusion_matrix(labels, chosen).tolist()
    assert (found["n"], found["reasons"]) == (300, {})
    assert set(found["intervals"]) == set(names(classes)) <= set(found)
    assert ("top_3_accuracy" in found, "top_5_accuracy" in found) == (classes > 3, classes > 5)
    for name in names(classes):
        low, high = found["intervals"][name]
        assert low < high


def test_a_certain_mistake_costs_a_finite_loss():
    probabilities = np.array([[1.0, 0.0]], np.float32)
    assert log_loss(probabilities, np.array([1])) == pytest.approx(-math.log(1e-7))
    assert log_loss(probabilities, np.array([0])) == pytest.approx(0, abs=1e-6)


def test_before_calibration_the_loss_has_an_interval_too():
    probabilities, labels = drawn(2)
    raw = (probabilities + 0.5) / 2
    found = summary(probabilities, labels, ("a", "b"), rounds=20, before={"log_loss_raw": raw})
    assert found["log_loss_raw"] == pytest.approx(log_loss(raw, labels))
    low, high = found["intervals"]["log_loss_raw"]
    assert low < found["log_loss_raw"] < high


def test_intervals_are_those_of_the_normal_distribution_for_many_images():
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, 2000)
    right = draws.uniform(size=2000) < 0.9
    sure = np.where(right, 0.8, 0.2)
    probabilities = np.where(np.arange(2) == labels[:, None], sure[:, None], 1 - sure[:, None])
    share = right.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 2000)
    found = summary(probabilities, labels, ("a", "b"))["intervals"]
    np.testing.assert_allclose(found["accuracy"], [share - half, share + half], atol=2e-3)
    # Of two values, so that the loss is linear in the share.
    loss = [-np.log(0.2) + bound * np.log(0.2 / 0.8) for bound in (share + half, share - half)]
    np.testing.assert_allclose(found["log_loss"], loss, atol=3e-3)


def test_the_interval_of_an_auc_is_that_of_hanley_and_mcneil():
    """Their standard error (1982, equation 1), for scores of which the exact Q1 and Q2 are used."""
    probabilities, labels = drawn(2, n=600)
    positive, negative = probabilities[labels == 1, 1], probabilities[labels == 0, 1]
    above = positive[:, None] > negative
    auc, m, n = above.mean(), len(positive), len(negative)
    q1, q2 = (above.mean(axis=0) ** 2).mean(), (above.mean(axis=1) ** 2).mean()
    variance = auc * (1 - auc) + (m - 1) * (q2 - auc**2) + (n - 1) * (q1 - auc**2)
    error = math.sqrt(variance / (m * n))
    low, high = summary(probabilities, labels, ("a", "b"))["intervals"]["roc_auc"]
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)


@pytest.mark.parametrize(
    ("probabilities", "labels", "classes", "missing"),
    [
        (np.empty((0, 2)), [], "ab", {"log_loss", "roc_auc", "recall.a", "intervals.accuracy"}),
        (np.array([[0.9, 0.1]]), [0], "ab", {"roc_auc", "average_precision", "recall.b", "f1.b"}),
        (np.array([[0.1, 0.9]] * 20), [0] * 20, "ab", {"precision.b", "intervals.roc_auc"}),
        (np.array([[0.2, 0.8]] * 20), [1] * 20, "ab", {"roc_auc", "recall.a", "precision.a"}),
        (np.array([[0.2, 0.5, 0.3]] * 20), [0, 1] * 10, "abc", {"recall.c", "precision.a"}),
        # One image of a class, which is not in a third of the samples that are drawn.
        (np.array([[0.6, 0.4]] * 20), [1] + [0] * 19, "ab", {"precision.b"}),
    ],
)
def test_what_is_undefined_is_null_with_a_reason(probabilities, labels, classes, missing):
    found = summary(probabilities, np.array(labels, int), tuple(classes))
    json.dumps(found, allow_nan=False)
    assert missing <= set(found["reasons"])
    nulls = {name for name, value in found.items() if value is None}
    by_name = "intervals recall precision f1 recall_intervals precision_intervals"
    for key in by_name.split():
        nulls |= {f"{key}.{name}" for name, value in found[key].items() if value is None}
    assert nulls == set(found["reasons"])
    assert all(reason and reason == reason.strip() for reason in found["reasons"].values())


def test_resampling_draws_each_image_as_often_as_the_others():
    drawn_weights = np.concatenate(list(bootstrap.weights(50, 2000)))
    assert drawn_weights.shape == (2000, 50)
    assert (drawn_weights.sum(axis=1) == 50).all()
    np.testing.assert_allclose(drawn_weights.mean(axis=0), 1, atol=5 / math.sqrt(2000))
    np.testing.assert_allclose(drawn_weights.var(), 1 - 1 / 50, rtol=0.02)


@pytest.mark.parametrize("classes", [2, 3])
def test_reliability_adds_up_to_the_calibration_error(classes):
    probabilities, labels = drawn(classes)
    right, counts, confidence = diagrams.reliability(probabilities, labels)
    of_bins = diagrams.histogram(probabilities, labels, 10)[1].sum(axis=0)
    assert counts.tolist() == of_bins[of_bins > 0].tolist()
    error = (counts * np.abs(confidence - right / counts)).sum() / 300
    assert error == pytest.approx(calibration_error(labels, probabilities))


def test_the_histogram_parts_the_classes():
    probabilities = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
    edges, counts = diagrams.histogram(probabilities, np.array([0, 1, 1, 0]), 2)
    assert edges.tolist() == [0, 0.5, 1]
    assert counts.tolist() == [[1, 1], [0, 2]]


def test_the_log_loss_comes_first():
    assert names()[0] == "log_loss"
    assert sorted(names()) == list(metrics)
