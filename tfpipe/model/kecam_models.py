"""Backbones of keras-cv-attention-models, as `kecam:convnext.ConvNeXtV2Tiny`.

The name is that of the package's module and function. The package builds on `tensorflow.keras`,
which is Keras 2 only with TF_USE_LEGACY_KERAS=1 in the environment when TensorFlow is imported.
"""

import contextlib
import difflib
import functools
import importlib
import importlib.util
import inspect
import io
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras

from tfpipe.core.errors import UserError

PREFIX = "kecam:"
_PACKAGE = "keras_cv_attention_models"
_LOADED = "Load pretrained from"  # what the package prints when it has weights


class PackageModel:
    """A model of the package.

    Attributes:
        text: its name, as `kecam:convnext.ConvNeXtV2Tiny`.
        name: the function's, in lower case.
        input_size: side in pixels that it was designed for.
    """

    def __init__(self, text: str):
        """Find the model; raise UserError if there is none, or the package cannot be used."""
        self.text = text.strip()
        module, _, function = self.text.removeprefix(PREFIX).partition(".")
        found = getattr(getattr(_package(), module, None), function, None)
        ends = {name.rpartition(".")[2]: name for name in names()}
        if found is None or function not in ends:
            near = [ends[each] for each in difflib.get_close_matches(function, ends, n=3)]
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise UserError(
                f"`backbones={self.text}`: the package has no such model; {hint}`tfpipe models"
                f" '{PREFIX}*'` lists them"
            )
        self._function: Callable[..., tf_keras.Model] = found
        self.name = function.lower()
        self.input_size = _side(found)

    def build(self, size: int) -> tf_keras.Model:
        """Return the model without its top, with random weights, for [N, size, size, 3]."""
        return self._build(size, pretrained=None)[0]

    def imagenet(self, size: int) -> tf_keras.Model:
        """Return the same with its published weights, which the package downloads once.

        Raises:
            UserError: there are none, or they cannot be downloaded.
        """
        model, printed = self._build(size)
        if _LOADED not in printed:  # the package would use random weights
            reason = printed.strip().rpartition("\n")[2] or "it has none"
            raise UserError(
                f"the weights of {self.text} cannot be loaded ({reason}): give"
                f" `weights={self.name}=PATH`, or `weights=none`"
            )
        return model

    def normalise(self, images: tf.Tensor) -> tf.Tensor:
        """Map RGB in 0..255 to the model's input."""
        mean, deviation = self._scaling
        return (images - mean) / deviation

    def _build(self, size: int, **arguments: Any) -> tuple[tf_keras.Model, str]:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            model = self._function(input_shape=(size, size, 3), num_classes=0, **arguments)
        if model.output_shape is None or len(model.output_shape) != 4:
            raise UserError(
                f"`backbones={self.text}` gives {model.output_shape}, not a feature map [N, height,"
                " width, channels]: take a convolutional model"
            )
        # The model's attribute; it is the same for every size.
        self.__dict__["_scaling"] = model.preprocess_input.mean, model.preprocess_input.std
        return model, printed.getvalue()

    @functools.cached_property
    def _scaling(self) -> tuple[Any, Any]:
        """Mean and standard deviation of the images that the model expects."""
        self.build(self.input_size)
        return self.__dict__["_scaling"]


def is_named(text: str) -> bool:
    """Return whether a backbone's name is one of the package's."""
    return text.strip().lower().startswith(PREFIX)


@functools.cache
def names() -> tuple[str, ...]:
    """Return the names of all models of images; raise UserError as `PackageModel` does."""
    package = _package()
    found: dict[str, str] = {}  # by function: several modules may offer one
    for module_name, module in vars(package).items():
        if not inspect.ismodule(module) or module is package.models:
            continue
        for name, value in vars(module).items():
            registered = getattr(package.models, name, None) is value
            if registered and inspect.isfunction(value) and _side(value):
                found.setdefault(name, f"{PREFIX}{module_name}.{name}")
    return tuple(sorted(found.values()))


def _side(function: Callable[..., Any]) -> int:
    """Return the side of the images that a model was designed for; 0 if it takes none."""
    parameter = inspect.signature(function).parameters.get("input_shape")
    shape = parameter.default if parameter else None
    is_square = isinstance(shape, list | tuple) and len(shape) == 3 and shape[0] == shape[1]
    return shape[0] if is_square and isinstance(shape[0], int) else 0


@functools.cache
def _package() -> Any:
    if importlib.util.find_spec(_PACKAGE) is None:
        raise UserError(
            f"`backbones={PREFIX}...` needs {_PACKAGE}, which is not installed: pip install"
            " 'tfpipe[kecam]'"
        )
    if tf.keras.Model is not tf_keras.Model:
        raise UserError(
            f"`backbones={PREFIX}...` needs Keras 2 as tensorflow.keras: set TF_USE_LEGACY_KERAS=1"
            " in the environment before the command or the program starts"
        )
    with contextlib.redirect_stdout(io.StringIO()):
        return importlib.import_module(_PACKAGE)
