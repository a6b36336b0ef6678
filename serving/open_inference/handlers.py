"""Answers the requests of the Open Inference Protocol.

ModelInfer is translated to Predict and back, so both protocols have the same checks, batches,
bounds and metrics.
"""

import functools
import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import grpc
from google.protobuf.message import Message

from serving.handlers import PredictionHandlers
from serving.open_inference import messages as oip
from serving.open_inference import tensors
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError, invalid, unimplemented
from tfpipe.protocol.versions import LARGEST_VERSION

EXTENSIONS = ("binary_tensor_data",)
SIGNATURE = "signature_name"  # the parameter of a request that chooses another signature

_PLATFORM = "tensorflow_savedmodel"
# Parameters that would change the answer, and that this server has not.
_UNSUPPORTED = {
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "shared_memory_region",
    "shared_memory_byte_size",
    "shared_memory_offset",
    "classification",
}
# Typed contents have no field for these.
_ONLY_RAW = (messages.types_pb2.DT_HALF, messages.types_pb2.DT_BFLOAT16)


class OpenInferenceHandlers:
    """The methods of the protocol, answered with those of TensorFlow Serving's.

    Attributes:
        admission: bounds the requests of both protocols together.
    """

    def __init__(self, handlers: PredictionHandlers, is_serving: Callable[[], bool]):
        """Take what answers, and a function that says whether the server takes requests."""
        self._handlers, self._is_serving = handlers, is_serving
        self.admission = handlers.admission

    def answer(
        self,
        request: Message,
        entrypoint: str,
        seconds: float | None,
        call: Callable[[Any, float | None], Any] | None = None,
    ) -> Any:
        """Answer a request of any method; see `PredictionHandlers.answer`."""
        match request:
            case oip.ServerLiveRequest():
                return oip.ServerLiveResponse(live=True)
            case oip.ServerReadyRequest():
                return oip.ServerReadyResponse(ready=self._is_ready())
            case oip.ServerMetadataRequest():
                version = importlib.metadata.version("tfpipe")
                return oip.ServerMetadataResponse(
                    name="tfpipe", version=version, extensions=EXTENSIONS
                )
            case oip.ModelReadyRequest():
                return oip.ModelReadyResponse(ready=self._is_model_ready(request))
            case oip.ModelMetadataRequest():
                spec = _spec(request.name, request.version)
                asked = messages.GetModelMetadataRequest(
                    model_spec=spec, metadata_field=["signature_def"]
                )
                call = call or self._metadata
            case _:
                asked = messages.PredictRequest()
                asked.model_spec.name = request.model_name
                call = call or functools.partial(self.infer, request)
        return self._handlers.answer(asked, entrypoint, seconds, call)

    def _is_ready(self) -> bool:
        served = self._handlers.models.served
        return self._is_serving() and all(served.values())

    def _is_model_ready(self, request: Message) -> bool:
        try:
            with self._handlers.models.acquire(_spec(request.name, request.version)):
                return self._is_serving()
        except RequestError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                return False
            raise

    def _metadata(self, asked: messages.GetModelMetadataRequest, seconds: float | None) -> Message:
        found = self._handlers.respond(asked, seconds)
        signatures = messages.SignatureDefMap()
        found.metadata["signature_def"].Unpack(signatures)
        name = found.model_spec.name
        if messages.DEFAULT_SIGNATURE not in signatures.signature_def:
            known = ", ".join(sorted(signatures.signature_def)) or "none"
            raise unimplemented(
                f"model {name} has no signature {messages.DEFAULT_SIGNATURE}, which this method"
                f" describes; it has {known}, for requests with the parameter {SIGNATURE}"
            )
        definition = signatures.signature_def[messages.DEFAULT_SIGNATURE]
        return oip.ModelMetadataResponse(
            name=name,
            versions=map(str, self._handlers.models.served.get(name, ())),
            platform=_PLATFORM,
            inputs=_tensor_metadata(definition.inputs),
            outputs=_tensor_metadata(definition.outputs),
        )

    def infer(
        self, request: Message, predict: messages.PredictRequest, seconds: float | None
    ) -> Message:
        """Return the ModelInferResponse to a ModelInferRequest.

        Args:
            request: the request.
            predict: what it is translated to; empty but for the name of the model.
            seconds: until the client's deadline; None for no deadline.

        Raises:
            RequestError: it is refused.
        """
        _fill(predict, request)
        found = self._handlers.respond(predict, seconds)
        response = oip.ModelInferResponse(
            model_name=request.model_name,
            model_version=str(found.model_spec.version.value),
            id=request.id,
        )
        names = predict.output_filter or sorted(found.outputs)
        is_raw = bool(request.raw_input_contents) or any(
            proto.dtype in _ONLY_RAW for proto in found.outputs.values()
        )
        for name in names:
            proto = found.outputs[name]
            output = response.outputs.add(
                name=name,
                datatype=tensors.name_of(proto.dtype),
                shape=[dim.size for dim in proto.tensor_shape.dim],
            )
            if is_raw:
                response.raw_output_contents.append(tensors.to_raw(proto))
            else:
                tensors.fill_contents(proto, output.contents)
        return response


def _spec(name: str, version: str) -> messages.ModelSpec:
    """Return the model that a request names.

    Args:
        name: of the model.
        version: a number, or a label of a version; "" for the highest.
    """
    spec = messages.ModelSpec(name=name)
    if version.isascii() and version.isdecimal():
        if len(version) > len(str(LARGEST_VERSION)) or int(version) > LARGEST_VERSION:
            raise invalid(f"the version {version:.40} is larger than {LARGEST_VERSION}")
        spec.version.value = int(version)
    elif version:
        spec.version_label = version
    return spec


def _fill(predict: messages.PredictRequest, request: Message) -> None:
    """Write a ModelInferRequest into an empty PredictRequest; raises RequestError."""
    predict.model_spec.CopyFrom(_spec(request.model_name, request.model_version))
    for part in (request, *request.inputs, *request.outputs):
        refused = sorted(_UNSUPPORTED & set(part.parameters))
        if refused:
            raise unimplemented(f"the parameter {refused[0]} is not supported by this server")
    if SIGNATURE in request.parameters:
        parameter = request.parameters[SIGNATURE]
        if parameter.WhichOneof("parameter_choice") != "string_param":
            raise invalid(f"the parameter {SIGNATURE} must be a string")
        predict.model_spec.signature_name = parameter.string_param
    predict.output_filter.extend(output.name for output in request.outputs)
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise invalid(
            f"raw_input_contents has {len(raw)} parts for {len(request.inputs)} inputs: give one"
            " for each, in their order"
        )
    for place, each in enumerate(request.inputs):
        if each.name in predict.inputs:
            raise invalid(f"input {each.name} is given twice")
        if raw and each.HasField("contents"):
            raise invalid(f"input {each.name} has both contents and raw_input_contents")
        given = (each.name, each.datatype, each.shape)
        proto = (
            tensors.from_raw(*given, raw[place])
            if raw
            else tensors.from_contents(*given, each.contents)
        )
        predict.inputs[each.name].CopyFrom(proto)


def _tensor_metadata(infos: Mapping[str, Any]) -> Iterable[Message]:
    for name, info in sorted(infos.items()):
        shape = [dim.size for dim in info.tensor_shape.dim]
        yield oip.ModelMetadataResponse.TensorMetadata(
            name=name, datatype=tensors.name_of(info.dtype), shape=shape
        )
