"""Images of none of the classes: the score, its limit, and where it is shown."""

import csv
import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from json_schema import violations
from pictures import save
from sklearn.covariance import LedoitWolf

from serving.classifications import PRINTERS
from tests.refusals import refused
from tfpipe import evaluate, export, predict
from tfpipe.evaluation import unfamiliar
from tfpipe.protocol.classification import classifications
from tfpipe.runs import familiarity_fit, loaded_run

pytestmark = pytest.mark.timeout(240)  # may include the training and the export of fixtures

RNG = np.random.default_rng(7)


def draw(classes, count, features):
    """Draws correlated features around a mean for each class; and their labels."""
    mixing = np.random.default_rng(1).normal(size=(features, features)) / features**0.5
    means = 3 * np.random.default_rng(2).normal(size=(classes, features))
    labels = RNG.integers(0, classes, count)
    return np.float32(means[labels] + RNG.normal(size=(count, features)) @ mixing), labels


def test_the_distance_is_scikit_learns():
    features, _ = draw(1, 60, 8)
    fitted = familiarity_fit.fit(features, np.zeros(60, int), 0.1)
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    new = np.float32(RNG.normal(size=(5, 8)))
    unit = new / np.linalg.norm(new, axis=1, keepdims=True)
    expected = LedoitWolf().fit(rows).mahalanobis(unit) ** 0.5
    np.testing.assert_allclose(fitted.distances(new), expected, rtol=1e-4)
    np.testing.assert_allclose(fitted.unfamiliar(new), expected / fitted.limit, rtol=1e-4)


def test_the_nearest_class_counts():
    features, labels = draw(3, 300, 8)
    fitted = familiarity_fit.fit(features, labels, 0.05)
    alone = [familiarity_fit.fit(features, labels, 0.05).means[place] for place in range(3)]
    white = features / np.linalg.norm(features, axis=1, keepdims=True)
    white = (white - fitted.center) @ fitted.whitening
    expected = np.min([np.linalg.norm(white - mean, axis=1) for mean in alone], axis=0)
    np.testing.assert_allclose(fitted.distances(features), expected, rtol=1e-3)


@pytest.mark.parametrize(("images", "features"), [(1000, 16), (150, 200)])
def test_about_the_reject_rate_of_new_images_is_beyond_the_limit(images, features):
    rows, labels = draw(3, images + 2000, features)
    fitted = familiarity_fit.fit(rows[:images], labels[:images], 0.05)
    share = (fitted.unfamiliar(rows[images:]).numpy() > 1).mean()
    assert 0.02 < share < 0.1
    others = np.float32(RNG.normal(size=(200, features)))
    assert (fitted.unfamiliar(others).numpy() > 1).mean() > 0.9


@pytest.mark.parametrize(
    ("changes", "features", "images", "said"),
    [
        (
            {"reject_rate": 0.01},
            10,
            98,
            r"needs at least 99 .* there are 98: .*give at least 0.011",
        ),
        (
            {"reject_rate": 0.2},
            10,
            9,
            "needs at least 10 validation images, there are 9: split off more$",
        ),
        ({"reject_rate": 0.01}, 5000, 1000, r"at most 4,096 features, .* give 5,000: .*pooling"),
        ({"reject_rate": 0.01, "fold": 1}, 10, 1000, "for single runs"),
    ],
)
def test_what_cannot_be_fitted_is_refused_before_the_training(
    tiny_config, changes, features, images, said
):
    with refused(said):
        familiarity_fit.check(tiny_config(**changes), features, images)
    familiarity_fit.check(tiny_config(reject_rate=0.01), 10, 99)
    with refused("exactly one class"):
        familiarity_fit.check(tiny_config(reject_rate=0.01), 10, 99, many=True)


def test_a_training_checks_it_first(tiny_config):
    with refused("`reject_rate=0.01` needs at least 99 validation images, there are 16"):
        from tfpipe import train

        train.main(tiny_config(reject_rate=0.01))


