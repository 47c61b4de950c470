"""The app's routes: starting from the API with answers in words, stopping, the present choices, previews."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse

from hrda_core.data.parallel import Stopped
from train_app.errors import UserError
from train_app.preview_browser import preview_file
from train_app.runner import TrainingFailed

if TYPE_CHECKING:
    from train_app.sdk_bridge.app import BridgedTrainApp

START = "/train_from_api"


def add_routes(app: BridgedTrainApp, server: FastAPI) -> None:
    # the SDK's route answers mistakes with 500, which its client takes for a request to try again, ten times
    server.router.routes[:] = [route for route in server.router.routes if getattr(route, "path", None) != START]

    @server.exception_handler(UserError)
    @server.exception_handler(TrainingFailed)
    @server.exception_handler(Stopped)
    async def refuse(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": app.sentence(error, "")}, 400 if isinstance(error, UserError) else 409)

    @server.post(START)
    def train_from_api(request: Request) -> dict[str, str]:
        """Body {"state": {"app_state": ..., "wait": true}}. Trains, and answers at the end; or, without `wait`, at once."""
        state: Any = request.state.state
        if not isinstance(state, dict) or "app_state" not in state:
            raise UserError("state.app_state is missing: send the choices, as in app_state.json of an experiment")
        app.load_app_state(state["app_state"])
        if state.get("wait", True):
            app._wrapped_start_training()
            return {"result": "model was successfully trained"}
        threading.Thread(target=app._wrapped_start_training, daemon=True).start()
        return {"result": "model training started"}

    @server.post("/stop_training")
    def stop() -> dict[str, str]:
        """Saves what was trained and uploads it."""
        app.stop()
        return {"result": "stop requested"}

    @server.post("/app_state")
    def app_state() -> dict[str, Any]:
        """The choices as they are now: what /train_from_api takes."""
        return app.get_app_state()

    @server.get("/previews/{name:path}")
    def preview(name: str) -> FileResponse:
        path = preview_file(app.run_directory(), name)
        if path is None:
            raise HTTPException(404, f"no preview {name!r}")
        return FileResponse(path)

    server.middleware_stack = None  # built anew with the handlers above, in case the SDK's self-test was quicker than we
