"""Stochastic depth: in training, residual branches are skipped at random for each image.

Source: Huang et al. 2016, "Deep Networks with Stochastic Depth" (arXiv:1603.09382).
"""

import tf_keras

from tfpipe.core.errors import UserError


def set_rate(model: tf_keras.Model, rate: float) -> None:
    """Set the drop-path rate of a backbone: of its last branch; earlier ones are in proportion.

    Args:
        model: its branches end with a Dropout that has a noise shape, as EfficientNet's do.
        rate: in [0, 1).

    Raises:
        UserError: the model has no such layers, or the rate is out of range.
    """
    if not 0 <= rate < 1:
        raise UserError(f"`drop_path={rate:g}` is not in [0, 1)")
    found = [
        layer
        for layer in model.layers
        if isinstance(layer, tf_keras.layers.Dropout) and layer.noise_shape is not None
    ]
    if not found:
        raise UserError(
            f"`drop_path={rate:g}`: {model.name} has no layers of stochastic depth: leave it"
            " out, or take an EfficientNet or a kecam model that has"
        )
    largest = max(layer.rate for layer in found)
    for layer in found:
        layer.rate *= rate / largest
