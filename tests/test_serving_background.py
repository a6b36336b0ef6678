"""What nobody waits for gives way, and leaves nothing behind that does."""

import os
import pathlib
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

from serving import background
from serving.config import Batching
from serving.servable import Servable
from serving.warm_up import warm_up

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="threads have no priorities of their own"
)


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_what_runs_is_returned_or_raised():
    assert background.run(divmod, 7, 3) == (2, 1)
    assert background.run(int, "ff", base=16) == 255
    with pytest.raises(ValueError, match="invalid literal"):
        background.run(int, "x")


def test_each_call_has_a_thread_of_its_own():
    first, second = background.run(threading.get_ident), background.run(threading.current_thread)
    assert first != threading.get_ident()
    assert not second.is_alive() or second.daemon


@linux
def test_only_the_thread_gives_way():
    before = niceness()
    assert background.run(niceness) == max(before, background.NICENESS)
    assert background.run(background.run, niceness) == max(before, background.NICENESS)
    assert niceness() == before


def test_a_sandbox_may_forbid_it(monkeypatch):
    def forbid(*args):
        raise PermissionError

    monkeypatch.setattr(os, "setpriority", forbid)
    assert background.run(threading.get_ident) != threading.get_ident()


class Reading(tf.Module):
    """Reads its inputs by a data set, whose threads stay; counts how often it ran."""

    def __init__(self):
        super().__init__()
        self.runs = tf.Variable(0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "texts")])
    def serve(self, texts):
        runs = self.runs.assign_add(1)
        dataset = tf.data.Dataset.from_tensor_slices(tf.concat([texts, ["0"]], 0))
        dataset = dataset.map(tf.strings.to_number, num_parallel_calls=4).batch(1000)
        numbers = dataset.get_single_element()[: tf.size(texts)]
        return {"numbers": numbers, "runs": tf.fill(tf.shape(texts), runs)}


@pytest.fixture(scope="module")
def reading(tmp_path_factory):
    path, module = tmp_path_factory.mktemp("reading") / "1", Reading()
    tf.saved_model.save(module, str(path), signatures=module.serve)
    return path


def thread_niceness():
    """Of every thread of this process, by its id."""
    found = {}
    for task in pathlib.Path("/proc/self/task").iterdir():
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        found[int(task.name)] = int(fields[16])  # proc_pid_stat(5), field 19
    return found


@linux
def test_a_version_that_was_loaded_in_the_background_is_run_by_threads_like_others(reading):
    before = thread_niceness()
    servable = Servable(reading, 1, Batching(), gently=True)
    warm_up(servable, gently=True)
    new = {key: each for key, each in thread_niceness().items() if key not in before}
    assert new  # of the data set
    assert set(new.values()) == {niceness()}
    answer = servable.run("", {"texts": np.array([b"1", b"20"], object)})
    assert answer["numbers"].tolist() == [1, 20]
    servable.close()


def test_what_is_built_is_not_run(reading):
    servable = Servable(reading, 1, Batching())
    for runs in (1, 2):
        answer = servable.run("", {"texts": np.array([b"5"], object)})
        assert answer["runs"].tolist() == [runs]
    servable.close()
