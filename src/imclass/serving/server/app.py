"""The routes of the server, and what goes with every answer."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import urlsplit

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from imclass.errors import InputError
from imclass.serving.model import Model
from imclass.serving.server.batching import Batcher
from imclass.serving.server.explaining import Explainer
from imclass.serving.server.intake import RETRY, Limits, Slots, answer_in_time, look_at
from imclass.serving.server.metrics import Metrics
from imclass.serving.server.page import CONTENT_SECURITY_POLICY, write_page

MOST_EXPLAINED = 8  # pictures that are explained or wait for it
GONE = 499  # in the metrics: the client did not wait for an answer


class Prediction(BaseModel):
    label: str
    probability: float


class Size(BaseModel):
    width: int
    height: int


class Answer(BaseModel):
    predictions: list[Prediction] = Field(description="The likeliest first.")
    picture: Size = Field(description="Pixels of the picture, upright.")
    model: str = Field(description="The sha256 of the model's content.")


class Neighbour(BaseModel):
    label: str
    cosine: float
    image: str


class Explanation(BaseModel):
    label: str
    image: str = Field(description="What the model sees of the picture, as a data URI.")
    saliency: str = Field(description="A layer to lay over the image: where the label depends on the pixels.")
    nearest: list[Neighbour] = Field([], description="Training images whose features are nearest, the nearest first.")
    compared: int = Field(0, description="Training images whose features are computed so far.")
    planned: int = Field(0, description="Training images whose features will be computed.")
    training_images: int = 0
    no_nearest: str | None = Field(None, description="Why there are no nearest images.")


class Health(BaseModel):
    model: str
    classes: int


class Problem(BaseModel):
    detail: str


@dataclass(frozen=True)
class Served:
    """What is served: the model, the sha256 of its content, and who explains, or why nobody does."""

    model: Model
    sha256: str
    explainer: Explainer | str


PROBLEMS = {
    400: "A Host other than this machine's.",
    404: "Nothing to explain with.",
    408: "The body did not arrive in time.",
    413: "A body that is too large.",
    415: "A Content-Type that is none of a picture.",
    422: "Not a sound picture, one of too many pixels, or a parameter out of range.",
    500: "A fault of the server.",
    503: "All places are taken, or the model does not answer: try again later.",
    504: "The answer took too long.",
}
INTAKE = (408, 413, 415, 422, 503, 504)
BINARY = {"schema": {"type": "string", "format": "binary"}}
PICTURE = {"requestBody": {"required": True, "content": {"application/octet-stream": BINARY, "image/*": BINARY}}}


def make_app(served: Served, limits: Limits, *, decoders: int, only_loopback: bool) -> FastAPI:
    """The app for one event loop. Where it is `only_loopback`, requests by another host's name are refused, so that
    no page of another site can read answers by a name of its own for this machine.
    """
    model, explainer = served.model, served.explainer
    slots, explain_slots = Slots(limits.at_once), Slots(MOST_EXPLAINED)
    batcher = Batcher(model.predict, model.fit, limits, decoders=decoders, seen=lambda size: metrics.note_batch(size))
    metrics = Metrics(queue_length=lambda: batcher.queue_length, in_progress=lambda: slots.taken + explain_slots.taken)
    blank = np.zeros((model.fit.channels, model.fit.height, model.fit.width), np.uint8)
    page = write_page(served.model, served.sha256, explainer, limits)
    probes: list[asyncio.Task[Any]] = []

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(batcher.run())
        yield
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        batcher.close()
        if isinstance(explainer, Explainer):
            explainer.close()

    app = FastAPI(title="imclass", description=__doc__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(_Watch, metrics=metrics, only_loopback=only_loopback)
    _answer_problems(app)

    @app.post("/predict", responses=_list_problems(*INTAKE), openapi_extra=PICTURE)
    async def predict(request: Request, top: Annotated[int, Query(ge=1, description="How many labels.")] = 5) -> Answer:
        """Say what is on the picture that is the body: a file of BMP, GIF, JPEG, PNG, PPM, TIFF or WebP."""
        (width, height), probabilities = await answer_in_time(request, limits, slots, batcher.read)
        likeliest = np.argsort(-probabilities, kind="stable").tolist()[:top]
        predictions = [Prediction(label=model.classes[at], probability=float(probabilities[at])) for at in likeliest]
        return Answer(predictions=predictions, picture=Size(width=width, height=height), model=served.sha256)

    @app.post("/explain", responses=_list_problems(404, *INTAKE), openapi_extra=PICTURE)
    async def explain(request: Request) -> Explanation:
        """Say what the model looked at in the picture that is the body, and which training images are nearest.

        Those are all there are once `compared` is `planned`.
        """
        if isinstance(explainer, str):
            raise HTTPException(404, explainer)

        async def work(content: bytes) -> dict[str, Any]:
            return await asyncio.get_running_loop().run_in_executor(explainer.thread, explainer.explain, content)

        return Explanation(**await answer_in_time(request, limits, explain_slots, work))

    @app.get("/health", responses=_list_problems(503))
    async def health() -> Health:
        """Whether the model answers: it is asked for a blank image, one for all who want to know at the same time."""
        if not probes:
            probes.append(asyncio.create_task(batcher.predict(blank)))
            probes[0].add_done_callback(lambda _: probes.clear())
            probes[0].add_done_callback(look_at)
        try:
            async with asyncio.timeout(limits.seconds):
                probabilities = await asyncio.shield(probes[0])
        except Exception as error:
            raise HTTPException(503, f"the model does not answer: {error!r}", RETRY) from None
        if not np.isfinite(probabilities).all():
            raise HTTPException(503, "the model's answers are not finite", RETRY)
        return Health(model=served.sha256, classes=len(model.classes))

    @app.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
    async def read_metrics() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.write(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def read_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY})

    return app


class _Watch:
    """Counts every answer, refuses other hosts' names, and adds what a browser should know."""

    def __init__(self, app: ASGIApp, metrics: Metrics, only_loopback: bool) -> None:
        self._app, self._metrics, self._only_loopback = app, metrics, only_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] += [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
            await send(message)

        try:
            if self._only_loopback and not _is_own(dict(scope["headers"]).get(b"host", b"").decode("latin-1")):
                await JSONResponse({"detail": "Host: expected localhost or an address"}, 400)(scope, receive, note)
            else:
                await self._app(scope, receive, note)
        finally:
            route = scope.get("route")
            self._metrics.note_request(getattr(route, "path", "other"), status, time.perf_counter() - start)


def _is_own(host: str) -> bool:
    """An address, or the one name that is never another's."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or bool(ip_address(name))
    except ValueError:
        return False


def _answer_problems(app: FastAPI) -> None:
    """One JSON object with one message for whatever goes wrong."""

    @app.exception_handler(RequestValidationError)
    async def tell_parameter(_: Request, error: RequestValidationError) -> JSONResponse:
        found = [f"{one['loc'][-1]}: {one['msg'].lower()}, found {str(one['input'])[:50]!r}" for one in error.errors()]
        return JSONResponse({"detail": "; ".join(found)}, 422)

    @app.exception_handler(InputError)
    async def tell_picture(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(ClientDisconnect)
    async def tell_nobody(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def tell_fault(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": "a fault of the server, told in its log"}, 500)


def _list_problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Problem, "description": PROBLEMS[status]} for status in (400, *statuses, 500)}
