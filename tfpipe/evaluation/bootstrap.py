"""The bootstrap: how far metrics vary between samples of images, one resampling for all metrics.

Each round draws as many images as there are, with replacement (Efron 1979, "Bootstrap Methods:
Another Look at the Jackknife"). It gives the intervals that have no formula.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tfpipe.core import terminal
from tfpipe.evaluation.metrics import LabeledPredictions, Statistic
from tfpipe.evaluation.proportions import Interval

ROUNDS = 1000
LEAST = 10  # images; fewer give no interval that can be relied on

_BLOCK = 2**20  # weights at a time, which fit into a CPU cache


def weights(n: int, rounds: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yield how often each of n images is drawn: float64 [R, n], some rounds at a time."""
    draws = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(n, 1))
    for start in range(0, rounds, step):
        count = min(step, rounds - start)
        chosen = [np.bincount(draws.integers(0, n, n), minlength=n) for _ in range(count)]
        yield np.stack(chosen).astype(np.float64)


def resampled(
    statistics: Mapping[str, Statistic], n: int, *, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Return metrics of bootstrap samples.

    Args:
        statistics: from weights [R, n] to values [R], by name.
        n: the number of images, at least 1.
        rounds: the number of samples, the same for all metrics.
        seed: of the random numbers.

    Returns:
        By name float64 [rounds], NaN where a metric is undefined.
    """
    parts: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    with (
        terminal.progress("resampling", rounds, "rounds") as advance,
        np.errstate(invalid="ignore", divide="ignore"),
    ):
        for block in weights(n, rounds, seed):
            for name, statistic in statistics.items():
                parts[name].append(statistic(block))
            advance(len(block))
    return {name: np.concatenate(values) for name, values in parts.items()}


def obstacle(name: str, predictions: LabeledPredictions) -> str:
    """Return why these images are too few for an interval of a metric; "" if they are enough."""
    if len(predictions) < LEAST:
        return f"needs {LEAST} images"
    by_class = name in predictions.metrics and predictions.metrics[name].by_class
    return "needs two images of each class" if by_class and 1 in predictions.support else ""


def interval(
    samples: np.ndarray,
    value: float,
    correct: Callable[[float, Interval], Interval] | None = None,
) -> tuple[Interval | None, str]:
    """Return the 95 % interval of a metric, or None and the reason.

    These are the percentiles of the samples, and the value itself where it lies outside.

    Args:
        samples: from `resampled`; NaN values are left out.
        value: the metric of the images.
        correct: from the value and the percentiles to better bounds, where the samples are biased.
    """
    defined = samples[~np.isnan(samples)]
    if 2 * len(defined) < len(samples):
        return None, "undefined for most samples of these images"
    low, high = np.percentile(defined, [2.5, 97.5])
    if correct:
        low, high = correct(value, (low, high))
    low, high = float(min(low, value)), float(max(high, value))
    if np.isclose(low, high, rtol=1e-12, atol=1e-12):
        return None, "the same in every sample of these images"
    return (low, high), ""
