"""Training in stages and from cached features, and faults in the middle of it."""

import csv
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.special
import tensorflow as tf
from conftest import ROOT, TINY
from tensorflow.core.protobuf import config_pb2

from tests.refusals import refused
from tests.training import CACHED, check_same_run, log_of, save_backbone, val_losses, weights_of
from tfpipe import evaluate, train
from tfpipe.input import pipeline
from tfpipe.records import manifest as manifests
from tfpipe.records.subset import Subset
from tfpipe.runs import predictions_file, run_calibration
from tfpipe.training import checkpoints, randomness, steps
from tfpipe.training import run_folder as runs
from tfpipe.training.train_config import TrainConfig

STAGES = "head:epochs=1,lr=1e-2;top:from=conv3,epochs=1,lr=1e-3;all:from=all,epochs=2,lr=1e-3"


def load(tmp_path):
    return runs.load(str(tmp_path / "run"))


def fresh(run):
    """Builds the classifier of a run with its first weights."""
    randomness.seed_everything(run.config.seed)
    return run.build(first_weights=True)


@pytest.mark.slow
def test_stages_start_from_the_best_epoch_of_the_stage_before(tiny_config, tmp_path):
    """With a rate that changes nothing, a stage has the loss of the weights that it starts from."""
    stages = (
        "head:lr=1e-2,epochs=2;worse:lr=10,epochs=2,optimizer=sgd;same:from=conv2,lr=1e-30,epochs=1"
    )
    train.main(tiny_config(**CACHED | {"stages": stages}))
    assert [row["stage"] for row in log_of(tmp_path / "run")] == (
        ["head"] * 2 + ["worse"] * 2 + ["same"]
    )
    losses = val_losses(tmp_path / "run")
    assert min(losses[2:4]) > min(losses[:2]) + 0.01, "the learning rate should have done harm"
    assert losses[4] == pytest.approx(min(losses[2:4]), abs=1e-5)
    run = load(tmp_path)
    first = (run.folder / "stages" / "1-head.weights.h5").read_bytes()
    assert run.best_weights.read_bytes() == first, "the best of all is what is exported"


@pytest.mark.slow
def test_a_stage_trains_only_the_layers_from_its_start_on(tiny_config, tmp_path):
    """Under augmentation too: BatchNorm of frozen layers keeps its statistics."""
    backbone = save_backbone(tmp_path)
    changes = {"stages": "top:from=conv2,backbone_lr=1e-2", "backbones": backbone, "epochs": 1}
    train.main(tiny_config(**CACHED | changes | {"augment": "flip_lr"}))
    run = load(tmp_path)
    first, trained = fresh(run), run.restore_classifier()
    pairs = zip(first.backbones[0].model.weights, trained.backbones[0].model.weights, strict=True)
    for before, after in pairs:
        same = np.array_equal(before, after)
        assert same == (not before.name.startswith("conv2")), before.name


@pytest.mark.slow  # trains twice
def test_cached_features_train_like_images(tiny_config, tmp_path, capfd):
    """Without augmentation, once in another order: so the losses of the first epoch are close."""
    config = CACHED | {"stages": "one:from=conv3", "head": "", "epochs": 1}
    folders = tmp_path / "cached", tmp_path / "images"
    for folder, feature_gb in zip(folders, (10.0, 1e-6), strict=True):
        train.main(tiny_config(run_dir=str(folder), feature_gb=feature_gb, **config))
        assert (folder / "features").exists() == (folder.name == "cached")
    assert (
        "would take 0.0 GB, more than the 1e-06 GB left of 1e-06 GB (feature_gb)"
        in capfd.readouterr().err
    )
    assert val_losses(folders[0]) == pytest.approx(val_losses(folders[1]), abs=0.02)


