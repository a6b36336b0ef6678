"""What the exported model can be asked: one entry of a registry for each signature.

To add one, write a function from a `Context` to a `tf.function` with an input signature:

    @signatures.register("my_signature")
    def _mine(context: Context): ...
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from tfpipe.input import preprocess
from tfpipe.model.ensemble import EnsemblePredictor
from tfpipe.model.predictor import Predictor
from tfpipe.registry import Registry


@dataclasses.dataclass(frozen=True)
class Context:
    """What a signature is made from.

    Attributes:
        predictor: trained, in float32.
        classes: names in the order of their labels.
    """

    predictor: Predictor | EnsemblePredictor
    classes: tuple[str, ...]

    def answer(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """Classifies uint8 [N, S, S, 3].

        Returns:
            "probabilities" float32 [N, C]; "class_index" int64 [N] and "class_name" string [N] of
            the most probable class; for two classes also "probability" float32 [N] of the second.
        """
        probabilities = self.predictor.classify(images)
        index = tf.argmax(probabilities, -1)
        answer = {
            "probabilities": probabilities,
            "class_index": index,
            "class_name": tf.gather(tf.constant(self.classes), index),
        }
        if len(self.classes) == 2:
            answer["probability"] = probabilities[:, 1]
        return answer


signatures: Registry[Callable[[Context], Callable]] = Registry("signature")


@signatures.register("serving_default")
@signatures.register("predict_bytes")
def _predict_bytes(context: Context) -> Callable:
    """Encoded images of any sizes: "image_bytes" string [N], JPEG, PNG, GIF or BMP."""
    size = context.predictor.image_size

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")])
    def predict_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return context.answer(preprocess.decode_batch(image_bytes, size))

    return predict_bytes


@signatures.register("predict_images")
def _predict_images(context: Context) -> Callable:
    """Decoded images, already of the model's size: "images" uint8 [N, S, S, 3], RGB."""
    size = context.predictor.image_size
    shape = [None, size, size, preprocess.CHANNELS]

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8, name="images")])
    def predict_images(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return context.answer(images)

    return predict_images


def save(context: Context, folder: str, labels: str) -> None:
    """Writes a SavedModel with every registered signature.

    Args:
        context: what is exported.
        folder: an existing, empty folder.
        labels: a text file with a class name on each line, kept among the model's assets.
    """
    module = tf.Module()
    # The variables alone: with the Keras model itself every layer would be traced and saved too.
    module.weights = context.predictor.variables
    module.labels = tf.saved_model.Asset(labels)
    functions = {name: signatures[name](context) for name in signatures}
    tf.saved_model.save(module, folder, signatures=functions)
