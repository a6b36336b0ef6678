"""The Open Inference Protocol over HTTP.

GET  /v2, /v2/health/live, /v2/health/ready
GET  /v2/models/NAME[/versions/V] and .../ready
POST /v2/models/NAME[/versions/V]/infer
"""

import asyncio
import functools
import urllib.parse
from collections.abc import Awaitable, Callable
from concurrent import futures

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from serving.handlers import REST
from serving.open_inference import messages as oip
from serving.open_inference.handlers import OpenInferenceHandlers
from serving.open_inference.infer_json import HEADER_LENGTH, read_request, write_response
from tfpipe.protocol.errors import HTTP_STATUS, RequestError, not_found


class OpenInferenceRest:
    """The endpoints, beside those of another server."""

    PATHS = ("/v2", "/v2/{path:path}")

    def __init__(
        self,
        handlers: OpenInferenceHandlers,
        read_body: Callable[[Request], Awaitable[bytes]],
        pool: futures.Executor,
        timeout_s: float,
    ):
        """Take the methods, and what answers in that server.

        Args:
            handlers: the methods.
            read_body: returns the body of a request, up to a limit; raises RequestError.
            pool: runs the requests.
            timeout_s: limit of an answer in seconds.
        """
        self._handlers, self._read_body = handlers, read_body
        self._pool, self._timeout_s = pool, timeout_s

    async def answer(self, request: Request) -> Response:
        """Answer a request of one of `PATHS`."""
        try:
            path = request.scope.get("raw_path", request.url.path.encode()).decode("latin-1")
            parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")[1:]]
            if parts[:1] == ["models"] and parts[-1:] == ["infer"] and len(parts) > 2:
                if request.method != "POST":
                    return _error(f"{path} takes POST", 405)
                return await self._infer(request, *_model(parts[1:-1]))
            if request.method not in ("GET", "HEAD"):
                return _error(f"{path} takes GET", 405)
            return self._describe(parts)
        except RequestError as error:
            return _error(error.message, HTTP_STATUS.get(error.code, 500))
        except ClientDisconnect:
            return _error("the client went away", HTTP_STATUS[grpc.StatusCode.CANCELLED])
        except asyncio.TimeoutError:
            late = f"no answer within {self._timeout_s:g} s, the limit of this server"
            return _error(late, HTTP_STATUS[grpc.StatusCode.DEADLINE_EXCEEDED])

    def _describe(self, parts: list[str]) -> Response:
        """Answer a request that runs no model, and never waits."""
        match parts:
            case [] | [""]:
                return _shown(self._ask(oip.ServerMetadataRequest()))
            case ["health", "live"]:
                return _shown(self._ask(oip.ServerLiveRequest()))
            case ["health", "ready"]:
                found = self._ask(oip.ServerReadyRequest())
                return _shown(found, 200 if found.ready else 503)
            case ["models", *model, "ready"] if model:
                name, version = _model(model)
                found = self._ask(oip.ModelReadyRequest(name=name, version=version))
                content = {"name": name, "ready": found.ready}
                return JSONResponse(content, 200 if found.ready else 404)
            case ["models", *model] if model:
                name, version = _model(model)
                return _shown(self._ask(oip.ModelMetadataRequest(name=name, version=version)))
        raise not_found(f"no such endpoint: /v2/{'/'.join(parts)}")

    def _ask(self, request: Message) -> Message:
        return self._handlers.answer(request, REST, self._timeout_s)

    async def _infer(self, request: Request, name: str, version: str) -> Response:
        try:
            body = await self._read_body(request)
        except RequestError as error:
            if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                return _error(error.message, 413)  # 429 would make clients ask again
            raise
        length = request.headers.get(HEADER_LENGTH)
        call = functools.partial(self._run, body, length, name, version)
        work = asyncio.get_running_loop().run_in_executor(self._pool, call)
        content, length = await asyncio.wait_for(work, self._timeout_s)
        if length is None:
            return Response(content, media_type="application/json")
        headers = {HEADER_LENGTH: str(length)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    def _run(
        self, body: bytes, length: str | None, name: str, version: str
    ) -> tuple[bytes, int | None]:
        def call(predict: Message, seconds: float | None) -> tuple[bytes, int | None]:
            request, is_binary = read_request(body, length)
            request.model_name, request.model_version = name, version
            return write_response(self._handlers.infer(request, predict, seconds), is_binary)

        asked = oip.ModelInferRequest(model_name=name)
        return self._handlers.answer(asked, REST, self._timeout_s, call)


def _model(parts: list[str]) -> tuple[str, str]:
    """Return the name and the version in NAME[/versions/V], "" without one."""
    match parts:
        case [name]:
            return name, ""
        case [name, "versions", version] if version:
            return name, version
    raise not_found(f"no such endpoint: /v2/models/{'/'.join(parts)}")


def _shown(message: Message, status: int = 200) -> Response:
    """Return a message as JSON, whose int64 are numbers."""
    found = json_format.MessageToDict(
        message, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
    )
    for each in (*found.get("inputs", ()), *found.get("outputs", ())):
        each["shape"] = [int(size) for size in each["shape"]]
    return JSONResponse(found, status)


def _error(message: str, status: int) -> Response:
    return JSONResponse({"error": message}, status)
