"""`tfpipe.train`: the run folder, resuming, stopping early, caching features, wrong options."""

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from conftest import TINY

from tests.refusals import refused
from tests.training import CACHED, log_of, val_losses, weights_of
from tfpipe import evaluate, train
from tfpipe.training import loop, profile
from tfpipe.training import run_folder as runs
from tfpipe.training.train_config import TrainConfig
from tfpipe.training.train_state import TrainState


def test_the_best_weights_have_the_best_logged_loss(run_dir):
    evaluate.main(evaluate.Options(run_dir=str(run_dir), tta="none"))
    metrics = json.loads((run_dir / "metrics.json").read_text())
    best = min(val_losses(run_dir))
    assert best < 0.6  # better than guessing, which is ln 2
    assert metrics["log_loss_raw"] == pytest.approx(best, abs=1e-5)
    assert metrics["n"] == sum(map(sum, metrics["confusion"]))
    assert not [p for p in run_dir.rglob("*") if "partial" in p.name]


@pytest.mark.slow
def test_a_softmax_of_mixed_images_resized_on_the_device_trains_too(tiny_config, tmp_path):
    """Labels of mixed images are shares; the compiled step gets images of any size."""
    augment = "crop(0.9)|one_of(rotate(10)|flip_lr)|mixup(0.2)"
    train.main(tiny_config(augment=augment, resize_on="device", output="softmax", epochs=1))
    (row,) = log_of(tmp_path / "run")
    assert float(row["loss"]) < 1.5
    assert 0 <= float(row["input_wait"]) <= 1


@pytest.mark.slow
def test_trains_in_bfloat16_compiled_with_every_option_of_the_update(tiny_config, tmp_path):
    changes = {
        "loss": "focal",
        "label_smoothing": 0.1,
        "class_weights": "balanced",
        "schedule": "cosine(3)",
        "warmup_epochs": 0.5,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "accumulate_steps": 3,
        "head": "dense(16)|dropout(0.5)",
    }
    train.main(tiny_config(precision="mixed_bfloat16", xla="on", epochs=1, **changes))
    assert np.isfinite(float(log_of(tmp_path / "run")[0]["loss"]))
    assert runs.load(str(tmp_path / "run")).resolved.precision == "mixed_bfloat16"
    assert tf_keras.mixed_precision.global_policy().name == "float32"
    assert all(w.dtype == np.float32 for w in weights_of(tmp_path / "run"))


@pytest.mark.parametrize(("slow", "bottleneck"), [("input", "input"), ("step", "compute")])
def test_a_profile_tells_the_bottleneck(tmp_path, monkeypatch, slow, bottleneck):
    clock = [0.0]

    def now():
        clock[0] += 1e-6
        return clock[0]

    monkeypatch.setattr(profile.time, "monotonic", now)

    def batches():
        while True:
            clock[0] += 0.02 if slow == "input" else 0.0001
            yield tf.zeros([])

    found = profile.Profile(tmp_path)
    for _ in found.watch(batches(), 30):
        clock[0] += 0.02 if slow == "step" else 0.0001
    assert (found.waited > 0.5) == (slow == "input")
    verdict, found.verdict = found.verdict, ""
    assert verdict.startswith(f"bottleneck: {bottleneck}")
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert len(list(found.watch(iter([1, 2, None, 3]), 30))) == 2, "an epoch that ends early"
    assert not found.verdict, "only the first epoch is traced"
    short = profile.Profile(tmp_path / "short")
    assert len(list(short.watch(iter([*range(17), None]), 30))) == 17
    tf.profiler.experimental.start(str(tmp_path / "next"))  # the trace has ended with the epoch
    tf.profiler.experimental.stop()


def test_a_finished_run_stays_unchanged(run_dir, records):
    before = {
        p: p.read_bytes() for p in run_dir.rglob("*") if p.is_file() and "events" not in p.name
    }
    train.main(TrainConfig(records=str(records), run_dir=str(run_dir), **TINY))
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    ("losses", "patience", "best"),
    [([5, 4, 4, 4], 2, 1), ([5, 6, 7], 2, 0), ([5, 4, 3, 2], 1, 3), ([5, 6], 1, 0)],
)
def test_a_stage_ends_after_its_epochs_or_its_patience(losses, patience, best):
    state = TrainState(epoch=3)
    state.begin_stage(1)
    for loss in losses:
        assert not state.finished(4, patience)
        state.add(loss, 0.5, loss)
    assert state.finished(4, patience)
    assert state.stage_best_epoch == 3 + best
    assert TrainState.from_json(state.to_json()) == state
    old = state.to_json().replace("retries", "rewinds")
    assert TrainState.from_json(old) == state, "a checkpoint of version 0.1"


@pytest.mark.parametrize("patience", [0, 1])
def test_a_patience_of_0_waits_for_the_first_epoch_without_a_gain(patience):
    state = TrainState()
    for loss in (5, 4, 3):
        state.add(loss, 0.5, loss)
        assert not state.finished(9, patience)
    state.add(3, 0.5, 3)
    assert state.finished(9, patience)


