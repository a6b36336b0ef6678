"""Steps on random images, to be timed: what a kind of training costs on this device."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable, Mapping

import tensorflow as tf
import tf_keras

from tfpipe.core.registry import Registry
from tfpipe.model.classifier import Classifier
from tfpipe.model.fold import folded
from tfpipe.training import optimizers
from tfpipe.training.precision import under

Step = Callable[[], None]

# From a classifier, the number of images in a batch, and whether XLA compiles it, to a compiled
# function that runs one step.
stages: Registry[Callable[[Classifier, int, bool], Callable[[], tf.Tensor]]] = Registry("stage")

# Random weights shall stay small, however many steps are run.
_RATE = 1e-6


@stages.register("features")
def _features(classifier: Classifier, batch_size: int, xla: bool) -> Callable[[], tf.Tensor]:
    """`features`: images through frozen backbones, forward only, with constant weights."""
    for layer in classifier.features.submodules:
        if isinstance(layer, tf_keras.layers.BatchNormalization) and layer.center:
            # As of one that was trained: a bias of zeros would be left out, and what follows the
            # convolution not be joined to it.
            layer.beta.assign(tf.random.uniform(layer.beta.shape, -1, 1))
    images = _random_images(classifier, batch_size)
    forward = functools.partial(classifier.features, training=False)
    if xla:
        return functools.partial(tf.function(forward, autograph=False, jit_compile=True), images)
    return functools.partial(
        tf.function(functools.partial(folded(classifier.features), training=False)), images
    )


@stages.register("head")
def _head(classifier: Classifier, batch_size: int, xla: bool) -> Callable[[], tf.Tensor]:
    """`head`: an update of the head on features that are there already."""
    features = tf.random.uniform([batch_size, *classifier.head.input_shape[1:]])
    return _training(classifier, classifier.head, features, xla)


@stages.register("all")
def _all(classifier: Classifier, batch_size: int, xla: bool) -> Callable[[], tf.Tensor]:
    """`all`: an update of everything: forward, backward, Adam."""
    return _training(classifier, classifier.model, _random_images(classifier, batch_size), xla)


def _training(
    classifier: Classifier, model: tf_keras.Model, inputs: tf.Tensor, xla: bool
) -> Callable[[], tf.Tensor]:
    batch_size = len(inputs)
    labels = tf.one_hot(tf.range(batch_size) % 2, max(model.output_shape[-1], 2))
    variables = model.trainable_variables
    optimizer = optimizers.build("adam", _RATE)
    optimizer.build(variables)

    @tf.function(autograph=False, jit_compile=xla or None)
    def update() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(inputs, training=True)
            loss = tf.reduce_mean(classifier.losses(labels, logits))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return update


def _random_images(classifier: Classifier, batch_size: int) -> tf.Tensor:
    side = classifier.image_size
    return tf.random.uniform([batch_size, side, side, 3], maxval=255)


def make(
    build: Callable[[], Classifier], stage: str, batch_size: int, *, policy: str, xla: bool
) -> Step:
    """Makes the step of one kind of training; its first call traces, and compiles for XLA.

    Args:
        build: builds the classifier under the current Keras policy.
        stage: one of `stages`.
        batch_size: images in a step.
        policy: the Keras policy that it is built under.
        xla: whether the step is compiled with XLA.

    Returns:
        A function that runs one step and returns when the device is done. Loss scaling, which
        mixed_float16 needs in a training, is left out.
    """
    with under(policy):
        run = stages[stage](build(), batch_size, xla)

    def step() -> None:
        run().numpy()

    return step


def seconds(step: Step) -> float:
    """Returns how long one step takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def medians(
    steps: Mapping[str, Step], *, warm_up: int = 2, rounds: int = 5, limit: float = 20.0
) -> dict[str, float]:
    """Times steps in turn, so that what else the machine does meets all of them alike.

    Args:
        steps: by name.
        warm_up: how often each is run before.
        rounds: how often each is timed, at least 1.
        limit: seconds after which no further round begins.

    Returns:
        The median time of each in seconds.
    """
    for step in steps.values():
        for _ in range(warm_up):
            step()
    found: dict[str, list[float]] = {name: [] for name in steps}
    start = time.perf_counter()
    for number in itertools.count(1):
        for name, step in steps.items():
            found[name].append(seconds(step))
        if number >= rounds or time.perf_counter() - start > limit:
            break
    return {name: statistics.median(times) for name, times in found.items()}
