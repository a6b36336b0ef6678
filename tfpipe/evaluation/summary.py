"""All measures of one set of answers, as `metrics.json` and the model card have them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfpipe.evaluation import bootstrap, metrics
from tfpipe.evaluation.measures import Answers, Statistic, mean_of, measured, measures, names


def summary(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    *,
    rounds: int = bootstrap.ROUNDS,
    before: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Returns all measures under the names that `metrics.json` has.

    Args:
        probabilities: [n, C], in 0..1.
        labels: int [n].
        classes: the C class names in label order.
        rounds: of the bootstrap; with 0 there are no intervals.
        before: probabilities [n, C] before a step of the calibration, by the name that their log
            loss gets, as log_loss_raw.

    Returns:
        "n"; every measure of `measures`, and those of `before`; "intervals", by measure the 95 %
        bounds; "classes"; "confusion", rows for the true classes; "support" (images), "recall",
        "precision" and "f1" by class; and "reasons", for each of these that is None, by its name,
        as in "recall.cat", why it is undefined.
    """
    answers = Answers(probabilities, labels)
    values, reasons = measured(answers)
    statistics = {name: measures[name].of(answers) for name in names()}
    for name, others in (before or {}).items():
        statistics[name] = mean_of(metrics.losses(others, answers.labels))
        values[name] = metrics.log_loss(others, answers.labels) if len(answers) else None
        if values[name] is None:
            reasons[name] = "needs an image"
    intervals, missing = _intervals(statistics, values, len(answers), rounds)
    by_class, without = _by_class(answers, classes)
    return {
        "n": len(answers),
        **values,
        "intervals": intervals,
        "classes": list(classes),
        **by_class,
        "confusion": metrics.confusion(answers.probabilities, answers.labels).tolist(),
        "reasons": reasons | missing | without,
    }


def _intervals(
    statistics: Mapping[str, Statistic], values: Mapping[str, float | None], n: int, rounds: int
) -> tuple[dict[str, tuple[float, float] | None], dict[str, str]]:
    """Returns the intervals by measure, and by "intervals.MEASURE" why one is None."""
    defined = {name: each for name, each in statistics.items() if values[name] is not None}
    enough = n >= bootstrap.LEAST and rounds > 0
    samples = bootstrap.resampled(defined, n, rounds=rounds) if enough else {}
    found, reasons = {}, {}
    for name in statistics:
        found[name] = bootstrap.interval(samples[name]) if name in samples else None
        if found[name] is not None:
            continue
        if name not in defined:
            reason = "the measure is undefined"
        elif not rounds:
            reason = "no rounds of the bootstrap"
        elif not enough:
            reason = f"needs {bootstrap.LEAST} images"
        else:
            reason = "the measure is undefined for most samples of these images"
        reasons[f"intervals.{name}"] = reason
    return found, reasons


def _by_class(answers: Answers, classes: tuple[str, ...]) -> tuple[dict[str, dict], dict[str, str]]:
    """Returns measures by their name and class, and by "MEASURE.CLASS" why one is None."""
    of_class, taken, right = (counts[:, 0] for counts in answers.counts(np.ones((1, len(answers)))))
    shares = {
        "recall": (right, of_class, "no images"),
        "precision": (right, taken, "no image was taken for it"),
        "f1": (2 * right, of_class + taken, "no images, and none was taken for it"),
    }
    found: dict[str, dict] = {
        "support": {name: int(count) for name, count in zip(classes, of_class, strict=True)}
    }
    reasons = {}
    for key, (part, whole, reason) in shares.items():
        found[key] = {
            name: float(p / w) if w else None
            for name, p, w in zip(classes, part, whole, strict=True)
        }
        undefined = [name for name, value in found[key].items() if value is None]
        reasons |= {f"{key}.{name}": reason for name in undefined}
    return found, reasons
