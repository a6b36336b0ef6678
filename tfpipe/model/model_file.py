"""Model files: Keras 2 models from `.keras` files that are not trusted, whole or cut at layers.

As a backbone, `path/model.keras@layer` is the model from its input to the output of that layer, or
of several: `@layer+layer`. The model takes RGB in 0..255, so its layers include any normalisation.
Its weights are the file's. Only the `.keras` format is read, as Keras's older formats run code when
loaded. Files of Keras 2.12 to 2.15 and of tf_keras are read, files of Keras 3 are refused.
"""

import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import tf_keras

from tfpipe.core.errors import UserError
from tfpipe.model import cut

SUFFIX = ".keras"
_HOW = f"give PATH{SUFFIX}@LAYER, a Keras model and the layer that gives its feature map"

# Layers that run any function or graph that the file names. TFOpLambda stands for operators in a
# functional model; it may run arithmetic and shapes, but nothing that reads or writes files.
_CODE_LAYERS = {"Lambda", "__lambda__", "TensorFlowOpLayer", "ClassMethod", "InstanceMethod"}
_UNREADABLE = (OSError, LookupError, TypeError, ValueError, RecursionError, zipfile.BadZipFile)
_PURE_MODULES = ("math.", "nn.", "image.", "__operators__.")
_PURE_FUNCTIONS = set(
    "cast clip_by_value compat.v1.shape concat expand_dims identity pad repeat reshape shape split"
    " squeeze stack strided_slice tile transpose unstack where".split()
)


def is_cut(text: str) -> bool:
    """Return whether a backbone's name is a model file's, rather than a registered one."""
    stem = text.partition(cut.AT)[0]
    return SUFFIX in text or stem.endswith(".h5") or os.sep in stem


def parse(text: str) -> tuple[str, str]:
    """Split "path/model.keras@layers" into path and layers; raises UserError for another form."""
    stem, at, layer = text.strip().partition(f"{SUFFIX}@")
    if not (stem and at and layer):
        raise UserError(f"`backbones={text}` names no model file and layer; {_HOW}")
    return stem + SUFFIX, layer


def load(path: str, *, where: str, how: str) -> tf_keras.Model:
    """Load a `.keras` file without running any code of it.

    Raises:
        UserError: the file is missing, is no Keras 2 model, or has code of its own. The message
            begins with `where`, the option with its value, and ends with `how`, what to give.
    """
    if not os.path.isfile(path) or not path.endswith(SUFFIX):
        what = f"is not a {SUFFIX} file" if os.path.exists(path) else "does not exist"
        raise UserError(f"{where} {what}; {how}")
    _check_config(path, where, how)
    try:
        return tf_keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file may raise anything
        raise UserError(
            f"{where} cannot be loaded ({_first_line(error)}); {how}, without code of its own"
        ) from None


def takes_square_rgb(model: tf_keras.Model) -> bool:
    """Return whether the only input is [N, S, S, 3], S a number or None."""
    shape = model.input_shape
    return isinstance(shape, tuple) and len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3


def cut_at(path: str, layers: Sequence[str]) -> tf_keras.Model:
    """Load a model and end it at layers; raise UserError as `load` and `cut.end` do.

    Returns:
        A model from float [N, S, S, 3], S None for any size, to a feature map [N, h, w, c] for each
        layer.
    """
    where = f"`backbones={path}{cut.AT}{cut.AND.join(layers)}`"
    model = load(path, where=where, how=_HOW)
    if not takes_square_rgb(model):
        raise UserError(f"{where} takes {model.input_shape}, not square RGB images; {_HOW}")
    return cut.end(model, layers, name=model.name, where=where)


def resize(model: tf_keras.Model, size: int, *, path: str, name: str) -> tf_keras.Model:
    """Return a copy of a model of `cut_at`, with its weights, for images of one size.

    Raises:
        UserError: the model of the file `path` does not take images of `size` pixels.
    """
    side = model.input_shape[1]
    if side not in (None, size):
        raise UserError(
            f"`image_size={size}`: {path} takes images of {side} x {side} pixels only: give {side},"
            " or 0 for that"
        )
    try:
        copy = tf_keras.models.clone_model(model, tf_keras.Input([size, size, 3]))
    except ValueError as error:
        raise UserError(
            f"`image_size={size}` does not fit {path} ({_first_line(error)}): give a larger one"
        ) from None
    copy.set_weights(model.get_weights())
    return tf_keras.Model(copy.inputs, copy.output, name=name)


def _check_config(path: str, where: str, how: str) -> None:
    """Raise UserError unless it is a Keras 2 model whose objects are all Keras's and no code.

    `safe_mode` refuses Python code, but imports any module that the configuration names (compare
    CVE-2025-1550), and allows a Lambda layer any function of Keras (CVE-2025-8747).
    """
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
            has_metadata = "metadata.json" in archive.namelist()
            metadata = json.loads(archive.read("metadata.json")) if has_metadata else {}
        version = str(dict(metadata).get("keras_version", ""))
        refused = next(_refused(config), None)
    except _UNREADABLE as error:
        raise UserError(f"{where} is not a Keras model ({_first_line(error)}); {how}") from None
    if re.match(r"[3-9]|\d\d", version):
        raise UserError(
            f"{where} was saved by Keras {version}, and only models of Keras 2 are read: save it"
            " with the package tf_keras, or build the model there and load the weights"
        )
    if refused:
        raise UserError(f"{where} is refused: it uses {refused}; {how}, without code of its own")


def _refused(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        module, name = config.get("module"), str(config.get("class_name"))
        if module is not None and str(module).split(".")[0] not in ("keras", "tf_keras"):
            yield repr(f"{module}.{name}") + ", which is not from Keras"
        if name in _CODE_LAYERS:
            yield f"a layer of the class {name}, which runs code"
        if name == "TFOpLambda":
            function = str((config.get("config") or {}).get("function"))
            if not (function.startswith(_PURE_MODULES) or function in _PURE_FUNCTIONS):
                yield f"the function {f'tf.{function}'!r}, which is not plain arithmetic"
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from _refused(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
