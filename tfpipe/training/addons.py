"""The only module that imports tensorflow-addons.

Its last release, 0.23, has no wheels for Python 3.12 and later. Its optimizers are plain Python on
Keras 2, so they run on tf_keras once the names that the package imports lead there. They do so
during that import only, so a user's own Keras 3 in the same process keeps working.
"""

import contextlib
import importlib
import sys
import types
import warnings
from collections.abc import Iterator
from unittest import mock

import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError
from tfpipe.training import optimizers

# Modules that the package imports, and their place in tf_keras.
_KERAS_MODULES = {
    "keras.src.backend": "tf_keras.src.backend",
    "keras.src.engine": "tf_keras.src.engine",
    "keras.src.engine.keras_tensor": "tf_keras.src.engine.keras_tensor",
    "keras.src.utils": "tf_keras.src.utils",
    "keras.src.utils.tf_utils": "tf_keras.src.utils.tf_utils",
    "tensorflow.keras": "tf_keras",
}
_PUBLIC = ("backend", "callbacks", "layers", "metrics", "optimizers", "optimizers.legacy")


class _TensorFlow(types.ModuleType):
    """TensorFlow with tf_keras as its `keras`."""

    __path__ = tf.__path__
    __spec__ = tf.__spec__
    __version__ = tf.__version__
    keras = tf_keras

    def __getattr__(self, name: str) -> object:
        return getattr(tf, name)


@contextlib.contextmanager
def _keras_2() -> Iterator[None]:
    sources = dict(_KERAS_MODULES)
    sources |= {f"tensorflow.keras.{name}": f"tf_keras.{name}" for name in _PUBLIC}
    replaced = {name: importlib.import_module(source) for name, source in sources.items()}
    replaced |= {
        "keras": types.ModuleType("keras"),
        "keras.src": types.ModuleType("keras.src"),
        "tensorflow": _TensorFlow("tensorflow"),
    }
    replaced["keras.src"].backend = replaced["keras.src.backend"]
    before = dict(sys.modules)
    with mock.patch.dict(sys.modules), warnings.catch_warnings():
        # The package announces its end of life and its versions at each import.
        warnings.simplefilter("ignore")
        sys.modules.update(replaced)
        yield
        imported = {n: m for n, m in sys.modules.items() if n not in before}
    sys.modules.update({n: m for n, m in imported.items() if n not in replaced})


try:
    with _keras_2():
        import tensorflow_addons as tfa
except ModuleNotFoundError as error:
    if error.name != "tensorflow_addons":
        raise
    raise UserError(
        "the optimizers lamb, radam and lookahead come from tensorflow-addons, which is not"
        " installed; it has no release for Python 3.12 and later: choose another optimizer"
    ) from None


class _Lamb(tfa.optimizers.LAMB):
    """LAMB whose weight decay leaves out what others' leaves out."""

    def _do_use_weight_decay(self, variable) -> bool:
        return optimizers.is_decayed(variable)


class _RectifiedAdam(tfa.optimizers.RectifiedAdam):
    """Rectified Adam whose weight decay leaves out what others' leaves out."""

    def _resource_apply_dense(self, grad, var, apply_state=None):
        # The original decays all variables or none, and reads this for each of them.
        decays, self._has_weight_decay = (
            self._has_weight_decay,
            self._has_weight_decay and optimizers.is_decayed(var),
        )
        try:
            return super()._resource_apply_dense(grad, var, apply_state)
        finally:
            self._has_weight_decay = decays


def lamb(learning_rate, **parameters):
    """LAMB (You et al. 2019, arXiv:1904.00962), for large batches."""
    return _Lamb(learning_rate, **parameters)


def radam(learning_rate, **parameters):
    """Rectified Adam (Liu et al. 2019, arXiv:1908.03265)."""
    return _RectifiedAdam(learning_rate, **parameters)


def lookahead(learning_rate, **parameters):
    """Lookahead (Zhang et al. 2019, arXiv:1907.08610) around rectified Adam."""
    return tfa.optimizers.Lookahead(radam(learning_rate, **parameters))
