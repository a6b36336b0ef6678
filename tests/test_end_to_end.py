"""From bytes to probabilities: the same through evaluation, the SavedModel and gRPC."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
from serving_demo import embedded

from serving.client import Client
from tfpipe import evaluate, predict
from tfpipe.images import upload
from tfpipe.runs import loaded_run


@pytest.fixture(scope="module")
def evaluated(run_dir, image_folder, tmp_path_factory):
    """The bytes of every image, and the probabilities of the evaluation, float64 [80, 2]."""
    out = tmp_path_factory.mktemp("evaluated") / "out.csv"
    evaluate.main(evaluate.Options(run_dir=str(run_dir), split="all", predictions=str(out)))
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    files = [(image_folder / row["name"]).read_bytes() for row in rows]
    names = ("probability_cat", "probability_dog")
    return files, np.array([[float(row[name]) for name in names] for row in rows])


def test_the_saved_model_gives_the_evaluations_probabilities(export_dir, evaluated):
    files, expected = evaluated
    signatures = tf.saved_model.load(str(export_dir / "1")).signatures
    answer = signatures["serving_default"](image_bytes=tf.constant(files))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(answer["probability"], expected[:, 1], atol=1e-5)
    np.testing.assert_array_equal(answer["class_index"], expected.argmax(1))
    names = [(b"cat", b"dog")[i] for i in expected.argmax(1)]
    assert answer["class_name"].numpy().tolist() == names
    images, _ = upload.decode(tf.constant(files[:5]), 32)
    by_images = signatures["predict_images"](images=images)
    assert set(answer) == {*by_images, "error"}
    np.testing.assert_allclose(by_images["probabilities"], expected[:5], atol=1e-5)


def test_grpc_gives_the_evaluations_probabilities(export_dir, evaluated):
    files, expected = evaluated
    with embedded(export_dir) as server, Client(server.address, "demo") as client:
        answer = client.predict({"image_bytes": files})
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)


def test_views_and_bounds_are_in_every_answer_unless_others_are_asked_for(
    run_dir, image_folder, evaluated, tmp_path
):
    predictor = loaded_run.load(run_dir).restore()
    assert len(predictor.views) == 3
    assert 0 < predictor.calibration.clip_min < predictor.calibration.clip_max < 1
    columns = {}
    for clip, tta in (("0,1", ""), ("0.4,0.6", ""), ("0,1", "none")):
        out = tmp_path / "out.csv"
        given = {"run_dir": str(run_dir), "source": (str(image_folder),), "out": str(out)}
        predict.main(predict.Options(**given, clip=clip, tta=tta))
        with open(out, newline="", encoding="utf-8") as file:
            columns[clip, tta] = np.array([float(row["label"]) for row in csv.DictReader(file)])
    free = columns["0,1", ""]
    np.testing.assert_allclose(columns["0.4,0.6", ""], free.clip(0.4, 0.6), atol=1e-6)
    assert np.abs(columns["0,1", "none"] - free).max() > 1e-5
    metrics = json.loads((run_dir / "metrics.json").read_text())
    assert metrics["split"] == "all"
