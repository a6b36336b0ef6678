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


def intervals(
    probabilities: np.ndarray, labels: np.ndarray, *, rounds: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Returns where measures would lie for other images like these: 95 % of the time.

    Percentiles of the bootstrap (Efron 1979): the same measure of as many images, drawn again from
    these with replacement.

    Args:
        probabilities: as for `log_loss`.
        labels: int [n], n > 0.
        rounds: how often they are drawn.
        seed: of the draws.

    Returns:
        "log_loss" and "accuracy", each the lower and the upper bound.
    """
    given = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    each = {
        "log_loss": -np.log(np.clip(given, EPSILON, 1 - EPSILON)),
        "accuracy": (probabilities.argmax(axis=1) == labels).astype(np.float64),
    }
    draws = np.random.default_rng(seed)
    means: dict[str, list[float]] = {name: [] for name in each}
    for _ in range(rounds):
        chosen = draws.integers(0, len(labels), len(labels))
        for name, values in each.items():
            means[name].append(values[chosen].mean())
    bounds = {name: np.percentile(values, [2.5, 97.5]).tolist() for name, values in means.items()}
    return {name: (low, high) for name, (low, high) in bounds.items()}


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
