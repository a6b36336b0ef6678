"""Compares two models by a paired bootstrap on the same images."""

import os
from typing import Any

import numpy as np

from tfpipe.core.errors import UserError
from tfpipe.evaluation import bootstrap
from tfpipe.evaluation.metrics import LabeledPredictions, Statistic, metrics, names


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
        it, with one more on either side (Davison and Hinkley 1997, 4.2). And "reasons" for each
        None, by its name, as in "roc_auc.interval".
    """
    n = len(first)
    values = {name: (metrics[name].value(first), metrics[name].value(second)) for name in names()}
    defined = [name for name in values if not np.isnan(values[name]).any()]
    statistics = {name: _difference(name, first, second) for name in defined}
    enough = n >= bootstrap.LEAST
    samples = bootstrap.resampled(statistics, n, rounds=rounds) if enough else {}
    found, reasons = {}, {}
    for name, pair in values.items():
        one, two = (None if np.isnan(value) else value for value in pair)
        interval = bootstrap.interval(samples[name]) if name in samples else None
        found[name] = {
            "value": one,
            "against": two,
            "difference": one - two if name in defined else None,
            "interval": interval,
            "p_value": None if interval is None else _p_value(samples[name]),
        }
        if name not in defined:
            reason = f"needs {metrics[name].needs}"
        else:
            reason = (
                "undefined for most samples of these images"
                if enough
                else f"needs {bootstrap.LEAST} images"
            )
        missing = [key for key, value in found[name].items() if value is None]
        reasons |= {f"{name}.{key}": reason for key in missing}
    return {"measures": found, "reasons": reasons}


def sentence(compared: dict[str, Any], first: str, second: str, name: str = "log_loss") -> str:
    """Return the comparison by one metric in words.

    Args:
        compared: from `compare`.
        first: name of the first model.
        second: name of the second model.
        name: of the metric.
    """
    title, found = metrics[name].title, compared["measures"][name]
    if found["interval"] is None:
        reason = next(r for key, r in compared["reasons"].items() if key.startswith(f"{name}."))
        return f"whether {first} or {second} is better in {title} cannot be said: {reason}"
    higher = metrics[name].higher_is_better
    gain = found["difference"] if higher else -found["difference"]
    low, high = found["interval"] if higher else [-bound for bound in found["interval"][::-1]]
    if gain < 0:
        first, second, gain, low, high = second, first, -gain, -high, -low
    figures = f"by {gain:.4f} (95 %: {low:.4f} to {high:.4f}), p = {found['p_value']:.2g}"
    if low > 0:
        return f"{first} is better than {second} in {title} {figures}"
    detail = f"{first} is ahead {figures}" if gain else f"both have {found['value']:.4f}"
    return f"{first} and {second} cannot be told apart in {title}: {detail}"


def order(
    first: str | os.PathLike, names: np.ndarray, second: str | os.PathLike, others: np.ndarray
) -> np.ndarray:
    """Return the index of each of the first model's images among the second's, int64 [n].

    Repeated names, as of two sources with one name, are allowed only if all names are in the same
    order.

    Args:
        first: the first model's folder, for messages.
        names: of its images, str [n].
        second: the second model's folder, for messages.
        others: of its images, str [n].

    Raises:
        UserError: the images are not the same.
    """
    if np.array_equal(names, others):
        return np.arange(len(names))
    own, its = set(names.tolist()), set(others.tolist())
    if own != its:
        raise UserError(
            f"{first} and {second} have predictions of different images: {len(own - its):,} names"
            f" are only in the first, {len(its - own):,} only in the second: take runs that are"
            " validated on the same records"
        )
    if len(own) < max(len(names), len(others)):
        raise UserError(
            f"{first} and {second} have predictions of several images with one name, in another"
            " order: give each image a name of its own"
        )
    return np.argsort(others)[np.argsort(np.argsort(names))]


def _difference(name: str, first: LabeledPredictions, second: LabeledPredictions) -> Statistic:
    one, two = metrics[name].of(first), metrics[name].of(second)
    return lambda weights: one(weights) - two(weights)


def _p_value(differences: np.ndarray) -> float:
    defined = differences[~np.isnan(differences)]
    fewer = min((defined <= 0).sum(), (defined >= 0).sum())
    return float(min(1.0, 2 * (fewer + 1) / (len(defined) + 1)))
