"""Losses, schedules of the learning rate, clipping, weight decay, accumulated gradients."""

import csv
import functools
import types

import numpy as np
import pytest
import sklearn.utils.class_weight
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax

from tfpipe import train
from tfpipe.core.errors import UserError
from tfpipe.model.classifier import Classifier
from tfpipe.training import losses, optimizers, resume, schedules
from tfpipe.training import run_folder as runs
from tfpipe.training.config import TrainConfig
from tfpipe.training.update import Update

SHARES = {"ant": 0.5, "bee": 0.3, "cat": 0.2}


def options(**changes):
    return TrainConfig(records="r", run_dir="d", **changes)


def classifier(output):
    return Classifier(None, None, (), None, output, 0)


def reference(labels, logits, *, gamma=0.0, smoothing=0.0, weights=1.0):
    """The formulas in float64; a sigmoid's logit z is a softmax's logits 0 and z."""
    z = np.asarray(logits, np.float64)
    if z.shape[1] == 1:
        z = np.concatenate([0 * z, z], 1)
    log_p = log_softmax(z, axis=1)
    y = labels.astype(np.float64) * (1 - smoothing) + smoothing / z.shape[1]
    return -(y * weights * (1 - np.exp(log_p)) ** gamma * log_p).sum(1)


def samples(output, n=64):
    rng = np.random.default_rng(1)
    classes = 2 if output == "sigmoid" else 3
    labels = rng.dirichlet(np.ones(classes), n).astype(np.float32)
    labels[: n // 2] = np.eye(classes)[rng.integers(0, classes, n // 2)]
    logits = rng.normal(0, 3, (n, 1 if classes == 2 else 3)).astype(np.float32)
    return labels, logits, dict(list(SHARES.items())[:classes])


@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", ["none", "bee=3"])
@pytest.mark.parametrize(
    ("name", "gamma"), [("crossentropy", 0.0), *(("focal", g) for g in (0.0, 0.5, 2.0, 5.0))]
)
def test_losses_are_their_formulas(output, smoothing, weights, name, gamma):
    labels, logits, shares = samples(output)
    loss = losses.build(
        options(loss=name, label_smoothing=smoothing, focal_gamma=gamma, class_weights=weights),
        shares,
    )
    found = tf.function(loss)(classifier(output), tf.constant(labels), tf.constant(logits))
    factors = [1.0, 1.0 if weights == "none" else 3.0, 1.0][: len(shares)]
    expected = reference(labels, logits, gamma=gamma, smoothing=smoothing, weights=factors)
    assert found.dtype == tf.float32
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)


def test_the_focal_loss_of_the_paper():
    """Lin et al. 2017, section 3.2: with gamma 2, p = 0.9 counts 100 x less, 0.968 about 1000 x."""
    p = np.array([0.9, 0.968])
    logits = tf.constant(np.log(p / (1 - p))[:, None], tf.float32)
    labels = tf.constant([[0.0, 1.0]] * 2)
    plain, focal = (
        losses.build(options(loss=name), {"a": 0.5, "b": 0.5})(
            classifier("sigmoid"), labels, logits
        )
        for name in ("crossentropy", "focal")
    )
    np.testing.assert_allclose(plain / focal, [100, 1 / 0.032**2], rtol=1e-4)


