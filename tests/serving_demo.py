"""The model, the requests and the servers that the tests of serving share.

python -m tests.serving_demo DIR     writes the model, for `make conformance` elsewhere
"""

import atexit
import contextlib
import functools
import http.client
import io
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf
from PIL import Image

from serving.embedded_server import EmbeddedServer
from serving.server_options import ServerOptions
from tfpipe.core import cli
from tfpipe.protocol import messages, tensors

ROOT = pathlib.Path(__file__).parent.parent
MONITORING = ROOT / "serving" / "monitoring.config"
DEMO_VERSION = 7


class Brightness(tf.Module):
    """Calls an image a day or a night by its mean brightness."""

    def __init__(self, bias):
        super().__init__()
        self.bias = tf.Variable(bias)
        self.names = tf.constant(["night", "day"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def classify(self, image_bytes):
        def mean(data):
            image = tf.io.decode_image(data, channels=3, expand_animations=False)
            return tf.reduce_mean(tf.cast(image, tf.float32)) / 255.0

        means = tf.map_fn(mean, image_bytes, fn_output_signature=tf.float32)
        day = tf.sigmoid(4.0 * (means - 0.5) + self.bias)
        probabilities = tf.stack([1.0 - day, day], axis=1)
        index = tf.argmax(probabilities, axis=1)
        return {
            "probabilities": probabilities,
            "class_index": index,
            "class_name": tf.gather(self.names, index),
            "probability": day,
        }

    def by_example(self, serialized):
        features = {"image/encoded": tf.io.FixedLenFeature([], tf.string, "")}
        return self.classify(tf.io.parse_example(serialized, features)["image/encoded"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def by_class(self, inputs):
        scores = self.by_example(inputs)["probabilities"]
        return {"classes": tf.broadcast_to(self.names, tf.shape(scores)), "scores": scores}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "inputs")])
    def by_value(self, inputs):
        return {"outputs": self.by_example(inputs)["probability"]}

    @tf.function(
        input_signature=[tf.TensorSpec([None], name="a"), tf.TensorSpec([None], tf.int32, "b")]
    )
    def add(self, a, b):
        return {"sum": a + tf.cast(b, tf.float32), "half": a / 2}

    @tf.function(input_signature=[tf.TensorSpec([None], name="x")])
    def echo(self, x):
        return {"y": x}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, "text")])
    def text(self, text):
        return {"text": text}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, "text")])
    def raw(self, text):
        return {"text_bytes": text}

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.uint8, "pixels")])
    def pixels(self, pixels):
        return {"pixels": pixels, "rows": tf.reduce_sum(tf.cast(pixels, tf.int64), axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float16, "x")])
    def from_half(self, x):
        return {"y": tf.cast(x, tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], name="x")])
    def to_half(self, x):
        return {"y": tf.cast(x, tf.float16)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "steps")])
    def slow(self, steps):
        matrix = tf.eye(512)
        for _ in tf.range(steps):
            matrix = tf.matmul(matrix, matrix)
        return {"trace": tf.linalg.trace(matrix)}


SIGNATURES = ("classify", "add", "slow", "by_class", "by_value")
TYPES = ("echo", "text", "raw", "pixels", "from_half", "to_half")
_saved = tempfile.TemporaryDirectory()


@functools.cache
def _save(bias, signatures):
    folder = tempfile.mkdtemp(dir=_saved.name)
    module = Brightness(bias)
    names = {"classify": messages.DEFAULT_SIGNATURE}
    tf.saved_model.save(
        module, folder, signatures={names.get(key, key): getattr(module, key) for key in signatures}
    )
    return folder


def publish_demo(base):
    """Writes the model of `demo`."""
    return publish(base, DEMO_VERSION, signatures=(*SIGNATURES, *TYPES))


def publish(base, version, bias=0.0, signatures=SIGNATURES):
    """Gives a model, saved once, the name of a version in one step, as an export does."""
    work = base.with_name(f"{base.name}-work")
    shutil.copytree(_save(bias, tuple(signatures)), work)
    base.mkdir(parents=True, exist_ok=True)
    work.rename(base / str(version))
    return base


def save_classifier(base, version, names, prefer):
    """Saves a model that calls every image `names[prefer]`, with all tensors that clients need."""
    module = tf.Module()
    scores = [0.1 + 0.3 * (place == prefer) for place in range(len(names))]
    total = sum(scores)
    scores = tf.constant([score / total for score in scores], tf.float32)

    def classify(image_bytes):
        rows = tf.size(image_bytes)
        return {
            "probabilities": tf.tile(scores[None], [rows, 1]),
            "class_index": tf.fill([rows], tf.constant(prefer, tf.int64)),
            "class_name": tf.fill([rows], names[prefer]),
        }

    def by_class(inputs):
        return {
            "classes": tf.tile(tf.constant(names)[None], [tf.size(inputs), 1]),
            "scores": tf.tile(scores[None], [tf.size(inputs), 1]),
        }

    signatures = {
        "serving_default": tf.function(classify).get_concrete_function(
            tf.TensorSpec([None], tf.string, "image_bytes")
        ),
        "classify": tf.function(by_class).get_concrete_function(
            tf.TensorSpec([None], tf.string, "inputs")
        ),
    }
    module.functions = signatures
    work = base.with_name(f"{base.name}-work")
    tf.saved_model.save(module, str(work), signatures=signatures)
    base.mkdir(exist_ok=True)
    work.rename(base / str(version))


