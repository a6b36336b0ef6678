"""Whether the best trial of a search is better than the base, or ahead by chance."""

import math

from tfpipe.evaluation import bootstrap, compare
from tfpipe.evaluation.metrics import LabeledPredictions, metrics

LEVEL = 0.05  # p-value below which a gain counts


def sentence(
    best: LabeledPredictions, base: LabeledPredictions, *, name: str, metric: str, tried: int
) -> str:
    """Return the paired test of the best of several trials against the base, in one line.

    The best of several trials on the same images is partly luck. So its p-value is multiplied by
    their number (Bonferroni; Dunn 1961, "Multiple Comparisons Among Means").

    Args:
        best: predictions of the best trial.
        base: of the base, of the same images in the same order.
        name: of the trial.
        metric: that chose it.
        tried: number of trials that it is the best of.
    """
    rounds = max(bootstrap.ROUNDS, math.ceil(4 * tried / LEVEL))  # the least p is 2 / rounds
    compared = compare.compare(best, base, rounds=rounds)
    said = compare.sentence(compared, name, "the base", metric)
    found = compared["measures"][metric]
    if found["p_value"] is None:
        return said
    corrected = min(1.0, found["p_value"] * tried)
    ahead = found["difference"] * (1 if metrics[metric].higher_is_better else -1)
    if ahead <= 0:
        what = "there is no gain"
    elif corrected < LEVEL:
        what = "the gain is real on images like these"
    else:
        what = "the gain is within the noise of these images"
    return f"{said}; p = {corrected:.2g} for the best of {tried} trials: {what}"
