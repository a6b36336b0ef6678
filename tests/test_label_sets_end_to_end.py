"""Images with several classes from a list to the served answer: shapes of colours."""

import csv
import json
import shutil

import numpy as np
import pytest
import sklearn.metrics
from json_schema import violations
from PIL import Image, ImageDraw
from serving_demo import running_server
from test_label_set_metrics import SCHEMA

import tfpipe
from serving.client import Client
from tfpipe import build_records, ensemble, evaluate, export, predict, report, train
from tfpipe.core.errors import UserError
from tfpipe.runs import loaded_run
from tfpipe.training.train_config import TrainConfig

pytestmark = pytest.mark.timeout(240)  # may include the training of the fixture

CLASSES = ("blue", "circle", "red", "square")
OPTIONS = {
    "backbones": "small_cnn",
    "weights": "none",
    "image_size": "32",
    "stages": "all:from=all",
    "pooling": "flatten",
    "head": "dense(16)",
    "epochs": 4,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "precision": "float32",
    "head_init": "glorot_uniform",
}


def draw(random, names):
    pixels = random.integers(90, 130, (32, 32, 3)).astype(np.uint8)
    image = Image.fromarray(pixels)
    fill = (230, 40, 40) if "red" in names else (40, 40, 230)
    x, y = random.integers(2, 10, 2).tolist()
    box = [x, y, x + 18, y + 18]
    if "circle" in names:
        ImageDraw.Draw(image).ellipse(box, fill=fill)
    elif "square" in names:
        ImageDraw.Draw(image).rectangle(box, fill=fill)
    return image


