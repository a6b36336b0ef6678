"""Updates of the weights: schedules, optimizers, clipping, decay, accumulated gradients."""

import contextlib
import functools
import importlib.util
import types

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.refusals import refused
from tests.training import CACHED, check_same_run, log_of
from tfpipe import train
from tfpipe.training import optimizers, resume, schedules
from tfpipe.training import run_folder as runs
from tfpipe.training import update as update_module
from tfpipe.training.train_config import TrainConfig
from tfpipe.training.train_state import TrainState
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
    "plateau(0.5,2)": lambda t: np.ones_like(t),  # the training lowers it
}


@pytest.mark.parametrize("text", FORMULAS)
@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
def test_schedules_are_their_formulas(text, warmup):
    config = options(schedule=text, warmup_epochs=warmup, learning_rate=0.3, epochs=10)
    schedule = schedules.build(config, PER_EPOCH)
    steps = np.arange(12 * PER_EPOCH)
    expected = 0.3 * FORMULAS[text](steps / PER_EPOCH)
    if warmup:
        expected *= np.minimum((steps + 1) / (warmup * PER_EPOCH), 1)
    found = [float(schedule.rate(step)) for step in tf.constant(steps)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)
    compiled = tf.function(schedule)(tf.constant(20, tf.int64))
    assert compiled.dtype == tf.float32
    assert float(compiled) == pytest.approx(expected[20], rel=1e-6)


KERAS = tf_keras.optimizers.schedules
BY_KERAS = {
    "cosine(4,min=0.1)": lambda: KERAS.CosineDecay(0.3, 4 * PER_EPOCH, alpha=0.1),
    "cosine(min=0.1)": lambda: KERAS.CosineDecay(0.3, 10 * PER_EPOCH, alpha=0.1),
    "cosine_restarts(2)": lambda: KERAS.CosineDecayRestarts(0.3, 2 * PER_EPOCH, t_mul=1.0),
    "cosine_restarts(1,2,min=0.1)": lambda: KERAS.CosineDecayRestarts(0.3, PER_EPOCH, alpha=0.1),
    "cosine_restarts(1,1.5)": lambda: KERAS.CosineDecayRestarts(0.3, PER_EPOCH, t_mul=1.5),
}


@pytest.mark.parametrize("text", BY_KERAS)
def test_schedules_are_those_of_keras(text):
    schedule = schedules.build(options(schedule=text, learning_rate=0.3, epochs=10), PER_EPOCH)
    keras = BY_KERAS[text]()
    steps = range(8 * PER_EPOCH)
    found = [float(schedule.rate(tf.constant(step))) for step in steps]
    np.testing.assert_allclose(found, [float(keras(step)) for step in steps], atol=1e-6)


@pytest.mark.parametrize("min_delta", [0.0, 0.05])
def test_plateau_lowers_the_rate_when_keras_does(min_delta):
    losses = [5, 4, 4.2, 4.1, 3.98, 3.97, 3.96, 3.95, 3.9, 4, 4, 4, 4, 4, 1, 1, 1, 1]
    model = tf_keras.Sequential([tf_keras.layers.Dense(1)])
    model.compile(tf_keras.optimizers.SGD(1.0), "mse")
    callback = tf_keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=2, min_delta=min_delta)
    callback.set_model(model)
    callback.on_train_begin()
    plateau = schedules.plateau(options(schedule="plateau(0.5,2)"))
    state = TrainState(epoch=3)
    state.begin_stage(1)
    for epoch, loss in enumerate(losses):
        callback.on_epoch_end(epoch, {"val_loss": loss})
        state.add(loss, 0.5, loss, min_delta)
        state.reduce_rate(plateau.patience)
        rate = float(model.optimizer.learning_rate.numpy())
        assert plateau.factor**state.reductions == rate, epoch
    assert schedules.plateau(options(schedule="cosine")) is None


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

    optimizer = optimizers.build(name, 0.1, variables=[expected])
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
        ("cosine(4,min=1)", "cosine: min is 1"),
        ("cosine(4,low=0)", r"names of values; .cosine"),
        ("cosine(min=0,min=0.1)", "names a value twice"),
        ("cosine_restarts(2,0.5)", "TIMES is 0.5: give 1 or more"),
        ("plateau(2,3)", "FACTOR is 2"),
        ("plateau(0.5,0)", "PATIENCE is 0"),
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


