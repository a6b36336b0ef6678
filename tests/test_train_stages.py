"""Training in stages, from cached features, and whatever may go wrong in the middle of it."""

import csv
import fcntl
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2
from test_train import check_same_run, log_of, weights_of

from tfpipe import train
from tfpipe.core.errors import UserError
from tfpipe.runs import predictions_file, run_calibration
from tfpipe.training import frozen, steps
from tfpipe.training import progress as progresses
from tfpipe.training import run as runs

STAGES = "head:epochs=2,lr=1e-2;top:from=conv3,epochs=2,lr=1e-3;all:from=all,epochs=2,lr=1e-3"
CACHED = {"augment": "", "pooling": "avg", "head": "dense(16)|dropout(0.5)"}
MIXED = {"average": "ema(0.9)", "accumulate_steps": 3, "schedule": "cosine(2)"}


def test_stages_go_on_from_the_best_epoch_of_the_one_before(tiny_config, tmp_path):
    """With a rate that changes nothing, a stage has the loss of the weights that it starts from."""
    stages = (
        "head:lr=1e-2,epochs=3;worse:lr=10,epochs=2,optimizer=sgd;same:from=conv2,lr=1e-30,epochs=1"
    )
    train.main(tiny_config(stages=stages, **CACHED))
    rows = log_of(tmp_path / "run")
    assert [row["stage"] for row in rows] == ["head"] * 3 + ["worse"] * 2 + ["same"]
    best = {
        name: min(float(row["val_loss"]) for row in rows if row["stage"] == name)
        for name in ("head", "worse", "same")
    }
    assert best["worse"] > best["head"] + 0.01, "the learning rate should have done harm"
    assert best["same"] == pytest.approx(best["worse"], abs=1e-5)
    run = runs.load(str(tmp_path / "run"))
    assert {p.name for p in (run.folder / "stages").iterdir()} == {
        f"{name}.weights.h5" for name in ("1-head", "2-worse", "3-same")
    }
    first = (run.folder / "stages" / "1-head.weights.h5").read_bytes()
    assert run.best_weights.read_bytes() == first, "the best of all is what is exported"


def test_a_stage_trains_only_what_is_behind_its_boundary(tiny_config, tmp_path):
    train.main(tiny_config(stages="top:from=conv3", **CACHED | {"augment": "flip_lr"}))
    run = runs.load(str(tmp_path / "run"))
    trained = run.restore().classifier.backbones[0].model
    from tfpipe.training import runtime

    runtime.seed_everything(run.config.seed)
    fresh = run.build(first_weights=True).backbones[0].model
    for layer in fresh.layers[1:]:
        same = all(
            np.array_equal(a, b)
            for a, b in zip(
                layer.get_weights(), trained.get_layer(layer.name).get_weights(), strict=True
            )
        )
        assert same == (layer.name != "conv3"), layer.name


@pytest.mark.parametrize("start", ["head", "conv3"])
def test_cached_features_train_as_images_do(tiny_config, tmp_path, start):
    """Without augmentation, once in another order: so the losses of the first epoch are close."""
    config = CACHED | {"stages": f"one:from={start}", "head": "", "shuffle_mb": 64, "epochs": 2}
    train.main(tiny_config(run_dir=str(tmp_path / "cached"), **config))
    train.main(tiny_config(run_dir=str(tmp_path / "images"), feature_gb=0, **config))
    assert (tmp_path / "cached" / "features").exists()
    assert not (tmp_path / "images" / "features").exists()
    for one, other in zip(log_of(tmp_path / "cached"), log_of(tmp_path / "images"), strict=True):
        assert float(one["val_loss"]) == pytest.approx(float(other["val_loss"]), abs=0.02)


