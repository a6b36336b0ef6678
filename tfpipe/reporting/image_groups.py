"""Labels that may be wrong: those that a classifier disbelieves that has not seen their images."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tfpipe.core import terminal
from tfpipe.reporting.predictions import Predictions

_NEEDS = "cleanlab, which is not installed: pip install 'tfpipe[screen]'"


class Suspects(NamedTuple):
    """Images whose labels cleanlab takes for wrong.

    Attributes:
        indices: among the predictions, the least believed first.
        reason: why nothing was looked for; "" if it was.
    """

    indices: list[int]
    reason: str = ""


def find(found: Predictions, classes: Sequence[str]) -> Suspects:
    """Looks for them by confident learning (Northcutt et al., 2021) on the predictions."""
    import importlib.util

    if importlib.util.find_spec("cleanlab") is None:
        return Suspects([], f"they are found by {_NEEDS}")
    if len(np.unique(found.labels)) < len(classes):
        return Suspects([], "they are looked for only where each class has an image")
    from tfpipe.screens import label_issues

    with terminal.progress("label issues", len(found)) as advance:
        order, is_issue = label_issues.rank(found.labels, found.probabilities.astype(np.float64))
        advance(len(found))
    return Suspects(order[is_issue[order]].tolist())
