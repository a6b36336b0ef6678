"""Finds the calibration of logits that lowers the log loss, and the bounds of probabilities.

Scale and shift minimise the log loss, by SciPy in float64, against targets that are a little short
of certain (`smoothed`), so that they stay finite where every sample is right.

A bound e keeps probabilities in [e, 1 - e]. Of the m samples whose probability was beyond it, k
were mistakes; more or fewer may be tomorrow. Under Jeffreys' prior Beta(1/2, 1/2) of the share of
mistakes, their log loss to be expected is that of half a mistake and half a right answer more,

    -(k + 1/2) ln e - (m - k + 1/2) ln(1 - e)

and the bound is the e for which this and the loss of all other samples is least. For two classes
there is one at either side, for more classes one for all, where m - k is the share that raising the
probabilities of other classes takes from the right one.
"""

import dataclasses

import numpy as np
import scipy  # its parts load when they are first used

from tfpipe.core.errors import UserError
from tfpipe.model.calibration import NONE, PLATT, TEMPERATURE, Calibration
from tfpipe.model.classifier import SIGMOID

AUTO = "auto"
FOLDS = 5
LEAST = 2 * FOLDS  # samples; with fewer, cross-validation says nothing
SCALES = (1e-3, 1e3)
SHIFTS = (-30.0, 30.0)
BOUNDS = np.geomspace(1e-5, 0.05, 75)


def check(method: str, classes: int) -> None:
    """Raises UserError if --calibration is not for so many classes."""
    if method == PLATT and classes > 2:
        raise UserError(
            f"--calibration={PLATT} is for two classes, the records have {classes}: use temperature"
            " or auto"
        )


def fit(logits: np.ndarray, labels: np.ndarray, output: str, method: str) -> Calibration:
    """Fits a calibration to samples that the model was not trained on.

    Args:
        logits: finite [n, 1] if `output` is "sigmoid", [n, C] if it is "softmax"; n is at least 1.
        labels: int [n], class indices.
        output: of the classifier.
        method: "temperature"; "platt", for two classes; "auto", the one of them with the lower log
            loss in a cross-validation of `FOLDS` folds, or no scaling if neither gains; each of
            these with bounds. "none" is no scaling and no bounds.

    Raises:
        ValueError: "platt" for more than two classes.
    """
    if method == NONE:
        return Calibration()
    logits = np.asarray(logits, np.float64)
    if output == SIGMOID:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    if method == AUTO:
        method = choose(logits, labels)
    found = Calibration(method, *_METHODS[method](logits, labels))
    return _bounded(found, logits, labels)


def cross_fit(
    logits: np.ndarray, labels: np.ndarray, output: str, method: str, fold: np.ndarray
) -> np.ndarray:
    """Returns the probabilities float32 [n, C] of calibrations that are fitted without the fold.

    Args:
        logits: as for `fit`, and so are the others.
        labels: see there.
        output: see there.
        method: see there.
        fold: of each sample, int [n].
    """
    parts = np.unique(fold)
    found = np.empty([len(labels), max(2, logits.shape[1])], np.float32)
    for part in parts:
        test = fold == part
        others = fit(logits[~test], labels[~test], output, method)
        found[test] = others.apply(logits[test], output)
    return found


def choose(logits: np.ndarray, labels: np.ndarray) -> str:
    """Returns the method of the lowest cross-validated log loss; see `fit`.

    Args:
        logits: float64 [n, C], C at least 2.
        labels: int [n].
    """
    count, classes = logits.shape
    if count < LEAST or len(np.unique(labels)) < 2:
        return NONE
    fold = folds(count)
    losses = dict.fromkeys([NONE, TEMPERATURE] + [PLATT] * (classes == 2), 0.0)
    for number in range(FOLDS):
        train, test = fold != number, fold == number
        for method in losses:
            scaled = _scaled(logits[test], *_METHODS[method](logits[train], labels[train]))
            losses[method] += _losses(scaled, labels[test]).sum()
    return min(losses, key=losses.get)  # the first of equals, so none unless one gains


def folds(count: int) -> np.ndarray:
    """Returns the fold of each sample, int [n] in 0..FOLDS - 1.

    Always the same, so that a run that is finished again is calibrated as before.
    """
    return np.random.default_rng(0).permutation(count) % FOLDS