DECAYING = [name for name in sorted(OPTIMIZERS) if optimizers.optimizers[name].decays]


@pytest.mark.parametrize("name", DECAYING)
def test_weight_decay_takes_its_share_off_the_weights(name):
    """Without a gradient an update is the decay alone; lamb's trust ratio makes it |w|.

    Biases and the parameters of normalisation stay as they are.
    """
    weight, vector = tf.Variable([[3.0, 4.0]]), tf.Variable([3.0, 4.0])
    config = options(optimizer=name, schedule="step(1,0.5)", learning_rate=0.1, weight_decay=0.01)
    update = Update(config, [weight, vector], steps=1, float16=False)
    step = tf.function(lambda: update.add([tf.zeros([1, 2]), tf.zeros(2)], due=True))
    for _ in range(3):
        step()
    share = 1.0 if name == "lamb" else 0.01
    expected = np.array([[3, 4]]) * np.prod([1 - share * 0.1 * 0.5**n for n in range(3)])
    np.testing.assert_allclose(weight, expected, rtol=1e-5)
    np.testing.assert_array_equal(vector, [3, 4])


def test_every_layers_biases_and_scales_are_left_out_of_weight_decay():
    """Of a model with each kind of layer that has some, by their names in Keras."""
    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Conv2D(3, 3, input_shape=[8, 8, 3]),
            layers.BatchNormalization(),
            layers.DepthwiseConv2D(3),
            layers.LayerNormalization(),
            layers.SeparableConv2D(4, 3),
            layers.GroupNormalization(2),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    before = [v.numpy() for v in model.trainable_variables]
    config = options(optimizer="adamw", learning_rate=0.1)  # its own decay
    update = Update(config, model.trainable_variables, steps=1, float16=False)
    update.add([tf.zeros_like(v) for v in model.trainable_variables], due=True)
    for variable, value in zip(model.trainable_variables, before, strict=True):
        left_out = any(word in variable.name for word in ("bias", "gamma", "beta"))
        np.testing.assert_allclose(
            variable, value * (1 if left_out else 1 - 0.1 * 0.004), rtol=1e-6, err_msg=variable.name
        )


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_a_scaled_rate_is_that_rate_after_a_checkpoint_too(name, tmp_path):
    """As of plain optimizers, whose rates are set; the second is the backbone's."""
    rates = [0.1, 0.1 if name == "lookahead" else 0.02]
    config = options(optimizer=name, learning_rate=0.1, backbone_learning_rate=str(rates[1]))
    first = np.array([[1.0, -2.0]], np.float32)

    def fresh():
        weights = [tf.Variable(first), tf.Variable(first)]
        update = Update(config, weights, backbone=[(weights[1], 0)], steps=1, float16=False)
        step = tf.function(lambda: update.add([2 * weight for weight in weights], due=True))
        return weights, update, step, tf.train.Checkpoint(w=weights, o=update.optimizer)

    *_, step, checkpoint = fresh()
    step()
    step()
    saved = checkpoint.write(str(tmp_path / "checkpoint"))
    found, update, step, checkpoint = fresh()
    step()  # older optimizers create their variables
    checkpoint.read(saved)
    update.scale_rate(0.5)
    step()
    assert update.learning_rate == 0.05
    for weight, rate in zip(found, rates, strict=True):
        expected = tf.Variable(first)
        optimizer = optimizers.build(name, rate)
        for number in range(3):
            optimizer.learning_rate = rate / 2 if number == 2 else rate
            optimizer.apply_gradients([(2 * expected, expected)])
        np.testing.assert_allclose(weight, expected, rtol=2e-6)


def test_each_block_of_a_backbone_has_a_share_of_its_rate():
    """Of sgd, whose change is the rate times the gradient."""
    weights = [tf.Variable(0.0) for _ in range(4)]
    config = options(optimizer="sgd", learning_rate=1.0, backbone_learning_rate="0.5*0.8")
    backbone = [(weights[1], 2), (weights[2], 1), (weights[3], 0)]
    update = Update(config, weights, backbone=backbone, steps=1, float16=False)
    update.add([tf.constant(-1.0)] * 4, due=True)
    np.testing.assert_allclose([float(w) for w in weights], [1, 0.5 * 0.64, 0.5 * 0.8, 0.5])