def test_an_epoch_ends_with_the_mean_of_the_images_that_are_left(tiny_config, tmp_path):
    """63 images, and then the last one alone, in a descent by hand; any of them may be the last."""
    config = CACHED | {"stages": "head", "head": "", "epochs": 1, "batch_size": 63}
    rate = 0.5
    train.main(tiny_config(optimizer="sgd", learning_rate=rate, **config))
    run = runs.load(str(tmp_path / "run"))
    found = run.restore_classifier().model.get_weights()[-2:]
    features, labels = (
        next(values for path in run.folder.glob(f"features/*/{name}.npy")
             if len(values := np.load(path)) == 64)
        for name in ("boundary0", "label")
    )  # fmt: skip
    features = np.concatenate([features, np.ones([64, 1])], 1).astype(float)  # with the bias

    def gradients(weights):
        return features * (scipy.special.expit(features @ weights) - labels)[:, None]

    def end(last):
        weights = -rate * np.delete(gradients(np.zeros(features.shape[1])), last, 0).mean(0)
        return weights - rate * gradients(weights)[last]

    distances = [np.abs(end(last) - np.concatenate(found, None)).max() for last in range(64)]
    assert sorted(distances)[0] < 1e-5
    assert sorted(distances)[1] > 1e-4


def test_views_take_turns_and_are_the_augmented_pictures(tiny_config, tmp_path):
    config = CACHED | {"stages": "head", "augment": "flip_lr|rotate(30)", "epochs": 5}
    cache = tmp_path / "cache"
    for views in (2, 3):
        train.main(
            tiny_config(
                run_dir=str(tmp_path / str(views)),
                feature_views=views,
                feature_cache=str(cache),
                **config,
            )
        )
    assert len(list(cache.iterdir())) == 4, "three views, two of them shared, and the validation"
    entries = [np.load(path / "boundary0.npy") for path in cache.iterdir()]
    views = [entry for entry in entries if len(entry) == 64]
    assert len(views) == 3
    for index, one in enumerate(views):
        for other in views[:index]:
            assert np.abs(one - other).max() > 1e-3


def test_images_are_read_once_for_all_stages(tiny_config, tmp_path, monkeypatch):
    """Later boundaries are computed from the earliest one, with the values that images give."""
    stages = "head:epochs=1;top:from=conv3,epochs=1;more:from=conv2,epochs=1"
    config = CACHED | {"stages": stages, "augment": "rotate(30)", "feature_views": 2, "tta": ""}
    passes = []
    from_images = frozen.Frozen._image_batches
    monkeypatch.setattr(
        frozen.Frozen,
        "_image_batches",
        lambda self, whole, view: passes.append(view) or from_images(self, whole, view),
    )
    train.main(tiny_config(run_dir=str(tmp_path / "stages"), **config))
    assert sorted(map(str, passes)) == ["0", "1", "None"], "two views, and the validation"
    kept = {p.parent.name: p for p in (tmp_path / "stages" / "features").glob("*/boundary0.npy")}
    assert len(kept) == 9, "three boundaries, each with two views and the validation"
    train.main(tiny_config(run_dir=str(tmp_path / "head"), **config | {"stages": "head"}))
    alone = list((tmp_path / "head" / "features").glob("*/boundary0.npy"))
    assert len(alone) == 3
    for path in alone:
        np.testing.assert_allclose(np.load(path), np.load(kept[path.parent.name]), atol=1e-5)


def test_the_calibration_takes_what_is_kept(tiny_config, tmp_path, monkeypatch):
    config = CACHED | {"stages": "head;top:from=conv3", "tta": "", "epochs": 2}
    train.main(tiny_config(**config))
    run = runs.load(str(tmp_path / "run"))
    kept = predictions_file.read(run.predictions_file)
    run.calibration_file.unlink()
    monkeypatch.setattr(run_calibration, "_from_features", lambda *_: None)
    train.main(tiny_config(**config))
    images = predictions_file.read(run.predictions_file)
    assert list(kept["name"]) == list(images["name"])
    assert np.array_equal(kept["label"], images["label"])
    np.testing.assert_allclose(kept["logits"], images["logits"], atol=1e-4)


def test_pictures_that_are_mixed_have_no_features_of_their_own(tiny_config):
    with pytest.raises(UserError, match=r"--feature_views=2: .*mixup.*--feature_views=0"):
        train.main(
            tiny_config(**CACHED | {"stages": "head", "augment": "mixup(0.2)"}, feature_views=2)
        )


def test_what_does_not_fit_is_computed_in_each_epoch_and_told(tiny_config, tmp_path, capfd):
    train.main(tiny_config(stages="top:from=conv3", feature_gb=1e-6, **CACHED))
    assert "would take 0.0 GB, more than --feature_gb=1e-06" in capfd.readouterr().err
    assert not (tmp_path / "run" / "features").exists()


