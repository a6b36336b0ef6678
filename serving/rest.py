"""TensorFlow Serving's REST API, in a thread of its own.

POST /v1/models/NAME[/versions/N|/labels/L]:predict, :classify or :regress
GET  /v1/models/NAME[/versions/N|/labels/L]              states of its versions
GET  /v1/models/NAME[/versions/N|/labels/L]/metadata     its signatures
GET  /monitoring/prometheus/metrics                      path from the MonitoringConfig
"""

import asyncio
import contextlib
import functools
import re
import socket
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from serving import json_api
from serving.handlers import REST, PredictionHandlers
from serving.http_server import HttpServer
from serving.open_inference.handlers import OpenInferenceHandlers
from serving.open_inference.rest import OpenInferenceRest
from serving.prometheus_metrics import CONTENT_TYPE, Metrics
from serving.server_config import ServerTls
from tfpipe.protocol import messages
from tfpipe.protocol.errors import HTTP_STATUS, RequestError, invalid

_JSON = "application/json"
_MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(_MODEL + ":(?P<method>classify|regress|predict)", re.IGNORECASE)
_METADATA = re.compile(_MODEL + "/metadata", re.IGNORECASE)
_STATUS = re.compile(_MODEL, re.IGNORECASE)

_REQUESTS = {
    "predict": messages.PredictRequest,
    "classify": messages.ClassificationRequest,
    "regress": messages.RegressionRequest,
}


