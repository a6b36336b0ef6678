"""Stages on images of their own size: input, features, the best epoch, resuming, what is served."""

import json

import pytest
import tf_keras

from tests.refusals import refused
from tests.training import check_same_run, log_of, weights_of
from tfpipe import train
from tfpipe.training import inputs
from tfpipe.training import run_folder as runs

GROWING = {
    "stages": "small:from=all,image_size=16,epochs=2;large:from=all,epochs=2,lr=1e-3",
    "pooling": "avg",
    "tta": "",
    "calibration": "temperature",
    "calibration_bounds": False,
}


def test_each_stage_reads_its_size_and_the_last_is_served(
    tiny_config, tmp_path, monkeypatch, capfd
):
    sides, real = [], inputs.Inputs.training

    def watched(self, *arguments):
        for batch in real(self, *arguments):
            sides.append(batch["image"].shape[1])
            yield batch

    monkeypatch.setattr(inputs.Inputs, "training", watched)
    train.main(tiny_config(**GROWING))
    assert set(sides) == {16, 32}
    assert sides == sorted(sides)
    said = capfd.readouterr().err
    assert "on images of 16 px; the model serves 32 px" in said
    assert "--epochs=" not in said  # the last stage has its own number, so the flag does nothing
    run = runs.load(str(tmp_path / "run"))
    assert run.restore().image_size == 32
    rows = [row for row in log_of(tmp_path / "run") if row["stage"] == "large"]
    raw = json.loads(run.calibration_file.read_text())["log_loss_raw"]
    assert raw == pytest.approx(min(float(row["val_loss"]) for row in rows), abs=1e-5)


@pytest.mark.slow
def test_a_size_of_the_last_stage_wins_over_the_runs(tiny_config, tmp_path):
    """Its epochs alone compete for the best, even if an earlier one had a lower loss."""
    stages = "a:from=all,epochs=3;b:from=all,image_size=24,epochs=1,lr=1e-9,optimizer=sgd"
    train.main(tiny_config(**GROWING | {"stages": stages}))
    folder = tmp_path / "run"
    assert runs.load(str(folder)).resolved.branches[0]["size"] == 24
    (last,) = folder.glob("stages/2-b*")
    assert (folder / "best.weights.h5").read_bytes() == last.read_bytes()


@pytest.mark.slow
def test_a_resumed_training_equals_an_uninterrupted_one(tiny_config, tmp_path):
    class Interrupt(tf_keras.callbacks.Callback):
        def __init__(self, epoch):
            super().__init__()
            self.epoch = epoch

        def on_epoch_begin(self, epoch, logs=None):
            if epoch == self.epoch:
                raise KeyboardInterrupt

    train.main(tiny_config(**GROWING, run_dir=str(tmp_path / "whole")))
    config = tiny_config(**GROWING, run_dir=str(tmp_path / "parts"))
    for epoch in (1, 2, 3):
        with pytest.raises(KeyboardInterrupt):
            train.main(config, [Interrupt(epoch)])
    train.main(config)
    check_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_frozen_features_are_of_the_stages_size(tiny_config, tmp_path):
    stages = "a:image_size=16,epochs=1;b:epochs=1"
    train.main(tiny_config(**GROWING | {"stages": stages, "augment": ""}))
    assert len(list((tmp_path / "run" / "features").iterdir())) == 4  # of two sizes and splits
    assert weights_of(tmp_path / "run")


@pytest.mark.parametrize(
    ("stages", "changes", "words"),
    [
        ("a:from=all,image_size=16;b:from=all", {"pooling": "flatten"}, "pooling=flatten"),
        ("a:from=all,image_size=wide;b:from=all", {}, "image_size=wide"),
    ],
)
def test_a_size_that_cannot_be_is_refused(tiny_config, tmp_path, stages, changes, words):
    with refused(words):
        train.main(tiny_config(**GROWING | {"stages": stages, **changes}))
    assert not (tmp_path / "run" / "last").exists()
