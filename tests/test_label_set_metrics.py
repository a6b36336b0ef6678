"""Metrics, thresholds, losses and calibration of images with several classes: scikit-learn's."""

import json
import pathlib

import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import tensorflow as tf
from json_schema import ANNOTATIONS, CHECKED, violations, words

from tests.refusals import refused
from tfpipe import evaluation
from tfpipe.core.errors import UserError
from tfpipe.evaluation import compare, label_sets, result_tables, threshold
from tfpipe.evaluation.label_sets import SetPredictions, set_metrics
from tfpipe.evaluation.metrics import names
from tfpipe.evaluation.slices import slices
from tfpipe.evaluation.summary import summary
from tfpipe.model import classifier
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOIDS
from tfpipe.records.label_encoding import LabelEncoding
from tfpipe.runs import calibration_fit, predictions_file
from tfpipe.training import losses, monitor
from tfpipe.training.train_config import TrainConfig

SCHEMA = json.loads(
    pathlib.Path(evaluation.__file__)
    .with_name("metrics.many.schema.json")
    .read_text(encoding="utf-8")
)
CLASSES = ("a", "b", "c", "d")
THRESHOLDS = (0.3, 0.5, 0.6, 0.4)


def drawn(n=300, seed=0, classes=4, spread=1.5):
    """Logits [n, C] and labels [n, C] that they tell something about."""
    random = np.random.default_rng(seed)
    labels = random.random((n, classes)) < np.linspace(0.15, 0.6, classes)
    logits = random.normal(0, spread, (n, classes)) + 2.0 * labels - 1.2
    return np.round(logits, 1).astype(np.float32), labels.astype(np.float32)


def probabilities(logits):
    return scipy.special.expit(logits).astype(np.float32)


def answered(p):
    return (p >= np.array(THRESHOLDS)).astype(int)


def mean_over_classes(function, labels, p):
    return np.mean([function(*column) for column in zip(labels.T, p.T, strict=True)])


# Of labels [n, C] and probabilities [n, C].
REFERENCES = {
    "log_loss": lambda y, p: mean_over_classes(sklearn.metrics.log_loss, y, p),
    "subset_accuracy": lambda y, p: sklearn.metrics.accuracy_score(y, answered(p)),
    "hamming_loss": lambda y, p: sklearn.metrics.hamming_loss(y, answered(p)),
    "f1_micro": lambda y, p: sklearn.metrics.f1_score(y, answered(p), average="micro"),
    "f1_macro": lambda y, p: sklearn.metrics.f1_score(y, answered(p), average="macro"),
    "brier": lambda y, p: mean_over_classes(sklearn.metrics.brier_score_loss, y, p),
    "roc_auc": lambda y, p: sklearn.metrics.roc_auc_score(y, p, average="macro"),
    "mean_average_precision": lambda y, p: sklearn.metrics.average_precision_score(y, p),
}


@pytest.mark.parametrize("name", list(set_metrics))
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_is_that_of_scikit_learn(name, seed):
    logits, labels = drawn(seed=seed)
    p = probabilities(logits)
    predictions = SetPredictions(p, labels, THRESHOLDS)
    expected = REFERENCES[name](labels.astype(int), p.astype(np.float64))
    assert set_metrics[name].value(predictions) == pytest.approx(expected, abs=1e-7)
    # A weight of 3 counts an image three times.
    weights = np.random.default_rng(seed).integers(0, 3, len(labels))
    repeated = np.repeat(np.arange(len(labels)), weights)
    expected = REFERENCES[name](labels[repeated].astype(int), p[repeated].astype(np.float64))
    found = set_metrics[name].of(predictions)(weights[np.newaxis].astype(np.float64))
    assert found[0] == pytest.approx(expected, abs=1e-7)


def test_the_summary_is_valid_and_by_class_that_of_scikit_learn():
    logits, labels = drawn()
    p = probabilities(logits)
    before = {"log_loss_raw": p}
    found = summary(p, labels, CLASSES, rounds=100, before=before, thresholds=THRESHOLDS)
    precision, recall, f1, support = sklearn.metrics.precision_recall_fscore_support(
        labels.astype(int), answered(p)
    )
    for key, expected in (("precision", precision), ("recall", recall), ("f1", f1)):
        assert list(found[key].values()) == pytest.approx(expected.tolist())
    assert list(found["support"].values()) == support.tolist()
    areas = sklearn.metrics.roc_auc_score(labels, p, average=None)
    assert list(found["roc_auc_by_class"].values()) == pytest.approx(areas.tolist())
    precisions = sklearn.metrics.average_precision_score(labels, p, average=None)
    assert list(found["average_precision_by_class"].values()) == pytest.approx(precisions.tolist())
    assert found["thresholds"] == dict(zip(CLASSES, THRESHOLDS, strict=True))
    assert "confusion" not in found
    for name in names(registry=set_metrics):
        low, high = found["intervals"][name]
        assert low <= found[name] <= high
    described = {
        "schema_version": 1,
        "tfpipe_version": "1",
        "run_dir": "r",
        "tta": "",
        "rounds": 100,
        "records": "r",
        "split": "val",
        "slices": None,
    }
    described = json.loads(json.dumps(described | found))
    assert list(violations(described, SCHEMA)) == []
    assert set(words(SCHEMA)) <= CHECKED | ANNOTATIONS
    for key in SCHEMA["required"]:
        without = {k: v for k, v in described.items() if k != key}
        assert list(violations(without, SCHEMA)), key
    shown = result_tables.of_classes(found, most=20)
    assert len(shown.rows) == len(CLASSES)
    assert len(set(map(len, [shown.columns, *shown.rows]))) == 1
    assert not result_tables.of_mistakes(found).rows