@pytest.mark.parametrize("name", losses.losses)
@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@settings(max_examples=20, deadline=None)
@given(size=st.floats(0, 1e4), gamma=st.floats(0, 5), weighted=st.booleans())
def test_losses_and_gradients_are_finite_for_any_logits(name, output, size, gamma, weighted):
    classes = 2 if output == "sigmoid" else 3
    shares = dict(list(SHARES.items())[:classes])
    changes = {"class_weights": "balanced"} if weighted else {}
    loss = losses.build(options(loss=name, focal_gamma=gamma, **changes), shares)
    rows = np.eye(3)[:, :1] if output == "sigmoid" else np.eye(3)
    logits = tf.constant(np.concatenate([rows, -rows]) * size, tf.float32)
    labels = tf.constant(np.eye(classes)[np.arange(6) % classes], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(classifier(output), labels, logits)
    assert np.isfinite(value).all()
    assert (value.numpy() >= 0).all()
    assert np.isfinite(tape.gradient(value, logits)).all()


def test_balanced_weights_are_scikit_learns():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    expected = sklearn.utils.class_weight.compute_class_weight(
        "balanced", classes=np.arange(3), y=labels
    )
    found = losses.build(options(class_weights="balanced"), SHARES).weights
    np.testing.assert_allclose(found, expected)
    assert losses.build(options(class_weights="cat=2, ant=0.5"), SHARES).weights == (0.5, 1, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "focl"}, r"unknown loss 'focl'; did you mean 'focal'\?"),
        ({"label_smoothing": 0.6}, r"--label_smoothing=0\.6 is not in 0\.\.0\.5"),
        ({"label_smoothing": float("nan")}, "--label_smoothing=nan"),
        ({"focal_gamma": -1.0}, "--focal_gamma=-1"),
        ({"class_weights": "dog=2"}, "'dog=2' is not NAME=W.*ant, bee, cat"),
        ({"class_weights": "ant=2,ant=3"}, "'ant=3' is not NAME=W"),
        ({"class_weights": "ant=0"}, "'0' is not a number above 0"),
        ({"class_weights": "ant=x"}, "'x' is not a number"),
        ({"class_weights": ""}, "'' is not NAME=W"),
    ],
)
def test_wrong_losses_are_explained(changes, message):
    with pytest.raises(UserError, match=message) as error:
        losses.build(options(**changes), SHARES)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no training record is of class bee"):
        losses.build(options(class_weights="balanced"), {"ant": 1.0, "bee": 0.0})


PER_EPOCH = 7
FORMULAS = {
    "constant": lambda t: np.ones_like(t),
    "cosine": lambda t: 0.5 * (1 + np.cos(np.pi * np.minimum(t / 10, 1))),
    "cosine(4)": lambda t: 0.5 * (1 + np.cos(np.pi * np.minimum(t / 4, 1))),
    "step(3,0.1)": lambda t: 0.1 ** (t // 3),
    "inverse_time(0.25)": lambda t: 1 / (1 + 0.25 * t),
}


def test_every_schedule_has_a_formula_here():
    assert {text.split("(")[0] for text in FORMULAS} == set(schedules.schedules)


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


@pytest.mark.parametrize("float16", [False, True])
@pytest.mark.parametrize("name", optimizers.optimizers)
def test_every_optimizer_follows_a_schedule_in_a_graph(name, float16):
    """As if somebody set its rate before each update, eagerly."""
    config = options(schedule="step(1,0.5)", optimizer=name, learning_rate=0.1)
    results = []
    for graph in (True, False):
        variables = [tf.Variable([1.0, -2.0]), tf.Variable([[3.0]])]
        if graph:
            update = Update(config, variables, steps=2, float16=float16)

            def step(update=update, variables=variables):
                scale = update.scaled(tf.constant(1.0))
                update.add([scale * 2 * v for v in variables], due=True)

            run = tf.function(step)
            for _ in range(7):
                run()
            assert int(update.optimizer.iterations) == 7
            assert update.learning_rate == 0.1 * 0.5**3
        else:
            optimizer = optimizers.build(name, 0.1)
            for number in range(7):
                optimizer.learning_rate = 0.1 * 0.5 ** (number // 2)
                optimizer.apply_gradients([(2 * v, v) for v in variables])
        results.append(np.concatenate([v.numpy().ravel() for v in variables]))
    assert np.abs(results[0] - [1, -2, 3]).max() > 1e-4
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5)


def test_momentum_free_steps_are_as_long_as_the_schedule_says():
    config = options(schedule="inverse_time(1)", warmup_epochs=0.5, optimizer="sgd")
    weight = tf.Variable(0.0)
    update = Update(config, [weight], steps=4, float16=False)
    step = tf.function(lambda: update.add([tf.constant(-1.0)], due=True))
    lengths = []
    for _ in range(6):
        before = float(weight)
        step()
        lengths.append(float(weight) - before)
    time = np.arange(6) / 4
    expected = 1e-3 / (1 + time) * np.minimum((np.arange(6) + 1) / 2, 1)
    np.testing.assert_allclose(lengths, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "cosin"}, r"unknown schedule 'cosin'; did you mean 'cosine'\?"),
        ({"schedule": ""}, "is not one schedule; known: constant, cosine"),
        ({"schedule": "cosine|constant"}, "is not one schedule"),
        ({"schedule": "step(3)"}, r"cannot take step\(3\); write step\(EPOCHS,FACTOR\)"),
        ({"schedule": "step(constant,1)"}, r"write step\(EPOCHS,FACTOR\)"),
        ({"schedule": "step(0,0.1)"}, "step takes numbers above 0, not 0"),
        ({"schedule": "inverse_time(-1)"}, "inverse_time takes numbers above 0, not -1"),
        ({"schedule": "step(1"}, "is not a spec"),
        ({"warmup_epochs": -1.0}, "--warmup_epochs=-1 is not"),
        ({"clip_norm": -1.0}, "--clip_norm=-1 is not"),
        ({"weight_decay": -0.1}, r"--weight_decay=-0\.1 is not"),
        ({"weight_decay": 0.1, "optimizer": "nadam"}, "nadam has none; .* has: adadelta, adagrad"),
        ({"accumulate_steps": 0}, "--accumulate_steps=0 is not at least 1"),
        ({"loss": "hinge"}, "unknown loss 'hinge'; known: crossentropy, focal"),
        ({"class_weights": "bird=2"}, "the classes are cat, dog"),
    ],
)
def test_wrong_options_are_explained_before_anything_is_written(
    tiny_config, tmp_path, changes, message
):
    with pytest.raises(UserError, match=message) as error:
        train.main(tiny_config(**changes))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_long_gradients_are_shortened_together():
    weights = [tf.Variable([0.0]), tf.Variable([0.0])]
    config = options(optimizer="sgd", learning_rate=1.0, clip_norm=0.5)
    update = Update(config, weights, steps=1, float16=False)
    update.add([tf.constant([3.0]), tf.constant([-4.0])], due=True)
    np.testing.assert_allclose([float(w[0]) for w in weights], [-0.3, 0.4], rtol=1e-6)
    update.add([tf.constant([0.03]), tf.constant([-0.04])], due=True)
    np.testing.assert_allclose([float(w[0]) for w in weights], [-0.33, 0.44], rtol=1e-6)