@pytest.fixture(scope="module")
def strange(run_dir, tmp_path_factory):
    """The run of the fixtures, as if it had been trained with a reject rate."""
    folder = shutil.copytree(run_dir, tmp_path_factory.mktemp("runs") / "strange")
    run = loaded_run.load(folder)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, reject_rate=0.1))
    familiarity_fit.fit_run(run, run.validation(loaded_run.open_records(run)))
    run.save(finished=True)
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Pictures of nothing: noise."""
    folder = tmp_path_factory.mktemp("others")
    for place in range(6):
        pixels = RNG.integers(0, 256, (40, 40, 3), np.uint8)
        (folder / f"{place}.png").write_bytes(save(pixels, "PNG"))
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.mark.slow
def test_an_evaluation_tells_the_shares_and_the_area(strange, others, capsys):
    evaluate.main(evaluate.Options(str(strange), other_images=str(others), rounds=100))
    measured = json.loads((strange / "metrics.json").read_text())
    path = pathlib.Path(unfamiliar.__file__).with_name("metrics.schema.json")
    assert list(violations(measured, json.loads(path.read_text()))) == []
    found = measured["unfamiliar"]
    assert (found["reject_rate"], found["images"]["n"], found["others"]["n"]) == (0.1, 16, 6)
    assert found["roc_auc"] > 0.9
    assert found["others"]["share"] > 0.5
    low, high = found["images"]["interval"]
    assert low <= found["images"]["share"] <= high
    assert f"{found['roc_auc']:.4f}" in "".join(capsys.readouterr())


def test_other_images_need_a_reject_rate(run_dir, others):
    with refused("has no score for images of other kinds: train .* with --reject_rate"):
        evaluate.main(evaluate.Options(str(run_dir), other_images=str(others)))


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.mark.slow
def test_predictions_and_exports_have_the_score(strange, run_dir, others, tmp_path):
    (others / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    options = {"source": (str(others),), "columns": "all"}
    exported = tmp_path / "strange"
    export.main(
        export.Options(
            str(strange), str(exported), serving_batch_sizes="1", check_images=8, tflite="float32"
        )
    )
    by_run, by_export = tmp_path / "run.csv", tmp_path / "export.csv"
    predict.main(predict.Options(**options, run_dir=str(strange), out=str(by_run)))
    predict.main(predict.Options(**options, export_dir=str(exported), out=str(by_export)))
    summary = json.loads((tmp_path / "run.csv.summary.json").read_text())
    first, second = rows_of(by_run), rows_of(by_export)
    assert first["broken.png"]["unfamiliar"] == ""
    scores = [float(first[f"{place}.png"]["unfamiliar"]) for place in range(6)]
    assert summary["unfamiliar"] == sum(score > 1 for score in scores) > 0
    again = [float(second[f"{place}.png"]["unfamiliar"]) for place in range(6)]
    np.testing.assert_allclose(again, scores, rtol=1e-3)
    # Without a reject rate nothing is new.
    plain = tmp_path / "plain.csv"
    predict.main(predict.Options(**options, run_dir=str(run_dir), out=str(plain)))
    old = rows_of(plain)
    assert "unfamiliar" not in old["0.png"]
    for name, row in old.items():
        assert [*row, "unfamiliar"] == list(first[name])
        assert row["label"] == first[name]["label"]
        for key in ("probability_cat", "probability_dog"):
            assert float(row[key]) == pytest.approx(float(first[name][key]), abs=1e-5)

    loaded = tf.saved_model.load(str(exported / "1"))
    answers = {key: set(loaded.signatures[key].structured_outputs) for key in loaded.signatures}
    assert answers["classify"] == {"classes", "scores"}
    assert answers["regress"] == {"outputs"}
    for name in ("predict_bytes", "predict_images", "explain"):
        assert "unfamiliar" in answers[name]
    found = loaded.signatures["predict_bytes"](tf.constant([b"no image"]))
    assert found["unfamiliar"].numpy().tolist() == [0]


@pytest.mark.slow
def test_onnx_runtime_has_the_score(strange, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="pip install 'tfpipe[onnx]'")
    from tfpipe.publish import onnx_model
    from tfpipe.publish import sample_images as samples

    run = loaded_run.load(strange)
    predictor = run.restore()
    taken = samples.take(run, predictor, "", 8)
    onnx_model.write(tmp_path, predictor, taken, run.classes)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [each.name for each in session.get_outputs()] == ["probabilities", "unfamiliar"]
    wrong = dataclasses.replace(taken, unfamiliar=taken.unfamiliar + 1)
    with refused("not exported: `unfamiliar` of model.onnx differ"):
        onnx_model.write(tmp_path, predictor, wrong, run.classes)


@pytest.mark.slow
def test_a_missing_or_foreign_file_never_changes_an_answer_silently(strange, tmp_path, capsys):
    copy = shutil.copytree(strange, tmp_path / "copy")
    run = loaded_run.load(copy)
    changed = dataclasses.replace(run, config=dataclasses.replace(run.config, reject_rate=0.2))
    assert changed.familiarity() is None
    assert "is for other weights or another reject rate" in capsys.readouterr().err
    data = bytearray((copy / "familiarity.npz").read_bytes())
    (copy / "familiarity.npz").write_bytes(data[:100])
    with refused("familiarity.npz is no familiarity of a run"):
        loaded_run.load(copy).restore()
    (copy / "familiarity.npz").unlink()
    with refused("lacks familiarity.npz, which its config.json lists"):
        loaded_run.load(copy)


@pytest.mark.parametrize("form", PRINTERS)
def test_the_client_shows_it(form, capsys):
    outputs = {
        "probabilities": np.float32([[0.9, 0.1], [0.2, 0.8]]),
        "class_index": np.array([0, 1]),
        "class_name": np.array([b"cat", b"dog"], object),
        "unfamiliar": np.float32([3.5, 0.5]),
    }
    found = classifications(outputs, 2, None, (), "here")
    assert [each.unfamiliar for each in found] == [3.5, 0.5]
    PRINTERS[form]([("a.jpg", found[0]), ("b.jpg", found[1])], ["cat", "dog"])
    printed = capsys.readouterr().out
    assert "unfamiliar" in printed
    assert ("none of these" in printed) is (form == "table")
    del outputs["unfamiliar"]
    PRINTERS[form]([("a.jpg", classifications(outputs, 2, None, (), "here")[0])], ["cat", "dog"])
    printed = capsys.readouterr().out
    assert "unfamiliar" not in printed
    assert "none of these" not in printed
