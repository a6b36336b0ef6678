"""Fits calibrations: scale and shift of logits for the lowest log loss, and bounds on request.

Scale and shift minimise the log loss, by SciPy in float64. Where every image is right, no finite
scale is the best. So a temperature's scale has a prior: its logarithm is normal around 0 with a
deviation of `PRIOR`. A Platt scaling has smoothed targets (`smoothed`), as Platt proposed.
docs/training.md has the measurement behind this choice.

A bound e keeps probabilities in [e, 1 - e]. Say that m images have a probability beyond it, and k
of them are mistakes. Under Jeffreys' prior Beta(1/2, 1/2) of the share of mistakes, their expected
log loss has half a mistake and half a right answer more:

    -(k + 1/2) ln e - (m - k + 1/2) ln(1 - e)

The bound is the e with the least sum of this and the loss of all other images. Two classes have a
bound on either side. More classes share one; there m - k is the probability that the right class
loses when others are raised.

Where images may have several classes, each image and class is a question of its own, with yes or
no: each counts as an image of two classes, with one scale for all.
"""

import dataclasses

import numpy as np
import scipy  # its parts load when they are first used

from tfpipe.core.errors import UserError
from tfpipe.model.calibration import NONE, PLATT, TEMPERATURE, Calibration
from tfpipe.model.classifier import SIGMOID, SIGMOIDS

AUTO = "auto"
FOLDS = 5
LEAST = 2 * FOLDS  # images; with fewer, cross-validation says nothing
SCALES = (1e-3, 1e3)
SHIFTS = (-30.0, 30.0)
PRIOR = 0.5
BOUNDS = np.geomspace(1e-5, 0.05, 75)


@dataclasses.dataclass(frozen=True)
class Method:
    """What is fitted.

    Attributes:
        name: "temperature"; "platt", for two classes; "auto", the one with the lower
            cross-validated log loss, or no scaling if neither gains; or "none".
        bounds: whether the probabilities get bounds as well, except for "none".
    """

    name: str
    bounds: bool = False


def check(method: str, classes: int, *, many: bool = False) -> None:
    """Raise UserError if a method is not for that number of classes.

    `many` is whether an image may have several; then each class is a question of its own.
    """
    if method == PLATT and classes > 2 and not many:
        raise UserError(
            f"`calibration={PLATT}` is for two classes, the records have {classes}: use temperature"
            " or auto"
        )


def questions(
    logits: np.ndarray, labels: np.ndarray, output: str
) -> tuple[np.ndarray, np.ndarray, str]:
    """Return the arguments of `fit`: with several sigmoids, each image and class as an image."""
    if output != SIGMOIDS:
        return logits, labels, output
    return np.reshape(logits, (-1, 1)), np.asarray(labels, np.int64).ravel(), SIGMOID


def fit(logits: np.ndarray, labels: np.ndarray, output: str, method: Method) -> Calibration:
    """Fit a calibration to images that the model was not trained on.

    Args:
        logits: finite [n, 1] if `output` is "sigmoid", else [n, C]; n is at least 1.
        labels: int [n], class indices; with "sigmoids" [n, C], 1 for each class of an image.
        output: of the classifier.
        method: what to fit.

    Raises:
        ValueError: "platt" for more than two classes.
    """
    if method.name == NONE:
        return Calibration()
    logits, labels, output = questions(np.asarray(logits, np.float64), labels, output)
    if output == SIGMOID:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    name = choose(logits, labels) if method.name == AUTO else method.name
    found = Calibration(name, *_METHODS[name](logits, labels))
    return _bounded(found, logits, labels) if method.bounds else found


def cross_fit(
    logits: np.ndarray, labels: np.ndarray, output: str, method: Method, fold: np.ndarray
) -> np.ndarray:
    """Return probabilities float32 [n, C], each by a calibration fitted without its fold.

    Args:
        logits: as for `fit`.
        labels: as for `fit`.
        output: as for `fit`.
        method: as for `fit`.
        fold: of each image, int [n].
    """
    classes = logits.shape[1] if output == SIGMOIDS else max(2, logits.shape[1])
    found = np.empty([len(labels), classes], np.float32)
    for number in np.unique(fold):
        test = fold == number
        others = fit(logits[~test], labels[~test], output, method)
        found[test] = others.apply(logits[test], output)
    return found