DECAYING = [name for name in optimizers.optimizers if name not in optimizers.WITHOUT_DECAY]


@pytest.mark.parametrize("name", DECAYING)
def test_weight_decay_takes_its_share_off_the_weights(name):
    """Without a gradient an update is the decay alone; lamb's trust ratio makes it |w|."""
    weight = tf.Variable([3.0, 4.0])
    optimizer = optimizers.build(name, 0.1, 0.01)
    optimizer.apply_gradients([(tf.zeros(2), weight)])
    share = 0.1 if name == "lamb" else 0.1 * 0.01
    np.testing.assert_allclose(weight, np.array([3, 4]) * (1 - share), rtol=1e-6)


@pytest.mark.parametrize("name", DECAYING)
def test_weight_decay_follows_the_schedule(name):
    weight = tf.Variable([3.0, 4.0])
    config = options(optimizer=name, schedule="step(1,0.5)", learning_rate=0.1, weight_decay=0.01)
    update = Update(config, [weight], steps=1, float16=False)
    step = tf.function(lambda: update.add([tf.zeros(2)], due=True))
    for _ in range(3):
        step()
    share = 1.0 if name == "lamb" else 0.01
    expected = np.array([3, 4]) * np.prod([1 - share * 0.1 * 0.5**n for n in range(3)])
    np.testing.assert_allclose(weight, expected, rtol=1e-5)


def test_what_is_said_to_have_no_decay_has_none():
    for name in optimizers.WITHOUT_DECAY:
        with pytest.raises(TypeError):
            optimizers.optimizers[name](0.1, weight_decay=0.1)


