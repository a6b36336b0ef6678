"""Weights of backbones from files, with one-line errors for files that do not fit."""

import itertools
import os
import re
import zipfile

import h5py
import tf_keras

from tfpipe.core.errors import UserError

# A layer with weights: its name and their shapes.
Layer = tuple[str, list[tuple[int, ...]]]

# Keras's names of files in its folder that differ from the end of their URLs
# (keras.applications.nasnet).
_RENAMED = {
    "NASNet-mobile-no-top.h5": "nasnet_mobile_no_top.h5",
    "NASNet-large-no-top.h5": "nasnet_large_no_top.h5",
}

# How the messages of Keras (by checksum) and HDF5 for a damaged file begin.
_DAMAGED = ("Incomplete or corrupted file", "Unable to open file", "Unable to synchronously open")


def load(model: tf_keras.Model, path: str, *, name: str) -> None:
    """Load an HDF5 file of `save_weights("NAME.h5")`; Keras matches layers by their order.

    Raises:
        UserError: there is no such file, or it is of another kind or model; the message names the
            backbone and the first layer that differs.
    """
    if not os.path.isfile(path):
        raise UserError(
            f"`weights`: no file {path!r} for {name}; give 'imagenet', 'none', or the path of a"
            " weights-only .h5 file"
        )
    try:
        model.load_weights(path)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as error:
        reason = _reason(path, model, name) or str(error).strip().partition("\n")[0]
        raise UserError(
            f"`weights`: {path} does not fit {name} without its top: {reason}; give the weights of"
            " that model"
        ) from None


def not_downloaded(error: Exception, name: str) -> UserError | None:
    """Explain Keras's error if the download of a backbone's ImageNet weights failed, else None."""
    first = str(error).strip().partition("\n")[0]
    # The folder of keras.utils.get_file, which does not follow KERAS_HOME.
    folder = os.path.expanduser("~/.keras/models")
    if first.startswith(_DAMAGED):
        return UserError(
            f"the ImageNet weights of {name} arrived damaged ({first.rstrip('.')}): remove their"
            f" file from {folder} and try again, or give `weights={name}=PATH`"
        )
    match = re.match(r"URL fetch failure on (\S+): (\S+) -- (.*)", first)
    if not match:
        return None
    url, _, reason = match.groups()
    file = os.path.basename(url)
    path = os.path.join(folder, _RENAMED.get(file, file))
    return UserError(
        f"the ImageNet weights of {name} cannot be downloaded ({reason}): put {url} at {path}, or"
        f" give `weights={name}=PATH`"
    )


def _reason(path: str, model: tf_keras.Model, name: str) -> str | None:
    """Return why a file does not fit, or None if unknown."""
    if zipfile.is_zipfile(path):
        return "it is a whole model: give it as `backbones=PATH.keras@LAYER`"
    if not h5py.is_hdf5(path):
        return "it is not an HDF5 file"
    try:
        found = _of_file(path)
    except (OSError, KeyError, ValueError, RuntimeError):  # damaged: Keras has the reason
        return None
    if not found:
        return "it has no list of layers, as .weights.h5 files have none (save one as NAME.h5)"
    if path.endswith(".weights.h5"):
        return "Keras expects another layout in .weights.h5 files (rename it to NAME.h5)"
    return _difference(found, _of_model(model), name)


def _difference(found: list[Layer], wanted: list[Layer], name: str) -> str | None:
    for one, other in itertools.zip_longest(found, wanted):
        if other is None:
            return f"it has {_show(one)} after the last layer of {name}"
        if one is None:
            return f"it ends where {name} has {_show(other)}"
        if one[1] != other[1]:
            return f"it has {_show(one)} where {name} has {_show(other)}"
    return None


def _show(layer: Layer) -> str:
    name, shapes = layer
    return f"{name!r} (weights {', '.join(map(str, shapes))})"


def _of_model(model: tf_keras.Model) -> list[Layer]:
    def shapes(layer: tf_keras.layers.Layer) -> list[tuple[int, ...]]:
        # The order in which Keras stores them.
        return [tuple(w.shape) for w in layer.trainable_weights + layer.non_trainable_weights]

    return [(layer.name, shapes(layer)) for layer in model.layers if layer.weights]


def _of_file(path: str) -> list[Layer]:
    with h5py.File(path, "r") as file:
        top = file.get("model_weights", file)
        layers = []
        for name in _texts(top, "layer_names"):
            weights = _texts(top[name], "weight_names")
            if weights:
                layers.append((name, [top[name][weight].shape for weight in weights]))
    return layers


def _texts(group: h5py.Group, attribute: str) -> list[str]:
    """Read a list; Keras splits long ones into attribute0, attribute1 ..."""
    names = [attribute]
    if attribute not in group.attrs:
        parts = (f"{attribute}{number}" for number in itertools.count())
        names = list(itertools.takewhile(lambda part: part in group.attrs, parts))
    texts = [text for each in names for text in group.attrs[each]]
    return [text.decode() if isinstance(text, bytes) else text for text in texts]
