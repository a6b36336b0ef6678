"""What the API leaves alone in a caller's process; each claim in a process of its own."""

import os
import subprocess
import sys
import textwrap

import pytest
from conftest import ROOT

# Flags of a run of seconds.
TINY = """dict(backbones="small_cnn", weights="none", image_size=24, stages="all:from=all",
    epochs=1, batch_size=16, head="dense(8)", precision="float32")"""


def run(code, folder, *arguments):
    """Runs a script, without `if __name__ == "__main__"`; returns its standard output."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(code), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_the_import_loads_no_library(tmp_path):
    code = """
    import sys
    before = set(sys.modules)
    import tfpipe
    heavy = {"tensorflow", "numpy", "PIL", "cv2", "absl", "rich", "tf_keras", "keras"}
    assert not heavy & (set(sys.modules) - before)
    assert {"build", "fit", "load_records", "load_run", "Augment", "UserError"} <= set(dir(tfpipe))
    assert set(tfpipe.__all__) <= set(dir(tfpipe))
    try:
        tfpipe.nothing
    except AttributeError as error:
        assert "nothing" in str(error)
    """
    assert run(code, tmp_path) == ("", "")


def test_every_name_is_there():
    import tfpipe

    for name in tfpipe.__all__:
        assert getattr(tfpipe, name).__doc__


def test_a_script_without_a_guard_builds_once(image_folder, tmp_path):
    code = """
    import os, signal, sys, tfpipe
    print("started")
    before = dict(os.environ), signal.getsignal(signal.SIGINT), sys.modules["__main__"]
    data = tfpipe.build(sys.argv[1], "records", report=False, workers=2)
    assert (dict(os.environ), signal.getsignal(signal.SIGINT), sys.modules["__main__"]) == before
    assert "tensorflow" not in sys.modules
    print(data.splits["train"].num_examples)
    """
    assert run(code, tmp_path, image_folder) == ("started\n64\n", "")


STATE = """
import logging, os, random, resource, signal, sys, threading, warnings
import cv2, numpy as np, tensorflow as tf, tf_keras
import tensorboard.summary  # imports botocore where there is one, which filters warnings
import tfpipe

def state():
    return {{
        "environment": dict(os.environ),
        "signals": [signal.getsignal(n) for n in signal.valid_signals()],
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, ()),
        "opencv": cv2.getNumThreads(),
        "policy": tf_keras.mixed_precision.global_policy().name,
        "generators": tf_keras.backend.experimental.is_tf_random_generator_enabled(),
        "random": random.getstate(),
        "numpy": [each if np.isscalar(each) else each.tolist() for each in np.random.get_state()],
        "filters": list(warnings.filters),
        "loggers": {{n: logging.getLogger(n).level for n in ("", "tensorflow", "absl", "tfpipe")}},
        "threads": (tf.config.threading.get_intra_op_parallelism_threads(),
                    tf.config.threading.get_inter_op_parallelism_threads()),
        "folder": os.getcwd(),
        "limits": [resource.getrlimit(n) for n in (resource.RLIMIT_NOFILE, resource.RLIMIT_DATA)],
        "streams": (sys.stdout, sys.stderr, sys.excepthook, sys.modules["__main__"]),
        "errors": np.geterr(),
    }}

def work():
    data = tfpipe.build(sys.argv[1], "records", report=False)
    for images, labels in data.as_dataset("train", image_size=24, augment="flip_lr"):
        pass
    run = tfpipe.fit(data, "run", **{tiny})
    run.evaluate(rounds=100)
    run.predict(np.zeros([8, 8, 3], np.uint8))
    try:
        tfpipe.fit(data, "other", **{{**{tiny}, "loss": "none"}})
    except tfpipe.UserError as error:
        failures.append(error)

tf.random.set_seed(3)
failures, before = [], state()
{call}
after = state()
for name in before:
    assert before[name] == after[name], (name, str(after[name])[:200])
assert len(failures) == 1
assert tf.compat.v1.get_seed(1)[0] == 3
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "call",
    ["work()", "thread = threading.Thread(target=work)\nthread.start()\nthread.join()"],
    ids=["main", "thread"],
)
def test_the_state_of_the_process_stays(image_folder, tmp_path, call):
    out, err = run(STATE.format(tiny=TINY, call=call), tmp_path, image_folder)
    assert out == ""
    assert "epoch" not in err
    assert "checking" not in err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_process_ends_with_open_iterators(records, tmp_path):
    code = """
    import sys, tfpipe
    data = tfpipe.load_records(sys.argv[1])
    open_ones = [iter(data.as_dataset("train", image_size=200, batch_size=2)) for _ in range(3)]
    shuffled = iter(data.as_dataset("train", image_size=64, batch_size=4, shuffle=True).repeat())
    for iterator in (*open_ones, shuffled):
        next(iterator)
    print("done")
    """
    out, err = run(code, tmp_path, records)
    assert out == "done\n"
    assert "Traceback" not in err
    assert "terminate" not in err


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_replicas_and_keras_3_take_a_dataset(records, tmp_path):
    code = """
    import sys
    import keras, numpy as np, tensorflow as tf
    import tfpipe
    assert keras.__version__[0] == "3"
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    data = tfpipe.load_records(sys.argv[1])
    train = data.as_dataset("train", image_size=24, batch_size=16, shuffle=True, augment="flip_lr")
    labels = [y.numpy() for _, y in data.as_dataset("train", image_size=24, batch_size=16)]

    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    ordered = data.as_dataset("train", image_size=24, batch_size=16)
    shared = strategy.experimental_distribute_dataset(ordered)
    seen = []
    for images, given in shared:
        parts = strategy.experimental_local_results(given)
        assert len(parts) == 2
        seen += [part.numpy() for part in parts]
    assert sorted(np.concatenate(seen)) == sorted(np.concatenate(labels))

    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(train, validation_data=data.as_dataset("val", image_size=24), epochs=2,
                        class_weight=data.class_weights("train"), verbose=0)
    assert len(history.history["val_loss"]) == 2
    images, labels = data.as_dataset("val", image_size=24).as_numpy_iterator().next()
    assert images.shape == (16, 24, 24, 3)
    """
    run(code, tmp_path, records)