def regression(config, batch, epochs, *, steps):
    """Trains a softmax regression in a graph as the loop does; returns its weights."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(steps * batch, 5)).astype(np.float32)
    labels = tf.one_hot(rng.integers(0, 3, len(inputs)), 3)
    weights = tf.Variable(np.full((5, 3), 0.1, np.float32))
    update = Update(config, [weights], steps=steps, float16=False)
    loss = losses.build(config, SHARES)

    def step(x, y, *, due):
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(loss(classifier("softmax"), y, x @ weights))
        update.add(tape.gradient(value, [weights]), due=due)

    run = {due: tf.function(functools.partial(step, due=due)) for due in (False, True)}
    for _ in range(epochs):
        update.reset()
        for number in range(1, steps + 1):
            rows = slice((number - 1) * batch, number * batch)
            run[update.due(number)](inputs[rows], labels[rows])
    return weights.numpy(), int(update.optimizer.iterations)


@pytest.mark.parametrize("name", optimizers.optimizers)
def test_accumulated_batches_are_one_large_batch(name):
    common = {"optimizer": name, "learning_rate": 0.01, "clip_norm": 0.5, "loss": "focal"}
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


def rows_of(folder):
    with open(folder / "log.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


ALL = {
    "loss": "focal",
    "label_smoothing": 0.1,
    "class_weights": "balanced",
    "schedule": "cosine(3)",
    "warmup_epochs": 0.5,
    "weight_decay": 0.01,
    "clip_norm": 1.0,
    "accumulate_steps": 3,
    "head": "dense(16)|dropout(0.5)",
}


@pytest.mark.parametrize("optimizer", ["adam", "nadam", "lookahead"])
def test_resuming_gives_what_an_uninterrupted_run_gives(tiny_config, tmp_path, optimizer):
    decay = 0.0 if optimizer == "nadam" else 0.01
    changes = {**ALL, "optimizer": optimizer, "weight_decay": decay}
    changes |= {"stages": "head", "augment": "", "pooling": "avg"}
    for name, parts in (("whole", (3,)), ("parts", (1, 3))):
        for epochs in parts:
            train.main(tiny_config(run_dir=str(tmp_path / name), epochs=epochs, **changes))
    whole, parts = rows_of(tmp_path / "whole"), rows_of(tmp_path / "parts")
    for one, other in zip(whole, parts, strict=True):
        for key in ("loss", "val_loss", "val_accuracy", "learning_rate"):
            assert float(one[key]) == pytest.approx(float(other[key]), abs=1e-5), key
    rates = [float(row["learning_rate"]) for row in whole]
    np.testing.assert_allclose(rates, [2.25e-3, 0.75e-3, 0], atol=1e-12)
    both = [
        runs.load(str(tmp_path / name)).restore().classifier.model for name in ("whole", "parts")
    ]
    for one, other in zip(*(model.get_weights() for model in both), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_compiled_step_does_it_all(tiny_config, tmp_path):
    train.main(tiny_config(epochs=2, xla="on", **ALL))
    assert all(np.isfinite(float(row["loss"])) for row in rows_of(tmp_path / "run"))


def test_validation_is_the_plain_cross_entropy_whatever_is_trained(tiny_config, tmp_path):
    """With a rate that changes nothing, the runs differ in what the training minimises alone."""
    rows = []
    for number, changes in enumerate(
        ({}, {"loss": "focal", "label_smoothing": 0.2, "class_weights": "dog=5"})
    ):
        folder = tmp_path / str(number)
        train.main(tiny_config(run_dir=str(folder), epochs=1, learning_rate=1e-12, **changes))
        rows.append(rows_of(folder)[0])
    assert float(rows[0]["val_loss"]) == pytest.approx(float(rows[1]["val_loss"]), abs=1e-6)
    assert abs(float(rows[0]["loss"]) - float(rows[1]["loss"])) > 0.01
    assert rows[0]["learning_rate"] == "1e-12"


def test_options_that_change_the_result_are_fixed():
    assert not {*ALL, "focal_gamma"} & set(resume.RESUMABLE)
    assert schedules.follows_epochs("cosine")
    assert schedules.follows_epochs("cosine()")
    assert not any(map(schedules.follows_epochs, ("constant", "cosine(3)", "step(3,0.1)")))


def test_a_cosine_over_all_epochs_cannot_be_lengthened(tmp_path):
    def run(**changes):
        resolved = types.SimpleNamespace(records_fingerprint="x", branches=())
        return runs.RunFolder(tmp_path, options(**changes), resolved)

    resume.check_same(run(epochs=3), run(epochs=4))
    resume.check_same(run(epochs=3, schedule="cosine(4)"), run(epochs=4, schedule="cosine(4)"))
    with pytest.raises(UserError, match="--epochs=3, now 4"):
        resume.check_same(run(epochs=3, schedule="cosine"), run(epochs=4, schedule="cosine"))
