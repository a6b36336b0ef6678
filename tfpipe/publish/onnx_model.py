"""Writes an ONNX file, for ONNX Runtime and other programs that read the format."""

import importlib.util
import json
import logging
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core.errors import UserError, one_line
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.publish.sample_images import SampleImages

FILE = "model.onnx"
INPUT = "images"
# Keys of the metadata: JSON lists of the names, and where an image may have several classes, of
# their thresholds.
CLASSES, THRESHOLDS = "classes", "thresholds"

# The largest difference of a probability. Other kernels add up in another order than TensorFlow's,
# which the gate holds to 1e-5.
TOLERANCE = 1e-4

_OPSET = 17  # ONNX 1.12, of 2022
_BATCH = 32
# A protobuf message holds 2 GB, and the graph is one.
_MOST_BYTES = 10**9


def check_installed() -> None:
    """Raise UserError unless the extra `onnx` is installed."""
    for module in ("tf2onnx", "onnxruntime"):
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"`onnx` needs {module}, which is not installed: pip install 'tfpipe[onnx]'"
            )


def write(
    folder: pathlib.Path,
    predictor: Predictor | EnsemblePredictor,
    samples: SampleImages,
    classes: Sequence[str],
    thresholds: Sequence[float] | None = None,
) -> float:
    """Convert the classification of decoded images, and compare it with the evaluation.

    The file takes `images`, uint8 [N, S, S, 3], RGB, and gives `probabilities`, float32 [N, C],
    with the test-time views and the calibration; and `unfamiliar`, float32 [N], if the run has a
    `reject_rate`. Its metadata has the names of the classes, and their thresholds.

    Args:
        folder: where the file is written.
        predictor: what is converted.
        samples: to compare with.
        classes: names in the order of the probabilities.
        thresholds: the least probability of each class to be answered, where an image may have
            several; else None.

    Returns:
        The largest difference of a probability.

    Raises:
        UserError: an operation has no ONNX counterpart, the weights are too large, or ONNX Runtime
            gives other probabilities.
    """
    import onnx
    import tf2onnx

    size = sum(v.shape.num_elements() * v.dtype.size for v in predictor.variables)
    if size > _MOST_BYTES:
        raise UserError(
            f"`onnx`: the weights take {size / 1e9:.1f} GB, and an ONNX file holds at most"
            f" {_MOST_BYTES / 1e9:g} GB of them: export without it"
        )
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    side = predictor.image_size
    spec = tf.TensorSpec([None, side, side, 3], tf.uint8, INPUT)
    function = tf.function(predictor.folded().answers, input_signature=[spec], autograph=False)
    try:
        model, _ = tf2onnx.convert.from_function(function, [spec], opset=_OPSET)
    except Exception as error:  # of many kinds, some with the whole graph in their text
        reason = one_line(str(error).strip().partition("\n")[0])
        raise UserError(f"`onnx`: tf2onnx cannot convert it: {reason}") from None
    lists = {CLASSES: classes} | ({} if thresholds is None else {THRESHOLDS: thresholds})
    properties = {key: json.dumps(list(values)) for key, values in lists.items()}
    onnx.helper.set_model_props(model, properties)
    (folder / FILE).write_bytes(model.SerializeToString())
    found = _run(folder / FILE, samples.decoded(side))
    advice = "export without `onnx`, and please report it"
    return samples.check(found, TOLERANCE, of=f"{{}} of {FILE}", advice=advice)


def _run(path: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = [
        session.run(names, {INPUT: images[at : at + _BATCH]})
        for at in range(0, len(images), _BATCH)
    ]
    parts = map(np.concatenate, zip(*found, strict=True))
    return dict(zip(names, parts, strict=True))
