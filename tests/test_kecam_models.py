"""Backbones of keras-cv-attention-models, which need an environment variable of TensorFlow's."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.refusals import refused
from tfpipe.model import backbones

MODEL = "kecam:convnext.ConvNeXtV2Atto"

# From features to an export, whose gate compares it with the evaluation.
WHOLE_PATH = f"""
import sys
import numpy as np
from tfpipe import evaluate, export, models, train
from tfpipe.core.errors import UserError
from tfpipe.training.train_config import TrainConfig

records, folder = sys.argv[1:]
train.main(TrainConfig(
    records=records, run_dir=folder + "/run", backbones={MODEL!r}, weights="none", image_size="32",
    stages="a:from=head,epochs=1;b:from=stack4,epochs=1", batch_size=16, precision="float32",
))
evaluate.main(evaluate.Options(folder + "/run", rounds=100))
export.main(export.Options(
    folder + "/run", folder + "/export", check_images=4, serving_batch_sizes="1"
))

import keras_cv_attention_models as package
from tfpipe.model import backbones
architecture = backbones.get({MODEL!r})
built = backbones.build(architecture, 32, "none")
images = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
own = package.convnext.ConvNeXtV2Atto(input_shape=(32, 32, 3), num_classes=0, pretrained=None)
own.set_weights(built.get_weights())
expected = own(own.preprocess_input(images)).numpy()
np.testing.assert_allclose(built(architecture.normalise(images)), expected, atol=1e-4)
wrong = "convnext.ConvNextV2Ato", "nothing.ConvNeXtV2Atto", "", "os.system"
for name in wrong:
    try:
        backbones.get("kecam:" + name)
    except UserError as error:
        print("REFUSED", error)
models.main(models.Options(("kecam:*",)))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_model_is_trained_evaluated_and_exported(records, tmp_path):
    if importlib.util.find_spec("keras_cv_attention_models") is None:
        pytest.skip("keras-cv-attention-models is not installed: pip install 'tfpipe[kecam]'")
    done = subprocess.run(
        [sys.executable, "-c", WHOLE_PATH, str(records), str(tmp_path)],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "export" / "1" / "saved_model.pb").is_file()
    lines = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(lines) == 4
    assert f"did you mean {MODEL}" in lines[0]
    assert MODEL in done.stdout + done.stderr


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with refused(r"`backbones=kecam:...` needs .* pip install 'tfpipe\[kecam\]'"):
        backbones.get(MODEL)


def test_without_keras_2_the_environment_variable_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    with refused("set TF_USE_LEGACY_KERAS=1 in the environment"):
        backbones.get(MODEL)