def smoothed(labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns targets float64 [n, C] that keep a fit from certainty.

    The right class of N samples gets (N + 1) / (N + 2), as in Platt 1999 and in Lin, Lin and Weng
    2007, "A note on Platt's probabilistic outputs for support vector machines"; the others share
    the rest, which for two classes is theirs too.
    """
    counts = np.bincount(labels, minlength=classes)
    right = (counts[labels] + 1) / (counts[labels] + 2)
    targets = np.tile(((1 - right) / (classes - 1))[:, np.newaxis], classes)
    targets[np.arange(len(labels)), labels] = right
    return targets


def _unchanged(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    del logits, labels
    return 1.0, 0.0


def _temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    targets = smoothed(labels, logits.shape[1])

    def loss(log_scale: float) -> float:
        scaled = logits * np.exp(log_scale)
        return -(targets * scipy.special.log_softmax(scaled, axis=1)).sum(1).mean()

    found = scipy.optimize.minimize_scalar(loss, bounds=np.log(SCALES), method="bounded")
    return (float(np.exp(found.x)), 0.0) if found.fun < loss(0.0) else (1.0, 0.0)


def _platt(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    if logits.shape[1] != 2:
        raise ValueError(f"platt is for two classes, not {logits.shape[1]}")
    odds = logits[:, 1] - logits[:, 0]
    unit = max(1.0, np.abs(odds).max())  # both unknowns of one order, for the optimizer
    odds, targets = odds / unit, smoothed(labels, 2)[:, 1]

    def loss(x: np.ndarray) -> tuple[float, np.ndarray]:
        z = x[0] * odds + x[1]
        error = scipy.special.expit(z) - targets
        value = (np.logaddexp(0, z) - targets * z).mean()
        return value, np.array([(error * odds).mean(), error.mean()])

    start, limits = np.array([unit, 0.0]), [tuple(unit * np.array(SCALES)), SHIFTS]
    exact = {"ftol": 1e-14, "gtol": 1e-10}
    found = scipy.optimize.minimize(
        loss, start, jac=True, bounds=limits, method="L-BFGS-B", options=exact
    )
    scale, shift = found.x if found.fun < loss(start)[0] else start
    return float(scale / unit), float(shift)


_METHODS = {NONE: _unchanged, TEMPERATURE: _temperature, PLATT: _platt}


def _scaled(logits: np.ndarray, scale: float, shift: float) -> np.ndarray:
    if not shift:
        return logits * scale
    odds = (logits[:, 1:] - logits[:, :1]) * scale + shift
    return np.concatenate([np.zeros_like(odds), odds], axis=1)


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -scipy.special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


def _bounded(found: Calibration, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Returns `found` with the bounds that the module's description derives."""
    scaled = _scaled(logits, found.scale, found.shift)
    probabilities = scipy.special.softmax(scaled, axis=1)
    if probabilities.shape[1] == 2:
        first, second = (_one_side(probabilities[:, c], labels == c) for c in (0, 1))
        return dataclasses.replace(found, low=second, high=1 - first)
    given = probabilities[np.arange(len(labels)), labels]
    losses = [
        (np.log(np.maximum(probabilities, e).sum(1)) - np.log(np.maximum(given, e))).sum()
        for e in BOUNDS
    ]
    return dataclasses.replace(found, low=_least(losses))


def _one_side(probability: np.ndarray, right: np.ndarray) -> float:
    """Returns the bound below one of two classes.

    Args:
        probability: of that class, float64 [n].
        right: bool [n], whether it was the right one.
    """
    near = probability < BOUNDS[-1]  # the loss of all others is the same whatever the bound
    raised = np.maximum(probability[near], BOUNDS[:, np.newaxis])
    return _least(-np.where(right[near], np.log(raised), np.log1p(-raised)).sum(1))


def _least(losses: np.ndarray) -> float:
    """Returns the bound of the least loss, given those of the samples for each."""
    half = -(np.log(BOUNDS) + np.log1p(-BOUNDS)) / 2
    return float(BOUNDS[np.argmin(losses + half)])