def test_the_last_batch_of_an_epoch_is_a_whole_one(tiny_config, tmp_path):
    """63 images, then the one that is left with 62 of these, in a descent by hand.

    Any image may be the one that is left, and any the one that the last batch lacks.
    """
    config = CACHED | {"head": "", "epochs": 1, "batch_size": 63}
    rate = 0.5
    train.main(tiny_config(optimizer="sgd", learning_rate=rate, **config))
    run = load(tmp_path)
    found = run.restore_classifier().model.get_weights()[-2:]
    features, labels = (
        next(values for path in run.folder.glob(f"features/*/{name}.npy")
             if len(values := np.load(path)) == 64)
        for name in ("features0", "label")
    )  # fmt: skip
    features = np.concatenate([features, np.ones([64, 1])], 1).astype(float)  # with the bias

    def mean_without(image, weights):
        gradients = features * (scipy.special.expit(features @ weights) - labels)[:, None]
        return np.delete(gradients, image, 0).mean(0)

    def end(left, lacking):
        weights = -rate * mean_without(left, np.zeros(features.shape[1]))
        return weights - rate * mean_without(lacking, weights)

    found = np.concatenate(found, None)
    distances = sorted(
        np.abs(end(left, lacking) - found).max()
        for left in range(64)
        for lacking in range(64)
        if left != lacking
    )
    assert distances[0] < 1e-6
    assert distances[0] < distances[1] / 3


@pytest.mark.slow
def test_a_stage_has_its_own_batch_size(tiny_config, tmp_path):
    """One step with all images has the mean of their gradients."""
    config = CACHED | {"head": "", "epochs": 1, "batch_size": 8}
    stages = "a:batch_size=64,optimizer=sgd,lr=0.5;b:batch_size=32,lr=1e-30"
    train.main(tiny_config(**config | {"stages": stages}))
    run = load(tmp_path)
    features, labels = (
        next(
            values
            for path in run.folder.glob(f"features/*/{name}.npy")
            if len(values := np.load(path)) == 64
        )
        for name in ("features0", "label")
    )
    kernel, bias = run.restore_classifier().model.get_weights()[-2:]
    error = 0.5 - labels[:, None]
    np.testing.assert_allclose(kernel, -0.5 * (features * error).mean(0)[:, None], atol=1e-6)
    np.testing.assert_allclose(bias, -0.5 * error.mean(0), atol=1e-6)
    with refused("batch_size=1000.*give 1 to 64"):
        train.main(tiny_config(run_dir=str(tmp_path / "b"), stages="a:batch_size=1000"))