class RestServer(HttpServer):
    """Answers REST requests until it is closed.

    Attributes:
        port: the port that it listens at.
    """

    def __init__(
        self,
        handlers: PredictionHandlers,
        open_inference: OpenInferenceHandlers,
        sock: socket.socket,
        *,
        timeout_s: float,
        max_body: int,
        threads: int,
        cross_origin: bool,
        max_connections: int,
        metrics_path: str,
        tls: ServerTls | None = None,
    ):
        """Prepare to answer.

        Args:
            handlers: the methods.
            open_inference: those of the Open Inference Protocol.
            sock: bound, from `http_server.listen`.
            timeout_s: limit of a request in seconds: to arrive, and then to be answered.
            max_body: limit of a request's body in bytes.
            threads: requests that are answered at the same time.
            cross_origin: whether web pages of all origins may ask (CORS).
            max_connections: connections at the same time; more are refused.
            metrics_path: the path that shows the metrics of the handlers; "" for none.
            tls: the keys; None for no encryption.
        """
        self.port = sock.getsockname()[1]
        self._handlers, self._timeout_s, self._max_body = handlers, timeout_s, max_body
        self._pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="rest")
        v2 = OpenInferenceRest(open_inference, self._body, self._pool, timeout_s)
        routes = [
            *v2.routes(),
            Route("/{path:path}", self._answer, methods=["GET", "POST"]),
        ]
        if metrics_path:
            shown = functools.partial(_show_metrics, handlers.metrics)
            routes.insert(0, Route(metrics_path, shown, methods=["GET"]))
        pages = (
            [
                Middleware(
                    CORSMiddleware,
                    allow_origins=["*"],
                    allow_headers=["*"],
                    allow_methods=["GET", "POST"],
                )
            ]
            if cross_origin
            else []
        )
        with tls.uvicorn_settings() if tls else contextlib.nullcontext({}) as settings:
            super().__init__(
                Starlette(routes=routes, middleware=pages),
                sock,
                grace_s=30,
                read_timeout_s=timeout_s,
                max_connections=max_connections,
                **settings,
            )

    def close(self) -> None:
        """Let the requests under way finish, and end."""
        super().close()
        self._pool.shutdown()

    async def _answer(self, request: Request) -> Response:
        try:
            body = await self._body(request)
        except RequestError as error:
            too_large = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            return _error(error, 413 if too_large else None)  # 429 would make clients ask again
        except ClientDisconnect:
            return _error(RequestError(grpc.StatusCode.CANCELLED, "the client went away"))
        try:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(
                self._pool, self._call, request.method, request.url.path, body
            )
            return Response(await asyncio.wait_for(work, self._timeout_s), media_type=_JSON)
        except RequestError as error:
            return _error(error)
        except asyncio.TimeoutError:
            late = f"no answer within {self._timeout_s:g} s, the limit of this server"
            return _error(RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, late))

    async def _body(self, request: Request) -> bytes:
        """Return the body, which is read up to the limit."""
        if request.headers.get("content-encoding", "identity") != "identity":
            raise RequestError(
                grpc.StatusCode.UNIMPLEMENTED,
                "compressed bodies are not supported: send it uncompressed",
            )
        if request.method == "POST" and self._handlers.admission.full:  # it need not be read
            raise self._handlers.admission.rejection()
        found = bytearray()
        async for part in request.stream():
            found += part
            if len(found) > self._max_body:
                raise RequestError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"the body is larger than {self._max_body:,} bytes",
                )
        return bytes(found)

    def _call(self, method: str, path: str, body: bytes) -> bytes:
        if method == "POST" and (match := _CALL.fullmatch(path)):
            request = _REQUESTS[match["method"].lower()]()
            call = functools.partial(self._infer, body)
        elif method == "GET" and (match := _METADATA.fullmatch(path)):
            request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
            call = self._metadata
        elif method == "GET" and (match := _STATUS.fullmatch(path)):
            request, call = messages.GetModelStatusRequest(), self._status
        else:
            raise invalid(f"Malformed request: {method} {path}")
        _fill(request.model_spec, match)
        return self._handlers.answer(request, REST, self._timeout_s, call)

    def _infer(self, body: bytes, request: Any, seconds: float) -> bytes:
        """Complete a request from the JSON in `body`; return the answer as JSON."""
        given = json_api.parse(body)
        request.model_spec.signature_name = json_api.signature_of(given)
        if not isinstance(request, messages.PredictRequest):
            json_api.read_examples(given, request.input)
            return json_api.write_result(self._handlers.respond(request, seconds).result)
        found, as_rows = json_api.read_tensors(given, self._inputs(request.model_spec))
        for alias, proto in found.items():
            request.inputs[alias].CopyFrom(proto)
        response = self._handlers.respond(request, seconds)
        return json_api.write_tensors(response.outputs, as_rows=as_rows)

    def _inputs(self, spec: messages.ModelSpec) -> dict:
        key = spec.signature_name or messages.DEFAULT_SIGNATURE
        with self._handlers.models.acquire(spec) as model:
            if key not in model.signatures:
                raise invalid(f'Serving signature name: "{key}" not found in signature def')
            return dict(model.signatures[key].inputs)

    def _metadata(self, request: messages.GetModelMetadataRequest, seconds: float) -> bytes:
        response = self._handlers.respond(request, seconds)
        signatures = messages.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        spec, found = _as_json(response.model_spec), _as_json(signatures)
        return f'{{"model_spec": {spec}, "metadata": {{"signature_def": {found}}}}}'.encode()

    def _status(self, request: messages.GetModelStatusRequest, seconds: float) -> bytes:
        return _as_json(self._handlers.respond(request, seconds)).encode()


async def _show_metrics(metrics: Metrics, request: Request) -> Response:
    return Response(metrics.text(), media_type=CONTENT_TYPE)


def _fill(spec: messages.ModelSpec, match: re.Match) -> None:
    spec.name = match["name"]
    if match["label"]:
        spec.version_label = match["label"]
    elif match["version"]:
        version = int(match["version"])
        if version >= 2**63:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = version


def _as_json(message) -> str:
    return json_format.MessageToJson(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )


def _error(error: RequestError, status: int | None = None) -> Response:
    status = status or HTTP_STATUS.get(error.code, 500)
    return Response(json_api.write_error(error.message), status, media_type=_JSON)
