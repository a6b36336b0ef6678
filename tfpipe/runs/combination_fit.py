"""Fits the parameters of `tfpipe.model.combination`'s methods to labelled images, in float64.

- blend: the weights of the lowest log loss, which is convex in them; by SciPy.
- stack: scikit-learn's logistic regression. It minimises the sum of the log losses plus l2 / 2
  times the sum of the squared weights, not of the biases.
"""

import warnings

import numpy as np
import scipy.optimize
import scipy.special
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from tfpipe.model.combination import BLEND, STACK, Combination, features
from tfpipe.runs import calibration_fit


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Return float64 [n, C] for logits [n, 1] of a sigmoid or [n, C] of a softmax."""
    logits = np.asarray(logits, np.float64)
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    return scipy.special.log_softmax(logits, axis=1)


def fit(method: str, members: np.ndarray, labels: np.ndarray, l2: float) -> Combination:
    """Return a method with its best parameters, if it has any.

    Args:
        method: a name of `combination.combiners`.
        members: log-probabilities float64 [M, n, C] of images that no member was trained on.
        labels: int [n].
        l2: the weight of the penalty of "stack", above 0.
    """
    if method not in FITTED:
        return Combination(method)
    weights, bias = FITTED[method](members, labels, l2)
    return Combination(method, tuple(weights.tolist()), tuple(bias.tolist()))


def cross_fit(method: str, members: np.ndarray, labels: np.ndarray, l2: float) -> np.ndarray:
    """Return log-probabilities float64 [n, C], each by a combination fitted without its fold.

    The arguments are those of `fit`, with n at least `calibration_fit.FOLDS`.
    """
    fold = calibration_fit.folds(len(labels))
    result = np.empty(members.shape[1:])
    for number in range(calibration_fit.FOLDS):
        train, test = fold != number, fold == number
        found = fit(method, members[:, train], labels[train], l2)
        result[test] = found.combine(members[:, test])
    return result


def _fit_blend(members: np.ndarray, labels: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    def loss(weights: np.ndarray) -> float:
        scores = scipy.special.log_softmax(np.tensordot(weights, members, 1), axis=1)
        return -scores[np.arange(len(labels)), labels].mean()

    count = len(members)
    start = min([np.full(count, 1 / count), *np.eye(count)], key=loss)
    found = scipy.optimize.minimize(
        loss,
        start,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weights = found.x.clip(0, 1)
    weights /= weights.sum()
    return (weights if loss(weights) < loss(start) else start), np.empty(0)


def _fit_stack(members: np.ndarray, labels: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    x, classes = features(members).numpy(), members.shape[2]
    there = np.unique(labels)
    # A class without images gets the lowest bias that calibration allows, instead of -infinity.
    weights = np.zeros([x.shape[1], classes])
    bias = np.full(classes, calibration_fit.SHIFTS[0])
    bias[there] = 0
    if len(there) > 1:
        model = LogisticRegression(C=1 / l2, tol=1e-8, max_iter=10_000)
        with warnings.catch_warnings():
            # Almost separable images: the loss hardly changes any more.
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(x, labels)
        own = there[1:] if len(there) == 2 else there  # of two, the first is the reference
        weights[:, own], bias[own] = model.coef_.T, model.intercept_
    if classes == 2:
        return weights[:, 1:] - weights[:, :1], bias[1:] - bias[:1]
    return weights, bias


# By method; the others have no parameters.
FITTED = {BLEND: _fit_blend, STACK: _fit_stack}