class EndError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize(("inputs", "saves"), [("images", [11, 3]), ("features", [3, 7])])
def test_a_run_interrupted_within_an_epoch_ends_as_if_it_had_not_been(
    tiny_config, tmp_path, monkeypatch, inputs, saves
):
    """With dropout, augmentation, averages and accumulated gradients, through three stages."""
    changes = {"checkpoint_minutes": 0.0, "head": "dense(16)|dropout(0.5)", **MIXED}
    changes["stages"] = STAGES
    if inputs == "features":
        changes |= {"feature_views": 2, "pooling": "avg", "precision": "mixed_bfloat16"}
    whole = tiny_config(run_dir=str(tmp_path / "whole"), **changes)
    train.main(whole)
    save = progresses.Checkpoints.save
    for left in saves:
        counter = [left]

        def interrupted(self, state, progress, counter=counter):
            save(self, state, progress)
            counter[0] -= 1
            if not counter[0]:
                raise EndError

        monkeypatch.setattr(progresses.Checkpoints, "save", interrupted)
        with pytest.raises(EndError):
            train.main(tiny_config(run_dir=str(tmp_path / "parts"), **changes))
    monkeypatch.undo()
    train.main(tiny_config(run_dir=str(tmp_path / "parts"), **changes))
    check_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tiny_config, tmp_path):
    config = tiny_config(checkpoint_minutes=0.0, stages=STAGES, run_dir=str(tmp_path / "whole"))
    train.main(config)
    command = [
        *(sys.executable, "-m", "tfpipe.train", f"--records={config.records}"),
        *("--backbones=small_cnn", "--weights=none", "--image_size=32", "--pooling=flatten"),
        *("--head=dense(16)", "--epochs=3", "--batch_size=16", "--augment=flip_lr|rotate(10)"),
        *(f"--stages={STAGES}", "--checkpoint_minutes=0", "--precision=float32"),
        f"--run_dir={tmp_path / 'parts'}",
    ]
    last = tmp_path / "parts" / "last"
    for more in (3, 7):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        first = None
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            there = [int(p.stem.split("-")[1]) for p in last.glob("state-*.index")]
            first = first if first is not None else max(there, default=0)
            if there and max(there) >= first + more:
                break
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    check_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "all"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(
    tiny_config, tmp_path, capfd, damage
):
    train.main(tiny_config(run_dir=str(tmp_path / "whole"), epochs=4))
    train.main(tiny_config(run_dir=str(tmp_path / "parts"), epochs=3))
    last = tmp_path / "parts" / "last"
    newest = max(int(p.stem.split("-")[1]) for p in last.glob("state-*.index"))
    for number in (newest, newest - 1)[: 2 if damage == "all" else 1]:
        (path,) = last.glob(f"state-{number}.data*")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes({"cut": data[:-9], "empty": b""}.get(damage, bytes(data)))
    capfd.readouterr()
    train.main(tiny_config(run_dir=str(tmp_path / "parts"), epochs=4))
    err = capfd.readouterr().err
    assert f"warning: the checkpoint {last / f'state-{newest}'} is damaged" in err
    assert ("the training begins anew" in err) == (damage == "all")
    check_same_run(tmp_path / "whole", tmp_path / "parts")


def diverging(monkeypatch, at):
    """Makes the loss NaN in the steps of these numbers, counted through the whole training."""
    build = steps.losses.build
    counter = tf.Variable(0)

    def poisoned(config, shares):
        loss = build(config, shares)

        def compute(*args):
            bad = tf.reduce_any(counter.assign_add(1) == at)
            return tf.where(bad, np.nan, loss(*args))

        return compute

    monkeypatch.setattr(steps.losses, "build", poisoned)


