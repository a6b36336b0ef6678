"""Random numbers of a model's layers: seeded for each stage, and saved with the training."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
import tf_keras

# TensorFlow names a generator's state so for good: Keras 2 finds it by this name.
_STATE = "StateVar"


def seed_everything(seed: int) -> None:
    """Make first weights and dropout follow from `seed`. Call it before a model is built.

    Random layers then draw from generators with a state that can be saved (`collect_generators`).
    """
    tf_keras.backend.experimental.enable_tf_random_generator()
    tf_keras.utils.set_random_seed(seed)


@contextlib.contextmanager
def collect_generators() -> Iterator[list[tf.random.Generator]]:
    """Yield a list that gets the generator of each random layer built in the block.

    Keras leaves these generators out of a model's variables and checkpoints. Their states are
    variables all the same, so a variable creator sees them.
    """
    generators = []

    def create(next_creator, **kwargs) -> tf.Variable:
        variable = next_creator(**kwargs)
        if kwargs.get("name") == _STATE:
            generators.append(tf.random.Generator(state=variable, alg="philox"))
        return variable

    with tf.variable_creator_scope(create):
        yield generators


def reseed(generators: Sequence[tf.random.Generator], seed: int, stage: int) -> None:
    """Seed generators for a stage, so that it does not depend on what ran before."""
    for index, generator in enumerate(generators):
        state = np.random.SeedSequence([seed, stage, index]).generate_state(3, np.uint64)
        generator.reset(state.astype(np.int64))
