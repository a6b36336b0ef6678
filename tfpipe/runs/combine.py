"""Ways to make one answer of several members', in NumPy and float64, and how they are fitted.

All work on log-probabilities [M, n, C]: log p(m, i, c) of member m for image i and class c. Each
returns scores [n, C], which are log-probabilities up to a number for each image:

- mean: the log of the mean probability, a linear opinion pool.
- geometric: the mean log-probability, a logarithmic opinion pool (Genest and Zidek 1986, "Combining
  Probability Distributions").
- vote: the log of the share of members whose most probable class it is. A member votes for the
  first of equals; classes with as many votes stay equally probable, so that the first of them is
  the answer. A class without votes has LEAST_SHARE, so a mistake of all costs 16 nats before the
  calibration and its bounds.
- blend: a logarithmic pool with weights that are not negative and add up to 1, those of the lowest
  log loss, which is convex in them. A logarithmic pool because its scale is what a calibration
  finds afterwards, while a linear one of calibrated members is underconfident in a way that no
  scale mends (Ranjan and Gneiting 2010, "Combining Probability Forecasts").
- stack: logistic regression on the members' log-odds, for more than two classes multinomial
  regression on all their log-probabilities (Wolpert 1992, "Stacked Generalization"). It minimises
  the sum of the log losses plus l2 / 2 times the sum of the squared weights, not of the biases.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.optimize
import scipy.special

from tfpipe.core.registry import Registry
from tfpipe.model import ensemble
from tfpipe.model.ensemble import Combination
from tfpipe.runs import calibrate


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to combine.

    Attributes:
        scores: from log-probabilities [M, n, C] to scores [n, C].
        fit: from log-probabilities, labels [n] and l2 to the weights and the bias; None without.
    """

    scores: Callable[[np.ndarray, Combination], np.ndarray]
    fit: Callable[[np.ndarray, np.ndarray, float], tuple[np.ndarray, np.ndarray]] | None = None


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns float64 [n, C] for logits [n, 1] of a sigmoid or [n, C] of a softmax."""
    logits = np.asarray(logits, np.float64)
    if logits.shape[1] == 1:
        return scipy.special.log_expit(np.concatenate([-logits, logits], axis=1))
    return scipy.special.log_softmax(logits, axis=1)


def combine(members: np.ndarray, combination: Combination) -> np.ndarray:
    """Returns the combined log-probabilities, float64 [n, C], for the members' [M, n, C]."""
    scores = methods[combination.method].scores(members, combination)
    return scipy.special.log_softmax(scores, axis=1)


def fit(method: str, members: np.ndarray, labels: np.ndarray, l2: float) -> Combination:
    """Returns a method with the parameters, if it has any, that fit samples the best.

    Args:
        method: a name of `methods`.
        members: log-probabilities float64 [M, n, C] of images that no member was trained on.
        labels: int [n].
        l2: the weight of the penalty of "stack", above 0.
    """
    if methods[method].fit is None:
        return Combination(method)
    weights, bias = methods[method].fit(members, labels, l2)
    return Combination(method, tuple(weights.tolist()), tuple(bias.tolist()))


def cross_fit(method: str, members: np.ndarray, labels: np.ndarray, l2: float) -> np.ndarray:
    """Returns log-probabilities float64 [n, C] of combinations that were fitted without the image.

    Args:
        method: as for `fit`, and so are the others; n is at least `calibrate.FOLDS`.
        members: see there.
        labels: see there.
        l2: see there.
    """
    fold = calibrate.folds(len(labels))
    result = np.empty(members.shape[1:])
    for number in range(calibrate.FOLDS):
        train, test = fold != number, fold == number
        found = fit(method, members[:, train], labels[train], l2)
        result[test] = combine(members[:, test], found)
    return result


def _mean(members: np.ndarray, combination: Combination) -> np.ndarray:
    return scipy.special.logsumexp(members, axis=0)


def _geometric(members: np.ndarray, combination: Combination) -> np.ndarray:
    return members.mean(axis=0)


def _vote(members: np.ndarray, combination: Combination) -> np.ndarray:
    votes = np.eye(members.shape[2])[members.argmax(axis=2)]
    return np.log(np.maximum(votes.mean(axis=0), ensemble.LEAST_SHARE))


def _blend(members: np.ndarray, combination: Combination) -> np.ndarray:
    return np.tensordot(combination.weights, members, 1)


def _fit_blend(members: np.ndarray, labels: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    given = members[:, np.arange(len(labels)), labels]
    count = len(members)

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = np.tensordot(weights, members, 1)
        total = scipy.special.logsumexp(scores, axis=1)
        expected = (np.exp(scores - total[:, np.newaxis]) * members).sum(axis=2)
        return (total - weights @ given).mean(), (expected - given).mean(axis=1)

    starts = [np.full(count, 1 / count), *np.eye(count)]
    start = min(starts, key=lambda weights: loss(weights)[0])
    found = scipy.optimize.minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-12, "maxiter": 1000},
    )
    weights = found.x.clip(0, 1)
    weights /= weights.sum()
    return (weights if loss(weights)[0] < loss(start)[0] else start), np.empty(0)


def _features(members: np.ndarray) -> np.ndarray:
    """Does as `ensemble.features`, in float64."""
    if members.shape[2] == 2:
        return (members[..., 1] - members[..., 0]).T
    return members.transpose(1, 0, 2).reshape(members.shape[1], -1)


def _stack(members: np.ndarray, combination: Combination) -> np.ndarray:
    return _of_both(_features(members) @ np.asarray(combination.weights) + combination.bias)


def _fit_stack(members: np.ndarray, labels: np.ndarray, l2: float) -> tuple[np.ndarray, np.ndarray]:
    x = _features(members)
    targets = np.eye(members.shape[2])[labels]
    units = 1 if targets.shape[1] == 2 else targets.shape[1]
    scale = np.maximum(1.0, np.abs(x).max())  # all unknowns of one order, for the optimizer
    x = x / scale
    penalty = l2 / scale**2

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = parameters[:-units].reshape(-1, units), parameters[-units:]
        scores = _of_both(x @ weights + bias)
        logs = scipy.special.log_softmax(scores, axis=1)
        error = (np.exp(logs) - targets)[:, -units:]
        value = -(targets * logs).sum() + penalty / 2 * (weights**2).sum()
        gradient = [(x.T @ error + penalty * weights).ravel(), error.sum(axis=0)]
        return value, np.concatenate(gradient)

    size = x.shape[1] * units
    found = scipy.optimize.minimize(
        loss,
        np.zeros(size + units),
        jac=True,
        method="L-BFGS-B",
        # A class that is not among the labels would have a bias of minus infinity.
        bounds=[(None, None)] * size + [calibrate.SHIFTS] * units,
        options={"ftol": 1e-15, "gtol": 1e-7, "maxiter": 10_000, "maxfun": 20_000, "maxcor": 30},
    )
    return found.x[:size].reshape(-1, units) / scale, found.x[size:]


def _of_both(logits: np.ndarray) -> np.ndarray:
    """Returns scores [n, C]: log-odds [n, 1] of the second class get a 0 for the first."""
    if logits.shape[1] > 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=1)


methods: Registry[Method] = Registry("method of combining")
methods.add(ensemble.MEAN, Method(_mean))
methods.add(ensemble.GEOMETRIC, Method(_geometric))
methods.add(ensemble.VOTE, Method(_vote))
methods.add(ensemble.BLEND, Method(_blend, _fit_blend))
methods.add(ensemble.STACK, Method(_stack, _fit_stack))
