"""The summary of predictions: all metrics, as `metrics.json` and the model card have them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfpipe.evaluation import bootstrap, class_balance, label_sets, proportions
from tfpipe.evaluation.label_sets import SetPredictions
from tfpipe.evaluation.metrics import (
    LabeledPredictions,
    Statistic,
    by_class_of,
    confusion,
    losses,
    mean_of,
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
    shares: Sequence[float] | None = None,
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return all metrics under the keys of `metrics.json`.

    Args:
        probabilities: [n, C], in 0..1.
        labels: int [n]; or [n, C] of images that may have several classes.
        classes: the C class names in label order.
        rounds: of the bootstrap; with 0 only proportions have intervals.
        before: probabilities [n, C] before a step of the calibration, by the key of their log loss,
            as log_loss_raw.
        shares: of each class in training, for `class_balance.warnings`; None if unknown.
        thresholds: of images that may have several classes, the least probability of each class to
            be answered; None for 0.5.

    Returns:
        "n"; "labels", "one" or "many" classes of an image; every metric, and the log losses of
        `before`; "intervals", by metric the 95 % bounds; "classes"; "confusion", rows for the true
        classes; by class "support" (images), "recall", "precision" and "f1", and the intervals
        "recall_intervals" and "precision_intervals"; "warnings" about classes; and "reasons" for
        each None, by its name, as in "recall.cat". Images that may have several classes have no
        "confusion", but by class "thresholds", "roc_auc_by_class" and "average_precision_by_class".
    """
    predictions = label_sets.labeled(probabilities, labels, thresholds)
    values, reasons = values_of(predictions)
    known = predictions.metrics
    statistics = {name: known[name].of(predictions) for name in names(predictions.classes, known)}
    for name, others in (before or {}).items():
        given = losses(others, predictions.labels)
        statistics[name], values[name] = mean_of(given), float(given.mean()) if len(given) else None
        if values[name] is None:
            reasons[name] = "needs an image"
    intervals, missing = _intervals(predictions, statistics, values, rounds)
    by_class, without = _by_class(predictions, classes)
    if isinstance(predictions, SetPredictions):
        ranked, more = _ranked(predictions, classes)
        without |= more
        table = {"thresholds": dict(zip(classes, predictions.thresholds.tolist(), strict=True))}
        table |= ranked
    else:
        table = {"confusion": confusion(predictions.probabilities, predictions.labels).tolist()}
    return {
        "n": len(predictions),
        "labels": predictions.labels_kind,
        **values,
        "intervals": intervals,
        "classes": list(classes),
        **by_class,
        **table,
        "warnings": class_balance.warnings(by_class["support"], shares, len(predictions)),
        "reasons": reasons | missing | without,
    }


def _ranked(
    predictions: SetPredictions, classes: Sequence[str]
) -> tuple[dict[str, dict], dict[str, str]]:
    """Return ranking metrics by class, and the reasons for None by "METRIC.CLASS"."""
    found, reasons = {}, {}
    for name in ("roc_auc", "average_precision"):
        values = by_class_of(name, predictions)
        key = f"{name}_by_class"
        found[key] = {
            each: None if np.isnan(value) else float(value)
            for each, value in zip(classes, values, strict=True)
        }
        for each, value in found[key].items():
            if value is None:
                reasons[f"{key}.{each}"] = "needs images with and without the class"
    return found, reasons


def _intervals(
    predictions: LabeledPredictions | SetPredictions,
    statistics: Mapping[str, Statistic],
    values: Mapping[str, float | None],
    rounds: int,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the intervals by metric, and the reasons for None by "intervals.METRIC"."""
    found, reasons, resampled = {}, {}, {}
    metrics = predictions.metrics
    for name, statistic in statistics.items():
        found[name] = None
        if values[name] is None:
            reasons[name] = "the metric is undefined"
        elif name in metrics and metrics[name].interval:
            found[name] = metrics[name].interval(predictions)
        elif not rounds:
            reasons[name] = "no rounds of the bootstrap"
        elif not (reason := bootstrap.obstacle(name, predictions)):
            resampled[name] = statistic
        else:
            reasons[name] = reason
    if resampled:
        samples = bootstrap.resampled(resampled, len(predictions), rounds=rounds)
        for name in resampled:
            correct = metrics[name].correct if name in metrics else None
            found[name], reasons[name] = bootstrap.interval(
                samples[name], values[name], correct and functools.partial(correct, predictions)
            )
    return found, {f"intervals.{name}": reason for name, reason in reasons.items() if reason}


def _by_class(
    predictions: LabeledPredictions | SetPredictions, classes: tuple[str, ...]
) -> tuple[dict[str, dict], dict[str, str]]:
    """Return metrics and intervals by class, and the reasons for None by "METRIC.CLASS"."""
    found: dict[str, dict] = {key: {} for key in ("support", "recall", "precision", "f1")}
    found |= {"recall_intervals": {}, "precision_intervals": {}}
    reasons = {}
    counts = np.stack(predictions.counts(np.ones((1, len(predictions)))))[:, :, 0].astype(int)
    for name, (images, taken, right) in zip(classes, counts.T.tolist(), strict=True):
        found["support"][name] = images
        shares = {"recall": images, "precision": taken, "f1": images + taken}
        for key, whole in shares.items():
            defined = images and whole
            part = 2 * right if key == "f1" else right
            found[key][name] = part / whole if defined else None
            if not defined:
                reasons[f"{key}.{name}"] = (
                    "no images" if not images else "no image was taken for it"
                )
            if key != "f1":
                bounds = proportions.wilson(right, whole) if defined else None
                found[f"{key}_intervals"][name] = bounds
                if not defined:
                    reasons[f"{key}_intervals.{name}"] = reasons[f"{key}.{name}"]
    return found, reasons
