"""Connections to a server's REST API, where only HTTP is possible."""

import asyncio
import base64
import contextlib
import functools
import gzip
import http.client
import json
import ssl
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf import json_format

from tfpipe.core.errors import UserError, one_line
from tfpipe.protocol import messages, tensors
from tfpipe.protocol.connection_settings import ClientTls, ConnectionSettings
from tfpipe.protocol.errors import HTTP_STATUS
from tfpipe.protocol.transport import (
    CLOSED,
    MAX_ANSWER_BYTES,
    Describe,
    InputError,
    Metadata,
    PredictResult,
    ServerError,
    Target,
    explained,
    pause,
    unknown_form,
)

# The gRPC status for an HTTP status, the first of several; others are UNKNOWN.
_CODES = {status: code for code, status in reversed(HTTP_STATUS.items())}
_CODES[http.client.REQUEST_ENTITY_TOO_LARGE] = grpc.StatusCode.RESOURCE_EXHAUSTED

_HTTP2_SETTINGS = b"\0\0"  # how a gRPC server begins; its frames have less than 64 KiB


class Rest:
    """A server's REST API; safe to use from several threads. Each call opens a connection.

    Attributes:
        sleep: waits for some seconds, as the calls wait.
    """

    def __init__(self, server: str, settings: ConnectionSettings, *, is_async: bool = False):
        """Take the address; `settings` say how it is asked."""
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
    ) -> PredictResult:
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
        return PredictResult(found, served.version)

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
            details = f"it closed the connection; {CLOSED[self._scheme]}"
            raise ServerError(grpc.StatusCode.UNAVAILABLE, details) from None
        except http.client.BadStatusLine as error:
            code, text = grpc.StatusCode.UNIMPLEMENTED, one_line(error)[:80]
            details = f"it does not speak HTTP; it begins with {text!r}"
            if error.line.encode("latin-1", "replace").startswith(_HTTP2_SETTINGS):
                details = "it speaks gRPC, not HTTP: give the address without http://"
            raise ServerError(code, details) from None
        except (OSError, http.client.HTTPException) as error:
            raise explained(grpc.StatusCode.UNAVAILABLE, one_line(error)) from None
        finally:
            connection.close()
        if len(answer) > MAX_ANSWER_BYTES:
            raise ServerError(grpc.StatusCode.RESOURCE_EXHAUSTED, "the answer is too large")
        if response.status != http.client.OK:
            code = _CODES.get(response.status, grpc.StatusCode.UNKNOWN)
            raise ServerError(code, _reason(answer) or f"HTTP status {response.status}")
        return answer


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
    raise unknown_form(server)


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
