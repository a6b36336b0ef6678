"""Which images a report shows: the most wrong, the least and the most certain, wrong labels."""

import importlib.util
from collections.abc import Sequence

import numpy as np

from tfpipe.core import terminal
from tfpipe.core.errors import UserError
from tfpipe.evaluation.label_sets import SetPredictions
from tfpipe.reporting.named_predictions import NamedPredictions


def wrong(found: NamedPredictions, most: int) -> list[int]:
    """Return the wrongly predicted images, those with the highest loss first."""
    order = np.argsort(-found.losses, kind="stable")
    return order[~found.labeled.right[order]][:most].tolist()


def uncertain(found: NamedPredictions, most: int) -> list[int]:
    """Return the images whose two most probable classes are closest to each other.

    Where images may have several classes, those with a probability next to its threshold.
    """
    if isinstance(found.labeled, SetPredictions):
        apart = np.abs(found.labeled.probabilities - found.labeled.thresholds).min(axis=1)
        return np.argsort(apart, kind="stable")[:most].tolist()
    top = np.sort(found.probabilities, axis=1)[:, -2:]
    return np.argsort(top[:, 1] - top[:, 0], kind="stable")[:most].tolist()


def certain(found: NamedPredictions, most: int) -> list[int]:
    """Return the images with the highest probabilities, alternating between the classes.

    Uses the probabilities before calibration, because clipping makes many of them equal.
    """
    order = np.argsort(-found.raw.max(axis=1), kind="stable")
    turn = np.empty(len(order), np.int64)
    for index in range(found.raw.shape[1]):
        members = order[found.guesses[order] == index]
        turn[members] = np.arange(len(members))
    return order[np.argsort(turn[order], kind="stable")][:most].tolist()


GROUPS = {
    "Most wrong": (wrong, "Images with a wrong prediction, the highest log loss first."),
    "Least certain": (
        uncertain,
        "Images whose two most probable classes are nearly equal; where images may have several"
        " classes, those with a probability next to its threshold.",
    ),
    "Most certain": (
        certain,
        "Images with the highest probabilities before calibration, alternating between classes.",
    ),
}


def suspect_labels(found: NamedPredictions, classes: Sequence[str]) -> list[int]:
    """Return the images whose labels cleanlab considers wrong, the least probable label first.

    The method is confident learning (Northcutt et al., 2021) on the predictions.

    Raises:
        UserError: cleanlab is not installed, a class has no image, or images may have several
            classes.
    """
    if found.many:
        raise UserError("images may have several classes, and the method is for one of each")
    if importlib.util.find_spec("cleanlab") is None:
        raise UserError("cleanlab is not installed: pip install 'tfpipe[screen]'")
    if len(np.unique(found.labels)) < len(classes):
        raise UserError("some classes have no image here")
    from tfpipe.screens import label_issues

    with terminal.progress("label issues", len(found)) as advance:
        order, is_issue = label_issues.rank(found.labels, found.probabilities.astype(np.float64))
        advance(len(found))
    return order[is_issue[order]].tolist()
