"""From bytes to probabilities: the same through evaluation, the SavedModel and gRPC."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, draw
from serving_demo import running_server

from serving.client import Client
from tfpipe import evaluate, export, predict
from tfpipe.core.errors import UserError
from tfpipe.images import upload
from tfpipe.input import pipeline
from tfpipe.model import inference
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.training import run_folder as runs


@pytest.fixture(scope="module")
def evaluated(run_dir, records):
    """Probabilities of the evaluation, by file name."""
    predictor = runs.load(str(run_dir)).restore()
    assert len(predictor.views) == 3
    assert 0 < predictor.calibration.clip_min < predictor.calibration.clip_max < 1
    manifest = manifests.load(records)
    batches = pipeline.eval_batches(
        Subset(manifest, ("all",)), image_size=predictor.image_size, batch_size=32
    )
    found = inference.predict(predictor, batches, manifest.count(), "evaluating")
    return {
        name.decode(): row for name, row in zip(found["name"], found["probabilities"], strict=True)
    }


@pytest.fixture(scope="module")
def files(image_folder):
    return {path.name: path.read_bytes() for path in sorted(image_folder.iterdir())}


def test_the_saved_model_gives_the_evaluations_probabilities(export_dir, evaluated, files):
    loaded = tf.saved_model.load(str(export_dir / "1"))
    answer = loaded.signatures["serving_default"](image_bytes=tf.constant(list(files.values())))
    expected = np.stack([evaluated[name] for name in files])
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(answer["probability"], expected[:, 1], atol=1e-5)
    np.testing.assert_array_equal(answer["class_index"], expected.argmax(1))
    names = [("cat", "dog")[i].encode() for i in expected.argmax(1)]
    assert answer["class_name"].numpy().tolist() == names


def test_the_signatures_agree(export_dir, files):
    loaded = tf.saved_model.load(str(export_dir / "1"))
    data = list(files.values())[:5]
    by_bytes = loaded.signatures["predict_bytes"](image_bytes=tf.constant(data))
    images = upload.decode_batch(tf.constant(data), 32)
    by_images = loaded.signatures["predict_images"](images=images)
    assert set(by_bytes) == {*by_images, "error"}
    np.testing.assert_allclose(by_bytes["probabilities"], by_images["probabilities"], atol=1e-6)


def test_the_export_is_whole_and_never_overwritten(run_dir, export_dir):
    assert {p.name for p in (export_dir / "1").iterdir()} >= {"saved_model.pb", "variables"}
    assert (export_dir / "1" / "assets" / "labels.txt").read_text() == "cat\ndog\n"
    assert os.listdir(export_dir) == ["1"]
    options = export.Options(run_dir=str(run_dir), export_dir=str(export_dir), version="1")
    with pytest.raises(UserError, match="1 exists already"):
        export.main(options)


def test_the_export_is_float32_without_xla(export_dir):
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((export_dir / "1/saved_model.pb").read_bytes())
    nodes = [n for f in graph.meta_graphs[0].graph_def.library.function for n in f.node_def]
    assert nodes
    for function in graph.meta_graphs[0].graph_def.library.function:
        assert not function.attr["_XlaMustCompile"].b
    assert not {n.op for n in nodes} & {"PyFunc", "EagerPyFunc", "WriteFile"}
    assert tf.bfloat16.as_datatype_enum not in {n.attr["T"].type for n in nodes if "T" in n.attr}


@pytest.fixture(scope="module")
def server(export_dir, tmp_path_factory):
    """The embedded server on a free port; yields its address."""
    with running_server(export_dir, tmp_path_factory.mktemp("server") / "stderr") as running:
        yield running.address


def test_grpc_gives_the_evaluations_probabilities(server, evaluated, files):
    with Client(server, "demo") as client:
        answer = client.predict({"image_bytes": list(files.values())})
    expected = np.stack([evaluated[name] for name in files])
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)


def test_the_client_command_prints_them(server, evaluated, image_folder):
    paths = [str(image_folder / name) for name in ("cat.0.jpg", "dog.7.jpg")]
    flags = [f"--server={server}", "--model_name=demo", "--output=json"]
    done = subprocess.run(
        [sys.executable, "-m", "serving.client", *flags, *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = {os.path.basename(each["file"]): each for each in json.loads(done.stdout)}
    assert sorted(found) == ["cat.0.jpg", "dog.7.jpg"]
    for name, each in found.items():
        np.testing.assert_allclose(each["probabilities"], evaluated[name], atol=1e-4)


class TestPredict:
    def rows(self, path):
        with open(path, newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    @pytest.fixture
    def unlabelled(self, tmp_path):
        folder = tmp_path / "test1"
        folder.mkdir()
        for number in (10, 9, 1, 2):
            draw("dog", 100 + number).save(folder / f"{number}.jpg")
        return folder

    def test_writes_what_kaggle_takes(self, run_dir, unlabelled, tmp_path):
        out = tmp_path / "submission.csv"
        status = predict.main(
            predict.Options(run_dir=str(run_dir), source=str(unlabelled), out=str(out))
        )
        rows = self.rows(out)
        assert status == 0
        assert rows[0] == ["id", "label"]
        assert [row[0] for row in rows[1:]] == ["1", "2", "9", "10"]
        bounds = runs.load(str(run_dir)).calibration()
        assert all(bounds.clip_min <= float(row[1]) <= bounds.clip_max for row in rows[1:])
        assert all(float(row[1]) > 0.5 for row in rows[1:])  # dogs all of them
        left = ["submission.csv", "submission.csv.summary.json", "test1"]
        assert sorted(p.name for p in tmp_path.iterdir()) == left

    def test_bounds_and_views_of_this_once(self, run_dir, unlabelled, tmp_path):
        columns = {}
        for clip, tta in (("0,1", ""), ("0.4,0.6", ""), ("0,1", "none")):
            out = tmp_path / "out.csv"
            predict.main(
                predict.Options(
                    run_dir=str(run_dir), source=str(unlabelled), out=str(out), clip=clip, tta=tta
                )
            )
            columns[clip, tta] = np.array([float(row[1]) for row in self.rows(out)[1:]])
        free = columns["0,1", ""]
        np.testing.assert_allclose(columns["0.4,0.6", ""], free.clip(0.4, 0.6), atol=1e-6)
        assert np.abs(columns["0,1", "none"] - free).max() > 1e-5

    def test_an_unreadable_image_gets_the_prior_and_is_named(
        self, run_dir, unlabelled, tmp_path, capsys
    ):
        whole = (unlabelled / "9.jpg").read_bytes()
        (unlabelled / "9.jpg").write_bytes(whole[: len(whole) // 2])
        out = tmp_path / "submission.csv"
        status = predict.main(
            predict.Options(run_dir=str(run_dir), source=str(unlabelled), out=str(out))
        )
        assert status == predict.REJECTS
        labels = dict(self.rows(out)[1:])
        shares = json.loads((run_dir / "config.json").read_text())["resolved"]["class_shares"]
        assert float(labels["9"]) == pytest.approx(shares[1])
        assert set(labels) == {"1", "2", "9", "10"}
        (header, reject) = self.rows(tmp_path / "submission.csv.rejects.csv")
        assert header == ["path", "reason", "detail"]
        assert reject[0] == "9.jpg"
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: 1 of the files could not be read")
        assert "9.jpg" in error

    @pytest.mark.parametrize("clip", ["1", "0.9,0.1", "a,b", "-1,2"])
    def test_wrong_bounds_are_explained(self, clip, tmp_path):
        out = str(tmp_path / "o.csv")
        with pytest.raises(UserError, match=f"clip={clip}"):
            predict.main(predict.Options(run_dir="x", source="x", out=out, clip=clip))


def test_evaluate_measures_any_split(run_dir, records):
    sizes = {}
    for split in ("train", "val", "all"):
        evaluate.main(evaluate.Options(run_dir=str(run_dir), split=split))
        metrics = json.loads((run_dir / "metrics.json").read_text())
        assert metrics["split"] == split
        assert 0 <= metrics["accuracy"] <= 1
        stages = [metrics[f"log_loss{stage}"] for stage in ("_raw", "_calibrated", "")]
        assert all(0 <= loss < 1 for loss in stages)
        sizes[split] = metrics["n"]
    assert sizes["train"] + sizes["val"] == sizes["all"] == 80


def test_evaluate_refuses_records_of_other_classes(run_dir, records, tmp_path):
    import shutil

    shutil.copytree(records, tmp_path / "other")
    path = tmp_path / "other" / "manifest.json"
    path.write_text(path.read_text().replace('"dog"', '"fox"'))
    with pytest.raises(UserError, match=r"classes cat, fox, but .* trained on cat, dog"):
        evaluate.main(evaluate.Options(run_dir=str(run_dir), records=str(tmp_path / "other")))