def choose(logits: np.ndarray, labels: np.ndarray) -> str:
    """Return the method with the lowest cross-validated log loss; see `fit`.

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
    return min(losses, key=losses.get)  # ties go to the first: no scaling


def folds(count: int) -> np.ndarray:
    """Return the fold of each image, int [n] in 0..FOLDS - 1; the same in every call."""
    return np.random.default_rng(0).permutation(count) % FOLDS


def smoothed(labels: np.ndarray, classes: int) -> np.ndarray:
    """Return targets float64 [n, C] short of certainty, which keep a fit finite.

    A right class with N images gets (N + 1) / (N + 2), and the others share the rest (Platt 1999;
    Lin, Lin and Weng 2007, "A note on Platt's probabilistic outputs for support vector machines").
    """
    counts = np.bincount(labels, minlength=classes)
    right = (counts[labels] + 1) / (counts[labels] + 2)
    targets = np.tile(((1 - right) / (classes - 1))[:, np.newaxis], classes)
    targets[np.arange(len(labels)), labels] = right
    return targets


def _temperature(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    def loss(log_scale: float) -> float:
        surprise = (log_scale / PRIOR) ** 2 / 2
        return _losses(logits * np.exp(log_scale), labels).mean() + surprise / len(labels)

    found = scipy.optimize.minimize_scalar(loss, bounds=np.log(SCALES), method="bounded")
    return (float(np.exp(found.x)), 0.0) if found.fun < loss(0.0) else (1.0, 0.0)


def _platt(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    if logits.shape[1] != 2:
        raise ValueError(f"platt is for two classes, not {logits.shape[1]}")
    odds = logits[:, 1] - logits[:, 0]
    unit = max(1.0, np.abs(odds).max())  # brings both unknowns to one order of magnitude
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


_METHODS = {NONE: lambda *_: (1.0, 0.0), TEMPERATURE: _temperature, PLATT: _platt}


def _scaled(logits: np.ndarray, scale: float, shift: float) -> np.ndarray:
    if not shift:
        return logits * scale
    odds = (logits[:, 1:] - logits[:, :1]) * scale + shift
    return np.concatenate([np.zeros_like(odds), odds], axis=1)


def _losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -scipy.special.log_softmax(logits, axis=1)[np.arange(len(labels)), labels]


def _bounded(found: Calibration, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """Return `found` with bounds; see the module's docstring."""
    scaled = _scaled(logits, found.scale, found.shift)
    probabilities = scipy.special.softmax(scaled, axis=1)
    if probabilities.shape[1] == 2:
        first, second = (_one_side(probabilities[:, c], labels == c) for c in (0, 1))
        return dataclasses.replace(found, clip_min=second, clip_max=1 - first)
    given = probabilities[np.arange(len(labels)), labels]
    losses = [
        (np.log(np.maximum(probabilities, e).sum(1)) - np.log(np.maximum(given, e))).sum()
        for e in BOUNDS
    ]
    return dataclasses.replace(found, clip_min=_least(losses))


def _one_side(probability: np.ndarray, right: np.ndarray) -> float:
    """Return the least probability of one of two classes.

    Args:
        probability: of that class, float64 [n].
        right: bool [n], whether it was the right one.
    """
    near = probability < BOUNDS[-1]  # a bound does not change the others' loss
    raised = np.maximum(probability[near], BOUNDS[:, np.newaxis])
    return _least(-np.where(right[near], np.log(raised), np.log1p(-raised)).sum(1))


def _least(losses: np.ndarray) -> float:
    """Return the best bound, given the images' loss for each of `BOUNDS`."""
    half = -(np.log(BOUNDS) + np.log1p(-BOUNDS)) / 2
    return float(BOUNDS[np.argmin(losses + half)])
