"""Connections to a server: gRPC, or REST where only HTTP is possible."""

import base64
import functools
import http.client
import json
import random
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np
from google.protobuf import json_format

from tfpipe.core.errors import UserError
from tfpipe.protocol import messages, tensors

MAX_ANSWER_BYTES = 64 << 20

# Seconds before the first retry, and the most before any.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.1, 2.0
# The longest pause before gRPC connects again.
_RECONNECT_MS = 2000

# The gRPC status for an HTTP status; others are UNKNOWN.
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


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


class Metadata(NamedTuple):
    """The version that is served, and its signatures by name."""

    version: int
    signatures: dict[str, messages.SignatureDef]


class ClientTls(NamedTuple):
    """PEM files of a client.

    Attributes:
        ca_file: certificates that the server's is checked with; empty for the system's.
        cert_file: the client's own certificate; empty for none.
        key_file: its key.
    """

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
    for attempt in range(retries + 1):
        try:
            return call()
        except ServerError as error:
            if error.code is not grpc.StatusCode.UNAVAILABLE or attempt == retries:
                raise
        longest = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S)
        time.sleep(random.uniform(longest / 2, longest))  # noqa: S311
    raise AssertionError("not reached")


class Grpc:
    """A gRPC channel to a server; safe to use from several threads."""

    def __init__(self, server: str, target: Target, tls: ClientTls | None):
        """Connect at the first call. Raises UserError if a file of `tls` cannot be read."""
        self._target = target
        options = {
            "grpc.max_receive_message_length": MAX_ANSWER_BYTES,
            "grpc.max_send_message_length": -1,
            "grpc.enable_http_proxy": 0,  # a proxy rarely speaks gRPC
            # gRPC's own limit of two minutes is long for a server that restarted.
            "grpc.max_reconnect_backoff_ms": _RECONNECT_MS,
        }
        arguments = {"options": list(options.items())}
        if tls is None:
            self._channel = grpc.insecure_channel(server, **arguments)
        else:
            parts = {"root_certificates": tls.ca_file, "private_key": tls.key_file,
                     "certificate_chain": tls.cert_file}  # fmt: skip
            read = {name: _read(path) for name, path in parts.items() if path}
            credentials = grpc.ssl_channel_credentials(**read)
            self._channel = grpc.secure_channel(server, credentials, **arguments)
        self._service = messages.PredictionServiceStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def predict(
        self,
        inputs: Mapping[str, object],
        outputs: Sequence[str],
        signature_name: str,
        timeout: float,
    ) -> dict[str, np.ndarray]:
        """Run a signature; see `Client.predict`. Raises ServerError or ValueError."""
        request = messages.PredictRequest(output_filter=outputs)
        self._target.fill(request.model_spec)
        request.model_spec.signature_name = signature_name
        for alias, value in inputs.items():
            tensors.write(request.inputs[alias], value)
        response = self._call(self._service.Predict, request, timeout)
        return {alias: tensors.from_proto(proto) for alias, proto in response.outputs.items()}

    def metadata(self, timeout: float) -> Metadata:
        """Return the served version and its signatures; raises ServerError."""
        request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
        self._target.fill(request.model_spec)
        response = self._call(self._service.GetModelMetadata, request, timeout)
        found = messages.SignatureDefMap()
        response.metadata["signature_def"].Unpack(found)
        return Metadata(response.model_spec.version.value, dict(found.signature_def))

    def _call(self, method: grpc.UnaryUnaryMultiCallable, request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except grpc.RpcError as error:
            raise ServerError(error.code(), error.details()) from None


class Rest:
    """A server's REST API; safe to use from several threads. Each call opens a connection."""

    def __init__(self, server: str, target: Target, tls: ClientTls | None):
        """`server` is a URL such as http://127.0.0.1:8501. Raises UserError for another form."""
        self._url = urllib.parse.urlsplit(server)
        if self._url.scheme not in ("http", "https") or not self._url.hostname:
            raise UserError(
                f"the server {server!r} has no known form: HOST:PORT, or http://HOST:PORT for REST"
            )
        self._context = None
        if self._url.scheme == "https":
            self._context = ssl.create_default_context(cafile=(tls and tls.ca_file) or None)
            if tls and tls.cert_file:
                self._context.load_cert_chain(tls.cert_file, tls.key_file or None)
        path = f"{self._url.path.rstrip('/')}/v1/models/{urllib.parse.quote(target.name, safe='')}"
        if target.version_label:
            path += f"/labels/{urllib.parse.quote(target.version_label, safe='')}"
        elif target.version:
            path += f"/versions/{target.version}"
        self._path = path

    def close(self) -> None:
        """Do nothing: each call closes its own connection."""

    def predict(
        self,
        inputs: Mapping[str, object],
        outputs: Sequence[str],
        signature_name: str,
        timeout: float,
    ) -> dict[str, np.ndarray]:
        """Run a signature; see `Client.predict`. Raises ServerError or ValueError."""
        values = {alias: _as_json(tensors.as_array(value)) for alias, value in inputs.items()}
        body = json.dumps({"signature_name": signature_name, "inputs": values})
        answer = json.loads(self._call("POST", ":predict", body.encode(), timeout))["outputs"]
        infos = self._signatures(timeout)[signature_name].outputs
        if len(infos) == 1:
            answer = {next(iter(infos)): answer}
        wanted = outputs or infos
        return {alias: _from_json(answer[alias], infos[alias].dtype) for alias in wanted}

    def metadata(self, timeout: float) -> Metadata:
        """Return the served version and its signatures; see `Grpc.metadata`."""
        answer = json.loads(self._call("GET", "/metadata", b"", timeout))
        found = messages.SignatureDefMap()
        try:
            json_format.ParseDict(
                answer["metadata"]["signature_def"], found, ignore_unknown_fields=True
            )
        except json_format.ParseError as error:
            raise ValueError(str(error)) from None
        return Metadata(int(answer["model_spec"]["version"]), dict(found.signature_def))

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _signatures(self, timeout: float) -> dict[str, messages.SignatureDef]:
        return self.metadata(timeout).signatures

    def _call(self, method: str, suffix: str, body: bytes, timeout: float) -> bytes:
        kind = http.client.HTTPSConnection if self._context else http.client.HTTPConnection
        more = {"context": self._context} if self._context else {}
        connection = kind(self._url.hostname, self._url.port, timeout=timeout, **more)
        try:
            connection.request(
                method, self._path + suffix, body, {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            answer = response.read(MAX_ANSWER_BYTES + 1)
        except TimeoutError:
            raise ServerError(grpc.StatusCode.DEADLINE_EXCEEDED, "no answer in time") from None
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(grpc.StatusCode.UNAVAILABLE, str(error)) from None
        finally:
            connection.close()
        if len(answer) > MAX_ANSWER_BYTES:
            raise ServerError(grpc.StatusCode.RESOURCE_EXHAUSTED, "the answer is too large")
        if response.status != http.client.OK:
            code = _CODES.get(response.status, grpc.StatusCode.UNKNOWN)
            raise ServerError(code, _reason(answer) or f"HTTP status {response.status}")
        return answer


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
    if array.dtype != object:
        return array.tolist()
    found = np.empty(array.shape, object)
    flat = found.ravel()
    for place, each in enumerate(array.ravel().tolist()):
        data = each.encode() if isinstance(each, str) else each
        flat[place] = {"b64": base64.b64encode(data).decode()}
    return found.tolist()


def _from_json(value: Any, dtype: int) -> np.ndarray:
    if dtype != messages.types_pb2.DT_STRING:
        return np.asarray(value, tensors.numpy_type(dtype))
    return tensors.as_array(_encoded(value))


def _encoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_encoded(each) for each in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()
