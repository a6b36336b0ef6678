"""Probabilities of a trained classifier for many images."""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from tfpipe import terminal
from tfpipe.model.classifier import Classifier

# Large enough to keep a device busy, small enough for a laptop.
BATCH_SIZE = 32


def predict(
    classifier: Classifier, batches: Iterable[dict[str, tf.Tensor]], total: int, description: str
) -> dict[str, np.ndarray]:
    """Runs the classifier over batches of `tfpipe.input.pipeline`.

    Args:
        classifier: in float32.
        batches: with "image", "weight" and whatever else is to be returned in the same order.
        total: how many images there are, for the progress bar.
        description: what is going on, for the progress bar.

    Returns:
        "probabilities" float32 [n, C] and every other key of the batches except "image" and
        "weight", without the samples of weight 0.
    """
    run = tf.function(classifier.classify)
    columns: dict[str, list[np.ndarray]] = {}
    with terminal.progress(description, total) as advance:
        for batch in batches:
            real = batch["weight"].numpy() > 0
            values = {k: v for k, v in batch.items() if k not in ("image", "weight")}
            values["probabilities"] = run(batch["image"])
            for key, value in values.items():
                columns.setdefault(key, []).append(value.numpy()[real])
            advance(int(real.sum()))
    return {key: np.concatenate(parts) for key, parts in columns.items()}
