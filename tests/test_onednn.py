"""That TensorFlow computes with oneDNN, by what that library tells of itself."""

import os
import platform
import subprocess
import sys

import pytest

CODE = """
from tfpipe.core import onednn
onednn.use()
import tensorflow as tf
images, kernel = tf.ones([2, 8, 8, 4]), tf.ones([1, 1, 4, 8])
tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "SAME"))()
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="oneDNN is TensorFlow's choice there")
@pytest.mark.parametrize(("asked", "used"), [(None, True), ("0", False)])
def test_it_computes_convolutions_unless_a_user_forbids_it(asked, used):
    environment = os.environ | {"ONEDNN_VERBOSE": "1"}
    environment.pop("TF_ENABLE_ONEDNN_OPTS", None)
    if asked is not None:
        environment["TF_ENABLE_ONEDNN_OPTS"] = asked
    command = [sys.executable, "-c", CODE]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ("exec,cpu,convolution," in told.stdout) == used