@pytest.mark.parametrize(
    ("stages", "feature_gb"),
    [
        ("head", 1.0),
        pytest.param("head", 0.0, marks=pytest.mark.slow),
        pytest.param("all:from=all", 1.0, marks=pytest.mark.slow),
    ],
)
def test_norm_has_the_statistics_of_the_training_images(tiny_config, tmp_path, stages, feature_gb):
    """After a single epoch too, of the features that the first weights give."""
    changes = CACHED | {"stages": stages, "head": "norm", "epochs": 1, "feature_gb": feature_gb}
    config = tiny_config(**changes, learning_rate=1e-30)
    train.main(config)
    trained = load(tmp_path).restore_classifier()
    part = Subset(manifests.load(config.records), ("train",))
    (images,) = (
        batch["image"] for batch in pipeline.eval_batches(part, image_size=32, batch_size=64)
    )
    features = trained.features(tf.cast(images, tf.float32)).numpy()
    norm = trained.head.get_layer("head0_norm")
    np.testing.assert_allclose(norm.moving_mean, features.mean(0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        norm(features), (features - features.mean(0)) / np.maximum(features.std(0), 1e-3**0.5),
        atol=1e-2,
    )  # fmt: skip


@pytest.mark.parametrize(
    "changes", [CACHED, pytest.param({"augment": "flip_lr"}, marks=pytest.mark.slow)]
)
def test_fewer_images_than_a_batch_train_too(tiny_config, tmp_path, capfd, changes):
    """As one batch of all of them, with BatchNorm over different images."""
    changes = changes | {"head": "", "batch_norm": "trained", "epochs": 1, "batch_size": 1000}
    train.main(tiny_config(**changes))
    assert "64 images, so a step takes 64" in capfd.readouterr().err
    train.main(tiny_config(**changes))  # resumes
    same = {"run_dir": str(tmp_path / "same"), "batch_size": 64}
    train.main(tiny_config(**changes | same))
    check_same_run(tmp_path / "run", tmp_path / "same")


@pytest.mark.slow
def test_images_are_read_once_for_all_stages_and_runs(tiny_config, tmp_path, monkeypatch):
    """Features at later layers follow from the earliest ones, with the values that images give."""
    stages = "head:epochs=1;top:from=conv3,epochs=1;more:from=conv2,epochs=1"
    config = CACHED | {"augment": "rotate(30)", "feature_views": 2, "epochs": 1}
    passes = []
    eval_batches = pipeline.eval_batches

    def counted(part, **options):
        if options.get("copies"):
            passes.append(part.name)
        return eval_batches(part, **options)

    monkeypatch.setattr(pipeline, "eval_batches", counted)
    train.main(tiny_config(run_dir=str(tmp_path / "stages"), **config | {"stages": stages}))
    assert sorted(passes) == ["train", "train", "val"], "two views, and the validation"
    train.main(tiny_config(run_dir=str(tmp_path / "head"), **config | {"feature_views": 3}))
    kept, alone = (
        {p.parent.name: np.load(p) for p in tmp_path.glob(f"{name}/features/*/features0.npy")}
        for name in ("stages", "head")
    )
    assert len(kept) == 9, "three split layers, each with two views and the validation"
    assert len(alone) == 4
    shared = set(alone) & set(kept)
    assert len(shared) == 3, "the third view is new"
    for name in shared:
        np.testing.assert_allclose(alone[name], kept[name], atol=1e-5)
    views = [entry for entry in alone.values() if len(entry) == 64]
    for one, other in itertools.combinations(views, 2):
        assert np.abs(one - other).max() > 1e-3, "each view is drawn anew"


@pytest.mark.slow
def test_the_calibration_uses_cached_features(tiny_config, tmp_path, monkeypatch):
    config = CACHED | {"stages": "head;top:from=conv3", "epochs": 1}
    train.main(tiny_config(**config))
    run = load(tmp_path)
    kept = predictions_file.read(run.predictions_file)
    run.calibration_file.unlink()
    monkeypatch.setattr(run_calibration, "_from_features", lambda *_: None)
    train.main(tiny_config(**config))
    images = predictions_file.read(run.predictions_file)
    assert list(kept["name"]) == list(images["name"])
    assert np.array_equal(kept["label"], images["label"])
    np.testing.assert_allclose(kept["logits"], images["logits"], atol=1e-4)


class EndError(BaseException):
    """Stands for the end of the process."""


@pytest.mark.slow  # each trains three times or more
@pytest.mark.parametrize(("inputs", "saves"), [("images", [7, 3]), ("features", [3])])
def test_a_run_interrupted_within_an_epoch_ends_like_an_uninterrupted_one(
    tiny_config, tmp_path, monkeypatch, inputs, saves
):
    """With dropout, augmentation, averages and accumulated gradients, through three stages."""
    changes = {"checkpoint_minutes": 0.0, "head": "dense(16)|dropout(0.5)", "stages": STAGES}
    changes |= {"average": "ema(0.9)", "accumulate_steps": 3, "schedule": "cosine(2)"}
    if inputs == "features":
        changes |= {"feature_views": 2, "pooling": "avg", "precision": "mixed_bfloat16"}
        changes["stages"] = "head:epochs=2,lr=1e-2;top:from=conv3,epochs=1,lr=1e-3"
    train.main(tiny_config(run_dir=str(tmp_path / "whole"), **changes))
    save = checkpoints.Checkpoints.save
    for left in saves:
        counter = itertools.count(1)

        def interrupted(*args, left=left, counter=counter):
            save(*args)
            if next(counter) == left:
                raise EndError

        monkeypatch.setattr(checkpoints.Checkpoints, "save", interrupted)
        with pytest.raises(EndError):
            train.main(tiny_config(run_dir=str(tmp_path / "parts"), **changes))
    monkeypatch.undo()
    train.main(tiny_config(run_dir=str(tmp_path / "parts"), **changes))
    check_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow  # processes
@pytest.mark.timeout(600)
def test_a_run_killed_at_any_moment_ends_like_an_uninterrupted_one(tiny_config, tmp_path):
    options = TINY | {"checkpoint_minutes": 0.0, "stages": STAGES}
    config = tiny_config(run_dir=str(tmp_path / "whole"), **options)
    train.main(config)
    options |= {"records": config.records, "run_dir": tmp_path / "parts"}
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tfpipe.train", *flags]
    last = tmp_path / "parts" / "last"
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "cwd": ROOT}
    for more in (3, 5):
        process = subprocess.Popen(command, **quiet)
        first = None
        while process.poll() is None:
            there = [int(p.stem.split("-")[1]) for p in last.glob("state-*.index")]
            first = first if first is not None else max(there, default=0)
            if there and max(there) >= first + more:
                break
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it was killed"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run(command, check=True, **quiet)
    check_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.fixture(scope="module")
