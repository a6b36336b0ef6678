import threading

import numpy as np
import pytest
import tensorflow as tf

from serving import background
from serving.session import Session


@pytest.fixture(scope="module")
def threads():
    """A function from numbers to the thread that each operation ran in, and one that loads call."""
    with tf.Graph().as_default() as graph:
        number = tf.compat.v1.placeholder(tf.int64, [])
        ident = tf.numpy_function(lambda _: np.int64(threading.get_native_id()), [number], tf.int64)
        twice = number * 2
    with Session(graph=graph) as session:
        yield session.function([number], [twice, ident]), lambda: session.run(ident, {number: 1})


def test_values_come_in_the_order_of_the_outputs(threads):
    function, _ = threads
    assert function(np.int64(21))[0] == 42
    assert function(np.array(-3, np.int64))[0] == -6


def test_in_the_background_operations_run_in_the_thread_of_the_caller(threads):
    function, run = threads

    def found():
        return threading.get_native_id(), function(np.int64(1))[1], run()

    caller, by_function, by_run = background.run(found)
    assert by_function == by_run == caller
    caller, by_function, by_run = found()
    assert by_function != caller
    assert by_run != caller


def test_inputs_that_are_missing_are_an_error(threads):
    function, _ = threads
    with pytest.raises(ValueError, match="zip"):
        function()
