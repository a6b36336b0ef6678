"""Connections to a server: gRPC, or REST where only HTTP is possible."""

import base64
import contextlib
import functools
import http.client
import json
import random
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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

# The gRPC status for an HTTP status, the first of several; others are UNKNOWN.
_CODES = {status: code for code, status in reversed(HTTP_STATUS.items())}
_CODES[http.client.REQUEST_ENTITY_TOO_LARGE] = grpc.StatusCode.RESOURCE_EXHAUSTED

_HTTP2_SETTINGS = b"\0\0"  # how a gRPC server begins; its frames have less than 64 KiB
_NOT_GRPC = re.compile("http1|HTTP/1")  # in gRPC's message about an HTTP server


class ServerError(UserError):
    """A server cannot be reached, or refused a request.

    Attributes:
        code: the gRPC status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code


class Target(NamedTuple):
    """The model that requests name, with a version by number or label.

    Version 0 and an empty label mean the highest version.
    """

    name: str
    version: int = 0
    version_label: str = ""

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


class ClientTls(NamedTuple):
    """PEM files: what checks the server's certificate, and the client's own; "" for none."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


def repeated(call: Callable[[], Any], retries: int) -> Any:
    """Call a function; while the server is unavailable, retry after a growing, random pause.

    Args:
        call: sends a request that the server has not executed if it answers UNAVAILABLE.
        retries: number of further calls, at most.

    Raises:
        ServerError: the last call failed, or one failed for another reason.
    """
    for attempt in range(retries):
        try:
            return call()
        except ServerError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE:
                raise
        longest = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
        time.sleep(random.uniform(longest / 2, longest))  # noqa: S311
    return call()


class Grpc:
    """A gRPC channel to a server; safe to use from several threads."""

    def __init__(self, server: str, target: Target, timeout: float, tls: ClientTls | None = None):
        """Connect at the first call. Raises UserError if a file of `tls` cannot be read.

        Args:
            server: HOST:PORT.
            target: the model.
            timeout: seconds for each call.
            tls: the certificates; None for no encryption.
        """
        self._target, self._timeout = target, timeout
        options = [
            ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_http_proxy", 0),  # a proxy rarely speaks gRPC
            # gRPC's own limit of two minutes is long for a server that restarted.
            ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
        ]
        if tls is None:
            self._channel = grpc.insecure_channel(server, options)
        else:
            parts = (tls.ca_file, tls.key_file, tls.cert_file)
            read = (_read(path) if path else None for path in parts)
            credentials = grpc.ssl_channel_credentials(*read)
            self._channel = grpc.secure_channel(server, credentials, options)
        self.service = messages.PredictionServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def request(
        self, inputs: Mapping[str, object], outputs: Sequence[str], signature_name: str
    ) -> messages.PredictRequest:
        """Return the message for `predict`; raises ValueError if no tensor can hold an input."""
        request = messages.PredictRequest(output_filter=outputs)
        self._target.fill(request.model_spec)
        request.model_spec.signature_name = signature_name
        for alias, value in inputs.items():
            tensors.write(request.inputs[alias], value)
        return request

    def predict(
        self, inputs: Mapping[str, object], outputs: Sequence[str], signature_name: str
    ) -> dict[str, np.ndarray]:
        """Run a signature; see `Client.predict`. Raises ServerError or ValueError."""
        request = self.request(inputs, outputs, signature_name)
        response = self._call(self.service.Predict, request)
        return {alias: tensors.from_proto(proto) for alias, proto in response.outputs.items()}

    def metadata(self) -> Metadata:
        """Return the served version and its signatures; raises ServerError."""
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._target.fill(request.model_spec)
        response = self._call(self.service.GetModelMetadata, request)
        found = messages.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return Metadata(response.model_spec.version.value, dict(found.signature_def))

    def _call(self, method: grpc.UnaryUnaryMultiCallable, request: Any) -> Any:
        try:
            return method(request, timeout=self._timeout)
        except grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code is grpc.StatusCode.UNAVAILABLE and _NOT_GRPC.search(details):
                code = grpc.StatusCode.UNIMPLEMENTED
                details = "it speaks HTTP, not gRPC: for REST put http:// before the address"
            raise ServerError(code, details) from None


