"""Training: the run folder, going on where it stopped, stopping early, caching features."""

import csv
import json
import os
import time

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from conftest import TINY

from tfpipe import evaluate, train
from tfpipe.core.errors import UserError
from tfpipe.records import manifest as manifests
from tfpipe.training import randomness, resolve
from tfpipe.training import run_folder as runs
from tfpipe.training.profile import Profile


def log_of(folder):
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights_of(folder):
    return runs.load(str(folder)).restore().classifier.model.get_weights()


def test_leaves_a_run_folder(run_dir):
    assert {p.name for p in run_dir.iterdir()} >= {
        "config.json",
        "best.weights.h5",
        "calibration.json",
        "predictions.csv",
        "last",
        "log.csv",
        "tensorboard",
    }
    log = log_of(run_dir)
    assert [row["epoch"] for row in log] == ["1", "2", "3"]
    assert float(log[-1]["val_loss"]) < 0.6  # better than guessing, which is ln 2
    resolved = json.loads((run_dir / "config.json").read_text())["resolved"]
    assert resolved["classes"] == ["cat", "dog"]
    assert resolved["output"] == "sigmoid"
    assert resolved["precision"] in ("float32", "mixed_bfloat16")
    assert not [p for p in run_dir.rglob("*") if "partial" in p.name]


def test_the_best_weights_have_the_best_logged_loss(run_dir):
    evaluate.main(evaluate.Options(run_dir=str(run_dir), tta="none"))
    metrics = json.loads((run_dir / "metrics.json").read_text())
    best = min(float(row["val_loss"]) for row in log_of(run_dir))
    assert metrics["log_loss_raw"] == pytest.approx(best, abs=1e-5)
    assert metrics["n"] == sum(map(sum, metrics["confusion"]))


def check_same_run(one, other, *, within=1e-5):
    """Checks that two runs have the same epochs and the same weights."""
    volatile = ("seconds", "images_per_s", "input_wait", "stage")
    for a, b in zip(log_of(one), log_of(other), strict=True):
        assert a["stage"] == b["stage"]
        for key in set(a) - set(volatile):
            assert float(a[key]) == pytest.approx(float(b[key]), abs=within), key
    for a, b in zip(weights_of(one), weights_of(other), strict=True):
        np.testing.assert_allclose(a, b, atol=within)


def test_resuming_gives_what_an_uninterrupted_run_gives(tiny_config, tmp_path):
    """With dropout and augmentation, whose random states must go on too."""
    head = "dense(16)|dropout(0.5)"
    whole = tiny_config(run_dir=str(tmp_path / "whole"), head=head, epochs=3)
    train.main(whole)
    parts = tmp_path / "parts"
    for epochs in (1, 2, 3):
        train.main(tiny_config(run_dir=str(parts), head=head, epochs=epochs))
    check_same_run(tmp_path / "whole", parts)


def test_mixing_and_resizing_on_the_device_train_too(tiny_config, tmp_path):
    """Labels of mixed pictures are shares; the compiled step gets pictures of any size."""
    run = tmp_path / "mixed"
    augment = "crop(0.9)|one_of(rotate(10)|flip_lr)|mixup(0.2)"
    config = tiny_config(run_dir=str(run), augment=augment, resize_on="device", epochs=2)
    train.main(config)
    rows = log_of(run)
    assert len(rows) == 2
    assert float(rows[-1]["loss"]) < 1.5
    assert all(0 <= float(row["input_wait"]) <= 1 for row in rows)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("shuffle_mb", 0, "--shuffle_mb=0: give 1 or more"),
        ("decode_threads", -1, "--decode_threads=-1: give 0 or more"),
        ("buffer_mb", -5, "--buffer_mb=-5: give 0 or more"),
        ("data_service", "host:1", "--data_service=host:1 does not begin with grpc://"),
        ("max_corrupt", -1, "--max_corrupt=-1"),
    ],
)
def test_an_option_of_the_input_out_of_range_is_explained(tiny_config, option, value, message):
    with pytest.raises(UserError, match=message):
        train.main(tiny_config(**{option: value}))


@pytest.mark.parametrize(
    ("slow", "bottleneck"), [("input", "bottleneck: input"), ("step", "bottleneck: compute")]
)
def test_a_profile_tells_the_bottleneck(tmp_path, slow, bottleneck):
    def batches():
        while True:
            time.sleep(0.02 if slow == "input" else 0)
            yield tf.zeros([])

    profile = Profile(tmp_path)
    for _ in profile.watch(batches(), 30):
        time.sleep(0.02 if slow == "step" else 0)
    assert profile.verdict.startswith(bottleneck)
    assert "steps 11 to 20 are traced" in profile.verdict
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert (profile.waited > 0.5) == (slow == "input")
    before = profile.verdict
    assert len(list(profile.watch(iter([1, 2, None, 3]), 30))) == 2, "an epoch that ends early"
    assert profile.verdict == before, "only the first epoch is traced"
    short = Profile(tmp_path / "short")
    assert len(list(short.watch(iter([*range(17), None]), 30))) == 17
    tf.profiler.experimental.start(str(tmp_path / "next"))  # the trace has ended with the epoch
    tf.profiler.experimental.stop()


def test_a_finished_run_is_left_as_it_is(run_dir, records):
    from tfpipe.training.config import TrainConfig

    before = {
        p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file() and "events" not in p.name
    }
    train.main(TrainConfig(records=str(records), run_dir=str(run_dir), **TINY))
    assert {p: p.read_bytes() for p in before} == before


