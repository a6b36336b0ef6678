"""Answers requests with one version of a model, from gRPC, REST or the warm-up file."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from google.protobuf.message import Message

from serving.prometheus_metrics import Metrics
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.errors import RequestError, invalid, unimplemented
from tfpipe.protocol.loaded_model import LoadedModel

M = TypeVar("M", bound=Message)

_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
_INPUTS = "inputs"

# The names of the methods in the metrics; TensorFlow Serving counts no others.
APIS = {
    messages.PredictRequest: "Predict",
    messages.ClassificationRequest: "Classify",
    messages.RegressionRequest: "Regress",
}

_FLOAT, _STRING = messages.types_pb2.DT_FLOAT, messages.types_pb2.DT_STRING


def run(model: LoadedModel, request: Message, metrics: Metrics) -> Message:
    """Return the response to a request that runs signatures, of any method.

    Args:
        model: the version.
        request: of Predict, Classify, Regress or MultiInference.
        metrics: where to count the time in the model, and the examples of a MultiInference.

    Raises:
        RequestError: the request does not fit the model, or an op refused it.
    """
    match request:
        case messages.PredictRequest():
            return _predict(model, request, metrics)
        case messages.ClassificationRequest():
            response = messages.ClassificationResponse()
            return _by_examples(model, request, response, _METHODS[_CLASSIFY], metrics)
        case messages.RegressionRequest():
            response = messages.RegressionResponse()
            return _by_examples(model, request, response, _METHODS[_REGRESS], metrics)
        case _:
            return _multi_inference(model, request, metrics)


@contextlib.contextmanager
def _timed(request: Any, metrics: Metrics) -> Iterator[None]:
    """Count the time of the body, unless it fails."""
    started = time.monotonic()
    yield
    spent = time.monotonic() - started
    metrics.record_runtime(request.model_spec.name, APIS[type(request)], spent)


def _predict(
    model: LoadedModel, request: messages.PredictRequest, metrics: Metrics
) -> messages.PredictResponse:
    signature = request.model_spec.signature_name or messages.DEFAULT_SIGNATURE
    with _timed(request, metrics):
        outputs = model.run(signature, request.inputs, request.output_filter)
    response = messages.PredictResponse()
    _name(response.model_spec, model, request.model_spec)
    for alias, array in outputs.items():
        tensors.write(response.outputs[alias], array)
    return response


def _by_examples(
    model: LoadedModel, request: Any, response: M, method: "_Method", metrics: Metrics
) -> M:
    """Run a signature of a method on the examples of a request, and fill the response."""
    spec = request.model_spec
    signature = spec.signature_name or messages.DEFAULT_SIGNATURE
    if signature not in model.signatures:
        raise invalid(f"No signature was found with the name: {signature}")
    method.check(model.signatures[signature])
    examples = _examples(request.input)
    with _timed(request, metrics):
        outputs = model.run(spec.signature_name, {_INPUTS: examples})
    method.fill(response.result, outputs, len(examples))
    _name(response.model_spec, model, spec)
    return response


def _multi_inference(
    model: LoadedModel, request: messages.MultiInferenceRequest, metrics: Metrics
) -> messages.MultiInferenceResponse:
    """Run several signatures on the same examples."""
    names, signatures = set(), set()
    for task in request.tasks:
        spec = task.model_spec
        if not spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        names.add(spec.name)
        if len(names) > 1:
            raise invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        signature = spec.signature_name or messages.DEFAULT_SIGNATURE
        if signature in signatures:
            raise invalid(f"Duplicate evaluation of signature: {signature}")
        signatures.add(signature)
        if signature not in model.signatures:
            raise invalid(f"Requested signature not found in model graph: {signature}")
        if task.method_name not in _METHODS:
            raise unimplemented(f"Unsupported signature method_name: {task.method_name}")
        _METHODS[task.method_name].check(model.signatures[signature])
    examples = _examples(request.input)
    results = [
        model.run(task.model_spec.signature_name, {_INPUTS: examples}) for task in request.tasks
    ]
    metrics.record_examples(request.tasks[0].model_spec.name, len(examples))
    response = messages.MultiInferenceResponse()
    for task, outputs in zip(request.tasks, results, strict=True):
        result = response.results.add()
        method = _METHODS[task.method_name]
        method.fill(getattr(result, method.result), outputs, len(examples))
        _name(result.model_spec, model, task.model_spec)
    return response


def metadata(
    model: LoadedModel, request: messages.GetModelMetadataRequest
) -> messages.GetModelMetadataResponse:
    """Return the signatures."""
    signatures = messages.SignatureDefMap()
    for key, definition in model.signatures.items():
        signatures.signature_def[key].CopyFrom(definition)
    response = messages.GetModelMetadataResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = model.version
    response.metadata["signature_def"].Pack(signatures)
    return response


def check_metadata(request: messages.GetModelMetadataRequest) -> None:
    """Raise RequestError if a request for metadata asks for anything but the signatures."""
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid(f"Metadata field {field} is not supported")


def _name(into: messages.ModelSpec, model: LoadedModel, asked: messages.ModelSpec) -> None:
    """Write which model, version and signature answered."""
    into.name = asked.name
    into.version.value = model.version
    into.signature_name = asked.signature_name or messages.DEFAULT_SIGNATURE


def _check_classification(definition: messages.SignatureDef) -> None:
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    if _INPUTS not in definition.inputs:
        raise _unsuitable("No classification inputs found in SignatureDef: ", definition)
    if not {"classes", "scores"} & set(definition.outputs):
        raise _unsuitable(
            "Expected classification signature outputs to contain at least one of"
            ' "classes" or "scores". Signature was: ',
            definition,
        )


def _check_regression(definition: messages.SignatureDef) -> None:
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if _INPUTS not in definition.inputs:
        raise _unsuitable("No regression inputs found in SignatureDef: ", definition)
    if "outputs" not in definition.outputs:
        raise _unsuitable("No regression outputs found in SignatureDef: ", definition)


def _unsuitable(message: str, definition: messages.SignatureDef) -> RequestError:
    return invalid(message + " ".join(str(definition).split()))


def _examples(given: messages.Input) -> np.ndarray:
    """Return the serialized examples of a request, each merged with the context."""
    context = b""
    examples: Sequence = given.example_list.examples
    if given.WhichOneof("kind") == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        examples = given.example_list_with_context.examples
    if not examples:
        raise invalid("Input is empty.")
    # Protobuf parses concatenated messages as one merged message.
    found = np.empty(len(examples), object)
    found[:] = [context + example.SerializeToString() for example in examples]
    return found


def _fill_classes(
    result: messages.ClassificationResult, outputs: dict[str, np.ndarray], rows: int
) -> None:
    found = [outputs[alias] for alias in ("classes", "scores") if alias in outputs]
    for alias, kind in (("classes", _STRING), ("scores", _FLOAT)):
        if alias in outputs:
            array = outputs[alias]
            if array.ndim != 2:
                raise _wrong_shape("Tensor shape: [batch_size num_classes]", array)
            _check_type(f"{alias} Tensor of {_type_name(kind)}. ", array, kind)
            if len(array) != rows:
                raise invalid(f"Expected {alias} output batch size of {rows}. Got: {len(array)}")
    if len({array.shape[1] for array in found}) > 1:
        sizes = " vs. ".join(str(array.shape[1]) for array in found)
        raise invalid(f"Tensors class and score should match in dim_size(1). Got {sizes}")
    labels, scores = outputs.get("classes"), outputs.get("scores")
    for row in range(rows):
        classes = result.classifications.add().classes
        for place in range(found[0].shape[1]):
            each = classes.add()
            if labels is not None:
                with contextlib.suppress(UnicodeDecodeError):  # the field takes only text
                    each.label = labels[row, place].decode()
            if scores is not None:
                each.score = scores[row, place]


def _fill_values(
    result: messages.RegressionResult, outputs: dict[str, np.ndarray], rows: int
) -> None:
    values = outputs["outputs"]
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 1):
        either = "output Tensor shape to be either [batch_size] or [batch_size, 1]"
        raise _wrong_shape(either, values)
    if len(values) != rows:
        raise invalid(f"Input batch size did not match output batch size: {rows} vs. {len(values)}")
    _check_type("output Tensor of DT_FLOAT.  ", values, _FLOAT)
    for value in values.ravel().tolist():
        result.regressions.add(value=value)


def _check_type(expected: str, array: np.ndarray, kind: int) -> None:
    found = tensors.data_type(array)
    if found != kind:
        raise invalid(f"Expected {expected}Got: {_type_name(found)}")


def _type_name(kind: int) -> str:
    return messages.types_pb2.DataType.Name(kind)


def _wrong_shape(expected: str, array: np.ndarray) -> RequestError:
    found = ",".join(map(str, array.shape))
    return invalid(f"Expected {expected} but got [{found}]")


class _Method(NamedTuple):
    """A method of the protocol that runs a signature on examples.

    Attributes:
        result: the field of its result in a MultiInferenceResponse.
        check: raises RequestError if a signature is not for this method.
        fill: writes the outputs for a number of examples into a result.
    """

    result: str
    check: Callable[[messages.SignatureDef], None]
    fill: Callable[[Any, dict[str, np.ndarray], int], None]


_METHODS = {
    _CLASSIFY: _Method("classification_result", _check_classification, _fill_classes),
    _REGRESS: _Method("regression_result", _check_regression, _fill_values),
}
