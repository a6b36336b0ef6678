import threading

import numpy as np
import pytest
import tensorflow as tf

from serving import background
from serving.session import Session


@pytest.fixture(scope="module")
def threads():
    """A session, a function of it that returns the thread it ran in, and what to run for that."""
    with tf.Graph().as_default() as graph:
        number = tf.compat.v1.placeholder(tf.int64, [])
        ident = tf.numpy_function(lambda _: np.int64(threading.get_native_id()), [number], tf.int64)
        twice = number * 2
    with Session(graph=graph) as session:
        yield session, session.function([number], [twice, ident]), (ident, {number: 1})


def test_values_come_in_the_order_of_the_outputs(threads):
    _, function, _ = threads
    assert function(np.int64(21))[0] == 42
    assert function(np.array(-3, np.int64))[0] == -6


def test_in_the_background_each_run_has_a_thread_of_its_own(threads, monkeypatch):
    session, function, run = threads
    used, original = [], background.run

    def noted(function, *args):
        def work():
            used.append(threading.get_native_id())
            return function(*args)

        return original(work)

    monkeypatch.setattr(background, "run", noted)
    function(np.int64(1))
    session.run(*run)
    assert not used
    session.in_background = True
    try:
        assert [function(np.int64(1))[1], session.run(*run)] == used
        assert len(used) == 2
    finally:
        session.in_background = False


def test_inputs_that_are_missing_are_an_error(threads):
    _, function, _ = threads
    with pytest.raises(ValueError, match="zip"):
        function()
