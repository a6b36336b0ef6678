"""The whole path on real cats and dogs with real weights reaches its promised figures."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT

from serving.client import Client
from tfpipe.evaluation import metrics
from tfpipe.records import example
from tfpipe.records import manifest as manifests

pytestmark = [pytest.mark.large, pytest.mark.timeout(1800)]


def run(module, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def trained(shared, data, folder):
    """Builds records of a zip, trains the preset, evaluates; returns the metrics."""
    out = f"--out={folder / 'records'}"
    run("tfpipe.build_records", f"--source={shared / data}", out, "--splits=train:0.8,val:0.2")
    run(
        "tfpipe.train",
        "--flagfile=configs/mobilenet-frozen.flags",
        f"--weights={shared / 'weights' / 'mobilenet_1_0_224_tf_no_top.h5'}",
        f"--records={folder / 'records'}",
        f"--run_dir={folder / 'run'}",
    )
    run("tfpipe.evaluate", f"--run_dir={folder / 'run'}")
    return json.loads((folder / "run" / "metrics.json").read_text())


@pytest.fixture(scope="module")
def originals(shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    return folder, trained(shared, "data/dogs-vs-cats/train.zip", folder)


def test_originals(originals):
    _, found = originals
    assert found["accuracy"] >= 0.97
    assert found["log_loss"] <= 0.09
    assert found["roc_auc"] >= 0.99
    low, high = found["intervals"]["log_loss"]
    assert low < found["log_loss"] < high
    sizes = [part for part in found["slices"] if part["by"] == "size"]
    assert len(sizes) == 4
    assert sum(part["n"] for part in sizes) == found["n"]


def test_two_hundred_pixels(shared, tmp_path):
    found = trained(shared, "data/dogs-vs-cats-200px/train.zip", tmp_path)
    assert found["log_loss"] <= 0.06
    sizes = [part for part in found["slices"] if part["by"] == "size"]
    assert [(part["from"], part["to"], part["n"]) for part in sizes] == [(200, 200, found["n"])]


def test_the_served_model_has_the_evaluations_figures(originals):
    folder, evaluated = originals
    run("tfpipe.export", f"--run_dir={folder / 'run'}", f"--export_dir={folder / 'export'}")
    manifest = manifests.load(folder / "records")
    shards = [str(manifest.folder / shard.name) for shard in manifest.shards_of("val")]
    records = [example.parse(record) for record in tf.data.TFRecordDataset(shards)]
    images = [record["image/encoded"].numpy() for record in records]
    labels = np.array([record["image/class/label"].numpy() for record in records])
    command = [
        *(sys.executable, "-m", "serving.server", "--port=0", "--model_name=real"),
        f"--model_base_path={folder / 'export'}",
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        address = server.stderr.readline().split()[-1]
        with Client(address, "real", timeout=60) as client:
            parts = [
                client.predict({"image_bytes": images[i : i + 32]})["probabilities"]
                for i in range(0, len(images), 32)
            ]
        server.terminate()
    probabilities = np.concatenate(parts)
    assert metrics.log_loss(probabilities, labels) == pytest.approx(evaluated["log_loss"], abs=1e-5)
    assert metrics.accuracy(probabilities, labels) == evaluated["accuracy"]


def test_a_submission_for_kaggle(originals, shared, tmp_path):
    folder, _ = originals
    out = tmp_path / "submission.csv"
    source = shared / "data" / "dogs-vs-cats" / "test1.zip"
    run("tfpipe.predict", f"--run_dir={folder / 'run'}", f"--source={source}", f"--out={out}")
    with open(out, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "label"]
    assert [int(identity) for identity, _ in rows[1:]] == list(range(1, 401))
    found = json.loads((folder / "run" / "calibration.json").read_text())["calibration"]
    labels = [float(label) for _, label in rows[1:]]
    # The file has seven digits of a float32.
    low, high = (float(f"{np.float32(found[side]):.7g}") for side in ("low", "high"))
    assert low <= min(labels) <= max(labels) <= high
