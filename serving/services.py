"""The gRPC services: parse requests, serialize answers, and map errors to status codes."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health

from serving.admission import AdmissionController, HeldBytes
from serving.handlers import GRPC, PredictionHandlers
from serving.open_inference import messages as oip
from serving.open_inference.handlers import OpenInferenceHandlers
from tfpipe.protocol import messages
from tfpipe.protocol.errors import RequestError, invalid

# The types of the requests by service and method.
SERVICES = {
    "tensorflow.serving.PredictionService": {
        "Predict": messages.PredictRequest,
        "Classify": messages.ClassificationRequest,
        "Regress": messages.RegressionRequest,
        "MultiInference": messages.MultiInferenceRequest,
        "GetModelMetadata": messages.GetModelMetadataRequest,
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": messages.GetModelStatusRequest,
        "HandleReloadConfigRequest": messages.ReloadConfigRequest,
    },
}
# Methods that run no model; their number is not bounded.
_UNBOUNDED = (
    messages.GetModelMetadataRequest,
    messages.GetModelStatusRequest,
    messages.ReloadConfigRequest,
    *(kind for name, kind in oip.REQUESTS.items() if name != "ModelInfer"),
)

# The first bytes of gzip and zlib data, and zlib's `wbits` for them. No request starts with them.
_PACKED = {b"\x1f\x8b": 31, b"\x78\x01": 15, b"\x78\x5e": 15, b"\x78\x9c": 15, b"\x78\xda": 15}
_BLOCK_BYTES = 2**20


def add(
    handlers: PredictionHandlers | OpenInferenceHandlers,
    server: grpc.Server,
    max_bytes: int,
    services: Mapping[str, Mapping[str, type[Message]]] = SERVICES,
) -> None:
    """Register services, by default PredictionService and ModelService.

    Args:
        handlers: what answers.
        server: not started yet; it must not decompress messages itself.
        max_bytes: limit of a request, decompressed.
        services: the types of their requests by service and method.
    """
    for service, methods in services.items():
        by_path = {
            f"/{service}/{name}": _RpcHandlers(handlers, kind, max_bytes)
            for name, kind in methods.items()
        }
        server.add_generic_rpc_handlers((_Service(by_path, handlers.admission),))


class _RpcHandlers:
    """The handlers that answer and reject the requests of one type.

    Both take the message as if it were a stream. So it is read only when there is memory for the
    largest one, and the message of a rejected request is not read. Rejections must stay cheap
    during an overload, and use no other thread.
    """

    def __init__(
        self,
        handlers: PredictionHandlers | OpenInferenceHandlers,
        kind: type[Message],
        max_bytes: int,
    ):
        self.bounded = kind not in _UNBOUNDED

        def answer(stream: Iterator[bytes], context: grpc.ServicerContext) -> Message:
            try:
                with handlers.admission.hold() as held:
                    held.resize(max_bytes, context.time_remaining())
                    request = _read(stream, kind, max_bytes, held)
                    return handlers.answer(request, GRPC, context.time_remaining())
            except RequestError as error:
                return context.abort(error.code, error.message)

        def reject(_: Iterator[bytes], context: grpc.ServicerContext) -> None:
            try:
                handlers.answer(kind(), GRPC, None, raise_rejection)
            except RequestError as error:
                context.abort(error.code, error.message)

        def raise_rejection(*_: Any) -> None:
            raise handlers.admission.rejection()

        reject.experimental_thread_pool = _SameThread()
        self.answer = grpc.stream_unary_rpc_method_handler(
            answer, response_serializer=lambda response: response.SerializeToString()
        )
        self.reject = grpc.stream_unary_rpc_method_handler(reject)


class _SameThread(futures.ThreadPoolExecutor):
    """Calls functions at once, on the thread that accepts calls."""

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> None:
        """Call a function, which must be short."""
        function(*args, **kwargs)


class _Service(grpc.GenericRpcHandler):
    """Chooses the handler of a request before its message is read."""

    def __init__(self, by_path: dict[str, _RpcHandlers], admission: AdmissionController):
        self._by_path, self._admission = by_path, admission

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Return a handler, or None for a method of another service."""
        found = self._by_path.get(handler_call_details.method)
        if found and found.bounded and self._admission.full:
            return found.reject
        return found and found.answer


def _read(stream: Iterator[bytes], kind: type[Message], max_bytes: int, held: HeldBytes) -> Message:
    """Return the request of a call, and hold as many bytes as it has."""
    data = _unpacked(_first(stream), max_bytes)
    held.resize(len(data))
    return _parsed(kind, data)


def _first(stream: Iterator[bytes]) -> bytes:
    """Return the only message of a call; raises RequestError if the client sends none."""
    try:
        return next(stream)
    except (StopIteration, grpc.RpcError):  # the second if the client gave up
        raise RequestError(grpc.StatusCode.CANCELLED, "the call has ended") from None


def _unpacked(data: bytes, max_bytes: int) -> bytes:
    """Return the message, decompressed if needed, up to `max_bytes`."""
    if data[:2] not in _PACKED:
        return data
    kind = _PACKED[data[:2]]
    try:
        # Count block by block before keeping anything.
        counter, rest, size = zlib.decompressobj(kind), data, 0
        while rest:
            size += len(counter.decompress(rest, _BLOCK_BYTES))
            rest = counter.unconsumed_tail
            if size > max_bytes:
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the request decompresses to more than {max_bytes:,} bytes",
                )
        return zlib.decompress(data, kind)
    except zlib.error:
        raise invalid("the request is compressed, and damaged") from None


def _parsed(kind: type[Message], data: bytes) -> Message:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise invalid(f"the request is no {kind.DESCRIPTOR.name}") from None


class Health(health.HealthServicer):
    """The standard health service; it ends the streams of its watchers when the server ends."""

    def __init__(self):
        """Use one thread for all watchers, and none of the server's."""
        super().__init__(
            experimental_non_blocking=True,
            experimental_thread_pool=futures.ThreadPoolExecutor(1),
        )
        self._watchers: set[Callable] = set()
        self._closed = False

    def Watch(self, request, context, send_response_callback=None):  # noqa: N802
        """Send the state now and after each change, until the server ends."""
        super().Watch(request, context, send_response_callback)
        # Added after the first state was sent: `close` ends only streams that have one.
        self._watchers.add(send_response_callback)
        context.add_callback(lambda: self._watchers.discard(send_response_callback))
        if self._closed:
            send_response_callback(None)

    def open(self) -> None:
        """Report SERVING from now on."""
        for name in messages.HEALTH_NAMES:
            self.set(name, messages.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """Report NOT_SERVING, and end the streams, which would keep the server from ending."""
        self._closed = True
        self.enter_graceful_shutdown()
        for send in tuple(self._watchers):
            send(None)
