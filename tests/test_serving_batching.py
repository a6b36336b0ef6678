"""Requests of many clients are joined by TensorFlow's kernel, and parted again."""

import threading
import time
from concurrent import futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from test_serving_servable import day_probability, png, publish

from serving.batching import Way, batched, config
from serving.config import Batching
from serving.errors import RequestError
from serving.saved_model import SERVE
from serving.servable import Servable

IMAGES = np.ones([2, 8, 8, 3], np.float32)
FILES = [png(grey) for grey in range(0, 250, 10)]


class Counting(tf.Module):
    """Says how many rows it was given, and can be held up by a file that is missing."""

    def __init__(self):
        super().__init__()
        self.offset = tf.Variable(100.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def serve(self, x):
        product = tf.eye(300)
        for _ in tf.range(40):
            product = tf.matmul(product, tf.eye(300))
        busy = tf.linalg.trace(product) - 300.0
        return {"y": x + self.offset + busy, "rows": tf.fill(tf.shape(x), tf.size(x))}


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    path = tmp_path_factory.mktemp("counting") / "1"
    module = Counting()
    tf.saved_model.save(module, str(path), signatures=module.serve)
    return path


def ask_all(servable, values):
    """Asks for every value at the same time; returns the answers in order."""
    start = threading.Barrier(len(values))

    def ask(value):
        start.wait()
        return servable.run("", {"x": np.array(value, np.float32)})

    with futures.ThreadPoolExecutor(len(values)) as pool:
        return [each.result() for each in [pool.submit(ask, value) for value in values]]


def test_requests_are_joined_and_each_gets_its_own_rows(counting):
    servable = Servable(counting, 1, Batching(num_batch_threads=1, batch_timeout_micros=20_000))
    values = [[float(n), float(-n)] if n % 3 else [float(n)] for n in range(20)]
    found = ask_all(servable, values)
    for value, answer in zip(values, found, strict=True):
        np.testing.assert_array_equal(answer["y"], np.array(value, np.float32) + 100)
    assert max(answer["rows"].max() for answer in found) > 2
    assert max(answer["rows"].max() for answer in found) <= 16


def test_a_request_that_is_alone_waits_for_nobody(counting):
    waits = Batching(num_batch_threads=1, batch_timeout_micros=10_000_000)
    servable = Servable(counting, 1, waits)
    start = time.monotonic()
    for values in ([1.0], [2.0, 3.0], []):
        answer = servable.run("", {"x": np.array(values, np.float32)})
        np.testing.assert_array_equal(answer["y"], np.array(values, np.float32) + 100)
        assert answer["rows"].tolist() == [len(values)] * len(values)
    assert time.monotonic() - start < 5  # of 20 that the kernel would have waited
    servable.close()


def test_allowed_sizes_are_filled_up(counting):
    batching = Batching(8, 8, 0, 4, 1, (4, 8))
    servable = Servable(counting, 1, batching)
    answer = servable.run("", {"x": np.arange(3, dtype=np.float32)})
    assert answer["rows"].tolist() == [4, 4, 4]
    np.testing.assert_array_equal(answer["y"], [100, 101, 102])


def test_a_larger_request_is_split_or_refused(counting):
    split = Servable(counting, 1, Batching(64, 8, 0, 4, 1))
    answer = split.run("", {"x": np.arange(20, dtype=np.float32)})
    np.testing.assert_array_equal(answer["y"], np.arange(20) + 100)
    assert answer["rows"].max() <= 8
    whole = Servable(counting, 1, Batching(8, 8, 0, 4, 1))
    with pytest.raises(RequestError) as caught:
        whole.run("", {"x": np.arange(20, dtype=np.float32)})
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_full_queue_is_unavailable(counting):
    servable = Servable(counting, 1, Batching(2, 2, 0, 1, 1))
    start, codes = threading.Barrier(40), []

    def ask(number):
        start.wait()
        try:
            answer = servable.run("", {"x": np.array([number], np.float32)})
            assert answer["y"] == number + 100
            codes.append(None)
        except RequestError as error:
            codes.append(error.code)

    with futures.ThreadPoolExecutor(40) as pool:
        list(pool.map(ask, range(40)))
    assert set(codes) == {None, grpc.StatusCode.UNAVAILABLE}


def test_what_has_no_batch_is_run_alone(tmp_path):
    publish(tmp_path / "demo", 1)
    servable = Servable(tmp_path / "demo" / "1", 1, Batching())
    assert servable.run("slow", {"steps": np.array(1, np.int32)})["trace"] == 512
    answer = servable.run("", {"image_bytes": np.array(FILES, object)})
    expected = [day_probability(file) for file in FILES]
    np.testing.assert_allclose(answer["probability"], expected, atol=1e-6)


def test_a_failed_batch_says_why(tmp_path):
    publish(tmp_path / "demo", 1)
    servable = Servable(tmp_path / "demo" / "1", 1, Batching())
    with pytest.raises(RequestError, match="PNG") as caught:
        servable.run("", {"image_bytes": np.array([FILES[0][:30]], object)})
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.message.isprintable()


class Convolving(tf.Module):
    """A convolution with its bias and activation, which TensorFlow runs as one where it may."""

    def __init__(self):
        super().__init__()
        self.runs = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, "x")])
    def counted(self, x):
        """Does so with a side effect."""
        self.runs.assign_add(1.0)
        return self.serve(x)

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], tf.float32, "x")])
    def serve(self, x):
        sums = tf.nn.conv2d(x, tf.ones([3, 3, 3, 4]), 1, "SAME")
        return {"y": tf.nn.relu(tf.nn.bias_add(sums, tf.ones(4)))}


