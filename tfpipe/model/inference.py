"""Logits and probabilities of a trained classifier for many images."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import tensorflow as tf

from tfpipe.core import terminal
from tfpipe.model.constants import with_constant_weights
from tfpipe.model.ensemble import EnsemblePredictor
from tfpipe.model.predictor import Predictor

# Large enough to keep a device busy, small enough for a laptop.
BATCH_SIZE = 32


def predict(
    predictor: Predictor | EnsemblePredictor,
    batches: Iterable[dict[str, tf.Tensor]],
    total: int,
    description: str,
) -> dict[str, np.ndarray]:
    """Runs a predictor over batches of `tfpipe.input.pipeline`.

    Args:
        predictor: in float32.
        batches: with "image", "sample_weight" and whatever else is to be returned in the same
            order.
        total: how many images there are, for the progress bar.
        description: what is going on, for the progress bar.

    Returns:
        "logits" float32 [n, 1 or C], "probabilities" float32 [n, C] and every other key of the
        batches except "image" and "sample_weight", without the samples of weight 0.
    """
    run = with_constant_weights(predictor.logits)
    found = gather(batches, total, description, {"logits": lambda batch: run(batch["image"])})
    found["probabilities"] = predictor.calibration.apply(found["logits"], predictor.output).numpy()
    return found


def gather(
    batches: Iterable[dict[str, tf.Tensor]],
    total: int,
    description: str,
    more: Mapping[str, Callable[[dict[str, tf.Tensor]], tf.Tensor]] | None = None,
) -> dict[str, np.ndarray]:
    """Returns all that batches hold but the images, without the samples of weight 0.

    Args:
        batches: as for `predict`.
        total: see there.
        description: see there.
        more: by name what else is computed of each batch.
    """
    columns: dict[str, list[np.ndarray]] = {}
    with terminal.progress(description, total) as advance:
        for batch in batches:
            real = batch["sample_weight"].numpy() > 0
            values = {k: v for k, v in batch.items() if k not in ("image", "sample_weight")}
            values |= {key: function(batch) for key, function in (more or {}).items()}
            for key, value in values.items():
                columns.setdefault(key, []).append(value.numpy()[real])
            advance(int(real.sum()))
    return {key: np.concatenate(parts) for key, parts in columns.items()}
