"""Updates of the weights: schedules, optimizers, clipping, decay, accumulated gradients."""

import contextlib
import functools
import importlib.util
import types

import numpy as np
import pytest
import tensorflow as tf

from tests.refusals import refused
from tests.training import CACHED, check_same_run, log_of
from tfpipe import train
from tfpipe.training import optimizers, resume, schedules
from tfpipe.training import run_folder as runs
from tfpipe.training.train_config import TrainConfig
from tfpipe.training.update import Update


def options(**changes):
    return TrainConfig(records="r", run_dir="d", **changes)


FROM_ADDONS = {"lamb", "radam", "lookahead"}  # which has no wheels for Python 3.12 and later
OPTIMIZERS = set(optimizers.optimizers)
if importlib.util.find_spec("tensorflow_addons") is None:
    OPTIMIZERS -= FROM_ADDONS
PER_EPOCH = 7
FORMULAS = {
    "constant": lambda t: np.ones_like(t),
    "cosine": lambda t: 0.5 * (1 + np.cos(np.pi * np.minimum(t / 10, 1))),
    "cosine(4)": lambda t: 0.5 * (1 + np.cos(np.pi * np.minimum(t / 4, 1))),
    "step(3,0.1)": lambda t: 0.1 ** (t // 3),
    "inverse_time(0.25)": lambda t: 1 / (1 + 0.25 * t),
}


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
def test_schedules_are_their_formulas(text, warmup):
    config = options(schedule=text, warmup_epochs=warmup, learning_rate=0.3, epochs=10)
    schedule = schedules.build(config, PER_EPOCH)
    if text == "constant" and not warmup:
        assert schedule == 0.3
        return
    steps = np.arange(12 * PER_EPOCH)
    expected = 0.3 * FORMULAS[text](steps / PER_EPOCH)
    if warmup:
        expected *= np.minimum((steps + 1) / (warmup * PER_EPOCH), 1)
    found = [float(schedule.rate(step)) for step in tf.constant(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    compiled = tf.function(schedule)(tf.constant(20, tf.int64))
    assert compiled.dtype == tf.float32
    assert float(compiled) == pytest.approx(expected[20], rel=1e-6)


@pytest.mark.parametrize(
    ("name", "float16"),
    [*((name, False) for name in sorted(OPTIMIZERS)), ("adam", True), ("nadam", True)],
)
def test_every_optimizer_follows_a_schedule_in_a_graph(name, float16):
    """Like an eager one whose rate is set before each update, and downhill."""
    config = options(schedule="step(1,0.5)", optimizer=name, learning_rate=0.1)
    first = np.array([1.0, -2.0, 3.0], np.float32)
    found, expected = tf.Variable(first), tf.Variable(first)
    update = Update(config, [found], steps=2, float16=float16)

    @tf.function
    def step():
        update.add([update.scaled(tf.constant(1.0)) * 2 * found], due=True)

    optimizer = optimizers.build(name, 0.1)
    for number in range(7):
        step()
        optimizer.learning_rate = 0.1 * 0.5 ** (number // 2)
        optimizer.apply_gradients([(2 * expected, expected)])
    assert int(update.optimizer.iterations) == 7
    assert update.learning_rate == 0.1 * 0.5**3
    assert (np.abs(found) < np.abs(first)).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "known: constant, cosine"),
        ("cosine|constant", "not one schedule"),
        ("step(3)", r"step\(EPOCHS,FACTOR\)"),
        ("step(constant,1)", "finite numbers"),
        ("step(0,0.1)", "step.* above 0"),
        ("inverse_time(-1)", "inverse_time.* above 0"),
        ("step(1", "not a spec"),
    ],
)
def test_wrong_schedules_are_explained(text, message):
    with refused(message):
        schedules.build(options(schedule=text), PER_EPOCH)


def test_long_gradients_are_shortened_together():
    weights = [tf.Variable([0.0]), tf.Variable([0.0])]
    config = options(optimizer="sgd", learning_rate=1.0, clip_norm=0.5)
    update = Update(config, weights, steps=1, float16=False)
    update.add([tf.constant([3.0]), tf.constant([-4.0])], due=True)
    np.testing.assert_allclose([float(w[0]) for w in weights], [-0.3, 0.4], rtol=1e-6)
    update.add([tf.constant([0.03]), tf.constant([-0.04])], due=True)
    np.testing.assert_allclose([float(w[0]) for w in weights], [-0.33, 0.44], rtol=1e-6)


DECAYING = [name for name in sorted(OPTIMIZERS) if name not in optimizers.WITHOUT_DECAY]


@pytest.mark.parametrize("name", DECAYING)
def test_weight_decay_takes_its_share_off_the_weights(name):
    """Without a gradient an update is the decay alone; lamb's trust ratio makes it |w|."""
    weight = tf.Variable([3.0, 4.0])
    config = options(optimizer=name, schedule="step(1,0.5)", learning_rate=0.1, weight_decay=0.01)
    update = Update(config, [weight], steps=1, float16=False)
    step = tf.function(lambda: update.add([tf.zeros(2)], due=True))
    for _ in range(3):
        step()
    share = 1.0 if name == "lamb" else 0.01
    expected = np.array([3, 4]) * np.prod([1 - share * 0.1 * 0.5**n for n in range(3)])
    np.testing.assert_allclose(weight, expected, rtol=1e-5)


def regression(config, batch, epochs, *, steps):
    """Trains a softmax regression in a graph as the loop does; returns its weights."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(steps * batch, 5)).astype(np.float32)
    labels = tf.one_hot(rng.integers(0, 3, len(inputs)), 3)
    weights = tf.Variable(np.full((5, 3), 0.1, np.float32))
    update = Update(config, [weights], steps=steps, float16=False)

    def step(x, y, *, due):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, x @ weights))
        update.add(tape.gradient(value, [weights]), due=due)

    run = {due: tf.function(functools.partial(step, due=due)) for due in (False, True)}
    for _ in range(epochs):
        update.reset()
        for number in range(1, steps + 1):
            rows = slice((number - 1) * batch, number * batch)
            run[update.due(number)](inputs[rows], labels[rows])
    return weights.numpy(), int(update.optimizer.iterations)


@pytest.mark.parametrize("name", ["adam", "nadam"])
def test_accumulated_batches_are_one_large_batch(name):
    common = {"optimizer": name, "learning_rate": 0.01, "clip_norm": 0.5}
    common |= {"schedule": "cosine", "epochs": 3}
    parts = regression(options(accumulate_steps=4, **common), 8, 3, steps=12)
    whole = regression(options(**common), 32, 3, steps=3)
    assert parts[1] == whole[1] == 9
    np.testing.assert_allclose(parts[0], whole[0], atol=1e-5)


def test_the_last_update_of_an_epoch_takes_the_steps_that_are_left():
    config = options(optimizer="sgd", learning_rate=1.0, accumulate_steps=3)
    weight = tf.Variable(0.0)
    update = Update(config, [weight], steps=5, float16=False)
    values = []
    for step, gradient in enumerate([1.0, 2.0, 6.0, 4.0, 8.0], start=1):
        update.add([tf.constant(gradient)], due=update.due(step))
        values.append(float(weight))
    assert values == [0, 0, -3, -3, -9]  # 3 is the mean of 1, 2, 6, and 6 that of 4, 8


def test_an_overflow_in_float16_leaves_the_weights_and_is_forgotten():
    weight = tf.Variable(1.0)
    config = options(optimizer="sgd", learning_rate=1.0, accumulate_steps=2, clip_norm=10.0)
    update = Update(config, [weight], steps=4, float16=True)
    scale = float(update.scaled(tf.constant(1.0)))
    for gradient, due in ((np.inf, False), (0.5 * scale, True)):
        update.add([tf.constant(gradient, tf.float32)], due=due)
    assert float(weight) == 1
    scale = float(update.scaled(tf.constant(1.0)))
    for gradient, due in ((0.25 * scale, False), (0.75 * scale, True)):
        update.add([tf.constant(gradient, tf.float32)], due=due)
    assert float(weight) == 0.5


@pytest.mark.slow  # each trains three times
@pytest.mark.parametrize("optimizer", sorted({"adam", "nadam", "lookahead"} & OPTIMIZERS))
def test_resuming_gives_what_an_uninterrupted_run_gives(tiny_config, tmp_path, optimizer):
    changes = {**CACHED, "optimizer": optimizer, "schedule": "cosine(3)", "warmup_epochs": 0.5}
    changes |= {"clip_norm": 1.0, "accumulate_steps": 3}
    for name, parts in (("whole", (2,)), ("parts", (1, 2))):
        for epochs in parts:
            train.main(tiny_config(run_dir=str(tmp_path / name), epochs=epochs, **changes))
    check_same_run(tmp_path / "whole", tmp_path / "parts")
    rates = [float(row["learning_rate"]) for row in log_of(tmp_path / "whole")]
    np.testing.assert_allclose(rates, [2.25e-3, 0.75e-3], atol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "fixed"),
    [("constant", False), ("cosine(4)", False), ("step(3,0.1)", False), ("cosine", True)],
)
def test_only_a_cosine_over_all_epochs_cannot_be_lengthened(tmp_path, schedule, fixed):
    resolved = types.SimpleNamespace(records_fingerprint="x", branches=())
    before, after = (
        runs.RunFolder(tmp_path, options(epochs=epochs, schedule=schedule), resolved)
        for epochs in (3, 4)
    )
    with refused(r"epochs=3.*now 4") if fixed else contextlib.nullcontext():
        resume.check_same(before, after)
