"""How many images a run calls none of the classes: labelled images, and those of other kinds."""

from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from tfpipe.evaluation import proportions
from tfpipe.evaluation.result_tables import TextTable, interval, number


def measure(scores: np.ndarray, rate: float, others: np.ndarray | None = None) -> dict[str, Any]:
    """Return the key "unfamiliar" of `metrics.json`.

    Args:
        scores: of the evaluated images, float32 [n], above 1 for unfamiliar ones.
        rate: the reject rate that the limit was fitted for.
        others: scores of images of other kinds, float32 [m], m at least 1.

    Returns:
        The share above 1 of the images with Wilson's interval; and that of the others with the area
        under the ROC curve of the score between both.
    """
    found = {"reject_rate": rate, "images": _share(scores)}
    if others is not None:
        kinds = np.repeat([0, 1], [len(scores), len(others)])
        area = roc_auc_score(kinds, np.concatenate([scores, others]))
        found |= {"others": _share(others), "roc_auc": float(area)}
    return found


def table(found: dict[str, Any], names: dict[str, str]) -> TextTable:
    """Return a row for each kind of images; `names` are what "images" and "others" are."""
    rows = [
        [
            name,
            f"{found[key]['n']:,}",
            number(found[key]["share"]),
            interval(found[key]["interval"]),
        ]
        for key, name in names.items()
    ]
    title = f"called none of the classes, at a reject rate of {found['reject_rate']:g}"
    return TextTable(title, ["images", "number", "share", "95 % interval"], rows)


def _share(scores: np.ndarray) -> dict[str, Any]:
    count, total = int((scores > 1).sum()), len(scores)
    return {"n": total, "share": count / total, "interval": proportions.wilson(count, total)}
