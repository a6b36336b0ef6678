"""Log loss, accuracy and confusion of predicted probabilities, in float64."""

import numpy as np

# Probabilities are float32, which cannot tell values closer to 0 or 1 than this apart.
EPSILON = 1e-7


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns -log of the probability given to the right class, in nats: float64 [n], from 0.

    Args:
        probabilities: [n, C], in 0..1, rows adding up to 1; clipped to [EPSILON, 1 - EPSILON].
        labels: int [n], class indices.
    """
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return -np.log(np.clip(given, EPSILON, 1 - EPSILON))


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of `losses`."""
    return float(losses(probabilities, labels).mean())


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Returns the share of samples whose most probable class is the right one."""
    return float((probabilities.argmax(axis=1) == labels).mean())


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns counts int64 [C, C]: a row for each true class, a column for each predicted one."""
    classes = probabilities.shape[1]
    cells = labels * classes + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)
