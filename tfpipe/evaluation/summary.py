"""The summary of predictions: all metrics, as `metrics.json` and the model card have them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfpipe.evaluation import bootstrap
from tfpipe.evaluation.metrics import (
    LabeledPredictions,
    Statistic,
    confusion,
    log_loss,
    losses,
    mean_of,
    metrics,
    names,
    values_of,
)


def summary(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    *,
    rounds: int = bootstrap.ROUNDS,
    before: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Return all metrics under the keys of `metrics.json`.

    Args:
        probabilities: [n, C], in 0..1.
        labels: int [n].
        classes: the C class names in label order.
        rounds: of the bootstrap; with 0 there are no intervals.
        before: probabilities [n, C] before a step of the calibration, by the key of their log loss,
            as log_loss_raw.

    Returns:
        "n"; every metric, and the log losses of `before`; "intervals", by metric the 95 % bounds;
        "classes"; "confusion", rows for the true classes; "support" (images), "recall",
        "precision" and "f1" by class; and "reasons" for each None, by its name, as in
        "recall.cat".
    """
    predictions = LabeledPredictions(probabilities, labels)
    values, reasons = values_of(predictions)
    statistics = {name: metrics[name].of(predictions) for name in names()}
    for name, others in (before or {}).items():
        statistics[name] = mean_of(losses(others, predictions.labels))
        values[name] = log_loss(others, predictions.labels) if len(predictions) else None
        if values[name] is None:
            reasons[name] = "needs an image"
    intervals, missing = _intervals(statistics, values, len(predictions), rounds)
    by_class, without = _by_class(predictions, classes)
    return {
        "n": len(predictions),
        **values,
        "intervals": intervals,
        "classes": list(classes),
        **by_class,
        "confusion": confusion(predictions.probabilities, predictions.labels).tolist(),
        "reasons": reasons | missing | without,
    }


def _intervals(
    statistics: Mapping[str, Statistic], values: Mapping[str, float | None], n: int, rounds: int
) -> tuple[dict[str, tuple[float, float] | None], dict[str, str]]:
    """Return the intervals by metric, and the reasons for None by "intervals.METRIC"."""
    defined = {name: each for name, each in statistics.items() if values[name] is not None}
    enough = n >= bootstrap.LEAST and rounds > 0
    samples = bootstrap.resampled(defined, n, rounds=rounds) if enough else {}
    found, reasons = {}, {}
    for name in statistics:
        found[name] = bootstrap.interval(samples[name]) if name in samples else None
        if found[name] is not None:
            continue
        if name not in defined:
            reason = "the metric is undefined"
        elif not rounds:
            reason = "no rounds of the bootstrap"
        elif not enough:
            reason = f"needs {bootstrap.LEAST} images"
        else:
            reason = "the metric is undefined for most samples of these images"
        reasons[f"intervals.{name}"] = reason
    return found, reasons


def _by_class(
    predictions: LabeledPredictions, classes: tuple[str, ...]
) -> tuple[dict[str, dict], dict[str, str]]:
    """Return metrics by name and class, and the reasons for None by "METRIC.CLASS"."""
    of_class, taken, right = (
        counts[:, 0] for counts in predictions.counts(np.ones((1, len(predictions))))
    )
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
