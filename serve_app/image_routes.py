"""Routes for images and videos that come with the request, and for models: in place of the SDK's, under their names.

The SDK's keep an upload under its file name, so that two of equal name that come at once are mixed up, and a name can lead
out of the folder; one cannot answer at all, and two turn errors into empty answers.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Form, Request, UploadFile

from serve_app.errors import RequestError
from serve_app.request_state import read_state
from serve_app.safe_urls import fetch_image, safe_file_name
from serve_app.uploads import Upload

if TYPE_CHECKING:
    from serve_app.sdk_bridge import BridgedServing

REPLACED = (
    *("/inference_image", "/inference_image_url", "/inference_batch", "/inference_batch_async"),
    *("/inference_video_async", "/inference_video_id", "/deploy_from_api"),
)
CLOSED = ("/smart_cache", "/smart_cache_files")  # they fetch or keep whatever a stranger names; no request needs them
CHUNK = 2**20


def add_image_routes(server: FastAPI, model: BridgedServing) -> None:
    server.router.routes[:] = [route for route in server.router.routes if getattr(route, "path", None) not in REPLACED + CLOSED]

    @server.post("/deploy_from_api")
    def deploy_from_api(request: Request) -> dict[str, str]:
        """Puts another model into service; until it is ready, and where it is refused, the one that is there answers."""
        model.deploy_by_api(getattr(request.state, "state", None) or {})
        return {"result": "model was successfully deployed"}

    def checked(settings: str, state: str) -> dict[str, Any]:
        """Clients send one of the two."""
        given = read_state(settings if not state or state == "{}" else state)
        model.validate_inference_state(given)
        return given

    @server.post("/inference_image")
    def inference_image(files: list[UploadFile], settings: str = Form("{}"), state: str = Form("{}")) -> dict[str, Any]:
        """One image -> its annotation."""
        given = checked(settings, state)
        if len(files) != 1:
            raise RequestError(f"files: one image is expected here, not {len(files)}; send several to /inference_batch")
        return model.run_images(_uploads(files), given)[0]

    @server.post("/inference_image_url")
    def inference_image_url(request: Request) -> dict[str, Any]:
        """The image behind `image_url` -> its annotation."""
        given = read_state(getattr(request.state, "state", None) or {})
        model.validate_inference_state(given)
        url = given.get("image_url")
        if not isinstance(url, str):
            raise RequestError(f"image_url={str(url)[:100]!r}: give an address that begins with http:// or https://")
        content = fetch_image(url, model.limits.body_bytes, model.limits.url_seconds)
        return model.run_images([Upload(safe_file_name(url.partition("?")[0]), content)], given)[0]

    @server.post("/inference_batch")
    def inference_batch(files: list[UploadFile], settings: str = Form("{}"), state: str = Form("{}")) -> list[dict[str, Any]]:
        """Images -> their annotations, in the same order."""
        given = checked(settings, state)
        return model.run_images(_uploads(files), given)

    @server.post("/inference_batch_async")
    def inference_batch_async(files: list[UploadFile], settings: str = Form("{}"), state: str = Form("{}")) -> dict[str, str]:
        """Images -> the id under which /pop_inference_results hands out their annotations."""
        given = checked(settings, state)
        uuid = model.schedule_images(_uploads(files), given)
        return {"message": "Scheduled inference task.", "inference_request_uuid": uuid}

    @server.post("/inference_video_async")
    def inference_video_async(files: list[UploadFile], settings: str = Form("{}"), state: str = Form("{}")) -> dict[str, str]:
        """A video file -> the id under which /pop_inference_results hands out the annotations of its frames."""
        given = checked(settings, state)
        if len(files) != 1:
            raise RequestError(f"files: one video is expected, not {len(files)}")
        uuid = model.schedule_video(_on_disk(files[0]), given)
        return {"message": "Scheduled inference task.", "inference_request_uuid": uuid}

    @server.post("/inference_video_id")
    def inference_video_id(request: Request) -> dict[str, Any]:
        """A video of the platform -> the annotations of its frames."""
        given = read_state(request.state.state)
        model.validate_inference_state(given)
        return model.run_video_id(model.api_from_request(request), given)


def _uploads(files: list[UploadFile]) -> list[Upload]:
    return [Upload(safe_file_name(file.filename), file.file.read()) for file in files]


def _on_disk(file: UploadFile) -> Path:
    """A file of its own: the name matters only for the suffix, by which the reader knows the format."""
    suffix = Path(safe_file_name(file.filename, "video.mp4")).suffix
    with tempfile.NamedTemporaryFile(prefix="video-", suffix=suffix, delete=False) as copy:
        while chunk := file.file.read(CHUNK):
            copy.write(chunk)
    return Path(copy.name)
