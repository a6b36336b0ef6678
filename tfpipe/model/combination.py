"""Combinations: several classifiers' log-probabilities become one, in a TensorFlow graph.

Each method maps log-probabilities [M, N, C] of M members to scores [N, C], which are
log-probabilities up to a constant for each image. `tfpipe.runs.combination_fit` fits the methods
that have parameters. To add a method, register it here.

- mean: soft voting, a linear opinion pool. The log of the mean probability.
- geometric: a log-opinion pool with equal weights (Genest and Zidek 1986, "Combining Probability
  Distributions"). The mean log-probability.
- vote: hard voting. The log of the share of members whose most probable class it is. A member votes
  for the first of equal classes. A class without votes gets LEAST_SHARE.
- blend: a weighted average of log-probabilities. Weights are at least 0 and add up to 1.
  Calibration can correct its scale, but not that of a linear pool, which is underconfident (Ranjan
  and Gneiting 2010, "Combining Probability Forecasts").
- stack: stacked generalization (Wolpert 1992). Logistic regression on the members' log-odds; for
  more than two classes, multinomial regression on all log-probabilities.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tfpipe.core.registry import Registry

MEAN, GEOMETRIC, VOTE, BLEND, STACK = "mean", "geometric", "vote", "blend", "stack"

# The share of a class that no member votes for: its log stays finite, 16 nats.
LEAST_SHARE = 1e-7


@dataclasses.dataclass(frozen=True)
class Combination:
    """A method with its parameters, which are empty for most.

    The weights are [M] of "blend", and [F, K] of "stack", with the F of `features` and K = 1 for
    two classes, else C; its bias is [K].
    """

    method: str  # a name of `combiners`
    weights: tuple = ()
    bias: tuple = ()

    def check(self, members: int, classes: int) -> None:
        """Raise ValueError if the parameters do not fit these numbers of members and classes."""
        if not members:
            raise ValueError("it has no members")
        if self.method not in combiners:
            raise ValueError(f"method {self.method!r} is none of {', '.join(combiners)}")
        units = 1 if classes == 2 else classes
        shapes = {BLEND: ((members,), (0,)), STACK: ((members * units, units), (units,))}
        tensors = [tf.constant(values, tf.float32) for values in (self.weights, self.bias)]
        wanted = shapes.get(self.method, ((0,), (0,)))
        found = tuple(tuple(tensor.shape) for tensor in tensors)
        if found != wanted:
            raise ValueError(f"{self.method} has numbers of shape {found}, not {wanted}")
        if not all(tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors):
            raise ValueError(f"{self.method} has numbers that are not finite")

    def combine(self, members: tf.Tensor) -> tf.Tensor:
        """Return the combined log-probabilities [N, C] of [M, N, C], float32 or float64."""
        members = tf.convert_to_tensor(members)
        return tf.nn.log_softmax(combiners[self.method](members, self))


combiners: Registry[Callable[[tf.Tensor, Combination], tf.Tensor]] = Registry("method of combining")


@combiners.register(MEAN)
def _mean(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    return tf.reduce_logsumexp(members, 0)


@combiners.register(GEOMETRIC)
def _geometric(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    return tf.reduce_mean(members, 0)


@combiners.register(VOTE)
def _vote(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    votes = tf.one_hot(tf.argmax(members, -1), members.shape[-1], dtype=members.dtype)
    return tf.math.log(tf.maximum(tf.reduce_mean(votes, 0), LEAST_SHARE))


@combiners.register(BLEND)
def _blend(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    return tf.tensordot(tf.constant(combination.weights, members.dtype), members, 1)


@combiners.register(STACK)
def _stack(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    weights, bias = (tf.constant(v, members.dtype) for v in (combination.weights, combination.bias))
    logits = features(members) @ weights + bias
    if logits.shape[-1] > 1:
        return logits
    return tf.concat([tf.zeros_like(logits), logits], -1)


def features(members: tf.Tensor) -> tf.Tensor:
    """Return the inputs of "stack" [N, F] for log-probabilities [M, N, C].

    For two classes each member's log-odds of the second class, F = M. For more the
    log-probabilities, one member after the other, F = M * C.
    """
    if members.shape[-1] == 2:
        return tf.transpose(members[..., 1] - members[..., 0])
    by_image = tf.transpose(members, [1, 0, 2])
    return tf.reshape(by_image, [-1, members.shape[0] * members.shape[-1]])
