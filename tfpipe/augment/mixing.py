"""Operations that mix pictures and labels of an example with the next one of the batch.

The partner is unmixed; the last example's partner is the first.
"""

import numpy as np
import tensorflow as tf

from tfpipe.augment import boxes
from tfpipe.augment.operation import Kind, operation, per_image, require

_MAX_ALPHA = 100.0

# Intervals of the table of quantiles, and so the resolution of the distribution.
_STEPS = 4096

_HALVINGS = 126  # bisections, down to float32's smallest number


def beta_quantiles(alpha: float) -> np.ndarray:
    """Return float32 [n + 1], the quantiles of Beta(alpha, alpha) at 0, 1/n, ..., 1.

    For alpha 0 they are all 1: examples stay as they are.
    """
    if alpha == 0:
        return np.ones(_STEPS + 1, np.float32)
    # Only the lower half: its small values need more precision than those near 1.
    wanted = np.linspace(0.0, 0.5, _STEPS // 2 + 1)
    low, high = np.zeros_like(wanted), np.ones_like(wanted)
    with tf.init_scope():  # eager, also while a graph is traced
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            below = tf.math.betainc(np.float64(alpha), np.float64(alpha), middle).numpy() < wanted
            low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.concatenate([low, 1.0 - low[-2::-1]]).astype(np.float32)


def beta(u: tf.Tensor, alpha: float, name: str) -> tf.Tensor:
    """Return the quantiles of Beta(alpha, alpha) at u, float32 [N], for the operation `name`."""
    require(0 <= alpha <= _MAX_ALPHA, f"{name}({alpha:g})", f"alpha is in [0, {_MAX_ALPHA:g}]")
    table = tf.constant(beta_quantiles(alpha))
    place = u * _STEPS
    before = tf.cast(place, tf.int32)
    low, high = tf.gather(table, before), tf.gather(table, tf.minimum(before + 1, _STEPS))
    return low + (high - low) * (place - tf.floor(place))


@operation("mixup", num_random=1, kind=Kind.MIXING)
def _mixup(images, labels, other_images, other_labels, u, alpha: float):
    """`mixup(0.2)`: the mean of two pictures and labels, weighted by Beta(0.2, 0.2).

    Zhang et al., mixup: Beyond Empirical Risk Minimization, 2018.
    """
    other = 1.0 - beta(u[:, 0], alpha, "mixup")
    labels += (other_labels - labels) * other[:, tf.newaxis]
    return images + (other_images - images) * per_image(other), labels


@operation("cutmix", num_random=3, kind=Kind.MIXING)
def _cutmix(images, labels, other_images, other_labels, u, alpha: float):
    """`cutmix(1)`: pastes a square of another picture, its area by Beta(1, 1), labels by area.

    Yun et al., CutMix: Regularization Strategy to Train Strong Classifiers, 2019: its centre is
    anywhere, and labels go by the part of the square that is within the picture.
    """
    own = beta(u[:, 2], alpha, "cutmix")
    pasted = boxes.inside(images, u[:, :2], tf.sqrt(1.0 - own))
    area = tf.reduce_mean(tf.cast(pasted, tf.float32), [1, 2])
    return tf.where(pasted, other_images, images), labels + (other_labels - labels) * area