@pytest.fixture(scope="module")
def folder(make_once):
    """`images`, `records` of them with folds, and a `run`."""

    def make(folder):
        random = np.random.default_rng(0)
        (folder / "images").mkdir(parents=True)
        rows = [("file", "label")]
        for i in range(120):
            names = [("circle", "square")[i % 2], ("red", "blue")[i // 2 % 2]] * (i % 7 > 0)
            draw(random, names).save(folder / "images" / f"{i}.png")
            rows.append((f"{i}.png", "|".join(names)))
        with open(folder / "images" / "labels.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
        build_records.main(
            build_records.Options(
                source=(str(folder / "images" / "labels.csv"),),
                out=str(folder / "records"),
                workers=1,
                folds=2,
            )
        )
        run = {"records": str(folder / "records"), "run_dir": str(folder / "run")}
        train.main(TrainConfig(**run, **OPTIONS, monitor="f1_macro"))

    return make_once("label-sets", make)


@pytest.fixture(scope="module")
def exported(folder, make_once):
    """The export of the run."""

    def make(place):
        export.main(export.Options(run_dir=str(folder / "run"), export_dir=str(place / "demo")))

    return make_once("label-sets-export", make) / "demo"


@pytest.fixture(scope="module")
def truth(folder):
    """The classes of each image by its name."""
    with open(folder / "images" / "labels.csv", newline="") as file:
        return {
            row["file"]: set(filter(None, row["label"].split("|"))) for row in csv.DictReader(file)
        }


@pytest.fixture(scope="module")
def measured(folder, tmp_path_factory):
    """metrics.json of the validation images, and the predictions by the name of the image."""
    out = tmp_path_factory.mktemp("measured") / "p.csv"
    evaluate.main(evaluate.Options(run_dir=str(folder / "run"), predictions=str(out), rounds=100))
    with open(out, newline="") as file:
        rows = {
            row["name"]: np.array([float(row[f"probability_{name}"]) for name in CLASSES])
            for row in csv.DictReader(file)
        }
    return json.loads((folder / "run" / "metrics.json").read_text()), rows


def multi_hot(names):
    return np.array([[name in each for name in CLASSES] for each in names]).astype(int)


def test_the_evaluation_is_that_of_scikit_learn(measured, truth):
    found, rows = measured
    assert found["classes"] == list(CLASSES)
    assert list(violations(found, SCHEMA)) == []
    y = multi_hot([truth[name] for name in rows])
    p = np.stack([*rows.values()])
    thresholds = np.array([found["thresholds"][name] for name in CLASSES])
    answered = (p >= thresholds).astype(int)
    expected = sklearn.metrics.f1_score(y, answered, average="macro")
    assert found["f1_macro"] == pytest.approx(expected)
    assert found["subset_accuracy"] == pytest.approx((y == answered).all(1).mean())
    assert found["roc_auc"] == pytest.approx(sklearn.metrics.roc_auc_score(y, p), abs=1e-6)
    losses = [sklearn.metrics.log_loss(*c) for c in zip(y.T, p.T, strict=True)]
    assert found["log_loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert found["roc_auc"] > 0.8  # it has learned something


def test_other_thresholds_have_other_answers(folder, measured, truth, tmp_path):
    found, rows = measured
    out = tmp_path / "metrics.json"
    options = {"run_dir": str(folder / "run"), "out": str(out), "rounds": 100}
    evaluate.main(evaluate.Options(**options, threshold="red=0.9"))
    other = json.loads(out.read_text())
    assert other["thresholds"] == found["thresholds"] | {"red": 0.9}
    answered = np.stack([*rows.values()]) >= [other["thresholds"][name] for name in CLASSES]
    y = multi_hot([truth[name] for name in rows])
    expected = sklearn.metrics.f1_score(y, answered.astype(int), average="micro")
    assert other["f1_micro"] == pytest.approx(expected)
    for wrong in ("f1", "pink=0.5", "2"):
        with pytest.raises(UserError, match="threshold"):
            evaluate.main(evaluate.Options(**options, threshold=wrong))


@pytest.mark.slow
def test_the_served_answer_is_that_of_the_evaluation(folder, exported, measured, truth, tmp_path):
    found, rows = measured
    names = list(rows)
    files = [(folder / "images" / name).read_bytes() for name in names]
    thresholds = np.array([found["thresholds"][name] for name in CLASSES])
    p = np.stack([*rows.values()])
    with (
        running_server(exported, tmp_path / "stderr") as running,
        Client(running.address, "demo") as client,
    ):
        answer = client.predict({"image_bytes": [*files, b"no image"]})
        np.testing.assert_allclose(answer["probabilities"][:-1], p, atol=1e-5)
        clear = np.abs(p - thresholds) > 1e-4
        np.testing.assert_array_equal(answer["labels"][:-1][clear], (p >= thresholds)[clear])
        assert not answer["labels"][-1].any()
        assert answer["error"][-1]
        *answers, refused = client.classify_images([*files, b"no image"])
        for row, each in zip(answer["labels"], answers, strict=False):
            expected = tuple(np.array(CLASSES)[row])
            assert each.labels == expected
            assert each.label == "|".join(expected)
        assert "not a JPEG" in str(refused)
        with pytest.raises(UserError, match="threshold"):
            client.classify_images(files[:1], threshold=0.5)
        assert client.labels == CLASSES
        out = tmp_path / "served.jsonl"
        options = {"source": (str(folder / "images"),), "out": str(out)}
        server = {"server": running.address, "model_name": "demo"}
        predict.main(predict.Options(**options, **server))
        served = [json.loads(line) for line in out.read_text().splitlines()]
    by_export = predicted(folder, tmp_path, export_dir=str(exported))
    for one, two in zip(served, by_export, strict=True):
        assert one["name"] == two["name"]
        assert one["labels"] == two["labels"]
    y = multi_hot([truth[row["name"]] for row in served])
    score = sklearn.metrics.f1_score(y, multi_hot([r["labels"] for r in served]), average="macro")
    assert score > 0.6


def predicted(folder, tmp_path, **options):
    out = tmp_path / "out.jsonl"
    options.setdefault("out", str(out))
    predict.main(predict.Options(source=(str(folder / "images"),), **options))
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.slow
def test_predictions_have_lists_of_labels(folder, tmp_path, measured):
    run = {"run_dir": str(folder / "run")}
    saved = measured[0]["thresholds"]
    for given, expected in (("", saved), ("red=0.9", saved | {"red": 0.9})):
        rows = predicted(folder, tmp_path, **run, threshold=given)
        assert len(rows) == 120
        for row in rows:
            reached = [n for n in CLASSES if row[f"probability_{n}"] >= expected[n]]
            assert row["labels"] == reached
        summary = json.loads((tmp_path / "out.jsonl.summary.json").read_text())
        assert summary["threshold"] == pytest.approx(expected)
        for name in CLASSES:
            assert summary["labels"][name] == sum(name in row["labels"] for row in rows)
    # Bounds change the probabilities, not the answers.
    for threshold in ("", "red=0.3"):
        free, bounded = (
            predicted(folder, tmp_path, **run, threshold=threshold, clip=clip)
            for clip in ("0,1", "0.45,0.55")
        )
        assert [row["labels"] for row in free] == [row["labels"] for row in bounded]
        assert max(row["probability_red"] for row in bounded) <= 0.5500001
    out = tmp_path / "all.csv"
    options = {"source": (str(folder / "images"),), "out": str(out), "columns": "all"}
    predict.main(predict.Options(**options, **run, threshold="0.25"))
    with open(out, newline="") as file:
        for row in csv.DictReader(file):
            reached = [n for n in CLASSES if float(row[f"probability_{n}"]) >= 0.25]
            assert row["labels"] == "|".join(reached)
    kaggle = tmp_path / "kaggle.csv"
    predict.main(predict.Options(**{**options, "columns": "kaggle", "out": str(kaggle)}, **run))
    with open(kaggle, newline="") as file:
        assert next(csv.reader(file)) == ["id", *CLASSES]
    for wrong in ("red=2", "pink=0.5", "cost:x,y"):
        with pytest.raises(UserError, match="threshold"):
            predicted(folder, tmp_path, **run, threshold=wrong)


@pytest.mark.slow
def test_classify_sorts_the_classes(folder, exported, measured):
    import tensorflow as tf

    signatures = tf.saved_model.load(str(exported / "1")).signatures
    assert "regress" not in signatures
    name, p = next(iter(measured[1].items()))
    example = tf.train.Example()
    encoded = (folder / "images" / name).read_bytes()
    example.features.feature["image/encoded"].bytes_list.value.append(encoded)
    found = signatures["classify"](inputs=tf.constant([example.SerializeToString()]))
    order = np.argsort(-p, kind="stable")
    assert found["classes"].numpy()[0].tolist() == [CLASSES[i].encode() for i in order]
    np.testing.assert_allclose(found["scores"][0], p[order], atol=1e-5)
    card = json.loads((exported / "1" / "model_card.json").read_text())
    assert card["decision"]["thresholds"] == measured[0]["thresholds"]


def test_python_gets_vectors_and_labels(folder, truth, measured):
    data = tfpipe.load_records(folder / "records")
    images, labels = next(iter(data.as_dataset("val", image_size=32, batch_size=8)))
    assert images.shape == (8, 32, 32, 3)
    assert labels.dtype == "float32"
    expected = multi_hot([truth[name] for name in list(measured[1])[:8]])
    np.testing.assert_array_equal(labels, expected)
    assert data.splits["val"].num_examples == len(measured[1])
    mixed = data.as_dataset("val", image_size=32, batch_size=8, augment="mixup(0.4)")
    assert np.unique(next(iter(mixed))[1]).size > 2
    with pytest.raises(UserError, match="class_weights"):
        data.as_dataset("val", class_weights="balanced")
    run = tfpipe.load_run(folder / "run")
    for row in run.predict([folder / "images" / name for name in list(measured[1])[:6]]):
        reached = [n for n in CLASSES if row.probabilities[n] >= measured[0]["thresholds"][n]]
        assert row.labels == tuple(reached)
        assert row.label == max(reached, key=row.probabilities.get, default=None)


@pytest.mark.slow
def test_the_report_has_classes_and_no_confusion(folder, measured, tmp_path):
    out = tmp_path / "report.html"
    options = {"run_dir": str(folder / "run"), "pictures": 2, "neighbours": 20}
    report.main(report.Options(**options, out=str(out)))
    page = out.read_text()
    assert "all classes right" in page
    assert "threshold" in page
    assert "by true and predicted class" not in page
    plots = {path.stem for path in (folder / "run" / "plots").iterdir()}
    assert {"roc", "precision_recall", "reliability"} <= plots
    assert "confusion" not in plots


def test_a_run_is_not_for_other_labels(folder, records, tmp_path):
    with pytest.raises(UserError, match="class"):
        evaluate.main(evaluate.Options(run_dir=str(folder / "run"), records=str(records)))
    shutil.copytree(folder / "run", tmp_path / "other")
    with pytest.raises(UserError, match="several classes"):
        ensemble.main(
            ensemble.Options(
                runs=f"{folder / 'run'},{tmp_path / 'other'}", out=str(tmp_path / "ensemble")
            )
        )
    with pytest.raises(UserError, match="tflite"):
        export.main(
            export.Options(
                run_dir=str(folder / "run"), export_dir=str(tmp_path / "x"), tflite="float32"
            )
        )


@pytest.mark.parametrize(
    ("option", "value"),
    [("output", "softmax"), ("class_weights", "balanced"), ("monitor", "accuracy")],
)
def test_options_for_single_classes_are_refused_before_the_training(
    folder, tmp_path, option, value
):
    where = {"records": str(folder / "records"), "run_dir": str(tmp_path / "run")}
    with pytest.raises(UserError, match=option) as refused:
        train.main(TrainConfig(**where, **{**OPTIONS, option: value}))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_folds_join_into_one_answer(folder, truth, tmp_path):
    options = {**OPTIONS, "stages": "head", "pooling": "avg", "epochs": 3, "feature_views": 0}
    where = {"records": str(folder / "records"), "run_dir": str(tmp_path / "cv")}
    train.main(TrainConfig(**where, **options, folds=2))
    run = loaded_run.load(tmp_path / "cv")
    assert len(run.thresholds) == len(CLASSES)
    evaluate.main(evaluate.Options(run_dir=str(tmp_path / "cv"), rounds=100))
    found = json.loads((tmp_path / "cv" / "metrics.json").read_text())
    assert found["n"] == len(truth)
    predictor = run.restore()
    images = np.stack([np.asarray(Image.open(folder / "images" / f"{i}.png")) for i in range(4)])
    members = [member.uncalibrated().logits(images).numpy() for member in run.members]
    np.testing.assert_allclose(predictor.logits(images), np.mean(members, 0), atol=1e-5)
    p = predictor.classify(images).numpy()
    expected = 1 / (1 + np.exp(-np.mean(members, 0) * predictor.calibration.scale))
    np.testing.assert_allclose(p, expected, atol=1e-5)
