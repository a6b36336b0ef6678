"""Requests answered by one version of a model, however they came: gRPC, REST, or to warm up."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import grpc
import numpy as np
from google.protobuf.message import Message

from serving import protocol, tensors
from serving.errors import RequestError, invalid, unimplemented
from serving.servable import Servable

M = TypeVar("M", bound=Message)

_CLASSIFY, _REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
_INPUTS = "inputs"

_FLOAT, _STRING = protocol.types_pb2.DT_FLOAT, protocol.types_pb2.DT_STRING


def predict(servable: Servable, request: protocol.PredictRequest) -> protocol.PredictResponse:
    """Runs a signature on the tensors of a request."""
    signature = request.model_spec.signature_name or protocol.DEFAULT_SIGNATURE
    outputs = servable.run(signature, request.inputs, request.output_filter)
    response = protocol.PredictResponse()
    _name(response.model_spec, servable, request.model_spec)
    for alias, array in outputs.items():
        tensors.write(response.outputs[alias], array)
    return response


def classify(
    servable: Servable, request: protocol.ClassificationRequest
) -> protocol.ClassificationResponse:
    """Runs a signature of classification on the examples of a request."""
    response = protocol.ClassificationResponse()
    return _by_examples(servable, request, response, _check_classification, _fill_classes)


def regress(servable: Servable, request: protocol.RegressionRequest) -> protocol.RegressionResponse:
    """Runs a signature of regression on the examples of a request."""
    response = protocol.RegressionResponse()
    return _by_examples(servable, request, response, _check_regression, _fill_values)


def multi_inference(
    servable: Servable, request: protocol.MultiInferenceRequest
) -> protocol.MultiInferenceResponse:
    """Runs several signatures of either kind on the same examples."""
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
        signature = spec.signature_name or protocol.DEFAULT_SIGNATURE
        if signature in signatures:
            raise invalid(f"Duplicate evaluation of signature: {signature}")
        signatures.add(signature)
        if signature not in servable.signatures:
            raise invalid(f"Requested signature not found in model graph: {signature}")
        if task.method_name not in _METHODS:
            raise unimplemented(f"Unsupported signature method_name: {task.method_name}")
        _METHODS[task.method_name][0](servable.signatures[signature])
    examples = _examples(request.input)
    response = protocol.MultiInferenceResponse()
    for task in request.tasks:
        result = response.results.add()
        _, field, fill = _METHODS[task.method_name]
        fill(getattr(result, field), _run(servable, task.model_spec, examples))
        _name(result.model_spec, servable, task.model_spec)
    return response


def metadata(
    servable: Servable, request: protocol.GetModelMetadataRequest
) -> protocol.GetModelMetadataResponse:
    """Returns the signatures."""
    signatures = protocol.SignatureDefMap()
    for key, definition in servable.signatures.items():
        signatures.signature_def[key].CopyFrom(definition)
    response = protocol.GetModelMetadataResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = servable.version
    response.metadata["signature_def"].Pack(signatures)
    return response


def check_metadata(request: protocol.GetModelMetadataRequest) -> None:
    """Raises RequestError if a request for metadata asks for something else."""
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != "signature_def":
            raise invalid(f"Metadata field {field} is not supported")


def _name(into: protocol.ModelSpec, servable: Servable, asked: protocol.ModelSpec) -> None:
    """Says what answered."""
    into.name = asked.name
    into.version.value = servable.version
    into.signature_name = asked.signature_name or protocol.DEFAULT_SIGNATURE


def _by_examples(
    servable: Servable, request: Any, response: M, check: Callable, fill: Callable
) -> M:
    """Fills a response to a request of examples: `check` its signature, `fill` in its outputs."""
    check(_definition(servable, request.model_spec))
    fill(response.result, _run(servable, request.model_spec, _examples(request.input)))
    _name(response.model_spec, servable, request.model_spec)
    return response


def _definition(servable: Servable, spec: protocol.ModelSpec) -> protocol.SignatureDef:
    signature = spec.signature_name or protocol.DEFAULT_SIGNATURE
    if signature not in servable.signatures:
        raise invalid(f"No signature was found with the name: {signature}")
    return servable.signatures[signature]


def _check_classification(definition: protocol.SignatureDef) -> None:
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(definition.outputs)}")
    if _INPUTS not in definition.inputs:
        raise _precondition("No classification inputs found in SignatureDef: ", definition)
    if not {"classes", "scores"} & set(definition.outputs):
        raise _precondition(
            "Expected classification signature outputs to contain at least one of"
            ' "classes" or "scores". Signature was: ',
            definition,
        )


def _check_regression(definition: protocol.SignatureDef) -> None:
    if len(definition.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if len(definition.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if _INPUTS not in definition.inputs:
        raise _precondition("No regression inputs found in SignatureDef: ", definition)
    if "outputs" not in definition.outputs:
        raise _precondition("No regression outputs found in SignatureDef: ", definition)


def _precondition(message: str, definition: protocol.SignatureDef) -> RequestError:
    shown = " ".join(str(definition).split())
    return RequestError(grpc.StatusCode.FAILED_PRECONDITION, message + shown)


def _examples(given: protocol.Input) -> np.ndarray:
    """Returns the serialized examples of a request, each merged with their context."""
    context = b""
    examples: Sequence = given.example_list.examples
    if given.WhichOneof("kind") == "example_list_with_context":
        context = given.example_list_with_context.context.SerializeToString()
        examples = given.example_list_with_context.examples
    if not examples:
        raise invalid("Input is empty.")
    # Messages that follow each other are parsed as one, merged.
    found = np.empty(len(examples), object)
    found[:] = [context + example.SerializeToString() for example in examples]
    return found


def _run(
    servable: Servable, spec: protocol.ModelSpec, examples: np.ndarray
) -> dict[str, np.ndarray]:
    outputs = servable.run(spec.signature_name, {_INPUTS: examples})
    for alias, array in outputs.items():
        if array.ndim and len(array) != len(examples):
            raise invalid(
                f"Expected {alias} output batch size of {len(examples)}. Got: {len(array)}"
            )
    return outputs


def _fill_classes(result: protocol.ClassificationResult, outputs: dict[str, np.ndarray]) -> None:
    for alias, kind in (("classes", _STRING), ("scores", _FLOAT)):
        if alias in outputs:
            _check_output(alias, outputs[alias], kind)
            if outputs[alias].ndim != 2:
                raise _wrong_shape("[batch_size num_classes]", outputs[alias])
    found = [outputs[alias] for alias in ("classes", "scores") if alias in outputs]
    if len({array.shape[1] for array in found}) > 1:
        sizes = " vs. ".join(str(array.shape[1]) for array in found)
        raise invalid(f"Tensors class and score should match in dim_size(1). Got {sizes}")
    labels, scores = outputs.get("classes"), outputs.get("scores")
    for row in range(len(found[0])):
        classes = result.classifications.add().classes
        for place in range(found[0].shape[1]):
            each = classes.add()
            if labels is not None:
                with contextlib.suppress(UnicodeDecodeError):  # the field holds text only
                    each.label = labels[row, place].decode()
            if scores is not None:
                each.score = scores[row, place]


def _fill_values(result: protocol.RegressionResult, outputs: dict[str, np.ndarray]) -> None:
    values = outputs["outputs"]
    _check_output("regression", values, _FLOAT)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] != 1):
        raise _wrong_shape("[batch_size] or [batch_size 1]", values)
    for value in values.ravel().tolist():
        result.regressions.add(value=value)


def _check_output(what: str, array: np.ndarray, expected: int) -> None:
    found = tensors.data_type(array)
    if found != expected:
        names = protocol.types_pb2.DataType
        raise invalid(f"Expected {what} Tensor of {names.Name(expected)}. Got: {names.Name(found)}")


def _wrong_shape(expected: str, array: np.ndarray) -> RequestError:
    found = ",".join(map(str, array.shape))
    return invalid(f"Expected Tensor shape: {expected} but got [{found}]")


# By the method of a task: the check of its signature, and the field and filling of its result.
_METHODS = {
    _CLASSIFY: (_check_classification, "classification_result", _fill_classes),
    _REGRESS: (_check_regression, "regression_result", _fill_values),
}