def two_epochs(records, tmp_path_factory):
    """The folders of the same run after one and after two epochs, of a head on cached features."""
    folder = tmp_path_factory.mktemp("epochs")
    for epochs in (1, 2):
        options = {"records": str(records), "run_dir": str(folder / str(epochs)), "epochs": epochs}
        train.main(TrainConfig(**TINY | CACHED | options))
    return folder / "1", folder / "2"


@pytest.mark.parametrize(
    "damage", ["flip", *(pytest.param(d, marks=pytest.mark.slow) for d in ("cut", "all"))]
)
def test_a_damaged_checkpoint_is_left_out_and_the_one_before_is_used(
    tiny_config, tmp_path, capfd, two_epochs, damage
):
    shutil.copytree(two_epochs[0], tmp_path / "run")
    last = tmp_path / "run" / "last"
    newest = max(int(p.stem.split("-")[1]) for p in last.glob("state-*.index"))
    for number in (newest, newest - 1)[: 2 if damage == "all" else 1]:
        (path,) = last.glob(f"state-{number}.data*")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[:-9] if damage == "cut" else data)
    train.main(tiny_config(**CACHED, epochs=2))
    err = capfd.readouterr().err
    assert f"warning: the checkpoint {last / f'state-{newest}'} is damaged" in err
    assert ("the training begins anew" in err) == (damage == "all")
    check_same_run(two_epochs[1], tmp_path / "run")


def diverging(monkeypatch, at):
    """Makes the loss NaN in the steps of these numbers, counted through the whole training."""
    build = steps.losses.build
    counter = tf.Variable(0)

    def poisoned(*given, **named):
        loss = build(*given, **named)

        def compute(*args):
            bad = tf.reduce_any(counter.assign_add(1) == at)
            return tf.where(bad, np.nan, loss(*args))

        return compute

    monkeypatch.setattr(steps.losses, "build", poisoned)


def test_a_loss_that_is_not_finite_stops_with_its_step_and_batch(
    tiny_config, tmp_path, monkeypatch, two_epochs
):
    diverging(monkeypatch, [6])  # of four steps an epoch
    with refused("not finite at step 2 of epoch 2"):
        train.main(tiny_config(**CACHED, epochs=2))
    run = load(tmp_path)
    with open(run.folder / "nan_batch.csv", newline="", encoding="utf-8") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert len(set(names)) == 16
    assert all(name.endswith(".jpg") for name in names)
    assert len(log_of(run.folder)) == 1
    assert all(np.isfinite(value).all() for value in weights_of(run.folder))
    monkeypatch.undo()
    train.main(tiny_config(**CACHED, epochs=2))  # from the last good state
    check_same_run(two_epochs[1], run.folder)