class Rest:
    """A server's REST API; safe to use from several threads. Each call opens a connection."""

    def __init__(self, server: str, target: Target, timeout: float, tls: ClientTls | None = None):
        """`server` is a URL such as http://127.0.0.1:8501. Raises UserError for another form."""
        url = _parsed(server)
        self._path = url.path.rstrip("/") + target.path()
        kind, more = http.client.HTTPConnection, {}
        if url.scheme == "https":
            kind, more = http.client.HTTPSConnection, {"context": _context(tls or ClientTls())}
        self._connect = functools.partial(kind, url.hostname, url.port, timeout=timeout, **more)

    def close(self) -> None:
        """Do nothing: each call closes its own connection."""

    def predict(
        self, inputs: Mapping[str, object], outputs: Sequence[str], signature_name: str
    ) -> dict[str, np.ndarray]:
        """Run a signature; see `Client.predict`. Raises ServerError or ValueError."""
        values = {alias: _as_json(tensors.as_array(value)) for alias, value in inputs.items()}
        body = json.dumps({"signature_name": signature_name, "inputs": values})
        answer = json.loads(self._call("POST", ":predict", body.encode()))["outputs"]
        infos = self._signatures[signature_name].outputs
        if len(infos) == 1:
            answer = {next(iter(infos)): answer}
        wanted = outputs or infos
        return {alias: _from_json(answer[alias], infos[alias].dtype) for alias in wanted}

    def metadata(self) -> Metadata:
        """Return the served version and its signatures; see `Grpc.metadata`."""
        answer = json.loads(self._call("GET", "/metadata", b""))
        found = messages.SignatureDefMap()
        try:
            json_format.ParseDict(
                answer["metadata"]["signature_def"], found, ignore_unknown_fields=True
            )
        except json_format.ParseError as error:
            raise ValueError(str(error)) from None
        return Metadata(int(answer["model_spec"]["version"]), dict(found.signature_def))

    @functools.cached_property
    def _signatures(self) -> dict[str, messages.SignatureDef]:
        return self.metadata().signatures

    def _call(self, method: str, suffix: str, body: bytes) -> bytes:
        connection = self._connect()
        try:
            connection.request(
                method, self._path + suffix, body, {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError:
            raise ServerError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time") from None
        except http.client.BadStatusLine as error:
            code, text = grpc.StatusCode.UNIMPLEMENTED, one_line(error)[:80]
            details = f"it does not speak HTTP; it begins with {text!r}"
            if error.line.encode("latin-1", "replace").startswith(_HTTP2_SETTINGS):
                details = "it speaks gRPC, not HTTP: give the address without http://"
            raise ServerError(code, details) from None
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(grpc.StatusCode.UNAVAILABLE, one_line(error)) from None
        finally:
            connection.close()
        if len(answer) > MAX_ANSWER_BYTES:
            raise ServerError(grpc.StatusCode.RESOURCE_EXHAUSTED, "the answer is too large")
        if response.status != http.client.OK:
            code = _CODES.get(response.status, grpc.StatusCode.UNKNOWN)
            raise ServerError(code, _reason(answer) or f"HTTP status {response.status}")
        return answer


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
    raise UserError(
        f"the server {server!r} has no known form: HOST:PORT, or http://HOST:PORT for REST"
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


def _as_json(array: np.ndarray) -> Any:
    if array.dtype == object:
        array = np.asarray(np.frompyfunc(_base64, 1, 1)(array), object)
    return array.tolist()


def _base64(data: bytes | str) -> dict[str, str]:
    data = data.encode() if isinstance(data, str) else data
    return {"b64": base64.b64encode(data).decode()}


def _from_json(value: Any, dtype: int) -> np.ndarray:
    if dtype != messages.types_pb2.DT_STRING:
        return np.asarray(value, tensors.numpy_type(dtype))
    return tensors.as_array(_decoded(value))


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()
