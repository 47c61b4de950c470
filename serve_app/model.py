"""Serve HRDA: a checkpoint in service behind the SDK's routes and our own. The SDK's part is in sdk_bridge.py."""

from __future__ import annotations

import contextlib
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import supervisely as sly
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send
from supervisely.nn.utils import ModelSource

from hrda_core import Prediction
from hrda_core.data.samples import Image
from serve_app.deploy import Deployed, deploy, published_file
from serve_app.endpoints import add_endpoints
from serve_app.engine import DeadlinePassed, Engine, EngineClosed, NoMemory
from serve_app.errors import RequestError
from serve_app.gate import error_response
from serve_app.image_routes import add_image_routes
from serve_app.labels import annotation_of, doubt_of, meta_of
from serve_app.limits import RETRY_AFTER, Refused
from serve_app.predict_options import PredictOptions
from serve_app.request_state import clip
from serve_app.sdk_bridge import BridgedServing
from serve_app.settings import InferenceSettings, read_settings

HERE = Path(__file__).parent
NOT_DEPLOYED = "no model is deployed: choose one and press Serve, or deploy one by the API"


class ServeHRDA(BridgedServing):
    """The app. One model is in service at a time; requests share it."""

    FRAMEWORK_NAME = "HRDA"
    MODELS = str(HERE / "models.json")
    APP_OPTIONS = str(HERE / "app_options.yaml")
    INFERENCE_SETTINGS = str(HERE / "inference_settings.yaml")

    def __init__(self, **options: Any) -> None:
        self._deployed: Deployed | None = None
        self._again: Callable[[], Deployed] | None = None  # deploys the sleeping model
        self._changing = threading.RLock()
        super().__init__(**options)

    # -- deployment ----------------------------------------------------------------------------------------------

    def load_model(
        self,
        model_files: Mapping[str, str],
        model_source: str,
        model_info: Any = None,
        device: str | None = None,
        runtime: str | None = None,
        model_precision: str | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Puts a checkpoint into service.

        :param model_files: {"checkpoint": local path}; with external models also "classes", a json file of names by index
        :type model_files: dict
        :param model_source: "Pretrained models", "Custom models" or "External models"
        :type model_source: str
        :param model_info: what the platform knows about the model
        :type model_info: dict
        :param device: auto, cpu, cuda or cuda:1; a GPU that is not there is replaced by the CPU, with a notice
        :type device: str
        :param runtime: PyTorch
        :type runtime: str
        :param model_precision: auto, fp32 or bf16
        :type model_precision: str
        :param class_names: of a published checkpoint that was not trained on the 19 classes of Cityscapes
        :type class_names: list
        """
        path = Path(model_files["checkpoint"])
        if model_source == ModelSource.PRETRAINED:
            folders = [Path(self.model_dir), Path(self._checkpoints_cache_dir())]
            path = published_file(path.name, folders, None if self.api is None else self._fetch)
        if model_files.get("classes") and class_names is None:
            class_names = _names_of(Path(model_files["classes"]))
        again = partial(deploy, path, device, model_precision, class_names)
        with contextlib.ExitStack() as until_it_serves:

            def make_room() -> bool:
                if self.engine is None:
                    return False
                until_it_serves.enter_context(self.freezing)  # requests wait for the new model, or wake the old one again
                self._freeze_model()
                return True

            deployed = again(make_room=make_room)
            with self.freezing:
                self._again, self.path_in_service = again, path
                self._put_into_service(deployed)

    def _put_into_service(self, deployed: Deployed) -> None:
        engine = deployed.engine
        with self.freezing, self._changing:
            self._model_frozen = False
            replaced, self._deployed = self._deployed, deployed
            self.service.engine, self.service.asleep = engine, None
            self.classes = deployed.facts.names
            self._model_meta = meta_of(engine.classes)
            self.device, self.model_precision = str(engine.device), engine.precision.upper()
        if replaced is not None:
            replaced.engine.close()
        for notice in deployed.notices:
            sly.logger.warning(notice)
        sly.logger.info("model %s is in service on %s in %s", engine.weights_version[:12], engine.device, engine.precision)

    def sleep(self) -> None:
        card = self.service.card()
        self._take_out(card, "the model sleeps; a prediction wakes it")

    def _take_out(self, card: dict[str, Any] | None, reason: str) -> None:
        """Says so at once; requests under way end first. `card`: of a model that can be woken."""
        with self._changing:
            deployed, self._deployed = self._deployed, None
            self.service.reason, self.service.asleep, self.service.engine = reason, card, None
        if deployed is not None:
            deployed.engine.close()

    def wake(self) -> None:
        assert self._again is not None  # it slept
        self._put_into_service(self._again())

    def forget(self) -> None:
        self._again = None
        self._take_out(None, NOT_DEPLOYED)

    def note_use(self) -> None:
        """It is not put to sleep for an hour from now."""
        if self._model_served:
            self._schedule_freeze_on_inactivity()

    def notices(self) -> tuple[str, ...]:
        return self._deployed.notices if self._deployed is not None else ()

    @property
    def asleep(self) -> bool:
        return bool(self._model_frozen)

    # -- prediction ----------------------------------------------------------------------------------------------

    @property
    def engine(self) -> Engine | None:
        """The model in service; None where there is none, or where it sleeps."""
        return self._deployed.engine if self._deployed is not None else None

    def awake(self) -> Deployed:
        """The model in service, woken up where it sleeps.

        Raises:
            Refused: none is deployed (409), or it cannot be woken now (503).
        """
        self.wake_up()
        deployed = self._deployed
        if deployed is None:
            raise Refused(409, "not_deployed", NOT_DEPLOYED)
        return deployed

    def wake_up(self) -> None:
        """Raises Refused (503) where it sleeps and cannot be woken now."""
        try:
            self._unfreeze_model()
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise Refused(503, "not_awake", f"the model sleeps and cannot be woken: {error}", RETRY_AFTER) from error

    def predict(
        self, image: Image, options: PredictOptions, deadline: float | None = None, stop: Callable[[], bool] | None = None
    ) -> tuple[Prediction, Deployed]:
        """A prediction, and the model that made it.

        Raises:
            RequestError: options that do not fit the image. DeadlinePassed, NoMemory, EngineClosed: see `Engine.predict`.
        """
        deadline = time.monotonic() + self.limits.deadline if deadline is None else deadline
        for last in (False, True):
            deployed = self.awake()
            try:
                return deployed.engine.predict(image, options, deadline, stop), deployed
            except EngineClosed:  # it fell asleep, or another one took its place, since we asked for it
                if last:
                    raise
            except RequestError:
                raise
            except ValueError as error:
                raise RequestError(str(error)) from error
        raise AssertionError("unreachable")

    # -- what the bridge asks ------------------------------------------------------------------------------------

    def read_settings(self, given: Mapping[str, Any]) -> InferenceSettings:
        return read_settings(given, self.awake().facts)

    def annotate(
        self,
        image: Image,
        settings: InferenceSettings,
        rectangle: sly.Rectangle | None,
        stop: Callable[[], bool] | None,
    ) -> tuple[sly.Annotation, dict[str, Any]]:
        size = (image.shape[0], image.shape[1])
        top, left, bottom, right = (0, 0, *size) if rectangle is None else clip(rectangle, *size)
        part = image if rectangle is None else image[top:bottom, left:right].copy()
        prediction, deployed = self.predict(part, settings.options, stop=stop)
        if deployed.facts != settings.model:
            raise EngineClosed("another model was put into service meanwhile; send the request again")
        annotation = annotation_of(prediction, settings, (top, left), size)
        doubt = round(doubt_of(prediction, settings.model.has_background), 4)
        return annotation, {"weights_version": deployed.engine.weights_version, "doubt": doubt}

    def get_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super().get_info()
        engine = self.engine
        more = {"model_name": self.checkpoint_info.model_name, "checkpoint_name": self.checkpoint_info.checkpoint_name}
        info |= more if self.checkpoint_info is not None else {}
        if engine is not None:
            info |= {"device": str(engine.device), "precision": engine.precision, "weights_version": engine.weights_version}
        return info | {"notices": list(self.notices())}

    def add_routes(self, server: FastAPI) -> None:
        add_image_routes(server, self)
        add_endpoints(server, self.service)
        server.user_middleware.append(Middleware(WakeUp, model=self))
        server.add_exception_handler(RequestError, _refused)
        for kind in (DeadlinePassed, EngineClosed, NoMemory):
            server.add_exception_handler(kind, _busy)

    def _fetch(self, remote: str, local: Path) -> bool:
        """Whether Team Files had the file."""
        team_id = sly.env.team_id(raise_not_found=False)
        if team_id is None or self.api.file.get_info_by_path(team_id, remote) is None:
            return False
        with tempfile.TemporaryDirectory(dir=local.parent) as folder:  # what is cut off must not be found the next time
            self.api.file.download(team_id, remote, str(Path(folder) / local.name))
            (Path(folder) / local.name).replace(local)
        return True


class WakeUp:
    """ASGI middleware: a sleeping model wakes for raw maps, which do not pass the SDK's way; not for a look at its state."""

    def __init__(self, app: ASGIApp, model: ServeHRDA) -> None:
        self._app = app
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/predict/"):
            await self._app(scope, receive, send)
            return
        self._model.note_use()
        if self._model.asleep:
            await anyio.to_thread.run_sync(self._model.wake_up)  # taken out of service meanwhile, it gets the endpoint's answer
        try:
            await self._app(scope, receive, send)
        finally:
            self._model.note_use()


async def _refused(request: Request, error: Exception) -> JSONResponse:
    refused = error if isinstance(error, Refused) else Refused(400, "bad_request", str(error))
    return error_response(refused, request.state.request_id)


async def _busy(request: Request, error: Exception) -> JSONResponse:
    status, code = (504, "deadline") if isinstance(error, DeadlinePassed) else (503, "not_now")
    return error_response(Refused(status, code, str(error), RETRY_AFTER), request.state.request_id)


def _names_of(path: Path) -> list[str]:
    """Of a json file {"0": "road", "1": "sidewalk"}.

    Raises:
        RequestError: anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [str(content[str(index)]) for index in range(len(content))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f'{path.name}: give class names as {{"0": "road", "1": "sidewalk"}} ({error!r})') from error
