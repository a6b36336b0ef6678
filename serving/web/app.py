"""The routes: a page and a form for people, JSON for scripts.

GET  /               the page
POST /               its form, without JavaScript: the page with the answers
POST /api/classify   the same form, answered as JSON; ?heat_map=true adds heat maps
GET  /healthz        whether the model can be asked, and its version
GET  /samples/N      a picture to try
GET  /static/...     style and script
"""

import asyncio
import base64
import dataclasses
import mimetypes
import pathlib
from collections.abc import Collection
from concurrent import futures
from typing import Any

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from serving.web import form_upload as upload
from serving.web import heat
from serving.web.guard import Guard
from serving.web.limits import Gate, Limits, Rate
from serving.web.model import ModelClient, PictureAnswer
from serving.web.page_errors import WebError
from serving.web.sample_pictures import SamplePictures
from tfpipe.protocol.classification import NONE_OF_THESE
from tfpipe.protocol.images import ImageFile

FOLDER = pathlib.Path(__file__).parent
MOST_SHOWN = 5  # classes on the page; JSON has all

_API = "/api/classify"
_HEALTH = "/healthz"
_CLOSED = 499  # the client disconnected; nobody reads this


@dataclasses.dataclass(frozen=True)
class Result:
    """A picture, and the answer or the error for it."""

    picture: ImageFile
    found: PictureAnswer | WebError


