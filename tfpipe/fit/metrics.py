"""Measures of predicted probabilities against labels, in float64."""

import numpy as np

# Probabilities are float32, which cannot tell values closer to 0 or 1 than this apart.
EPSILON = 1e-7


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of -log of the probability given to the right class, in nats.

    Args:
        probabilities: [n, C], in 0..1, rows adding up to 1; clipped to [EPSILON, 1 - EPSILON].
        labels: int [n], class indices.
    """
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return float(-np.log(np.clip(given, EPSILON, 1 - EPSILON)).mean())


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of samples whose most probable class is the right one."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns counts int64 [C, C]: a row for each true class, a column for each predicted one."""
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def summary(
    probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
) -> dict[str, object]:
    """Returns all measures under the names that `metrics.json` has.

    Args:
        probabilities: [n, C].
        labels: int [n].
        classes: the C class names in label order.
    """
    table = confusion(probabilities, labels)
    return {
        "n": len(labels),
        "log_loss": log_loss(probabilities, labels),
        "accuracy": accuracy(probabilities, labels),
        "classes": list(classes),
        "recall": {
            name: float(table[i, i] / table[i].sum()) if table[i].sum() else None
            for i, name in enumerate(classes)
        },
        "confusion": table.tolist(),
    }
