"""Writes a TensorFlow Lite file for phones and small boards."""

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from tfpipe.core.errors import UserError, one_line
from tfpipe.model.predictor import EnsemblePredictor, Predictor
from tfpipe.publish import lite_metadata
from tfpipe.publish.sample_images import SampleImages

FILE = "model.tflite"
INT8 = "int8"


def write(
    folder: pathlib.Path,
    predictor: Predictor | EnsemblePredictor,
    samples: SampleImages,
    kind: str,
    *,
    name: str,
    classes: Sequence[str],
) -> tuple[int, float]:
    """Convert the classification of one decoded image, and compare it with the evaluation.

    The file takes uint8 [1, S, S, 3], RGB, and gives the probabilities, float32 [1, C]. Its
    metadata has the names of the classes, see `lite_metadata`.

    Args:
        folder: where the file is written.
        predictor: what is converted.
        samples: to compare with, and for "int8" also to find the range of every activation by.
        kind: "float32", or "int8": weights and activations in eight bits, where there is such an
            operation.
        name: of the model.
        classes: names in the order of the probabilities.

    Returns:
        How many samples get the evaluation's class, and the largest difference of a probability.

    Raises:
        UserError: TensorFlow Lite has no operation for a part of the model.
    """
    size = predictor.image_size
    images = samples.decoded(size)
    function = tf.function(predictor.classify, autograph=False)
    spec = tf.TensorSpec([1, *images.shape[1:]], tf.uint8, name="images")
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function(spec)], function
    )
    if kind == INT8:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[np.newaxis]] for image in images)
    try:
        model = converter.convert()
    except Exception as error:  # of many kinds, each with the whole graph in its text
        reason = one_line(str(error).strip().partition("\n")[0])
        raise UserError(f"--tflite={kind}: TensorFlow Lite cannot convert it: {reason}") from None
    description = f"Classifies an image of {size} x {size} pixels: {', '.join(classes)}"
    model = lite_metadata.add(model, name=name, description=description, classes=classes)
    (folder / FILE).write_bytes(model)
    found = _run(model, images)
    same = int((found.argmax(1) == samples.expected.argmax(1)).sum())
    return same, float(np.abs(found - samples.expected).max())


def _run(model: bytes, images: np.ndarray) -> np.ndarray:
    interpreter = tf.lite.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    (image,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for each in images:
        interpreter.set_tensor(image["index"], each[np.newaxis])
        interpreter.invoke()
        found.append(interpreter.get_tensor(answer["index"])[0].copy())
    return np.stack(found)