class Site:
    """Answers the requests of a page about one model."""

    def __init__(self, model: ModelClient, samples: SamplePictures, limits: Limits):
        self._model, self._samples, self._limits = model, samples, limits
        self._gate, self._rate = Gate(limits.requests), Rate(limits.rate)
        self._pool = futures.ThreadPoolExecutor(limits.concurrency, thread_name_prefix="ask")
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters["percent"] = percent
        self._template = environment.get_template("page.html.j2")

    def close(self) -> None:
        """Finish the work under way and end the threads."""
        self._pool.shutdown()

    async def show(self, request: Request) -> Response:
        """Answer with the page."""
        return self._page([])

    async def submit(self, request: Request) -> Response:
        """Answer a form with the page and the results of its pictures."""
        return self._page(await self._results(request, heat_map=True))

    async def classify(self, request: Request) -> Response:
        """Answer a form with JSON."""
        wanted = request.query_params.get("heat_map", "false").lower() in ("true", "1")
        results = await self._results(request, heat_map=wanted)
        rows = [_as_json(each) for each in results]
        status, headers = _status(results)
        return JSONResponse({"model": self._model.name, "results": rows}, status, headers)

    async def health(self, request: Request) -> Response:
        """Answer with the state of the model."""
        loop = asyncio.get_running_loop()
        served = await loop.run_in_executor(None, self._model.served)
        return JSONResponse(
            {
                "status": "ok",
                "model": self._model.name,
                "version": served.version,
                "classes": served.classes,
                "heat_maps": served.explains,
            }
        )

    async def sample(self, request: Request) -> Response:
        """Answer with one of the pictures to try."""
        if (picture := self._samples.read(request.path_params["key"])) is None:
            raise HTTPException(404)
        kind = mimetypes.guess_type(picture.name)[0]
        return Response(picture.data, media_type=kind, headers={"Cache-Control": "max-age=300"})

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer with an error, as JSON or as a page."""
        if isinstance(error, ClientDisconnect):
            return Response(status_code=_CLOSED)
        if isinstance(error, HTTPException):
            return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)
        if not isinstance(error, WebError):
            error = WebError(500, "Something went wrong on our side. It has been written down.")
        if request.url.path in (_API, _HEALTH):
            return JSONResponse({"error": str(error)}, error.status, _headers(error))
        return self._page([], error)

    async def _results(self, request: Request, *, heat_map: bool) -> list[Result]:
        client = request.client.host if request.client else ""
        self._rate.take(client, 1)
        with self._gate.enter():
            form = await upload.read(request, self._limits)
            pictures = form.pictures
            if form.sample and not pictures:
                sample = self._samples.read(form.sample)
                pictures = [sample] if sample else []
            if not pictures:
                raise WebError(400, "Choose a picture first.")
            self._rate.take(client, len(pictures) - 1)
            loop = asyncio.get_running_loop()
            asked = asyncio.gather(
                *(
                    loop.run_in_executor(self._pool, self._ask, picture, heat_map)
                    for picture in pictures
                )
            )
            try:
                results = await asyncio.wait_for(asked, self._limits.answer_s)
            except asyncio.TimeoutError:
                raise WebError(504, "The answers took too long: send fewer pictures.") from None
        for each in results:
            if isinstance(each.found, WebError) and each.found.of_the_service:
                raise each.found
        return results

    def _ask(self, picture: ImageFile, heat_map: bool) -> Result:
        try:
            upload.check(picture)
            return Result(picture, self._model.classify(picture.data, heat_map=heat_map))
        except WebError as problem:
            return Result(picture, problem)

    def _page(self, results: list[Result], problem: WebError | None = None) -> Response:
        text = self._template.render(
            model=self._model.name,
            limits=self._limits,
            samples=self._samples.names,
            cards=[_as_card(each) for each in results],
            problem=problem,
            most_shown=MOST_SHOWN,
            too_large=upload.too_large(self._limits.request_bytes),
        )
        status, headers = _status(results)
        if problem:
            status, headers = problem.status, _headers(problem)
        return HTMLResponse(text, status, headers)


def build(site: Site, hosts: Collection[str] = ()) -> ASGIApp:
    """Return the application.

    Args:
        site: what answers.
        hosts: further host names of the page, besides those of this machine.
    """
    handlers: dict[Any, Any] = dict.fromkeys(
        (WebError, HTTPException, ClientDisconnect, Exception), site.refuse
    )
    routes = [
        Route("/", site.show, methods=["GET"]),
        Route("/", site.submit, methods=["POST"]),
        Route(_API, site.classify, methods=["POST"]),
        Route(_HEALTH, site.health, methods=["GET"]),
        Route("/samples/{key}", site.sample, methods=["GET"]),
        Mount("/static", StaticFiles(directory=FOLDER / "static")),
    ]
    return Guard(Starlette(routes=routes, exception_handlers=handlers), hosts)


def percent(probability: float) -> str:
    """Return a probability (0..1) as text; only exact values are 0 % or 100 %."""
    if 0 < probability < 0.001:
        return "< 0.1 %"
    if 0.999 < probability < 1:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %"


def _as_json(result: Result) -> dict[str, Any]:
    found = result.found
    if isinstance(found, WebError):
        return {"file": result.picture.name, "error": str(found)}
    row = {"file": result.picture.name, **dataclasses.asdict(found)}
    row["latency_ms"] = round(found.latency_ms, 3)
    for name in ("labels", "unfamiliar"):
        if row[name] is None:
            del row[name]
    if found.heat_map is None:
        del row["heat_map"]
    else:
        row["heat_map"] = heat.data_url(found.heat_map)
    return row


def _as_card(result: Result) -> dict[str, Any]:
    """Return the template's values for a picture, which is embedded in the page."""
    card = _as_json(result)
    if isinstance(result.found, WebError):
        return card
    # Browsers detect the type of an image from its bytes, not from this.
    card["picture"] = "data:image/jpeg;base64," + base64.b64encode(result.picture.data).decode()
    ranked = sorted(card["probabilities"].items(), key=lambda item: -item[1])
    if card.get("unfamiliar", 0) > 1:
        card["seen"], card["label"] = card["label"], NONE_OF_THESE
    card["bars"], card["others"] = ranked[:MOST_SHOWN], len(ranked[MOST_SHOWN:])
    return card


def _status(results: list[Result]) -> tuple[int, dict[str, str]]:
    """Return 200 if any picture has an answer, else the status of the first error."""
    problems = [each.found for each in results if isinstance(each.found, WebError)]
    if problems and len(problems) == len(results):
        return problems[0].status, _headers(problems[0])
    return 200, {}


def _headers(problem: WebError) -> dict[str, str]:
    if problem.status == 408:
        return {"Connection": "close"}  # a client this slow is not served further
    return {"Retry-After": str(problem.retry_after)} if problem.retry_after is not None else {}
