"""`--weights=RUN`: a training that begins with the weights of another run."""

import shutil

import numpy as np
import pytest
from conftest import draw

from tests.refusals import refused
from tests.training import weights_of
from tfpipe import build_records, train
from tfpipe.training import run_folder

# A rate at which an epoch hardly changes a weight.
STILL = {"learning_rate": 1e-12, "optimizer": "sgd", "epochs": 1, "augment": "", "tta": ""}


def backbone_of(folder):
    return run_folder.load(str(folder)).restore_classifier().backbones[0].model.get_weights()


def same(one, other):
    return all(np.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))


@pytest.mark.slow
def test_the_same_classes_take_the_head_too(run_dir, tiny_config, tmp_path, capsys):
    source = shutil.copytree(run_dir, tmp_path / "source")
    train.main(tiny_config(weights=str(source), **STILL))
    assert "small_cnn and the head" in capsys.readouterr().err
    assert same(weights_of(tmp_path / "run"), weights_of(run_dir))
    # What it began with is its own: it resumes without the other run.
    shutil.rmtree(source)
    train.main(tiny_config(weights=str(source), **{**STILL, "epochs": 2}))
    assert same(weights_of(tmp_path / "run"), weights_of(run_dir))
    ids = [
        np.load(folder / "trained_images.npz")["train"] for folder in (run_dir, tmp_path / "run")
    ]
    assert ids[0].tolist() == ids[1].tolist()


def test_other_classes_get_a_new_head(run_dir, tiny_config, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for number in range(20):
        for kind, name in {"cat": "fox", "dog": "owl"}.items():
            draw(kind, 300 + number).save(tmp_path / "in" / f"{name}.{number}.jpg")
    options = {"workers": 1, "report": False}
    folder = str(tmp_path / "records")
    build_records.main(build_records.Options((str(tmp_path / "in"),), folder, **options))
    train.main(tiny_config(weights=str(run_dir), records=folder, **STILL))
    said = capsys.readouterr().err
    assert "head is new: the classes are fox, owl instead of cat, dog" in said
    assert same(backbone_of(tmp_path / "run"), backbone_of(run_dir))
    assert not same(weights_of(tmp_path / "run")[-2:], weights_of(run_dir)[-2:])
    # It was trained on the images of the first run too.
    known = np.load(tmp_path / "run" / "trained_images.npz")["train"]
    assert set(np.load(run_dir / "trained_images.npz")["train"]) < set(known)


@pytest.mark.slow
def test_another_head_is_new(run_dir, tiny_config, capsys):
    train.main(tiny_config(weights=str(run_dir), head="dense(8)", **STILL))
    assert "head is new: head=dense(8) instead of" in capsys.readouterr().err.replace("`", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbones": "small_cnn@pool2"}, "has small_cnn, not small_cnn@pool2"),
        ({"backbones": "vgg16"}, "has small_cnn, not vgg16"),
    ],
)
def test_another_backbone_is_refused(run_dir, tiny_config, changes, message):
    with refused(message):
        train.main(tiny_config(weights=str(run_dir), **changes))


def test_what_is_no_single_finished_run_is_refused(run_dir, tiny_config, tmp_path):
    (tmp_path / "cv").mkdir()
    (tmp_path / "cv" / "folds.json").write_text("{}")
    with refused("cv` is an ensemble or a cross-validation.*fold-0"):
        train.main(tiny_config(weights=str(tmp_path / "cv")))
    source = shutil.copytree(run_dir, tmp_path / "source")
    (source / "best.weights.h5").unlink()
    with refused("source lacks best.weights.h5"):
        train.main(tiny_config(weights=str(source)))
    (tmp_path / "empty").mkdir()
    with refused("`weights`: no file .*empty"):
        train.main(tiny_config(weights=str(tmp_path / "empty")))
