"""Compares two models by a paired bootstrap on the same images."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.evaluation import bootstrap
from tfpipe.evaluation.metrics import LabeledPredictions, Metric, Statistic, metrics, names


def compare(
    first: LabeledPredictions, second: LabeledPredictions, *, rounds: int = bootstrap.ROUNDS
) -> dict[str, Any]:
    """Compare two models' predictions of the same images in the same order.

    Each sample of the bootstrap has the same images for both, so images that are hard for both do
    not widen the interval (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter
    16).

    Args:
        first: of one model.
        second: of the other model, with the same labels.
        rounds: of the bootstrap, B.

    Returns:
        "measures", by metric: "value" of the first, "against" of the second, "difference", the
        first minus the second, "interval", its 95 % bounds, and "p_value", two-sided, from
        2 / (B + 1) to 1: twice the smaller share of samples whose difference is 0 or on one side of
        it, with one more on either side (Davison and Hinkley 1997, 4.2). The accuracy has those of
        `proportions.paired_difference`. And "reasons" for each None, by its name, as in
        "roc_auc.interval".
    """
    found, reasons, resampled = {}, {}, {}
    known = first.metrics
    for name in names(first.classes, known):
        pair = known[name].value(first), known[name].value(second)
        one, two = (None if np.isnan(value) else value for value in pair)
        defined = one is not None and two is not None
        found[name] = {"value": one, "against": two, "difference": one - two if defined else None}
        found[name] |= {"interval": None, "p_value": None}
        if not defined:
            reasons[name] = f"needs {known[name].needs}"
        elif known[name].difference:
            interval, p_value = known[name].difference(first, second)
            found[name] |= {"interval": interval, "p_value": p_value}
        elif not (reason := bootstrap.obstacle(name, first)):
            resampled[name] = _difference(name, first, second)
        else:
            reasons[name] = reason
    if resampled:
        samples = bootstrap.resampled(resampled, len(first), rounds=rounds)
        for name in resampled:
            interval, reasons[name] = bootstrap.interval(samples[name], found[name]["difference"])
            found[name] |= {"interval": interval, "p_value": _p_value(samples[name])}
    missing = {
        f"{name}.{key}": reasons[name]
        for name, each in found.items()
        for key, value in each.items()
        if value is None
    }
    return {"measures": found, "reasons": missing}


def sentence(
    compared: dict[str, Any],
    first: str,
    second: str,
    name: str = "log_loss",
    registry: Registry[Metric] = metrics,
) -> str:
    """Return the comparison by one metric in words.

    Args:
        compared: from `compare`.
        first: name of the first model.
        second: name of the second model.
        name: of the metric.
        registry: that has it.
    """
    title, found = registry[name].title, compared["measures"][name]
    if found["interval"] is None:
        reason = next(r for key, r in compared["reasons"].items() if key.startswith(f"{name}."))
        return f"whether {first} or {second} is better in {title} cannot be said: {reason}"
    higher = registry[name].higher_is_better
    gain = found["difference"] if higher else -found["difference"]
    low, high = found["interval"] if higher else [-bound for bound in found["interval"][::-1]]
    if gain < 0:
        first, second, gain, low, high = second, first, -gain, -high, -low
    figures = f"by {gain:.4f} (95 %: {low:.4f} to {high:.4f}), p = {found['p_value']:.2g}"
    if low > 0 and found["p_value"] < 0.05:
        return f"{first} is better than {second} in {title} {figures}"
    detail = f"{first} is ahead {figures}" if gain else f"both have {found['value']:.4f}"
    return f"{first} and {second} cannot be told apart in {title}: {detail}"


def order(
    first: str | os.PathLike,
    one: Mapping[str, np.ndarray],
    second: str | os.PathLike,
    two: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Return the index of each of the first model's images among the second's, int64 [n].

    Repeated names, as of two sources with one name, are allowed only if all names are in the same
    order.

    Args:
        first: the first model's folder, for messages.
        one: of its images: "name" str [n] and "label", int [n] or float [n, C].
        second: the second model's folder, for messages.
        two: the same of its images.

    Raises:
        UserError: the images or their labels are not the same.
    """
    names, others = one["name"], two["name"]
    if np.array_equal(names, others):
        found = np.arange(len(names))
    else:
        own, its = set(names.tolist()), set(others.tolist())
        if own != its:
            raise UserError(
                f"{first} and {second} have predictions of different images: {len(own - its):,}"
                f" names are only in the first, {len(its - own):,} only in the second: take runs"
                " that are validated on the same records"
            )
        if len(own) < max(len(names), len(others)):
            raise UserError(
                f"{first} and {second} have predictions of several images with one name, in another"
                " order: give each image a name of its own"
            )
        found = np.argsort(others)[np.argsort(np.argsort(names))]
    alike = two["label"].shape[1:] == one["label"].shape[1:]
    differ = two["label"][found] != one["label"] if alike else np.ones(len(names), bool)
    differ = differ.reshape(len(differ), -1).any(axis=1)
    if differ.any():
        raise UserError(
            f"{first} and {second} have different labels, as of {names[differ][0]}: take runs on"
            " the same records"
        )
    return found


def _difference(name: str, first: LabeledPredictions, second: LabeledPredictions) -> Statistic:
    one, two = first.metrics[name].of(first), second.metrics[name].of(second)
    return lambda weights: one(weights) - two(weights)


def _p_value(differences: np.ndarray) -> float | None:
    defined = differences[~np.isnan(differences)]
    if 2 * len(defined) < len(differences):
        return None
    fewer = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (fewer + 1) / (len(defined) + 1)))
