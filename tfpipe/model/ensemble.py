"""Several trained classifiers that answer as one: their logits are combined within the graph.

`tfpipe.runs.combine` has the same methods in NumPy, and fits those with parameters; to add one,
write it in both.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tfpipe.core.registry import Registry
from tfpipe.model.calibration import Calibration
from tfpipe.model.classifier import SIGMOID, log_probabilities
from tfpipe.model.predictor import Predictor

MEAN, GEOMETRIC, VOTE, BLEND, STACK = "mean", "geometric", "vote", "blend", "stack"

# The share of a class that no member votes for, so that its logarithm is finite.
LEAST_SHARE = 1e-7


@dataclasses.dataclass(frozen=True)
class Combination:
    """How the members' answers become one; `tfpipe.runs.combine` has the formulas.

    Attributes:
        method: a name of `combiners`.
        weights: of "blend" [M], of "stack" [F, K] with the F and K of `features`; else empty.
        bias: of "stack", [K]; else empty.
    """

    method: str
    weights: tuple = ()
    bias: tuple = ()

    def check(self, members: int, classes: int) -> None:
        """Raises ValueError if the numbers are not those of such an ensemble."""
        if not members:
            raise ValueError("it has no members")
        if self.method not in combiners:
            raise ValueError(f"method {self.method!r} is none of {', '.join(combiners)}")
        shapes = {BLEND: ((members,), (0,)), STACK: _stack_shape(members, classes)}
        tensors = [tf.constant(values, tf.float32) for values in (self.weights, self.bias)]
        wanted = shapes.get(self.method, ((0,), (0,)))
        found = tuple(tuple(tensor.shape) for tensor in tensors)
        if found != wanted:
            raise ValueError(f"{self.method} has numbers of shape {found}, not {wanted}")
        if not all(tf.reduce_all(tf.math.is_finite(tensor)) for tensor in tensors):
            raise ValueError(f"{self.method} has numbers that are not finite")


def _stack_shape(members: int, classes: int) -> tuple[tuple[int, int], tuple[int]]:
    units = 1 if classes == 2 else classes
    return (members * units, units), (units,)


combiners: Registry[Callable[[tf.Tensor, Combination], tf.Tensor]] = Registry("method of combining")


@combiners.register(MEAN)
def _mean(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    return tf.reduce_logsumexp(members, 0)


@combiners.register(GEOMETRIC)
def _geometric(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    return tf.reduce_mean(members, 0)


@combiners.register(VOTE)
def _vote(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    votes = tf.one_hot(tf.argmax(members, -1), members.shape[-1])
    return tf.math.log(tf.maximum(tf.reduce_mean(votes, 0), LEAST_SHARE))


@combiners.register(BLEND)
def _blend(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    return tf.tensordot(tf.constant(combination.weights, tf.float32), members, 1)


@combiners.register(STACK)
def _stack(members: tf.Tensor, combination: Combination) -> tf.Tensor:
    weights, bias = (tf.constant(v, tf.float32) for v in (combination.weights, combination.bias))
    logits = features(members) @ weights + bias
    if logits.shape[-1] > 1:
        return logits
    return tf.concat([tf.zeros_like(logits), logits], -1)


def features(members: tf.Tensor) -> tf.Tensor:
    """Returns what "stack" weighs, float32 [N, F], for log-probabilities [M, N, C].

    For two classes the second's log-odds of each member, F = M; for more the log-probabilities, one
    member after the other, F = M * C.
    """
    if members.shape[-1] == 2:
        return tf.transpose(members[..., 1] - members[..., 0])
    by_image = tf.transpose(members, [1, 0, 2])
    return tf.reshape(by_image, [-1, members.shape[0] * members.shape[-1]])


@dataclasses.dataclass(frozen=True)
class EnsemblePredictor:
    """Several predictors with the interface of one.

    An image is decoded to the largest side of the members; the others shrink it on the device as
    the branches of a classifier do, which differs a little from decoding it to their own size.

    Attributes:
        members: predictors, or ensembles of them, whose own calibrations do not count.
        combination: from their mean logits to one.
        output: "sigmoid" for two classes, else "softmax"; members may have a softmax for two.
        calibration: from combined logits to probabilities.
    """

    members: tuple["Predictor | EnsemblePredictor", ...]
    combination: Combination
    output: str
    calibration: Calibration = dataclasses.field(default_factory=Calibration)

    @property
    def image_size(self) -> int:
        """The side of the images in pixels, S."""
        return max(member.image_size for member in self.members)

    @property
    def variables(self) -> list[tf.Variable]:
        """All that an export has to hold."""
        return [variable for member in self.members for variable in member.variables]

    def logits(self, images: tf.Tensor) -> tf.Tensor:
        """Returns what the members say together, for uint8 or float32 [N, S, S, 3] in 0..255.

        Returns:
            float32 [N, 1], the second class's log-odds, for a sigmoid; [N, C], log-probabilities,
            for a softmax.
        """
        found = [
            log_probabilities(member.logits(resized(images, member.image_size)))
            for member in self.members
        ]
        scores = combiners[self.combination.method](tf.stack(found), self.combination)
        if self.output == SIGMOID:
            return scores[:, 1:] - scores[:, :1]
        return tf.nn.log_softmax(scores)

    def features(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the members' features, one after the other, float32 [N, F], for [N, S, S, 3]."""
        found = [each.features(resized(images, each.image_size)) for each in self.members]
        return tf.concat(found, -1)

    def classify(self, images: tf.Tensor) -> tf.Tensor:
        """Returns the probability of each class, float32 [N, C], for uint8 [N, S, S, 3]."""
        return self.calibration.apply(self.logits(images), self.output)


def resized(images: tf.Tensor, side: int) -> tf.Tensor:
    """Returns images [N, S, S, 3] as [N, side, side, 3], resized if need be."""
    return images if images.shape[1] == side else tf.image.resize(images, [side, side])