def test_stops_when_the_loss_does_not_fall(tiny_config, tmp_path):
    config = tiny_config(learning_rate=1e-12, epochs=9, patience=2)
    train.main(config)
    losses = [float(row["val_loss"]) for row in log_of(tmp_path / "run")]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 9


def test_frozen_features_are_computed_once(tiny_config, tmp_path):
    frozen = {"stages": "head", "augment": "", "pooling": "avg"}
    config = tiny_config(**frozen)
    train.main(config)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "features").iterdir()}
    assert len(files) == 2  # of the training and of the validation images
    train.main(tiny_config(**frozen, epochs=5))
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert len(log_of(tmp_path / "run")) == 5
    # The head on cached features is the whole model on images.
    evaluate.main(evaluate.Options(run_dir=config.run_dir, tta="none"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    best = min(float(row["val_loss"]) for row in log_of(tmp_path / "run"))
    assert metrics["log_loss_raw"] == pytest.approx(best, abs=1e-5)


def test_frozen_backbones_do_not_change_under_augmentation(tiny_config, tmp_path):
    config = tiny_config(
        stages="head", backbones="mobilenet", augment="flip_lr", pooling="avg", epochs=2
    )
    train.main(config)
    run = runs.load(config.run_dir)
    trained = run.restore().classifier.features
    randomness.seed_everything(config.seed)
    fresh = run.build(first_weights=True).features
    for one, other in zip(trained.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)  # BatchNorm's statistics too


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "float32"])
@pytest.mark.parametrize("xla", ["on", "off"])
def test_trains_in_every_precision_compiled_or_not(tiny_config, tmp_path, precision, xla):
    train.main(tiny_config(precision=precision, xla=xla, epochs=1))
    assert np.isfinite(float(log_of(tmp_path / "run")[0]["loss"]))
    assert runs.load(str(tmp_path / "run")).resolved.precision == precision
    assert tf_keras.mixed_precision.global_policy().name == "float32"
    assert all(w.dtype == np.float32 for w in weights_of(tmp_path / "run"))


def test_a_softmax_learns_too(tiny_config, tmp_path):
    train.main(tiny_config(output="softmax"))
    assert float(log_of(tmp_path / "run")[-1]["val_loss"]) < 0.6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, "holds a run with --learning_rate=0.003, now 0.5"),
        ({"seed": 1}, "--seed=0, now 1"),
        ({"augment": ""}, "--augment=flip_lr"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(run_dir, records, changes, message):
    from tfpipe.training.config import TrainConfig

    with pytest.raises(UserError, match=message):
        train.main(TrainConfig(records=str(records), run_dir=str(run_dir), **{**TINY, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 1000}, "--batch_size=1000.*records of train; give 1 to"),
        ({"val_split": "test"}, "has no split 'test'; it has train, val"),
        ({"backbones": "small_cnn,small_cnn"}, "each backbone may be named once"),
        ({"backbones": "nothing"}, "unknown backbone 'nothing'"),
        ({"image_size": "mobilenet=32"}, "--image_size"),
        ({"image_size": "big"}, "--image_size=big: give a side in pixels"),
        ({"weights": "imagenet"}, "small_cnn has no ImageNet weights"),
        ({"augment": "rotat(3)"}, r"did you mean 'rotate'\?"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg'"),
        (
            {"learning_rate": 1e30, "optimizer": "sgd"},
            "no number at step 3 of epoch 1.*lower --learning_rate",
        ),
        ({"records": "nowhere"}, r"nowhere/manifest\.json does not exist"),
    ],
)
def test_wrong_options_are_explained(tiny_config, changes, message):
    config = tiny_config(**changes)
    with pytest.raises(UserError, match=message):
        train.main(config)
    # Nothing half-written: the folder is there only if training has begun.
    assert os.path.exists(config.run_dir) == ("lower" in message)


def test_one_value_for_all_backbones_or_one_for_each(records):
    manifest = manifests.load(records)
    from tfpipe.training.config import TrainConfig

    def branches(**changes):
        config = TrainConfig(
            records=str(records), run_dir="x", backbones="MobileNet,small_cnn", **changes
        )
        return resolve.resolve(config, manifest, "float32", False).branches

    each = branches(
        image_size="mobilenet=96,small_cnn=0", weights="small_cnn=none,mobilenet=a=b.h5"
    )
    assert [(b["name"], b["size"], b["weights"]) for b in each] == [
        ("mobilenet", 96, "a=b.h5"),
        ("small_cnn", 150, "none"),
    ]
    assert [b["size"] for b in branches(image_size="64")] == [64, 64]
    with pytest.raises(UserError, match="says nothing of small_cnn"):
        branches(weights="mobilenet=none")


def test_damaged_records_are_named_before_the_first_step(tiny_config, records, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(records, copy)
    shard = next(copy.glob("train-*"))
    with open(shard, "r+b") as file:
        file.truncate(shard.stat().st_size - 1)
    message = f"1 of 80 records are lost.*in {shard.name} .*max_corrupt=1"
    with pytest.raises(UserError, match=message):
        train.main(tiny_config(records=str(copy)))
    config = tiny_config(records=str(copy), run_dir=str(tmp_path / "run"), max_corrupt=1)
    train.main(config)
    assert "1 of" in capsys.readouterr().err
    with open(tmp_path / "run/salvaged/lost.csv", newline="") as file:
        assert [row["shard"] for row in csv.DictReader(file)] == [shard.name]
    assert log_of(tmp_path / "run")