@pytest.mark.slow
def test_a_budget_ends_in_a_usable_run(tiny_config, tmp_path, capsys):
    """Of minutes that are over after the first step, in the first of two stages."""
    config = {"stages": "a:from=head,epochs=3;b:from=all,epochs=3", "augment": "", "tta": ""}
    train.main(tiny_config(**config, minutes=1e-6, batch_size=8))
    said = capsys.readouterr().err
    assert "the epoch ends after 1 step" in said
    assert "no stage b" in said
    assert len(log_of(tmp_path / "run")) == 1
    evaluate.main(evaluate.Options(run_dir=str(tmp_path / "run"), rounds=100))
    assert "not calibrated" not in capsys.readouterr().err
    # With more minutes the same command continues.
    train.main(tiny_config(**config, minutes=60.0, batch_size=8))
    assert [row["stage"] for row in log_of(tmp_path / "run")].count("b") == 3


@pytest.mark.slow
def test_a_run_resumes_with_another_cache(tiny_config, tmp_path, capsys):
    config = {"augment": "", "tta": ""}
    train.main(tiny_config(**config, epochs=1))
    changes = {"cache": "decoded", "decode_threads": 1}
    train.main(tiny_config(**config, epochs=2, **changes))
    assert "cache=decoded" in capsys.readouterr().err
    assert len(log_of(tmp_path / "run")) == 2


def test_short_epochs_have_few_lines_and_a_complete_run_says_so(
    tiny_config, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(loop, "SHOW_EVERY_S", 1000)
    config = tiny_config(**CACHED, epochs=6, patience=6)
    train.main(config)
    assert re.findall(r"^epoch (\d+)/6 ", capsys.readouterr().err, re.M) == ["1", "6"]
    losses = val_losses(tmp_path / "run")
    train.main(config)
    said = capsys.readouterr().err
    assert "is complete already" in said
    assert ("--epochs=12" in said) == (min(losses) == losses[5])
    assert val_losses(tmp_path / "run") == losses


def test_more_epochs_are_proposed_where_they_can_be_given(tiny_config, capsys):
    """`--epochs` changes no stage that has its own."""
    train.main(tiny_config(**CACHED | {"stages": "head:epochs=1"}))
    said = capsys.readouterr().err
    assert "the last epoch is the best" in said
    assert "more in --stages" in said
    assert "--epochs=" not in said


def test_frozen_features_are_computed_once(tiny_config, tmp_path):
    config = tiny_config(**CACHED, epochs=1)
    train.main(config)
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "run" / "features").iterdir()}
    assert len(files) == 2  # of the training and of the validation images
    train.main(tiny_config(**CACHED, epochs=2))
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert len(log_of(tmp_path / "run")) == 2
    # The head on cached features is the whole model on images.
    evaluate.main(evaluate.Options(run_dir=config.run_dir, tta="none"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["log_loss_raw"] == pytest.approx(min(val_losses(tmp_path / "run")), abs=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate=0.003.*now 0.5"),
        ({"seed": 1}, "seed=0.*now 1"),
        ({"augment": ""}, "augment=flip_lr"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(run_dir, records, changes, message):
    with refused(message):
        train.main(TrainConfig(records=str(records), run_dir=str(run_dir), **{**TINY, **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs=0.*at least 1"),
        ({"stages": "a:epochs=1;b:epochs=0"}, "epochs=0.*at least 1"),
        ({"patience": -1}, "patience=-1"),
        ({"shuffle_mb": 0}, "shuffle_mb=0"),
        ({"data_service": "host:1"}, "data_service=host:1.*grpc://"),
        ({"max_corrupt": -1}, "max_corrupt=-1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"val_split": "test"}, "no split 'test'.*train, val"),
        ({"image_size": "mobilenet=32"}, "image_size"),
        ({"image_size": "big"}, "image_size=big.*pixels"),
        ({"optimizer": "sdg"}, "unknown optimizer 'sdg'"),
        ({"learning_rate": 0.0}, "learning_rate=0"),
        ({"warmup_epochs": -1.0}, "warmup_epochs=-1"),
        ({"clip_norm": -1.0}, "clip_norm=-1"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
        ({"weight_decay": 0.1, "optimizer": "nadam"}, "nadam has none.*adadelta, adagrad"),
        ({"accumulate_steps": 0}, "accumulate_steps=0"),
        ({"class_weights": "bird=2"}, "classes are cat, dog"),
        ({"records": "nowhere"}, r"nowhere/manifest\.json does not exist"),
        (
            {**CACHED, "augment": "mixup(0.2)", "feature_views": 2, "epochs": 1},
            "feature_views=2.*mixup.*feature_views=0",
        ),
        (
            {"learning_rate": 1e30, "optimizer": "sgd"},
            "not finite at step 3 of epoch 1.*lower .*learning_rate",
        ),
    ],
)
def test_wrong_options_are_explained(tiny_config, changes, message):
    config = tiny_config(**changes)
    with refused(message):
        train.main(config)
    # Nothing half-written: the folder exists only if training has begun.
    began = "not finite" in message or "feature_views" in changes
    assert os.path.exists(config.run_dir) == began


def test_damaged_records_are_named_before_the_first_step(tiny_config, records, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(records, copy)
    shard = next(copy.glob("train-*"))
    with open(shard, "r+b") as file:
        file.truncate(shard.stat().st_size - 1)
    with refused(f"1 of 80 records are lost.*{shard.name}.*max_corrupt=1"):
        train.main(tiny_config(**CACHED, records=str(copy)))
    train.main(tiny_config(**CACHED, records=str(copy), max_corrupt=1, epochs=1))
    assert "1 of" in capsys.readouterr().err
    with open(tmp_path / "run/salvaged/lost.csv", newline="") as file:
        assert [row["shard"] for row in csv.DictReader(file)] == [shard.name]
    assert log_of(tmp_path / "run")