def png(grey, size=(5, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (grey, grey, grey)).save(file, "PNG")
    return file.getvalue()


def day_probability(data, bias=0.0):
    """What the model says, by Pillow and NumPy."""
    mean = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64).mean() / 255
    return 1 / (1 + np.exp(-(4 * (mean - 0.5) + bias)))


IMAGE = png(140)
PROBABILITY = day_probability(IMAGE)


def spec(name="demo", signature_name="", **version):
    spec = messages.ModelSpec(name=name, signature_name=signature_name)
    if "number" in version:
        spec.version.value = version["number"]
    if "label" in version:
        spec.version_label = version["label"]
    return spec


def predict(model_spec, outputs=(), **inputs):
    request = messages.PredictRequest(model_spec=model_spec, output_filter=outputs)
    for alias, value in inputs.items():
        proto = value if isinstance(value, messages.TensorProto) else tensors.to_proto(value)
        request.inputs[alias].CopyFrom(proto)
    return request


def call(channel, request, timeout=20):
    """Calls the method that takes this request."""
    prediction = messages.PredictionServiceStub(channel)
    models = messages.ModelServiceStub(channel)
    methods = {
        messages.PredictRequest: prediction.Predict,
        messages.ClassificationRequest: prediction.Classify,
        messages.RegressionRequest: prediction.Regress,
        messages.MultiInferenceRequest: prediction.MultiInference,
        messages.GetModelMetadataRequest: prediction.GetModelMetadata,
        messages.GetModelStatusRequest: models.GetModelStatus,
        messages.ReloadConfigRequest: models.HandleReloadConfigRequest,
        messages.HealthCheckRequest: messages.HealthStub(channel).Check,
    }
    return methods[type(request)](request, timeout=timeout)


def ask(address, method, path, body=None, **headers):
    """Sends a request over HTTP; returns the status, the body and the headers of the answer.

    Underscores in the names of headers are hyphens.
    """
    connection = http.client.HTTPConnection(address, timeout=60)
    data = json.dumps(body) if isinstance(body, dict | list) else body
    connection.request(
        method, path, data, {name.replace("_", "-"): value for name, value in headers.items()}
    )
    response = connection.getresponse()
    found = response.read()
    connection.close()
    return response.status, found, response.headers


def status(model_spec=None):
    return messages.GetModelStatusRequest(model_spec=model_spec)


def example(image):
    found = messages.Example()
    found.features.feature["image/encoded"].bytes_list.value.append(image)
    return found


def examples_of(kind, model_spec, *images):
    request = kind(model_spec=model_spec)
    request.input.example_list.examples.extend(map(example, images))
    return request


@functools.cache
def demo():
    """Returns a server in this process, for tests that change nothing: `demo`, version 7."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    options = {"rest_api_port": -1, "grpc_max_receive_message_mb": 1}
    options |= {"monitoring_config_file": str(MONITORING), "enable_reload_config_requests": True}
    return stack.enter_context(embedded(publish_demo(folder / "demo"), **options))


@contextlib.contextmanager
def embedded(base, **options):
    """Runs the server in this process."""
    given = {"model_name": "demo", "port": 0, "model_base_path": str(base or ""), **options}
    server = EmbeddedServer(ServerOptions(**given))
    server.start()
    try:
        yield server
    finally:
        server.stop()


def run_command(module, arguments, monkeypatch, capsys):
    """Runs a command in this process; returns its exit status, its output and its messages."""
    options = getattr(module, "Options", None) or module.ServerOptions
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    capsys.readouterr()
    try:
        cli.run(module.main, options, tuned=False)
    except SystemExit as end:
        found = capsys.readouterr()
        return int(end.code or 0), found.out, found.err


@contextlib.contextmanager
def running(ready, log, module, *flags):
    """Runs a command; yields it when it has said `ready`, with the groups of that line."""
    with open(log, "w") as stderr:
        process = subprocess.Popen([sys.executable, "-m", module, *flags], stderr=stderr, cwd=ROOT)
    try:
        while not (match := re.search(ready, log.read_text(), re.M)):
            assert process.poll() is None, log.read_text()
            time.sleep(0.02)
        process.__dict__.update(match.groupdict(), log=log)
        yield process
    finally:
        process.kill()
        process.wait()


def running_server(base, log, *flags):
    """Runs the server in a process of its own, with its `address`."""
    ready = r"^serving demo version \d+ at (?P<address>\S+)$"
    given = ["--model_name=demo", "--port=0", f"--model_base_path={base}"]
    return running(ready, log, "serving.server", *given, *flags)


def running_page(address, log, *flags):
    """Runs the web page in a process of its own, with its `url`."""
    ready = r"^the page for demo is at (?P<url>\S+)$"
    given = [f"--server={address}", "--model_name=demo", "--port=0"]
    return running(ready, log, "serving.webapp", *given, *flags)


def memory_mb(process, what="VmRSS"):
    """Returns the memory of a process, or with "VmHWM" its peak."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+)", status)[1]) / 1024


if __name__ == "__main__":
    publish_demo(pathlib.Path(sys.argv[1]))
