"""The gRPC services: bytes in, messages or error codes out."""

import zlib
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health

from serving import protocol
from serving.calls import GRPC, Calls
from serving.errors import RequestError, invalid
from serving.limit import Limit


class _Method(NamedTuple):
    """How one method of a service is answered.

    Attributes:
        request: the type of its message.
        call: the method of `Calls`.
        limited: whether it is one of those of which only so many are let in.
    """

    request: type[Message]
    call: str
    limited: bool


SERVICES = {
    "tensorflow.serving.PredictionService": {
        "Predict": _Method(protocol.PredictRequest, "predict", True),
        "Classify": _Method(protocol.ClassificationRequest, "classify", True),
        "Regress": _Method(protocol.RegressionRequest, "regress", True),
        "MultiInference": _Method(protocol.MultiInferenceRequest, "multi_inference", True),
        "GetModelMetadata": _Method(protocol.GetModelMetadataRequest, "metadata", False),
    },
    "tensorflow.serving.ModelService": {
        "GetModelStatus": _Method(protocol.GetModelStatusRequest, "status", False),
        "HandleReloadConfigRequest": _Method(protocol.ReloadConfigRequest, "reload", False),
    },
}


# How the data of zlib begins, and the parameter that reads it. No request of ours begins so.
_PACKED = {b"\x1f\x8b": 31, b"\x78\x01": 15, b"\x78\x5e": 15, b"\x78\x9c": 15, b"\x78\xda": 15}
_BLOCK_BYTES = 2**20


def add(calls: Calls, server: grpc.Server, max_bytes: int) -> None:
    """Registers PredictionService and ModelService with a server that unpacks no messages itself.

    Args:
        calls: what answers.
        server: that is not started yet.
        max_bytes: of a request, unpacked.
    """
    for service, methods in SERVICES.items():
        handlers = {
            f"/{service}/{name}": _Handlers(calls, method, max_bytes)
            for name, method in methods.items()
        }
        server.add_generic_rpc_handlers((_Service(handlers, calls.limit),))


class _Handlers:
    """How a method is answered, and refused.

    A flood of calls must not cost those that were let in their time: of one that is refused no
    message is read, as if it were a stream, and no other thread is called upon.
    """

    def __init__(self, calls: Calls, method: _Method, max_bytes: int):
        self.limited = method.limited
        self.answer = grpc.unary_unary_rpc_method_handler(
            _handler(calls, method, max_bytes),
            response_serializer=lambda response: response.SerializeToString(),
        )

        def refuse(_: Iterator[bytes], context: grpc.ServicerContext) -> None:
            def raise_refusal(_: float | None) -> None:
                raise calls.limit.refusal()

            try:
                calls.answer(method.call, None, GRPC, None, raise_refusal)
            except RequestError as error:
                context.abort(error.code, error.message)

        refuse.experimental_thread_pool = _Here()
        self.refuse = grpc.stream_unary_rpc_method_handler(refuse)


class _Here(futures.ThreadPoolExecutor):
    """Calls functions at once, on the thread that takes calls from the network."""

    def submit(self, function: Callable, /, *args: Any, **kwargs: Any) -> None:
        """Calls a function, which must not take long."""
        function(*args, **kwargs)


class _Service(grpc.GenericRpcHandler):
    """Chooses between the handlers of a method, before anything of a request is read."""

    def __init__(self, handlers: dict[str, _Handlers], limit: Limit):
        self._handlers, self._limit = handlers, limit

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """Returns a handler, or None for a method of another service."""
        found = self._handlers.get(handler_call_details.method)
        if found and found.limited and self._limit.full:
            return found.refuse
        return found and found.answer


def _handler(calls: Calls, method: _Method, max_bytes: int) -> Callable:
    call = getattr(calls, method.call)

    def handle(data: bytes, context: grpc.ServicerContext) -> Message:
        if not context.is_active():  # the client has given up while the call was waiting
            context.abort(grpc.StatusCode.CANCELLED, "the call has ended")
        try:
            request = _parsed(method.request, _unpacked(data, max_bytes))
            return calls.answer(
                method.call,
                request,
                GRPC,
                context.time_remaining(),
                lambda seconds: call(request, seconds),
            )
        except RequestError as error:
            return context.abort(error.code, error.message)

    return handle


def _unpacked(data: bytes, max_bytes: int) -> bytes:
    """Returns a message, unpacked if it is packed, and no further than `max_bytes`."""
    if data[:2] not in _PACKED:
        return data
    kind = _PACKED[data[:2]]
    try:
        # Measured before it is kept, a block after the other.
        counter, rest, size = zlib.decompressobj(kind), data, 0
        while rest:
            size += len(counter.decompress(rest, _BLOCK_BYTES))
            rest = counter.unconsumed_tail
            if size > max_bytes:
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the request unpacks to more than {max_bytes:,} bytes",
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
    """The standard health service, which ends the streams of its watchers when the server does."""

    def __init__(self):
        """Watchers cost no thread of the server, only one of their own all together."""
        super().__init__(
            experimental_non_blocking=True,
            experimental_thread_pool=futures.ThreadPoolExecutor(1),
        )
        self._watchers: set[Callable] = set()
        self._closed = False

    def Watch(self, request, context, send_response_callback=None):  # noqa: N802
        """Sends the state now and whenever it changes, until the server ends."""
        super().Watch(request, context, send_response_callback)
        # Added when it has been told the state, or `close` might end it before.
        self._watchers.add(send_response_callback)
        context.add_callback(lambda: self._watchers.discard(send_response_callback))
        if self._closed:
            send_response_callback(None)

    def open(self) -> None:
        """Says SERVING from now on."""
        for name in protocol.HEALTH_NAMES:
            self.set(name, protocol.HealthCheckResponse.SERVING)

    def close(self) -> None:
        """Says NOT_SERVING for good; a stream left open would keep the server from ending."""
        self._closed = True
        self.enter_graceful_shutdown()
        for send in tuple(self._watchers):
            send(None)