@pytest.mark.parametrize("text", ["fast", "1e-4*", "1e-4*0", "1e-4*1.5", "-1", "nan", "1*inf"])
def test_wrong_rates_of_the_backbones_are_explained(text):
    with refused("backbone_learning_rate=.*1e-4.0.75"):
        update_module.check(options(backbone_learning_rate=text), steps=1)


KERAS_OPTIMIZERS = {
    "sgd(momentum=0.8,nesterov)": lambda o: o.SGD(0.1, momentum=0.8, nesterov=True),
    "sgd(nesterov, momentum=0.8)": lambda o: o.SGD(0.1, momentum=0.8, nesterov=True),
    "nesterov(momentum=0.8)": lambda o: o.SGD(0.1, momentum=0.8, nesterov=True),
    "momentum": lambda o: o.SGD(0.1, momentum=0.9),
    "adam(beta_1=0.8,beta_2=0.98,epsilon=1e-3,amsgrad)": lambda o: o.Adam(
        0.1, 0.8, 0.98, 1e-3, amsgrad=True
    ),
    "adamw(weight_decay=0.05)": lambda o: o.AdamW(0.1, weight_decay=0.05),
    "adamw": lambda o: o.AdamW(0.1),
    "lion(beta_1=0.8)": lambda o: o.Lion(0.1, 0.8),
    "rmsprop(rho=0.8,momentum=0.5,centered)": lambda o: o.RMSprop(
        0.1, 0.8, momentum=0.5, centered=True
    ),
    "nadam(beta_1=0.8)": lambda o: o.legacy.Nadam(0.1, 0.8),
}


@pytest.mark.parametrize("text", KERAS_OPTIMIZERS)
def test_parameters_are_those_of_keras(text):
    first = np.array([[1.0, -2.0, 3.0]], np.float32)
    found, expected = tf.Variable(first), tf.Variable(first)
    optimizer = KERAS_OPTIMIZERS[text](tf_keras.optimizers)
    update = Update(options(optimizer=text, learning_rate=0.1), [found], steps=1, float16=False)
    for _ in range(4):
        update.add([2 * found], due=True)
        optimizer.apply_gradients([(2 * expected, expected)])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "weight_decay", "message"),
    [
        ("adm", 0, "did you mean 'adam'"),
        ("adam|sgd", 0, "not one optimizer"),
        ("adam(0.9)", 0, "write NAME"),
        ("adam(momentum=0.9)", 0, "'momentum' is no parameter of adam.*beta_1, beta_2"),
        ("sgd(nesterov)", 0, "needs a momentum"),
        ("sgd(momentum=1)", 0, "momentum is at least 0 and below 1"),
        ("sgd(momentum=0.9,nesterov,nesterov)", 0, "twice"),
        ("sgd(momentum=0.9,nesterov=2)", 0, "nesterov is 0 or 1"),
        ("adam(epsilon=0)", 0, "epsilon is above 0"),
        ("adam(beta_1=x)", 0, "not a spec"),
        ("nadam", 0.1, "nadam has none: give 0"),
        ("adamw(weight_decay=0.1)", 0.1, "give one of them"),
        ("adam", -1, "weight_decay=-1"),
    ],
)
def test_wrong_optimizers_are_explained(text, weight_decay, message):
    with refused(message):
        optimizers.build(text, 0.1, weight_decay)


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
    [
        ("constant", False),
        ("cosine(4)", False),
        ("step(3,0.1)", False),
        ("cosine", True),
        ("cosine(min=0.1)", True),
    ],
)
def test_only_a_cosine_over_all_epochs_cannot_be_lengthened(tmp_path, schedule, fixed):
    resolved = types.SimpleNamespace(records_fingerprint="x", branches=())
    before, after = (
        runs.RunFolder(tmp_path, options(epochs=epochs, schedule=schedule), resolved)
        for epochs in (3, 4)
    )
    with refused(r"epochs=3.*now 4") if fixed else contextlib.nullcontext():
        resume.check_same(before, after)