def test_a_class_without_images_has_no_metrics_and_a_reason():
    logits, labels = drawn()
    labels[:, 2] = 0
    found = summary(probabilities(logits), labels, CLASSES, rounds=0)
    for key in ("recall", "f1", "roc_auc_by_class"):
        assert found[key]["c"] is None
        assert found["reasons"][f"{key}.c"]
    others = [0, 1, 3]
    expected = sklearn.metrics.roc_auc_score(labels[:, others], probabilities(logits)[:, others])
    assert found["roc_auc"] == pytest.approx(expected)
    assert any("'c'" in line or " c " in line for line in found["warnings"])


def test_slices_and_the_paired_comparison():
    logits, labels = drawn(400)
    random = np.random.default_rng(1)
    better = SetPredictions(probabilities(logits + 1.5 * labels), labels)
    worse = SetPredictions(probabilities(logits), labels)
    compared = compare.compare(better, worse, rounds=200)
    assert set(compared["measures"]) == set(set_metrics)
    loss = compared["measures"]["log_loss"]
    assert loss["difference"] < 0
    assert loss["p_value"] < 0.02
    assert compare.compare(worse, worse, rounds=100)["measures"]["log_loss"]["difference"] == 0
    parts = slices(
        worse,
        {
            "name": np.array([f"{i % 2}/x" for i in range(400)]),
            "height": random.integers(20, 90, 400),
            "width": random.integers(20, 90, 400),
            "brightness": random.random(400),
        },
        rounds=100,
    )
    assert {p["by"] for p in parts} == {"size", "aspect", "brightness", "source"}
    assert all(set(set_metrics) <= set(part) for part in parts)
    assert result_tables.of_slices(parts).rows


def test_thresholds_have_the_best_f1_of_each_class():
    logits, labels = drawn(120)
    labels[:, 3] = 0
    p = probabilities(logits)
    found = threshold.of_classes(p, labels)
    assert found[3] == 0.5
    for c in range(3):

        def score(value, c=c):
            return sklearn.metrics.f1_score(labels[:, c], p[:, c] >= value)

        best = max(score(value) for value in np.unique(p[:, c]))
        assert score(found[c]) == pytest.approx(best)
    # Float32 and float64 answer alike.
    for c, value in enumerate(found):
        assert ((p[:, c] >= np.float32(value)) == (p[:, c].astype(float) >= value)).all()


def test_one_temperature_for_all_classes_has_the_least_loss():
    logits, labels = drawn(500, spread=1.0)
    logits = 3 * logits
    method = calibration_fit.Method("temperature")
    found = calibration_fit.fit(logits, labels, SIGMOIDS, method)

    def loss(scale):
        p = scipy.special.expit(logits.astype(np.float64) * scale)
        return -np.log(np.where(labels == 1, p, 1 - p)).mean()

    scales = np.geomspace(0.05, 2, 400)
    best = scales[np.argmin([loss(scale) for scale in scales])]
    assert found.scale == pytest.approx(best, rel=0.05)
    assert found.scale < 0.8
    expected = scipy.special.expit(logits * found.scale)
    np.testing.assert_allclose(found.apply(logits, SIGMOIDS), expected, atol=1e-6)
    fold = calibration_fit.folds(len(labels))
    crossed = calibration_fit.cross_fit(logits, labels, SIGMOIDS, method, fold)
    assert crossed.shape == labels.shape
    np.testing.assert_allclose(crossed, expected, atol=0.05)


@pytest.mark.parametrize("classes", [2, 4])
def test_bounds_clip_each_class_alone(classes):
    logits, labels = drawn(classes=classes)
    bounded = Calibration(clip_min=0.2, clip_max=0.7)
    expected = scipy.special.expit(logits).clip(0.2, 0.7)
    np.testing.assert_allclose(bounded.apply(logits, SIGMOIDS), expected, atol=1e-6)
    fitted = calibration_fit.fit(
        8 * logits, labels, SIGMOIDS, calibration_fit.Method("temperature", bounds=True)
    )
    assert 0 < fitted.clip_min < fitted.clip_max < 1


