"""Inference: logits and probabilities of many images."""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.model.predictor import EnsemblePredictor, Predictor

# Keeps a device busy, and fits into a laptop's memory.
BATCH_SIZE = 32


def predict(
    predictor: Predictor | EnsemblePredictor,
    batches: Iterable[dict[str, tf.Tensor]],
    total: int,
    description: str,
) -> dict[str, np.ndarray]:
    """Run a predictor over batches of `tfpipe.input.pipeline`; see `gather`.

    Returns:
        "logits" float32 [n, 1 or C], "probabilities" float32 [n, C], perhaps "unfamiliar" float32
        [n], and the columns of `gather`.
    """
    run = tf.function(predictor.outputs, autograph=False)
    found = gather(batches, total, description, lambda batch: run(batch["image"]))
    found["probabilities"] = predictor.calibration.apply(found["logits"], predictor.output).numpy()
    return found


def gather(
    batches: Iterable[dict[str, tf.Tensor]],
    total: int,
    description: str,
    more: Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]] | None = None,
) -> dict[str, np.ndarray]:
    """Return all columns of batches but "image" and "sample_weight", without rows of weight 0.

    Args:
        batches: of `tfpipe.input.pipeline`.
        total: number of images, for the progress bar.
        description: title of the progress bar.
        more: returns further columns of a batch.
    """
    columns: dict[str, list[np.ndarray]] = {}
    with terminal.progress(description, total) as advance:
        for batch in batches:
            real = batch["sample_weight"].numpy() > 0
            values = {k: v for k, v in batch.items() if k not in ("image", "sample_weight")}
            values |= more(batch) if more else {}
            for key, value in values.items():
                columns.setdefault(key, []).append(value.numpy()[real])
            advance(int(real.sum()))
    return {key: np.concatenate(parts) for key, parts in columns.items()}
