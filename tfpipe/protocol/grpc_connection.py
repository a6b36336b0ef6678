"""A gRPC connection to a server."""

import asyncio
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np

from tfpipe.protocol import messages, tensors
from tfpipe.protocol.connection_settings import ConnectionSettings, read_file
from tfpipe.protocol.transport import (
    CLOSED,
    MAX_ANSWER_BYTES,
    Describe,
    Metadata,
    PredictResult,
    ServerError,
    Target,
    explained,
    pause,
)

# The longest pause before gRPC connects again.
_RECONNECT_MS = 2000
# The longest wait for the answer to a ping, gRPC's own default.
_KEEPALIVE_TIMEOUT_MS = 20_000

# Targets of gRPC: those with a scheme may have several addresses.
_WITH_SCHEME = re.compile(r"(dns|ipv4|ipv6|xds):.*\w|(unix|unix-abstract|vsock):.+")
_ADDRESS = re.compile(r"(\[[^\]/]+\]|[^:/\[\]\s]+):\d{1,5}")

_COMPRESSIONS = {
    "": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}
_CLOSED_AT_ONCE = re.compile("failed to connect.*Socket closed")


def is_target(server: str) -> bool:
    """Return whether gRPC can connect to this: HOST:PORT, or a target with a scheme."""
    return bool(_WITH_SCHEME.match(server) or _ADDRESS.fullmatch(server))


class Grpc:
    """A gRPC channel to a server; safe to use from several threads.

    Attributes:
        sleep: waits for some seconds, as the calls wait.
    """

    def __init__(self, server: str, settings: ConnectionSettings, *, is_async: bool = False):
        """Connect at the first call; see `connect`."""
        self._settings = settings
        self.sleep = asyncio.sleep if is_async else pause
        module = grpc.aio if is_async else grpc
        options = [*(_channel_options(server, settings) | settings.channel_options).items()]
        compression = _COMPRESSIONS[settings.compression]
        if settings.tls is None:
            connect = functools.partial(module.insecure_channel, server, options, compression)
        else:
            parts = (settings.tls.ca_file, settings.tls.key_file, settings.tls.cert_file)
            read = (read_file(path) if path else None for path in parts)
            credentials = grpc.ssl_channel_credentials(*read)
            connect = functools.partial(
                module.secure_channel, server, credentials, options, compression
            )
        self._connect = connect

    @functools.cached_property
    def _channel(self) -> Any:
        return self._connect()  # at the first call, which has the event loop

    @functools.cached_property
    def service(self) -> messages.PredictionServiceStub:
        """The stub of the PredictionService."""
        return messages.PredictionServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection."""
        closed = self._channel.close()
        if inspect.isawaitable(closed):
            await closed

    @staticmethod
    def request(
        target: Target,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        signature_name: str,
    ) -> messages.PredictRequest:
        """Return the message for `predict`."""
        request = messages.PredictRequest(output_filter=outputs)
        target.fill(request.model_spec)
        request.model_spec.signature_name = signature_name
        for alias, array in inputs.items():
            tensors.write(request.inputs[alias], array)
        return request

    async def predict(
        self,
        target: Target,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        signature_name: str,
        describe: Describe,
    ) -> PredictResult:
        """Run a signature.

        Args:
            target: the model.
            inputs: an array for each input, from `read_inputs`.
            outputs: the outputs to return; empty means all.
            signature_name: the signature.
            describe: returns what is served; with True, asks anew. Only REST needs it.

        Raises:
            ServerError: there is no answer, or the request is refused.
            ValueError: the answer cannot be read.
        """
        request = self.request(target, inputs, outputs, signature_name)
        response = await self._call(self.service.Predict, request)
        found = {alias: tensors.from_proto(proto) for alias, proto in response.outputs.items()}
        return PredictResult(found, response.model_spec.version.value)

    async def metadata(self, target: Target) -> Metadata:
        """Return the served version and its signatures; raises ServerError."""
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        target.fill(request.model_spec)
        response = await self._call(self.service.GetModelMetadata, request)
        found = messages.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return Metadata(response.model_spec.version.value, dict(found.signature_def))

    async def status(self, target: Target) -> messages.GetModelStatusResponse:
        """Return the states of the model's versions; raises ServerError."""
        request = messages.GetModelStatusRequest()
        target.fill(request.model_spec)
        method = messages.ModelServiceStub(self._channel).GetModelStatus
        return await self._call(method, request)

    async def is_healthy(self) -> bool:
        """Return what the health service says; True if there is none. Raises ServerError."""
        method = messages.HealthStub(self._channel).Check
        try:
            found = await self._call(method, messages.HealthCheckRequest())
        except ServerError as error:
            if error.code is grpc.StatusCode.UNIMPLEMENTED:
                return True
            raise
        return found.status == messages.HealthCheckResponse.SERVING

    async def _call(self, method: Callable, request: Any) -> Any:
        metadata = [*self._settings.headers().items()]
        try:
            found = method(request, timeout=self._settings.timeout, metadata=metadata)
            return await found if inspect.isawaitable(found) else found
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            if self._settings.tls is None and _CLOSED_AT_ONCE.search(details):
                details += f"; {CLOSED['grpc']}"
            raise explained(code, details) from None


def _channel_options(server: str, settings: ConnectionSettings) -> dict[str, int | str]:
    found: dict[str, int | str] = {
        "grpc.max_receive_message_length": MAX_ANSWER_BYTES,
        "grpc.max_send_message_length": -1,
        "grpc.enable_http_proxy": 0,  # a proxy rarely speaks gRPC
        # gRPC's own limit of two minutes is long for a server that restarted.
        "grpc.max_reconnect_backoff_ms": _RECONNECT_MS,
    }
    if _WITH_SCHEME.match(server):  # of several addresses gRPC itself uses only the first
        found["grpc.lb_policy_name"] = "round_robin"
    if settings.keepalive:
        milliseconds = max(1, int(settings.keepalive * 1000))
        found["grpc.keepalive_time_ms"] = milliseconds
        found["grpc.keepalive_timeout_ms"] = min(milliseconds, _KEEPALIVE_TIMEOUT_MS)
        # Data are followed by a ping too, and no other one is sent before its answer.
        found["grpc.http2.ping_timeout_ms"] = found["grpc.keepalive_timeout_ms"]
        found["grpc.keepalive_permit_without_calls"] = 1
        found["grpc.http2.max_pings_without_data"] = 0
    return found
