"""TensorFlow Serving's REST API, in a thread of its own.

Paths, methods and statuses are those of its http_rest_api_util.cc and http_server.cc.

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
import urllib.parse
from collections.abc import Awaitable, Callable
from concurrent import futures
from typing import Any

import grpc
from google.protobuf import json_format
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import json_api, json_examples, json_request, json_response, request_body
from serving.handlers import REST, PredictionHandlers
from serving.http_server import HttpServer
from serving.open_inference.handlers import OpenInferenceHandlers
from serving.open_inference.rest import OpenInferenceRest
from serving.prometheus_metrics import CONTENT_TYPE, Metrics
from serving.server_config import ServerTls
from tfpipe.protocol import messages
from tfpipe.protocol.errors import HTTP_STATUS, RequestError, invalid, not_found, unimplemented

_JSON = "application/json"
# Matched before percent-decoding, so a name may have a slash as %2F.
_API = re.compile("/v1/.*", re.IGNORECASE | re.DOTALL)
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_CALL = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>classify|regress|predict)", re.IGNORECASE
)
_DESCRIPTION = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<part>metadata))?", re.IGNORECASE
)
_Endpoint = Callable[[Request], Awaitable[Response]]
_METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH")  # others are 501

# Sent with every answer, where web pages of all origins may ask.
_CROSS_ORIGIN = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]

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
        self._cross_origin = cross_origin
        self._pool = futures.ThreadPoolExecutor(threads, thread_name_prefix="rest")
        v2 = OpenInferenceRest(open_inference, self._body, self._pool, timeout_s)
        routes = [
            *(Route(path, self._holding(v2.answer), methods=_METHODS) for path in v2.PATHS),
            Route("/{path:path}", self._holding(self._answer), methods=_METHODS),
        ]
        if metrics_path:
            shown = functools.partial(_show_metrics, handlers.metrics)
            routes.insert(0, Route(metrics_path, shown, methods=["GET"]))
        middleware = [Middleware(_CrossOrigin)] if cross_origin else []
        with tls.uvicorn_settings() if tls else contextlib.nullcontext({}) as settings:
            super().__init__(
                Starlette(
                    routes=routes,
                    middleware=middleware,
                    exception_handlers={405: _refuse_method},
                ),
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

    def _holding(self, answer: _Endpoint) -> _Endpoint:
        """Count the bytes of a body against the bound of all requests until it is answered."""

        async def endpoint(request: Request) -> Response:
            with self._handlers.admission.hold() as request.state.held:
                return await answer(request)

        return endpoint

    async def _answer(self, request: Request) -> Response:
        target = _target(request)
        is_known = _API.fullmatch(target)
        if request.method == "OPTIONS" and (is_known or self._cross_origin):
            # A browser asks whether a page may ask.
            return Response(status_code=200 if "://" in request.headers.get("origin", "") else 400)
        if not is_known:
            return _error(not_found(f"no such path: {request.method} {target}"))
        try:
            body = await self._body(request) if request.method == "POST" else b""
            work = asyncio.get_running_loop().run_in_executor(
                self._pool, self._call, request.method, target, body
            )
            return Response(await asyncio.wait_for(work, self._timeout_s), media_type=_JSON)
        except RequestError as error:
            return _error(error)
        except ClientDisconnect:
            return _error(RequestError(grpc.StatusCode.CANCELLED, "the client went away"))
        except asyncio.TimeoutError:
            late = f"no answer within {self._timeout_s:g} s, the limit of this server"
            return _error(RequestError(grpc.StatusCode.DEADLINE_EXCEEDED, late))

    async def _body(self, request: Request) -> bytes:
        """Return the body, unpacked; raises RequestError."""
        if self._handlers.admission.full:  # it need not be read
            raise self._handlers.admission.rejection()
        body = await request_body.read(request, self._max_body, request.state.held.resize)
        if not body or not request_body.is_gzip(request):
            return body
        work = functools.partial(request_body.gunzip, body, self._max_body)
        unpacked = await asyncio.get_running_loop().run_in_executor(self._pool, work)
        request.state.held.resize(len(unpacked))
        return unpacked

    def _call(self, method: str, target: str, body: bytes) -> bytes:
        if method == "POST" and (match := _CALL.fullmatch(target)):
            kind = _REQUESTS.get(match["method"])
            call = functools.partial(self._infer, body)
        elif method == "GET" and (match := _DESCRIPTION.fullmatch(target)):
            kind, call = messages.GetModelStatusRequest, self._status
            if match["part"] == "metadata":
                kind, call = messages.GetModelMetadataRequest, self._metadata
        else:
            kind = None
        if kind is None:
            raise invalid(f"Malformed request: {method} {target}")
        request = kind()
        _fill(request.model_spec, match)
        return self._handlers.answer(request, REST, self._timeout_s, call)

    def _infer(self, body: bytes, request: Any, seconds: float) -> bytes:
        """Complete a request from the JSON in `body`; return the answer as JSON."""
        given = json_api.parse(body)
        request.model_spec.signature_name = json_request.signature_of(given)
        if not isinstance(request, messages.PredictRequest):
            json_examples.read_examples(given, request.input)
            return json_response.write_result(self._handlers.respond(request, seconds).result)
        found, as_rows = json_request.read_tensors(given, self._inputs(request.model_spec))
        for alias, proto in found.items():
            request.inputs[alias].CopyFrom(proto)
        response = self._handlers.respond(request, seconds)
        return json_response.write_tensors(response.outputs, as_rows=as_rows)

    def _inputs(self, spec: messages.ModelSpec) -> dict:
        key = spec.signature_name or messages.DEFAULT_SIGNATURE
        with self._handlers.models.acquire(spec) as model:
            if key not in model.signatures:
                raise invalid(f'Serving signature name: "{key}" not found in signature def')
            if not model.signatures[key].inputs:
                name = spec.signature_name or "DEFAULT"
                raise invalid(f"Failed to get input map for signature: {name}")
            return dict(model.signatures[key].inputs)

    def _metadata(self, request: messages.GetModelMetadataRequest, seconds: float) -> bytes:
        request.metadata_field.append("signature_def")
        response = self._handlers.respond(request, seconds)
        signatures = messages.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        spec, found = _as_json(response.model_spec), _as_json(signatures)
        return f'{{"model_spec": {spec}, "metadata": {{"signature_def": {found}}}}}'.encode()

    def _status(self, request: messages.GetModelStatusRequest, seconds: float) -> bytes:
        return _as_json(self._handlers.respond(request, seconds)).encode()


class _CrossOrigin:
    """Adds the headers that allow pages of all origins to read the answers."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_CROSS_ORIGIN]
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _show_metrics(metrics: Metrics, request: Request) -> Response:
    return Response(metrics.text(), media_type=CONTENT_TYPE)