def test_a_loss_that_is_no_number_stops_with_its_step_and_batch(tiny_config, tmp_path, monkeypatch):
    diverging(monkeypatch, [6])  # of four steps an epoch
    with pytest.raises(UserError, match=r"no number at step 2 of epoch 2, whose batch is in") as e:
        train.main(tiny_config())
    assert "\n" not in str(e.value)
    run = runs.load(str(tmp_path / "run"))
    with open(run.folder / "nan_batch.csv", newline="", encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert len(set(names)) == 16
    assert all(name.endswith(".jpg") for name in names)
    assert len(log_of(run.folder)) == 1
    assert all(np.isfinite(value).all() for value in weights_of(run.folder))
    monkeypatch.undo()
    train.main(tiny_config())  # from the last good state
    assert len(log_of(run.folder)) == 3


def test_rewinding_goes_on_with_half_the_learning_rate(tiny_config, tmp_path, monkeypatch, capfd):
    diverging(monkeypatch, [6, 15])
    train.main(tiny_config(on_nan="rewind"))
    rows = log_of(tmp_path / "run")
    assert [float(row["learning_rate"]) for row in rows] == [3e-3, 1.5e-3, 7.5e-4]
    assert all(np.isfinite(float(row["loss"])) for row in rows)
    assert capfd.readouterr().err.count("back to the last checkpoint") == 2


def test_rewinding_is_given_up_in_the_end(tiny_config, monkeypatch):
    diverging(monkeypatch, list(range(200)))
    with pytest.raises(UserError, match="no number at step 1 of epoch 1"):
        train.main(tiny_config(on_nan="rewind"))


def test_two_runs_in_one_folder_are_refused(tiny_config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with open(folder / runs.LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another tfpipe\.train is at work in .*/run: wait"):
            train.main(tiny_config())
    train.main(tiny_config(epochs=1))


@pytest.mark.parametrize("average", ["ema(0.9)", "swa(1)"])
def test_averages_are_what_is_validated_and_exported(tiny_config, tmp_path, average):
    import json

    from tfpipe import evaluate

    changes = {"epochs": 3, "learning_rate": 1e-2, "tta": "", "calibration": "none"}
    config = tiny_config(average=average, **changes)
    train.main(config)
    evaluate.main(evaluate.Options(run_dir=config.run_dir))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    best = min(float(row["val_loss"]) for row in log_of(tmp_path / "run"))
    assert metrics["log_loss"] == pytest.approx(best, abs=1e-5)
    train.main(tiny_config(run_dir=str(tmp_path / "plain"), **changes))
    plain = [float(row["val_loss"]) for row in log_of(tmp_path / "plain")]
    found = [float(row["val_loss"]) for row in log_of(tmp_path / "run")]
    assert np.abs(np.subtract(plain, found)).max() > 1e-4


def test_a_backbones_own_learning_rate(tiny_config, tmp_path):
    """With a rate of 0 for the backbone as good as, its weights stay; the head's do not."""
    config = tiny_config(stages="all:from=all,backbone_lr=1e-30,lr=1e-2")
    train.main(config)
    run = runs.load(config.run_dir)
    trained = run.restore_classifier()
    from tfpipe.training import runtime

    runtime.seed_everything(run.config.seed)
    fresh = run.build(first_weights=True)
    for one, other in zip(
        trained.features.get_weights(), fresh.features.get_weights(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert np.abs(trained.head.get_weights()[0] - fresh.head.get_weights()[0]).max() > 1e-3


def test_tensorboard_has_scalars_the_augmented_images_and_the_graph(tiny_config, tmp_path):
    train.main(tiny_config(epochs=2))
    scalars, images, graphs = set(), [], []
    for path in (tmp_path / "run" / "tensorboard").glob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                kind = value.metadata.plugin_data.plugin_name
                if kind == "graph_run_metadata_graph":
                    found = config_pb2.RunMetadata.FromString(value.tensor.string_val[0])
                    graphs += [each.pre_optimization_graph for each in found.function_graphs]
                if kind == "images":
                    images = [tf.io.decode_png(each) for each in value.tensor.string_val[2:]]
                else:
                    scalars.add(value.tag)
    assert {"loss", "val_loss", "learning_rate", "images_per_s", "input_wait"} <= scalars
    assert len(images) == 16
    assert {image.shape for image in images} == {(32, 32, 3)}
    assert len(graphs) == 1
    names = {node.name.rsplit("/", 1)[-1] for node in graphs[0].node}
    assert {"Conv2D", "Conv2DBackpropFilter"} <= names


def test_too_large_a_batch_for_the_memory_is_told(tiny_config, monkeypatch):
    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(steps.Steps, "train", exhausted)
    with pytest.raises(UserError, match=r"--batch_size=16 needs more memory.*--batch_size=8, with"):
        train.main(tiny_config())
