"""Connections to a server: gRPC, or REST where only HTTP is possible."""

import asyncio
import base64
import contextlib
import dataclasses
import functools
import gzip
import http.client
import inspect
import json
import math
import random
import re
import ssl
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import grpc
import numpy as np
from google.protobuf import json_format

from tfpipe.core.errors import UserError, one_line
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.errors import HTTP_STATUS

MAX_ANSWER_BYTES = 64 << 20

# Seconds before the first retry, and the most before any.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
# The longest pause before gRPC connects again.
_RECONNECT_MS = 2000
# The longest wait for the answer to a ping, gRPC's own default.
_KEEPALIVE_TIMEOUT_MS = 20_000

# The gRPC status for an HTTP status, the first of several; others are UNKNOWN.
_CODES = {status: code for code, status in reversed(HTTP_STATUS.items())}
_CODES[http.client.REQUEST_ENTITY_TOO_LARGE] = grpc.StatusCode.RESOURCE_EXHAUSTED

_HTTP2_SETTINGS = b"\0\0"  # how a gRPC server begins; its frames have less than 64 KiB
# What messages about a failed connection say of a server that speaks something else.
_MISMATCHES = {
    re.compile("http1|HTTP/1"): "it speaks HTTP, not gRPC: for REST put http:// before the address",
    re.compile("missing selected ALPN"): (
        "it speaks HTTP, not gRPC: for REST put https:// before the address"
    ),
    re.compile("wrong.version.number", re.IGNORECASE): (
        "it is not encrypted: leave TLS out (for REST use http://)"
    ),
}
# What may be wrong if a server closes a connection at once, by the form of the address.
_CLOSED = {
    "grpc": "if it is encrypted, use TLS",
    "http": "if it is encrypted, put https:// before the address",
    "https": "if it speaks gRPC, leave https:// out and use TLS",
}
_CLOSED_AT_ONCE = re.compile("failed to connect.*Socket closed")

# Targets of gRPC: those with a scheme may have several addresses.
_GRPC_PATH = re.compile(r"(dns|ipv4|ipv6|xds):.*\w|(unix|unix-abstract|vsock):.+")
_GRPC_ADDRESS = re.compile(r"(\[[^\]/]+\]|[^:/\[\]\s]+):\d{1,5}")

_COMPRESSIONS = {
    "": grpc.Compression.NoCompression,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}
_METADATA_KEY = re.compile("[0-9A-Za-z_.-]+")
_METADATA_VALUE = re.compile("[ -~]*")
_TOKEN = re.compile("[!-~]+")

T = TypeVar("T")


class ServerError(UserError):
    """A server cannot be reached, or refused a request.

    Attributes:
        code: the gRPC status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


class InputError(UserError, ValueError):
    """An argument of the caller cannot be sent; no server was asked."""


class Target(NamedTuple):
    """The model that requests name, with a version by number or label.

    Version 0 and an empty label mean the highest version.
    """

    name: str
    version: int = 0
    version_label: str = ""

    def at(self, version: int) -> "Target":
        """Return the same model in another version."""
        return Target(self.name, version)

    def fill(self, spec: messages.ModelSpec) -> None:
        """Write it into a message."""
        spec.name = self.name
        if self.version_label:
            spec.version_label = self.version_label
        elif self.version:
            spec.version.value = self.version

    def path(self) -> str:
        """Return the path of the REST API."""
        path = f"/v1/models/{urllib.parse.quote(self.name, safe='')}"
        if self.version_label:
            return f"{path}/labels/{urllib.parse.quote(self.version_label, safe='')}"
        return f"{path}/versions/{self.version}" if self.version else path


class Metadata(NamedTuple):
    """The version that is served, and its signatures by name."""

    version: int
    signatures: dict[str, messages.SignatureDef]


# Returns what is served; with True, the server is asked anew.
Describe = Callable[[bool], Awaitable[Metadata]]


class VersionStatus(NamedTuple):
    """The state of a version: START, LOADING, AVAILABLE, UNLOADING or END; `error` says why."""

    version: int
    state: str
    error: str


class Answer(NamedTuple):
    """The outputs of a signature, and the version that computed them; 0 if it is unknown."""

    outputs: dict[str, np.ndarray]
    version: int


class ClientTls(NamedTuple):
    """PEM files: what checks the server's certificate, and the client's own; "" for none."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