def plain():
    """A classifier of one pixel with several sigmoids, only for its losses."""
    branches = [classifier.BackboneConfig("small_cnn", 32, "none")]
    return classifier.build(branches, 4, pooling="avg", head="", output=SIGMOIDS)


def test_losses_are_means_of_binary_losses():
    logits, labels = drawn(50)
    built, shares = plain(), dict.fromkeys(CLASSES, 0.25)
    entropy = tf.keras.losses.BinaryCrossentropy(from_logits=True, reduction="none")
    z, y = tf.constant(logits), tf.constant(labels)

    def loss(**options):
        config = TrainConfig(records="r", run_dir="d", **options)
        return losses.build(config, shares, many=True)(built, y, z).numpy()

    np.testing.assert_allclose(built.losses(y, z), entropy(y, z), atol=1e-5)
    np.testing.assert_allclose(loss(), entropy(y, z), atol=1e-5)
    smooth = entropy(y * 0.8 + 0.1, z)
    np.testing.assert_allclose(loss(label_smoothing=0.2), smooth, atol=1e-5)
    focal = tf.keras.losses.BinaryFocalCrossentropy(gamma=2.0, from_logits=True, reduction="none")
    np.testing.assert_allclose(loss(loss="focal"), focal(y, z), atol=1e-5)
    p = scipy.special.expit(logits.astype(np.float64))
    terms = -np.log(np.where(labels == 1, p, 1 - p)) * [1, 3, 1, 1]
    np.testing.assert_allclose(loss(class_weights="b=3"), terms.mean(1), atol=1e-5)
    with pytest.raises(UserError, match="balanced"):
        loss(class_weights="balanced")


def test_outputs_and_monitors_fit_the_labels():
    many, one = LabelEncoding(4, many=True), LabelEncoding(4)
    for given in ("auto", "sigmoid"):
        assert classifier.choose_output(given, 4, many=True) == SIGMOIDS
    with pytest.raises(UserError, match=r"softmax.*several classes"):
        classifier.choose_output("softmax", 4, many=True)
    for name, encoding in (("hamming_loss", one), ("accuracy", many)):
        config = TrainConfig(records="r", run_dir="d", monitor=name)
        with pytest.raises(UserError, match=name):
            monitor.build(config, encoding)
    logits, labels = drawn()
    chosen = monitor.build(TrainConfig(records="r", run_dir="d", monitor="f1_macro"), many)
    expected = sklearn.metrics.f1_score(labels, probabilities(logits) >= 0.5, average="macro")
    assert chosen.of(0.0, probabilities(logits), labels) == pytest.approx(expected)


def test_predictions_survive_their_file(tmp_path):
    logits, labels = drawn(20)
    labels[3] = 0
    given = {"label": labels, "probabilities": probabilities(logits), "logits": logits}
    given["name"] = np.array([f"{i}|.jpg" for i in range(20)])
    predictions_file.write(tmp_path / "p.csv", CLASSES, given)
    found = predictions_file.read(tmp_path / "p.csv")
    for key, value in given.items():
        np.testing.assert_array_equal(found[key], value)
    text = (tmp_path / "p.csv").read_text()
    (tmp_path / "p.csv").write_text(text.replace("\n0|.jpg,", "\n0|.jpg,7|", 1))
    with pytest.raises(UserError, match="damaged"):
        predictions_file.read(tmp_path / "p.csv")


def test_labels_become_vectors_alike_on_the_host_and_in_the_graph():
    from tfpipe.records import example

    encoding = LabelEncoding(5, many=True)
    for labels in ((), (3,), (0, 2, 4)):
        text = "\x1f".join("abcde"[i] for i in labels) or "\x1f"
        record = example.serialize(
            b"x",
            format="png",
            height=1,
            width=1,
            label=labels,
            text=text,
            filename="f",
            sha256="0",
        )
        read = example.deserialize(record)
        assert (read.labels, read.text) == (labels, text)
        expected = np.isin(np.arange(5), labels).astype(np.float32)
        np.testing.assert_array_equal(encoding.encode([read])[0], expected)
        host = encoding.encode([example.deserialize_image(record)])[0]
        graph = encoding.parsed(example.parse(tf.constant(record), many=True))
        np.testing.assert_array_equal(host, expected)
        np.testing.assert_array_equal(graph, expected)


def test_registries_go_by_the_labels():
    assert label_sets.registry("many") is set_metrics
    assert "accuracy" in label_sets.registry("one")


def test_predictions_of_other_kinds_of_labels_are_not_compared():
    name = np.array(["x", "y", "z"])
    one = {"name": name, "label": np.array([0, 1, 0])}
    many = {"name": name, "label": np.eye(3, 4, dtype=np.float32)}
    for first, second in ((one, many), (many, one)):
        with refused("different labels, as of x"):
            compare.order("first", first, "second", second)
