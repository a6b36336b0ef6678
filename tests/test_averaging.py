"""Averages of the weights: against TensorFlow and formulas."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.conftest import ROOT
from tests.refusals import refused
from tfpipe.training import averaging

STEPS, PER_EPOCH = 40, 10

# How a step is run.
MODES = {
    "eager": lambda f: f,
    "graph": tf.function,
    "xla": lambda f: tf.function(f, jit_compile=True),
}


def new_variables():
    return [tf.Variable([1.0, -2.0, 0.5]), tf.Variable([[3.0], [0.1]])]


def gradients(step):
    """Returns the same gradients of two variables for the same step."""
    rng = np.random.default_rng([7, step])
    return [tf.constant(rng.normal(size=shape), tf.float32) for shape in ((3,), (2, 1))]


def train(text, mode="eager", steps=STEPS, per_epoch=PER_EPOCH):
    """Trains by SGD; returns the average, the variables, and the weights before and after steps."""
    variables = new_variables()
    averaged = averaging.build(text, variables, per_epoch)
    optimizer = tf_keras.optimizers.SGD(0.1)
    optimizer.build(variables)

    @MODES[mode]
    def step(*values):
        optimizer.apply_gradients(zip(values, variables, strict=True))
        averaged.update(optimizer.iterations)

    history = [[v.numpy() for v in variables]]
    for index in range(steps):
        step(*gradients(index))
        history.append([v.numpy() for v in variables])
    return averaged, variables, history


def assert_averages(averaged, variables, expected):
    with averaged.swapped():
        for variable, value in zip(variables, expected, strict=True):
            np.testing.assert_allclose(variable, value, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("decay", "mode"), [(0.0, "graph"), (0.5, "xla"), (0.9, "eager"), (0.99, "graph")]
)
def test_ema_is_tensorflows_with_num_updates(decay, mode):
    averaged, variables, history = train(f"ema({decay})", mode)
    shadows, count = [tf.Variable(v) for v in history[0]], tf.Variable(0)
    reference = tf.train.ExponentialMovingAverage(decay, num_updates=count)
    reference.apply(shadows)  # makes its own from the first weights
    for weights in history[1:]:
        count.assign_add(1)
        for shadow, value in zip(shadows, weights, strict=True):
            shadow.assign(value)
        reference.apply(shadows)
    assert_averages(averaged, variables, [reference.average(shadow) for shadow in shadows])


@pytest.mark.parametrize(
    ("text", "per_epoch", "taken"),
    [
        ("swa(2)", 10, [20, 30, 40]),
        ("swa(0)", 10, [10, 20, 30, 40]),  # not the weights before any update
        ("swa(3,0.5)", 10, [30, 35, 40]),
        ("swa(1,0.5)", 5, [5, 8, 10, 13, 15, 18, 20, 23, 25, 28, 30, 33, 35, 38, 40]),
        ("swa(0,0.07)", 100, [7, 14, 21, 28, 35]),  # 0.07 x 100 is more than 7 in floating point
        ("swa(9.5,0.01)", 4, [38, 39, 40]),  # of several times in an update one counts
        ("swa(4)", 10, [40]),
    ],
)
def test_swa_is_the_mean_of_the_weights_at_its_times(text, per_epoch, taken):
    mode = "xla" if text == "swa(2)" else "graph"
    averaged, variables, history = train(text, mode, per_epoch=per_epoch)
    expected = [np.mean([history[n][i] for n in taken], axis=0) for i in (0, 1)]
    assert_averages(averaged, variables, expected)


@pytest.mark.parametrize("text", ["ema(0.9)", "swa(0,0.1)"])
def test_weights_come_back_also_after_an_exception(text):
    averaged, variables, history = train(text, steps=5)
    with pytest.raises(ZeroDivisionError), averaged.swapped():
        assert (variables[0].numpy() != history[-1][0]).all()
        raise ZeroDivisionError
    for variable, last in zip(variables, history[-1], strict=True):
        np.testing.assert_array_equal(variable, last)


@pytest.mark.parametrize(("text", "steps"), [("ema(0.9)", 0), ("swa(2)", 19)])
def test_nothing_averaged_changes_nothing(text, steps):
    averaged, variables, history = train(text, steps=steps)
    with averaged.swapped():
        np.testing.assert_array_equal(variables[0], history[-1][0])


@pytest.mark.parametrize("text", ["ema(0.9)", "swa(1,0.3)"])
def test_going_on_from_a_checkpoint_is_as_if_never_stopped(text, tmp_path):
    whole, variables, history = train(text)
    with whole.swapped():
        expected = [v.numpy() for v in variables]
    half, *_ = train(text, steps=17)
    path = tf.train.Checkpoint(average=half).save(tmp_path / "state")
    variables = new_variables()
    other = averaging.build(text, variables, PER_EPOCH)
    tf.train.Checkpoint(average=other).restore(path).assert_consumed()
    for number in range(18, STEPS + 1):
        for variable, value in zip(variables, history[number], strict=True):
            variable.assign(value)
        other.update(tf.constant(number))
    assert_averages(other, variables, expected)


def test_an_update_that_was_skipped_is_taken_once():
    variables = [tf.Variable([0.0])]
    averaged = averaging.build("swa(1)", variables, 1)
    for updates, value in ((1, 2.0), (1, 2.0), (2, 8.0)):  # loss scaling skipped one
        variables[0].assign([value])
        averaged.update(tf.constant(updates))
    assert_averages(averaged, variables, [[5.0]])


def test_a_snapshot_is_exact_and_of_the_last_time():
    averaged, variables, history = train("ema(0.9)", steps=5)
    snapshot = averaging.WeightsSnapshot(variables)
    with snapshot.swapped():
        np.testing.assert_array_equal(variables[0], history[-1][0], "nothing was taken yet")
    for values in ([0.1, 1e-20, 3e30], [0.3, 7.0, -1e-9]):
        variables[0].assign(values)
        snapshot.update(1)
    variables[0].assign([0.0, 0.0, 0.0])
    with averaged.swapped(), snapshot.swapped():
        np.testing.assert_array_equal(variables[0], np.float32([0.3, 7.0, -1e-9]))
    np.testing.assert_array_equal(variables[0], [0, 0, 0])


REPLICAS = """
    import numpy as np
    import tensorflow as tf
    from tfpipe.training import averaging

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(3)])
    own = {"synchronization": tf.VariableSynchronization.ON_READ, "trainable": False}

    def expected(text, values):
        if text == "swa(1)":
            return np.mean(values[1:])
        mean = values[0]
        for n, value in enumerate(values[1:], start=1):
            decay = min(0.5, (1 + n) / (10 + n))
            mean = decay * mean + (1 - decay) * value
        return mean

    for text in ("ema(0.5)", "swa(1)"):
        with strategy.scope():
            mirrored = tf.Variable(0.1)
            local = tf.Variable(0.0, aggregation=tf.VariableAggregation.MEAN, **own)
            averaged = averaging.build(text, [mirrored, local], 1)
            snapshot = averaging.WeightsSnapshot([mirrored, local])

        def replica(n):
            one = tf.distribute.get_replica_context().replica_id_in_sync_group
            local.assign(tf.cast(n * (one + 1), tf.float32))
            averaged.update(n)

        @tf.function
        def step(n):
            mirrored.assign(tf.cast(n, tf.float32) * 0.3)
            strategy.run(replica, [n])

        for n in range(1, 6):
            step(tf.constant(n))
        snapshot.update(5)
        with averaged.swapped():
            weights = [0.1, *(0.3 * n for n in range(1, 6))]
            np.testing.assert_allclose(mirrored.numpy(), expected(text, weights), rtol=1e-6)
            # The replicas' statistics are n, 2 n and 3 n; what is read is their mean.
            statistics = [0.0, *(2.0 * n for n in range(1, 6))]
            np.testing.assert_allclose(local.numpy(), expected(text, statistics), rtol=1e-6)
        assert [float(v) for v in strategy.experimental_local_results(local)] == [5, 10, 15]
        mirrored.assign(0.0)
        strategy.run(lambda: local.assign(0.0))
        with snapshot.swapped():
            assert (mirrored.numpy(), local.numpy()) == (np.float32(1.5), 10)
"""


@pytest.mark.slow  # a process
def test_replicas_average_their_own_copies():
    """Three replicas on the CPU, which a process can only be given before TensorFlow starts."""
    command = [sys.executable, "-c", textwrap.dedent(REPLICAS)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ema, none, swa"),
        ("ema(0.9)|swa(1)", "not one average"),
        ("emma(0.9)", "did you mean 'ema'"),
        ("ema", r"ema\(DECAY\)"),
        ("ema(1)", "below 1"),
        ("ema(-0.1)", "at least 0"),
        ("swa", r"swa\(START_EPOCH,EVERY_EPOCHS\)"),
        ("swa(1,2,3)", "wrong number of values"),
        ("swa(ema)", "finite numbers"),
        ("swa(-1)", "START_EPOCH is -1"),
        ("swa(1,0)", "EVERY_EPOCHS is 0"),
        ("swa(1e300)", "START_EPOCH is 1e"),
        ("none(1)", "wrong number of values"),
        ("swa(", "not a spec"),
    ],
)
def test_wrong_specs_are_explained(text, message):
    assert averaging.build("none", new_variables(), 1) is None
    with refused(message):
        averaging.check(text)