@dataclasses.dataclass(frozen=True)
class ConnectionSettings:
    """How a server is asked.

    Attributes:
        timeout: seconds for each call.
        tls: the certificates; None for gRPC without encryption.
        metadata: sent with each request: gRPC metadata, or HTTP headers.
        token: sent as `authorization: Bearer TOKEN`; "" for none.
        token_file: a file with the token, read for each request, because tokens are renewed.
        compression: "gzip", "deflate" (gRPC only) or "" for none.
        keepalive: seconds between two pings of an idle gRPC connection; 0 for none.
        channel_options: arguments of the gRPC channel, before those of this module.
    """

    timeout: float = 10.0
    tls: ClientTls | None = None
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)
    token: str = ""
    token_file: str = ""
    compression: str = ""
    keepalive: float = 0.0
    channel_options: Mapping[str, int | str] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        """Raise UserError if a value cannot be used."""
        if not 0 < self.timeout < math.inf:
            raise UserError(f"`timeout={self.timeout:g}` is no time to wait: give seconds above 0")
        if not 0 <= self.keepalive < math.inf:
            raise UserError(f"`keepalive={self.keepalive:g}` must be seconds, or 0 for none")
        if self.compression not in _COMPRESSIONS:
            raise UserError(f"`compression={self.compression}` is not one of gzip, deflate")
        if self.token and self.token_file:
            raise UserError("`token` and `token_file` are both given: leave one out")
        for key, value in self.metadata.items():
            if not _METADATA_KEY.fullmatch(key) or key.endswith("-bin"):
                raise UserError(
                    f"`metadata` has the key {key!r}: use letters, digits and -_. (not ending with"
                    " -bin)"
                )
            if not _METADATA_VALUE.fullmatch(value):
                raise UserError(f"`metadata` has a value of {key!r} that is not printable ASCII")
        self.headers()

    def headers(self) -> dict[str, str]:
        """Return the metadata of a request; raises UserError if the token cannot be read."""
        found = {key.lower(): value for key, value in self.metadata.items()}
        token = self.token
        if self.token_file:
            token = _read(self.token_file).decode("latin-1").strip()
        if not token and not self.token_file:
            return found
        if not _TOKEN.fullmatch(token):
            where = f"the file {self.token_file}" if self.token_file else "`token`"
            raise UserError(f"{where} holds no token: it must be one word of printable ASCII")
        return found | {"authorization": f"Bearer {token}"}


def finish(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine that blocks where another would wait.

    Blocking and asyncio clients share their code in this way.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise RuntimeError("a connection that blocks has waited")


def connect(server: str, settings: ConnectionSettings, *, is_async: bool = False) -> "Grpc | Rest":
    """Return a connection that opens at the first call.

    Args:
        server: HOST:PORT or another target of gRPC, such as dns:///HOST:PORT; http://HOST:PORT or
            https://HOST:PORT for REST.
        settings: how it is asked.
        is_async: whether the methods wait in an event loop; otherwise they block.

    Raises:
        UserError: `server` has no such form, or a file of the settings cannot be read.
    """
    scheme = server.partition(":")[0].lower()
    if scheme in ("http", "https"):
        return Rest(server, settings, is_async=is_async)
    if _GRPC_PATH.match(server) or _GRPC_ADDRESS.fullmatch(server):
        return Grpc(server, settings, is_async=is_async)
    raise _unknown_form(server)


async def repeated(
    call: Callable[[], Awaitable[T]], retries: int, sleep: Callable[[float], Awaitable[None]]
) -> T:
    """Call a function; while the server is unavailable, retry after a growing, random pause.

    Args:
        call: sends a request that the server has not executed if it answers UNAVAILABLE.
        retries: number of further calls, at most.
        sleep: waits for some seconds.

    Raises:
        ServerError: the last call failed, or one failed for another reason.
    """
    for attempt in range(retries):
        try:
            return await call()
        except ServerError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
        longest = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
        await sleep(random.uniform(longest / 2, longest))  # noqa: S311
    return await call()


async def pause(seconds: float) -> None:
    """Block for some seconds."""
    time.sleep(seconds)


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
            read = (_read(path) if path else None for path in parts)
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
    ) -> Answer:
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
        return Answer(found, response.model_spec.version.value)

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
                details += f"; {_CLOSED['grpc']}"
            raise _explained(code, details) from None


