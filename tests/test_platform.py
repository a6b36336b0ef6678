"""tf_keras, tensorflow-addons and a user's own Keras 3 in one process."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

_CODE = """
import json, sys
import numpy as np
import tensorflow as tf

{first}
import keras

before = dict(sys.modules)
from tfpipe.training import optimizers
import tf_keras
model = tf_keras.Sequential([tf_keras.layers.Dense(1, input_shape=(3,))])
x = np.ones([8, 3], np.float32)
made = []
for name in {optimizers}:
    model.compile(optimizers.build(name, 1e-2), "mse")
    model.fit(x, x[:, 0], verbose=0)
    made.append(name)
own = keras.Sequential([keras.layers.Input([3]), keras.layers.Dense(1)])
own.compile("adam", "mse")
own.fit(x, x[:, 0], verbose=0)
print(json.dumps({{
    "keras": [keras.__version__[0], tf.keras.__version__[0], type(own).__module__.split(".")[0]],
    "replaced": [n for n in ("tensorflow", "keras") if sys.modules[n] is not before[n]],
    "made": made,
}}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["", "import tf_keras"])
def test_a_keras_3_beside_ours_goes_on_working(first):
    """Whichever is imported first, and with tensorflow-addons too where it is installed."""
    addons = ["lamb", "radam", "lookahead"]
    names = ["adam", *(addons if importlib.util.find_spec("tensorflow_addons") else [])]
    done = subprocess.run(
        [sys.executable, "-c", _CODE.format(first=first, optimizers=names)],
        env={k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"},
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"keras": ["3", "3", "keras"], "replaced": [], "made": names}


def test_without_tensorflow_addons_its_optimizers_say_so(monkeypatch):
    from tfpipe.core.errors import UserError
    from tfpipe.training import optimizers

    monkeypatch.setitem(sys.modules, "tensorflow_addons", None)
    monkeypatch.delitem(sys.modules, "tfpipe.training.addons", raising=False)
    monkeypatch.delattr("tfpipe.training.addons", raising=False)
    with pytest.raises(UserError, match="tensorflow-addons, which is not installed"):
        optimizers.build("lamb", 1e-3)
    assert "tfpipe.training.addons" not in sys.modules