@pytest.mark.parametrize("way", [Way.ALONE, Way.JOINED], ids=["alone", "joined"])
@pytest.mark.parametrize("name", ["serve", "counted"])
def test_what_runs_is_optimized(tmp_path, name, way):
    module = Convolving()
    tf.saved_model.save(module, str(tmp_path), signatures=getattr(module, name))
    with tf.Graph().as_default() as graph:
        session = tf.compat.v1.Session(graph=graph, config=config(optimize=False))
        loaded = tf.compat.v1.saved_model.load(session, [SERVE], str(tmp_path))
        definition = loaded.signature_def["serving_default"]
        found = batched(graph, definition, Batching(batch_timeout_micros=0))
        assert _fused(session, found.outputs, {found.way: way, _input(definition): IMAGES})
        # By itself the signature is optimized too, though the graph around it is not.
        outputs = {"y": definition.outputs["y"].name}
        assert _fused(session, outputs, {_input(definition): IMAGES})


def test_a_graph_without_functions_is_optimized(tmp_path):
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3])
        y = Convolving.serve.python_function(None, x)["y"]
        tf.compat.v1.saved_model.simple_save(session, str(tmp_path / "1"), {"x": x}, {"y": y})
    servable = Servable(tmp_path / "1", 1, Batching())
    definition = servable.signatures["serving_default"]
    feeds = {_input(definition): IMAGES}
    assert _fused(servable._session, {"y": definition.outputs["y"].name}, feeds)
    assert servable.run("", {"x": IMAGES})["y"].shape == (2, 8, 8, 4)


def _input(definition):
    return definition.inputs["x"].name


def _fused(session, outputs, feeds):
    options = tf.compat.v1.RunOptions(trace_level=tf.compat.v1.RunOptions.FULL_TRACE)
    metadata = tf.compat.v1.RunMetadata()
    session.run(outputs, feeds, options, metadata)
    stats = metadata.step_stats.dev_stats
    labels = [node.timeline_label for each in stats for node in each.node_stats]
    return any("FusedConv2D" in label for label in labels)


class Named(tf.Module):
    """Functions that differ in one thing, or in none."""

    def __init__(self):
        super().__init__()
        self.one, self.two = tf.Variable([1.0, 10.0]), tf.Variable([2.0, 20.0])
        x, y = (tf.TensorSpec([None], tf.float32, name) for name in "xy")
        self.plus_one = tf.function(lambda x: self._sums(x, self.one), [x])
        self.plus_two = tf.function(lambda x: self._sums(x, self.two), [x])
        self.minus = tf.function(lambda x: {"a": x - self.one[0], "b": x - self.one[1]}, [x])
        self.other_input = tf.function(lambda y: self._sums(y, self.one), [y])
        self.other_output = tf.function(lambda x: {"c": self._sums(x, self.one)["a"]}, [x])

    def _sums(self, x, variable):
        a, b = x + variable[0], x + variable[1]
        return {"a": a, "b": b, "rows": tf.fill(tf.shape(x), tf.size(x))}


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    path, module = tmp_path_factory.mktemp("named") / "1", Named()
    names = ("plus_one", "plus_two", "minus", "other_input", "other_output")
    signatures = {name: getattr(module, name) for name in names}
    tf.saved_model.save(module, str(path), {**signatures, "serving_default": module.plus_one})
    return path


@pytest.mark.parametrize("joined", [None, Batching()], ids=["alone", "joined"])
def test_what_two_names_compute_is_built_once(named, joined):
    servable = Servable(named, 1, joined)
    functions = servable._functions
    assert functions["serving_default"] is functions["plus_one"]
    assert len(set(functions.values())) == len(functions) - 1
    expected = {
        "serving_default": {"a": 3.0, "b": 12.0},
        "plus_one": {"a": 3.0, "b": 12.0},
        "plus_two": {"a": 4.0, "b": 22.0},
        "minus": {"a": 1.0, "b": -8.0},
        "other_input": {"a": 3.0, "b": 12.0},
        "other_output": {"c": 3.0},
    }
    assert expected.keys() == functions.keys()
    for key, outputs in expected.items():
        name = "y" if key == "other_input" else "x"
        found = servable.run(key, {name: np.array([2.0], np.float32)}, outputs)
        assert {alias: float(array[0]) for alias, array in found.items()} == outputs
    servable.close()


def test_requests_for_two_names_are_joined(named):
    waits = Batching(num_batch_threads=1, batch_timeout_micros=200_000)
    servable = Servable(named, 1, waits)
    start = threading.Barrier(8)

    def ask(key):
        start.wait()
        return servable.run(key, {"x": np.ones(1, np.float32)})["rows"][0]

    with futures.ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(ask, ["serving_default", "plus_one"] * 4))
    assert max(rows) > 4  # there are four of each
    servable.close()


def test_a_closed_servable_is_gone(counting):
    servable = Servable(counting, 1, Batching())
    servable.run("", {"x": np.ones(1, np.float32)})
    servable.close()
    with pytest.raises(RequestError):
        servable.run("", {"x": np.ones(1, np.float32)})
    servable.close()
