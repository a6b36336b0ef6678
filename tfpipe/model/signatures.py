"""Signatures of the exported model: a registry with an entry for each.

To add one, write a function from a `Context` to a `Signature`. It returns None for a model that
cannot have the signature.

    @signatures.register("my_signature")
    def _mine(context: Context) -> Signature: ...

TensorFlow Serving joins requests along the first dimension and splits the results there. So the
first dimension of every input and output is N, the number of images.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping

import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tfpipe.core.errors import UserError
from tfpipe.core.registry import Registry
from tfpipe.images import pixels, preprocess, upload
from tfpipe.model import heat_map
from tfpipe.model.predictor import EnsemblePredictor, Predictor

# Constants are part of a graph, a protobuf message of at most 2 GB.
MOST_BYTES = 10**9

IMAGE = "image/encoded"  # the key of the image in a tf.Example

# The method names of TensorFlow Serving's Classify and Regress; all others are Predict's.
METHODS = {
    "classify": tf.saved_model.CLASSIFY_METHOD_NAME,
    "regress": tf.saved_model.REGRESS_METHOD_NAME,
}


@dataclasses.dataclass(frozen=True)
class Context:
    """The model that signatures are built from.

    Attributes:
        predictor: trained, in float32.
        classes: names in the order of their labels.
        freeze: whether classification runs on a folded copy of the model, see `tfpipe.model.fold`.
        depth16: how 16-bit greys become 8-bit ones, see `upload.decode`.
        thresholds: the least probability of each class to be answered, where images may have
            several classes; else None.

    Raises:
        UserError: the weights are too large to freeze.
    """

    predictor: Predictor | EnsemblePredictor
    classes: tuple[str, ...]
    freeze: bool = False
    depth16: str = pixels.AUTO
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self):
        size = sum(v.shape.num_elements() * v.dtype.size for v in self.predictor.variables)
        if self.freeze and size > MOST_BYTES:
            raise UserError(
                f"`optimize=freeze`: the weights take {size / 1e9:.1f} GB, a graph holds at most"
                f" {MOST_BYTES / 1e9:g} GB of them: export with `optimize=none`"
            )

    @functools.cached_property
    def classifier(self) -> Predictor | EnsemblePredictor:
        """The predictor that classifies: folded if `freeze`."""
        return self.predictor.folded() if self.freeze else self.predictor

    # Each function is traced once and shared by all signatures. Otherwise the file would hold all
    # constants several times, and loading it would optimize as many graphs.

    @functools.cached_property
    def classify(self) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
        """Return "probabilities" float32 [N, C], and perhaps "unfamiliar", for [N, S, S, 3]."""
        spec = tf.TensorSpec([None, *self.image_shape], tf.uint8)
        return tf.function(self.classifier.answers, input_signature=[spec], autograph=False)

    @functools.cached_property
    def decode(self) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
        """Return the images, uint8 [N, S, S, 3], and errors, string [N], of files string [N]."""
        return tf.function(
            lambda encoded: upload.decode(encoded, self.predictor.image_size, self.depth16),
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image, [S, S, 3]."""
        size = self.predictor.image_size
        return (size, size, preprocess.CHANNELS)

    def answer(self, images: tf.Tensor, errors: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Classify images.

        Args:
            images: uint8 [N, S, S, 3].
            errors: string [N], empty for images that could be read; None if all could.

        Returns:
            "probabilities" float32 [N, C]; "class_index" int64 [N] and "class_name" string [N] of
            the most probable class; for two classes also "probability" float32 [N] of the second;
            with a familiarity also "unfamiliar" float32 [N], above 1 for none of the classes.
            Where images may have several classes, instead of "probability" "labels" bool [N, C],
            whether each probability reaches the threshold of its class.
            With errors also "error" string [N]: for an image that has one the probabilities are 0
            (JSON has no NaN) and so is "unfamiliar", the index is -1 and the name empty.
        """
        more = dict(self.classify(images))
        probabilities = more.pop("probabilities")
        index = tf.argmax(probabilities, -1)
        name = tf.gather(tf.constant(self.classes), index)
        found = {}
        if errors is not None:
            bad = errors != ""
            probabilities = tf.where(bad[:, tf.newaxis], 0.0, probabilities)
            index, name = tf.where(bad, tf.constant(-1, tf.int64), index), tf.where(bad, "", name)
            found["error"] = errors
            more = {key: tf.where(bad, 0.0, value) for key, value in more.items()}
        found |= {"probabilities": probabilities, "class_index": index, "class_name": name}
        if self.thresholds is not None:
            reached = probabilities >= tf.constant(self.thresholds, tf.float32)
            found["labels"] = reached if errors is None else reached & ~bad[:, tf.newaxis]
        elif len(self.classes) == 2:
            found["probability"] = probabilities[:, 1]
        return found | more

    def answer_files(self, encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        """Classify image files, string [N]."""
        return self.answer(*self.decode(encoded))

    def answer_examples(self, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        """Classify the images in serialized tf.Examples, string [N]."""
        features = {IMAGE: tf.io.FixedLenFeature([], tf.string)}
        return self.answer_files(tf.io.parse_example(serialized, features)[IMAGE])


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function of one input.

    Attributes:
        spec: name, dtype and shape of the input, which are published.
        run: returns the outputs for an input of that shape.
    """

    spec: tf.TensorSpec
    run: Callable[[tf.Tensor], dict[str, tf.Tensor]]

    def checked(self) -> Callable:
        """Return the `tf.function` to save: it refuses an input of another shape.

        TensorFlow Serving compares no shapes, and some kernels end the process at a wrong one. The
        graph does not know the shape before `ensure_shape`, so no optimizer removes the check.
        """
        spec = tf.TensorSpec(None, self.spec.dtype, self.spec.name)
        return tf.function(
            lambda value: self.run(tf.ensure_shape(value, self.spec.shape)),
            input_signature=[spec],
            autograph=False,
        )


signatures: Registry[Callable[[Context], Signature | None]] = Registry("signature")


def _of_files(function: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> Signature:
    """Return a signature for a function of image files."""
    return Signature(tf.TensorSpec([None], tf.string, "image_bytes"), function)


@signatures.register("serving_default")
@signatures.register("predict_bytes")
def _predict_bytes(context: Context) -> Signature:
    """Encoded images of any sizes: "image_bytes" string [N], JPEG, PNG, GIF or BMP."""
    return _of_files(context.answer_files)


@signatures.register("predict_images")
def _predict_images(context: Context) -> Signature:
    """Decoded images, already of the model's size: "images" uint8 [N, S, S, 3], RGB."""
    spec = tf.TensorSpec([None, *context.image_shape], tf.uint8, "images")
    return Signature(spec, context.answer)


@signatures.register("features")
def _features(context: Context) -> Signature:
    """The input of the head: "features" float32 [N, F]; 0 for an error."""

    def features(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images, errors = context.decode(image_bytes)
        values = context.predictor.features(tf.cast(images, tf.float32))
        bad = (errors != "")[:, tf.newaxis]
        return {"features": tf.where(bad, 0.0, values), "error": errors}

    return _of_files(features)


@signatures.register("explain")
def _explain(context: Context) -> Signature:
    """As predict_bytes, with the class's "heat_map" float32 [N, S, S] in 0..1."""

    def explain(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        images, errors = context.decode(image_bytes)
        answer = context.answer(images, errors)
        # An error has no class; its heat map is 0.
        classes = tf.maximum(answer["class_index"], 0)
        heat = heat_map.heat_maps(context.predictor, images, classes)
        bad = (errors != "")[:, tf.newaxis, tf.newaxis]
        return answer | {"heat_map": tf.where(bad, 0.0, heat)}

    return _of_files(explain)


def _of_examples(function: Callable[[tf.Tensor], dict[str, tf.Tensor]]) -> Signature:
    """Return a signature for a function of serialized tf.Examples."""
    return Signature(tf.TensorSpec([None], tf.string, "inputs"), function)


@signatures.register("classify")
def _classify(context: Context) -> Signature:
    """Records, as Classify takes them: "classes" string and "scores" float32 [N, C].

    Classify has no output for errors: the scores of an unreadable image are all 0. Where images may
    have several classes, those with the highest scores come first.
    """

    def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = context.answer_examples(inputs)["probabilities"]
        if context.thresholds is not None:
            scores, order = tf.math.top_k(scores, len(context.classes))  # ties as they are
            return {"classes": tf.gather(tf.constant(context.classes), order), "scores": scores}
        names = tf.broadcast_to(tf.constant(context.classes), tf.shape(scores))
        return {"classes": tf.ensure_shape(names, scores.shape), "scores": scores}

    return _of_examples(classify)


@signatures.register("regress")
def _regress(context: Context) -> Signature | None:
    """Records, as Regress takes them: "outputs" float32 [N], the second of two classes.

    Regress has no output for errors: the value of an unreadable image is -1, no probability.
    """
    if len(context.classes) != 2 or context.thresholds is not None:
        return None

    def regress(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        answer = context.answer_examples(inputs)
        return {"outputs": tf.where(answer["error"] == "", answer["probability"], -1.0)}

    return _of_examples(regress)


def save(context: Context, folder: str, labels: str) -> dict[str, SignatureDef]:
    """Write a SavedModel with every registered signature; return these by name.

    Args:
        context: the model to export.
        folder: an existing, empty folder.
        labels: a text file with a class name on each line; becomes an asset of the model.
    """
    module = tf.Module()
    # Only the variables: with the Keras model itself every layer would be traced and saved too.
    module.weights = [*context.predictor.variables, *context.classifier.variables]
    module.labels = tf.saved_model.Asset(labels)
    builders = {name: signatures[name] for name in signatures}
    # One function for the names of one builder.
    made = {builder: builder(context) for builder in builders.values()}
    functions = {builder: each.checked() for builder, each in made.items() if each}
    saved = {name: functions[each] for name, each in builders.items() if each in functions}
    tf.saved_model.save(module, folder, signatures=saved)
    return _described(folder, {name: made[builders[name]].spec for name in saved})


def _described(folder: str, specs: Mapping[str, tf.TensorSpec]) -> dict[str, SignatureDef]:
    """Write what TensorFlow leaves out: the shapes of inputs, and two methods."""
    path = pathlib.Path(folder) / "saved_model.pb"
    saved = SavedModel.FromString(path.read_bytes())
    (graph,) = saved.meta_graphs
    for name, spec in specs.items():
        definition = graph.signature_def[name]
        definition.inputs[spec.name].tensor_shape.CopyFrom(spec.shape.as_proto())
        definition.method_name = METHODS.get(name, definition.method_name)
    path.write_bytes(saved.SerializeToString())
    (path.parent / "fingerprint.pb").unlink()  # has the old file's checksum, and is optional
    return {name: graph.signature_def[name] for name in specs}
