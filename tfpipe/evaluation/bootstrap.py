"""The bootstrap: how far metrics vary between samples of images, one resampling for all metrics.

Each round draws as many images as there are, with replacement (Efron 1979, "Bootstrap Methods:
Another Look at the Jackknife").
"""

from collections.abc import Iterator, Mapping

import numpy as np

from tfpipe.core import terminal
from tfpipe.evaluation.metrics import Statistic

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


def interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the bounds of 95 % of resampled values.

    Args:
        values: from `resampled`; NaN values are left out.

    Returns:
        The lower and the upper one, or None if less than half of the values are defined.
    """
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values):
        return None
    low, high = np.percentile(defined, [2.5, 97.5]).tolist()
    return low, high
