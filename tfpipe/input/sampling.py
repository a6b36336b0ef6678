"""Sampling of classes: how often an epoch reads each example, `--sampling`.

A class of n examples gets a share of the epoch in proportion to n ** power (Kang et al. 2020,
"Decoupling Representation and Classifier for Long-Tailed Recognition", arXiv:1910.09217,
equation 1). The epoch keeps its length.
"""

import numpy as np
import tensorflow as tf

from tfpipe.core.errors import UserError

NATURAL = 1.0

POWERS = {"natural": NATURAL, "sqrt": 0.5, "balanced": 0.0}

# Odd, so that all occurrences of an example have different keys.
_STEP = 0x1E3779B97F4A7C15


def parse(text: str) -> float:
    """Return the power of the option `sampling`, 0 to 1; raise UserError if it is wrong."""
    try:
        power = POWERS[text] if text in POWERS else float(text)
    except ValueError:
        power = np.nan
    if not 0 <= power <= 1:
        raise UserError(
            f"`sampling={text}`: give {', '.join(POWERS)}, or a power of the number of images of a"
            " class, from 0 (balanced) to 1 (natural)",
            status=2,
        )
    return power


class Sampler:
    """Draws the examples of each epoch, the same for the same seed.

    A class goes through all its examples, in a new order each time, and the next epoch continues
    there. So over all epochs the examples of a class are read equally often, up to one.
    """

    def __init__(self, labels: np.ndarray, power: float, seed: int):
        """`labels` are those of the examples, int64 [N]; a negative one is never drawn."""
        self.size, self._seed = len(labels), seed
        self._rows = [np.flatnonzero(labels == label) for label in range(max(labels) + 1)]
        sizes = np.array([len(rows) for rows in self._rows], np.float64)
        shares = np.where(sizes > 0, sizes**power, 0)
        self._drawn = _rounded(shares / shares.sum() * sizes.sum())

    def counts(self, epoch: int) -> np.ndarray:
        """Return how often an epoch has each example, int64 [N]; their sum is the same for all."""
        counts = np.zeros(self.size, np.int64)
        for label, (rows, drawn) in enumerate(zip(self._rows, self._drawn.tolist(), strict=True)):
            place, last = epoch * drawn, (epoch + 1) * drawn
            while place < last:  # one pass over the class after the other
                number, start = divmod(place, len(rows))
                stop = min(len(rows), start + last - place)
                order = np.random.default_rng([self._seed, label, number]).permutation(rows)
                counts[order[start:stop]] += 1
                place += stop - start
        return counts


def repeated(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each row as often as `counts` [N] says, and its number among its repetitions.

    Both are int64 [counts.sum()].
    """
    rows = np.repeat(np.arange(len(counts)), counts)
    firsts = np.cumsum(counts) - counts
    return rows, np.arange(len(rows)) - firsts[rows]


def counts_of(sampler: Sampler, epoch: tf.Tensor) -> tf.Tensor:
    """Return `Sampler.counts` in a graph, int64 [N], of an epoch, int64 []."""
    return tf.ensure_shape(tf.numpy_function(sampler.counts, [epoch], tf.int64), [sampler.size])


def rows_of(sampler: Sampler, epoch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return `repeated` of an epoch in a graph, both int64 [N]."""
    draw = lambda number: repeated(sampler.counts(number))  # noqa: E731
    return tf.numpy_function(draw, [epoch], [tf.int64, tf.int64])


def key(example_id, occurrence):
    """Return what the random numbers of an occurrence follow from; the id itself for the first.

    Both are int64 [N], arrays or tensors.
    """
    return example_id + occurrence * _STEP


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return whole numbers of the same sum: those of the largest remainders are rounded up."""
    whole = np.floor(values).astype(np.int64)
    missing = round(values.sum()) - whole.sum()
    whole[np.argsort(whole - values, kind="stable")[:missing]] += 1
    return whole