async def _refuse_method(request: Request, error: Exception) -> Response:
    return _error(unimplemented(f"no such method: {request.method}"))


def _target(request: Request) -> str:
    """Return the path as it was sent, still encoded, with the query."""
    path, query = request.scope["raw_path"].decode("latin-1"), request.url.query
    return f"{path}?{query}" if query else path


def _fill(spec: messages.ModelSpec, match: re.Match) -> None:
    if not match["name"]:
        raise invalid("Missing model name in request.")
    spec.name = urllib.parse.unquote(match["name"])
    if match["label"]:
        spec.version_label = urllib.parse.unquote(match["label"])
    elif match["version"]:
        digits = match["version"].lstrip("0") or "0"
        if len(digits) > 19 or int(digits) >= 2**63:
            raise invalid(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = int(digits)


def _as_json(message) -> str:
    return json_format.MessageToJson(
        message,
        always_print_fields_with_no_presence=True,
        preserving_proto_field_name=True,
        indent=1,
    )


def _error(error: RequestError) -> Response:
    # 429, the status of RESOURCE_EXHAUSTED, would make clients ask again.
    is_too_large = isinstance(error, request_body.BodyTooLargeError)
    status = 413 if is_too_large else HTTP_STATUS.get(error.code, 500)
    return Response(json_response.write_error(error.message), status, media_type=_JSON)