@pytest.mark.slow  # each trains twice
@pytest.mark.parametrize("optimizer", ["adam", "nadam"])
def test_rewinding_halves_the_learning_rate(tiny_config, tmp_path, monkeypatch, capfd, optimizer):
    """The weights become those of a schedule that halves the rate where the loss is not finite."""
    config = CACHED | {"stages": "top:from=conv3,backbone_lr=1e-3", "epochs": 3}
    config |= {"head": "dense(16)", "optimizer": optimizer}
    diverging(monkeypatch, [5, 14])  # the first steps of epochs of four
    train.main(tiny_config(on_nan="rewind", **config))
    monkeypatch.undo()
    assert capfd.readouterr().err.count("back to the last checkpoint") == 2
    half = {"run_dir": str(tmp_path / "half"), "schedule": "step(1,0.5)"}
    train.main(tiny_config(**config | half))
    kept, expected = weights_of(tmp_path / "run"), weights_of(tmp_path / "half")
    for one, other in zip(kept, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    rows = log_of(tmp_path / "run")
    assert [float(row["learning_rate"]) for row in rows] == [3e-3, 1.5e-3, 7.5e-4]


def test_a_plateau_lowers_the_rate_of_the_epochs_behind_it(tiny_config, tmp_path):
    """At a rate that is too high; what the weights do is the test of the scaled rate."""
    config = CACHED | {"learning_rate": 1e-30, "epochs": 5, "min_delta": 1e-3}
    train.main(tiny_config(schedule="plateau(0.5,2)", **config))
    rates = [float(row["learning_rate"]) / 1e-30 for row in log_of(tmp_path / "run")]
    np.testing.assert_allclose(rates, [1, 1, 1, 0.5, 0.5])  # at the end of each epoch


@pytest.mark.slow  # goes back five times
def test_rewinding_is_given_up_in_the_end(tiny_config, monkeypatch):
    diverging(monkeypatch, list(range(200)))
    with refused("not finite at step 1 of epoch 1"):
        train.main(tiny_config(**CACHED, on_nan="rewind"))


def test_two_trainings_in_one_folder_are_refused(tiny_config, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    with open(folder / runs.LOCK, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with refused(r"another training is running in .*/run"):
            train.main(tiny_config())


@pytest.mark.parametrize("average", ["ema(0.9)", pytest.param("swa(1)", marks=pytest.mark.slow)])
def test_averages_are_validated_and_exported(tiny_config, tmp_path, two_epochs, average):
    """After two epochs the validation loss differs from that of the weights themselves."""
    config = tiny_config(average=average, **CACHED, epochs=2)
    train.main(config)
    found = val_losses(tmp_path / "run")
    assert np.abs(np.subtract(val_losses(two_epochs[1]), found)).max() > 1e-5
    evaluate.main(evaluate.Options(run_dir=config.run_dir, tta="none"))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["log_loss_raw"] == pytest.approx(min(found), abs=1e-5)


def test_a_backbones_own_learning_rate(tiny_config, tmp_path):
    """With a rate of almost 0 the backbone's weights stay; the head's do not."""
    stages = "all:from=all,backbone_lr=1e-30,lr=1e-2,epochs=1"
    train.main(tiny_config(**CACHED | {"stages": stages}))
    run = load(tmp_path)
    trained, first = run.restore_classifier(), fresh(run)
    for one, other in zip(trained.features.weights, first.features.weights, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    assert np.abs(trained.head.get_weights()[0] - first.head.get_weights()[0]).max() > 1e-3


def test_tensorboard_has_scalars_the_augmented_images_and_the_graph(run_dir):
    scalars, images, graphs = set(), [], []
    for path in (run_dir / "tensorboard").glob("events*"):
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


def test_too_large_a_batch_for_the_memory_is_explained(tiny_config, monkeypatch):
    def exhausted(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(steps.Steps, "train", exhausted)
    with refused(r"batch_size=16.* needs more memory.*batch_size=8"):
        train.main(tiny_config(**CACHED))
