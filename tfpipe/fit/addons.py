"""The only module that imports tensorflow-addons.

That package has had its last release (0.23) and supports no TensorFlow after 2.15, which is why
TensorFlow is pinned. Whatever we take from it goes through here, so that it can be replaced in one
place.
"""

import warnings

with warnings.catch_warnings():
    # It announces its end of life at each import.
    warnings.simplefilter("ignore")
    import tensorflow_addons as tfa


def lamb(learning_rate, weight_decay: float = 0.0):
    """LAMB (You et al. 2019, arXiv:1904.00962), for large batches."""
    return tfa.optimizers.LAMB(learning_rate, weight_decay=weight_decay)


def radam(learning_rate, weight_decay: float = 0.0):
    """Rectified Adam (Liu et al. 2019, arXiv:1908.03265)."""
    return tfa.optimizers.RectifiedAdam(learning_rate, weight_decay=weight_decay)


def lookahead(learning_rate, weight_decay: float = 0.0):
    """Lookahead (Zhang et al. 2019, arXiv:1907.08610) around rectified Adam."""
    return tfa.optimizers.Lookahead(radam(learning_rate, weight_decay))
