"""Requests of many clients are joined, and each gets its own rows."""

import gc
import threading
import time
import weakref
from concurrent import futures

import grpc
import numpy as np
import pytest

from serving.batching import Batcher, BatchingParameters
from tfpipe.protocol.errors import RequestError


class Counting:
    """Adds 100 to each row and says how many rows there were; a row of -1 is an error."""

    def __init__(self, free=True):
        self.free, self.sizes = threading.Event(), []
        if free:
            self.free.set()

    def __call__(self, inputs):
        self.sizes.append(len(inputs["x"]))
        self.free.wait(30)
        if (inputs["x"] == -1).any():
            raise ValueError("-1 is not allowed")
        rows = np.full(len(inputs["x"]), len(inputs["x"]))
        return {"y": inputs["x"] + 100, "rows": rows}


def ask_all(batcher, values, pause=0.0):
    """Asks for every value at the same time; returns the futures in order."""
    pool = futures.ThreadPoolExecutor(len(values))
    asked = []
    for value in values:
        asked.append(pool.submit(batcher, {"x": np.asarray(value)}))
        time.sleep(pause)
    pool.shutdown(wait=False)
    return asked


def waiting(batcher, function, first, values):
    """Asks for `first`, and for `values` while that one runs, one after the other."""
    asked = ask_all(batcher, [first])
    while not function.sizes:
        time.sleep(0.001)
    asked += ask_all(batcher, values, pause=0.01)
    function.free.set()
    return asked


@pytest.mark.parametrize("threads", [1, 3])
def test_every_request_gets_its_own_rows(threads):
    function = Counting()
    batcher = Batcher(function, BatchingParameters(num_batch_threads=threads))
    draws = np.random.default_rng(0)
    values = [draws.integers(0, 1000, size) for size in draws.integers(1, 40, 300)]
    for value, each in zip(values, ask_all(batcher, values), strict=True):
        np.testing.assert_array_equal(each.result(30)["y"], value + 100)
    assert max(function.sizes) <= 16
    np.testing.assert_array_equal(batcher({"x": np.array([1])})["y"], [101])  # nothing is stuck


def test_waiting_requests_are_joined_up_to_the_largest_batch():
    function = Counting(free=False)
    batcher = Batcher(function, BatchingParameters(num_batch_threads=1, max_execution_batch_size=8))
    for each in waiting(batcher, function, [1], [[n, n] for n in range(5)]):
        each.result(30)
    assert function.sizes == [1, 8, 2]


def test_requests_of_other_shapes_or_types_are_not_joined():
    function = Counting(free=False)
    batcher = Batcher(function, BatchingParameters(num_batch_threads=1))
    values = [np.ones([1, 2]), np.ones([1, 3]), np.ones([1, 3], int)]
    for value, each in zip(values, waiting(batcher, function, [1], values)[1:], strict=True):
        np.testing.assert_array_equal(each.result(30)["y"], value + 100)
    assert function.sizes == [1, 1, 1, 1]


def test_one_bad_request_does_not_fail_its_neighbours():
    function = Counting(free=False)
    batcher = Batcher(function, BatchingParameters(num_batch_threads=1))
    _, good, bad, other = waiting(batcher, function, [1], [[1], [-1], [2, 3]])
    np.testing.assert_array_equal(good.result(30)["y"], [101])
    np.testing.assert_array_equal(other.result(30)["y"], [102, 103])
    with pytest.raises(ValueError, match="not allowed"):
        bad.result(30)


def test_a_batch_waits_for_its_timeout():
    function = Counting()
    waits = BatchingParameters(num_batch_threads=1, batch_timeout_micros=20_000_000)
    batcher = Batcher(function, waits)
    for each in ask_all(batcher, [[float(n)] for n in range(16)]):  # full before that
        assert each.result(15)["rows"].tolist() == [16]


def test_allowed_sizes_are_filled_up():
    batcher = Batcher(Counting(), BatchingParameters(8, 8, 0, 4, 1, (4, 8)))
    answer = batcher({"x": np.arange(3)})
    assert answer["rows"].tolist() == [4, 4, 4]
    np.testing.assert_array_equal(answer["y"], [100, 101, 102])


def test_a_larger_request_is_split_or_refused():
    answer = Batcher(Counting(), BatchingParameters(64, 8, 0, 4, 1))({"x": np.arange(20)})
    np.testing.assert_array_equal(answer["y"], np.arange(20) + 100)
    assert answer["rows"].max() == 8
    with pytest.raises(RequestError, match=r"size 20 is larger than .* 8") as caught:
        Batcher(Counting(), BatchingParameters(8, 8, 0, 4, 1))({"x": np.arange(20)})
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_a_full_queue_is_unavailable():
    function = Counting(free=False)
    batcher = Batcher(function, BatchingParameters(2, 2, 0, 2, 1))
    *accepted, refused = waiting(batcher, function, [1], [[2, 2], [3], [4], [5]])
    for each in accepted:
        each.result(30)
    with pytest.raises(RequestError, match=r"queue .* is full") as caught:
        refused.result(30)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE


def test_an_output_without_the_rows_of_the_batch_is_an_error():
    batcher = Batcher(lambda inputs: {"y": np.ones(3)}, BatchingParameters())
    with pytest.raises(ValueError, match=r"output y has shape \[3\] for 2 rows"):
        batcher({"x": np.ones(2)})


def test_the_inputs_of_a_failed_request_are_freed_at_once():
    """Without a garbage collection, which may come much later."""
    batcher, large = Batcher(Counting(), BatchingParameters()), np.array([-1] * 40)
    alive = weakref.ref(large)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ValueError, match="is not allowed"):
            batcher({"x": large})
        del large
        assert alive() is None
    finally:
        gc.enable()