def _explained(code: grpc.StatusCode, details: str) -> ServerError:
    """Return the error of a call; a server that speaks something else is UNIMPLEMENTED."""
    if code is grpc.StatusCode.UNAVAILABLE:
        for pattern, reason in _MISMATCHES.items():
            if pattern.search(details):
                return ServerError(grpc.StatusCode.UNIMPLEMENTED, reason)
    return ServerError(code, details)


def _channel_options(server: str, settings: ConnectionSettings) -> dict[str, int | str]:
    found: dict[str, int | str] = {
        "grpc.max_receive_message_length": MAX_ANSWER_BYTES,
        "grpc.max_send_message_length": -1,
        "grpc.enable_http_proxy": 0,  # a proxy rarely speaks gRPC
        # gRPC's own limit of two minutes is long for a server that restarted.
        "grpc.max_reconnect_backoff_ms": _RECONNECT_MS,
    }
    if _GRPC_PATH.match(server):  # of several addresses gRPC itself uses only the first
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


class Rest:
    """A server's REST API; safe to use from several threads. Each call opens a connection.

    Attributes:
        sleep: waits for some seconds, as the calls wait.
    """

    def __init__(self, server: str, settings: ConnectionSettings, *, is_async: bool = False):
        """Take the address; see `connect`."""
        if settings.compression == "deflate":
            raise UserError("`compression=deflate` is for gRPC: use gzip over REST")
        if settings.channel_options or settings.keepalive:
            raise UserError("`channel_options` and `keepalive` are for gRPC: leave them out")
        url = _parsed(server)
        self._settings, self._is_async = settings, is_async
        self.sleep = asyncio.sleep if is_async else pause
        self._path, self._scheme = url.path.rstrip("/"), url.scheme
        kind, more = http.client.HTTPConnection, {}
        if url.scheme == "https":
            kind = http.client.HTTPSConnection
            more = {"context": _context(settings.tls or ClientTls())}
        elif settings.tls:
            raise UserError(f"the server {server!r} is not encrypted: TLS needs https://")
        self._connect = functools.partial(
            kind, url.hostname, url.port, timeout=settings.timeout, **more
        )

    async def close(self) -> None:
        """Do nothing: each call closes its own connection."""

    async def predict(
        self,
        target: Target,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        signature_name: str,
        describe: Describe,
    ) -> Answer:
        """Run a signature; see `Grpc.predict`.

        The answer has neither types nor the version. So the version that is described is asked by
        its number.
        """
        values = {alias: _as_json(alias, array) for alias, array in inputs.items()}
        body = json.dumps({"signature_name": signature_name, "inputs": values}).encode()
        served = await describe(False)
        try:
            text = await self._call("POST", target.at(served.version), ":predict", body)
        except ServerError as error:
            newer = await describe(True) if error.code is grpc.StatusCode.NOT_FOUND else served
            if newer.version == served.version:
                raise
            served = newer
            text = await self._call("POST", target.at(served.version), ":predict", body)
        answer = json.loads(text)["outputs"]
        infos = served.signatures[signature_name].outputs
        if len(infos) == 1:
            answer = {next(iter(infos)): answer}
        wanted = outputs or infos
        found = {alias: _from_json(answer[alias], infos[alias].dtype) for alias in wanted}
        return Answer(found, served.version)

    async def metadata(self, target: Target) -> Metadata:
        """Return the served version and its signatures; see `Grpc.metadata`."""
        answer = json.loads(await self._call("GET", target, "/metadata"))
        found = _message(answer["metadata"]["signature_def"], messages.SignatureDefMap())
        return Metadata(int(answer["model_spec"]["version"]), dict(found.signature_def))

    async def status(self, target: Target) -> messages.GetModelStatusResponse:
        """Return the states of the model's versions; see `Grpc.status`."""
        answer = json.loads(await self._call("GET", target))
        return _message(answer, messages.GetModelStatusResponse())

    async def is_healthy(self) -> bool:
        """Return True: REST has no health service."""
        return True

    async def _call(
        self, method: str, target: Target, suffix: str = "", body: bytes = b""
    ) -> bytes:
        given = (method, self._path + target.path() + suffix, body)
        if self._is_async:
            return await asyncio.to_thread(self._exchange, *given)
        return self._exchange(*given)

    def _exchange(self, method: str, path: str, body: bytes) -> bytes:
        headers = {"content-type": "application/json", **self._settings.headers()}
        if body and self._settings.compression:
            headers["content-encoding"] = "gzip"
            body = gzip.compress(body)
        connection = self._connect()
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError:
            raise ServerError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time") from None
        except http.client.RemoteDisconnected:
            details = f"it closed the connection; {_CLOSED[self._scheme]}"
            raise ServerError(grpc.StatusCode.UNAVAILABLE, details) from None
        except http.client.BadStatusLine as error:
            code, text = grpc.StatusCode.UNIMPLEMENTED, one_line(error)[:80]
            details = f"it does not speak HTTP; it begins with {text!r}"
            if error.line.encode("latin-1", "replace").startswith(_HTTP2_SETTINGS):
                details = "it speaks gRPC, not HTTP: give the address without http://"
            raise ServerError(code, details) from None
        except (OSError, http.client.HTTPException) as error:
            raise _explained(grpc.StatusCode.UNAVAILABLE, one_line(error)) from None
        finally:
            connection.close()
        if len(answer) > MAX_ANSWER_BYTES:
            raise ServerError(grpc.StatusCode.RESOURCE_EXHAUSTED, "the answer is too large")
        if response.status != http.client.OK:
            code = _CODES.get(response.status, grpc.StatusCode.UNKNOWN)
            raise ServerError(code, _reason(answer) or f"HTTP status {response.status}")
        return answer


