"""Endpoints beside the SDK's: health, readiness, metrics, the model card, and raw maps for programs."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from hrda_core.data.samples import Image
from serve_app import api_schema
from serve_app.engine import ClientStopped, DeadlinePassed, Engine, EngineClosed, NoMemory
from serve_app.gate import CLIENT_GONE, add_gate, error_response
from serve_app.limits import RETRY_AFTER, VARIABLES, Limits, Refused, decode_checked
from serve_app.metrics import CONTENT_TYPE
from serve_app.predict_options import PredictOptions
from serve_app.raw_maps import ConfidencePng, LabelPng, MapWriter, ProbabilitiesNpz
from serve_app.request_image import ImageRequest, options_of, read_image_request
from serve_app.safe_urls import fetch_image
from serve_app.service import Service

logger = logging.getLogger(__name__)
OPENAPI = "/openapi_raw.json"  # the SDK's app has no /openapi.json: it replaces the router that FastAPI made
MakeWriter = Callable[[Engine], MapWriter]


def add_endpoints(server: FastAPI, service: Service) -> None:
    """Adds the gate (gate.py) in front of all of the server's routes, and these endpoints. Call it once, before it serves."""
    add_gate(server, service)
    router = APIRouter()
    _add_status(router, service)
    _add_maps(router, service)
    routes = list(router.routes)

    @router.get(OPENAPI, include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return get_openapi(title="Serve HRDA", version="1", description=api_schema.DESCRIPTION, routes=routes)

    server.include_router(router)


def _add_status(router: APIRouter, service: Service) -> None:
    """Asynchronous, so that they answer while every thread predicts."""

    @router.get("/health", tags=["status"], summary="The process lives")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @router.get(
        "/ready",
        tags=["status"],
        summary="A model is loaded, or sleeps until the next prediction",
        responses=api_schema.NOT_READY,
    )
    async def ready(request: Request) -> Response:
        try:
            version = service.card()["version"]
            return JSONResponse({"ready": True, "asleep": service.engine is None, "version": version})
        except Refused as refused:
            return error_response(refused, request.state.request_id)

    @router.get("/metrics", tags=["status"], summary="Numbers for Prometheus", responses=api_schema.METRICS)
    async def metrics() -> Response:
        return Response(service.metrics.render(service.engine, service.admission), media_type=CONTENT_TYPE)

    @router.get("/model_card", tags=["model"], summary="What the model is", responses=api_schema.NOT_READY)
    async def card(request: Request) -> Response:
        try:
            return JSONResponse(service.card())
        except Refused as refused:
            return error_response(refused, request.state.request_id)


def _add_maps(router: APIRouter, service: Service) -> None:
    def add(path: str, summary: str, media_type: str, make: MakeWriter, probabilities: bool = False) -> None:
        async def endpoint(request: Request) -> Response:
            return await _answered(request, lambda: _map(request, service, make, probabilities))

        schema = api_schema.of_map(media_type)
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            tags=["maps"],
            summary=summary,
            operation_id=path.strip("/").replace("/", "_"),
            response_class=Response,
            responses=schema.responses,
            openapi_extra=schema.extra,
        )

    add("/predict/labels", "Class index of every pixel, 255 = no class", "image/png", lambda _: LabelPng())
    add("/predict/confidence", "Probability of the emitted class, 0..255", "image/png", lambda _: ConfidencePng())
    add(
        "/predict/probabilities",
        "Probability of every class: `probabilities` (C, H, W) float16 and `classes`",
        ProbabilitiesNpz.media_type,
        lambda engine: ProbabilitiesNpz([info.name for info in engine.classes]),
        probabilities=True,
    )


async def _answered(request: Request, work: Callable[[], Awaitable[Response]]) -> Response:
    """What `work` gives, or its error as JSON."""
    try:
        return await work()
    except Refused as error:
        refused = error
    except (ClientStopped, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)  # nobody reads it
    except (DeadlinePassed, TimeoutError) as error:
        refused = Refused(504, "deadline", str(error) or f"the request took too long; raise {VARIABLES['deadline']}")
    except (EngineClosed, NoMemory, MemoryError) as error:
        refused = Refused(503, "not_now", str(error) or "memory ran out; try again later", RETRY_AFTER)
    except ValueError as error:
        refused = Refused(400, "bad_setting", str(error))
    except Exception:
        logger.exception("request %s failed", request.state.request_id)
        refused = Refused(500, "internal", "the request failed for a reason that is ours; the log has it under the request's id")
    return error_response(refused, request.state.request_id)


async def _map(request: Request, service: Service, make: MakeWriter, probabilities: bool) -> Response:
    """Reads, fetches, decodes, predicts and encodes, until the deadline and while the client is there."""
    engine = service.ready_engine()
    with service.admission.enter():
        deadline = time.monotonic() + service.limits.deadline
        with anyio.fail_after(service.limits.deadline):
            asked = await read_image_request(request)
            options = options_of(asked.settings, probabilities)

            def work(stop: Callable[[], bool]) -> Response:
                image = _image(asked, service.limits, deadline)
                _check_answer(image, engine, options, service.limits)
                writer = make(engine)
                engine.predict_to(image, writer, options, deadline, stop)
                return Response(writer.content(), headers=_headers(engine, image), media_type=writer.media_type)

            return await _in_thread(request, service, work)


async def _in_thread(request: Request, service: Service, work: Callable[[Callable[[], bool]], Response]) -> Response:
    """`work` in one of the service's threads; its argument tells whether nobody waits for the answer any more."""
    gone = threading.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone.set()

    watcher = asyncio.create_task(watch())
    try:
        return await asyncio.get_running_loop().run_in_executor(service.threads, work, gone.is_set)
    finally:
        watcher.cancel()
        gone.set()  # the deadline ends the wait, not the thread


def _image(asked: ImageRequest, limits: Limits, deadline: float) -> Image:
    content = asked.content
    if content is None:
        left = max(deadline - time.monotonic(), 0.0)
        content = fetch_image(asked.url or "", limits.body_bytes, min(left, limits.url_seconds))
    return decode_checked(content, limits)


def _check_answer(image: Image, engine: Engine, options: PredictOptions, limits: Limits) -> None:
    """Probabilities of many classes are much larger than the image."""
    size = image.shape[0] * image.shape[1] * len(engine.classes) * 2
    if options.probabilities and size > limits.probabilities_mb * 2**20:
        raise Refused(
            413,
            "answer_too_large",
            f"the probabilities are {size / 2**20:.0f} MB, more than {limits.probabilities_mb:g}: send the image in parts, use "
            f"/predict/labels and /predict/confidence, or raise {VARIABLES['probabilities_mb']}",
        )


def _headers(engine: Engine, image: Image) -> dict[str, str]:
    return {"X-Model-Version": engine.weights_version, "X-Image-Size": f"{image.shape[1]}x{image.shape[0]}"}
