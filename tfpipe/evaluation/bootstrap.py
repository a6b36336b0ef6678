"""How far measures would vary: the bootstrap, one resampling for all of them.

After Efron 1979, "Bootstrap Methods: Another Look at the Jackknife": the same measure of as many
images, drawn again from these with replacement.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from tfpipe.core import terminal
from tfpipe.evaluation.measures import Statistic

ROUNDS = 1000
LEAST = 10  # images; an interval of fewer would promise too much

_BLOCK = 2**20  # weights at a time, which fit into a processor's cache


def weights(n: int, rounds: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Yields how often each of n images is drawn: float64 [R, n], for some rounds at a time."""
    draws = np.random.default_rng(seed)
    step = max(1, _BLOCK // max(n, 1))
    for start in range(0, rounds, step):
        count = min(step, rounds - start)
        chosen = [np.bincount(draws.integers(0, n, n), minlength=n) for _ in range(count)]
        yield np.stack(chosen).astype(np.float64)


def resampled(
    statistics: Mapping[str, Statistic], n: int, *, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Returns what measures are of other samples of the same images.

    Args:
        statistics: from weights [R, n] to values [R], by name.
        n: how many images there are, at least 1.
        rounds: how many samples are drawn, the same for all.
        seed: of the draws.

    Returns:
        By name float64 [rounds], NaN where a measure is undefined.
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
    """Returns the bounds between which 95 % of resampled values lie.

    Args:
        values: from `resampled`; those that are NaN do not count.

    Returns:
        The lower and the upper one, or None if less than half of the values are defined.
    """
    defined = values[~np.isnan(values)]
    if 2 * len(defined) < len(values):
        return None
    low, high = np.percentile(defined, [2.5, 97.5]).tolist()
    return low, high