def read_inputs(inputs: Mapping[str, object]) -> dict[str, np.ndarray]:
    """Return an array for each input; text becomes bytes (UTF-8).

    Raises:
        InputError: a value is no array that a tensor can hold.
    """
    if not isinstance(inputs, Mapping):
        raise InputError(f"the inputs are {type(inputs).__name__}: give an array for each name")
    found = {}
    for alias, value in inputs.items():
        if not isinstance(alias, str):
            raise InputError(f"an input has the name {alias!r}, which is no text")
        try:
            found[alias] = _array(value)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"input {alias!r} cannot be sent: {one_line(error)}") from None
    return found


def _array(value: object) -> np.ndarray:
    array = tensors.as_array(value)
    if tensors.data_type(array) != messages.types_pb2.DT_STRING:
        return array
    found = np.empty(array.shape, object)
    found.ravel()[:] = [_as_bytes(item) for item in array.ravel().tolist()]
    return found


def _as_bytes(item: object) -> bytes:
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if isinstance(item, str):
        return item.encode()
    raise ValueError(f"it holds {type(item).__name__}, neither numbers nor bytes nor text")


def _message(given: Any, into: Any) -> Any:
    """Return a message with what JSON says; raises ValueError if it is something else."""
    try:
        return json_format.ParseDict(given, into, ignore_unknown_fields=True)
    except json_format.ParseError as error:
        raise ValueError(str(error)) from None


def _parsed(server: str) -> urllib.parse.SplitResult:
    with contextlib.suppress(ValueError):  # such as a port that is no number
        url = urllib.parse.urlsplit(server)
        if url.scheme in ("http", "https") and url.hostname and url.port != 0:
            if "/v1/models" in url.path:
                address = server.partition("/v1/models")[0]
                raise UserError(
                    f"the server {server!r} has the path of a model: give {address}; the model,"
                    " version and signature are options of their own"
                )
            return url
    raise _unknown_form(server)


def _unknown_form(server: str) -> UserError:
    return UserError(
        f"the server {server!r} has no known form: HOST:PORT or dns:///HOST:PORT for gRPC,"
        " http://HOST:PORT for REST"
    )


def _context(tls: ClientTls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file or None)
        if tls.cert_file:
            context.load_cert_chain(tls.cert_file, tls.key_file or None)
    except OSError as error:
        files = ", ".join(filter(None, tls))
        raise UserError(f"cannot read {files}: {error.strerror or error}") from None
    return context


def _reason(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def _as_json(alias: str, array: np.ndarray) -> Any:
    if array.dtype.kind == "c":
        raise InputError(f"input {alias!r} is complex, which JSON cannot express: use gRPC")
    if array.dtype == object:
        array = np.asarray(np.frompyfunc(_base64, 1, 1)(array), object)
    return array.tolist()


def _base64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def _from_json(value: Any, dtype: int) -> np.ndarray:
    if dtype != messages.types_pb2.DT_STRING:
        return np.asarray(value, tensors.numpy_type(dtype))
    return tensors.as_array(_decoded(value))


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()
