"""The addresses behind `full_storage_url`: originals and previews of images, and files. Open to browsers, without a token."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from fastapi import FastAPI
from PIL import Image, ImageOps
from starlette.responses import FileResponse, Response

if TYPE_CHECKING:
    from .server import LocalPlatform


def add_routes(app: FastAPI, platform: LocalPlatform) -> None:
    @app.get("/image-storage/{name}")
    def original(name: str) -> Response:
        with platform.store.lock:
            image = platform.store.images.find(name.split(".")[0]) if name.split(".")[0].isdigit() else None
        if image is None:
            return Response("no such image", 404)
        return FileResponse(platform.store.blob_path(image["hash"]), media_type=image["mime"])

    @app.get("/previews/{options:path}/plain/image-storage/{name}")
    def preview(options: str, name: str) -> Response:
        """An address as the SDK's `resize_image_url` makes it: `q/ext:jpeg/resize:fit:300:0:0/q:70`."""
        with platform.store.lock:
            image = platform.store.images.find(name.split(".")[0])
        if image is None:
            return Response("no such image", 404)
        size = re.search(r"resize:[a-z-]+:(\d*):(\d*)", options)
        width, height = (int(size[1] or 0), int(size[2] or 0)) if size else (0, 0)
        kind = "png" if "ext:png" in options else "jpeg"
        with Image.open(platform.store.blob_path(image["hash"])) as picture:
            upright = ImageOps.exif_transpose(picture).convert("RGB")
        if width or height:
            upright.thumbnail((width or upright.width, height or upright.height))
        target = io.BytesIO()
        upright.save(target, kind)
        return Response(target.getvalue(), media_type=f"image/{kind}")

    @app.get("/storage-resources/{kind}/{source}/{entity_id}")
    def resource(kind: str, source: str, entity_id: int) -> Response:
        """The relative addresses of the SDK's `get_storage_url`; a project or data set shows its first image."""
        with platform.store.lock:
            if kind == "file-storage":
                return team_file(entity_id, "")
            images = platform.store.images.all()
            column = {"dataset-entities": "id", "dataset": "datasetId", "project": "projectId"}.get(kind, "id")
            found = [image for image in images if image[column] == entity_id]
        if not found:
            return Response("no such image", 404)
        return preview("resize:fit:300:0:0", str(found[0]["id"])) if source == "preview" else original(str(found[0]["id"]))

    @app.get("/file-storage/{file_id}/{name:path}")
    def team_file(file_id: int, name: str) -> Response:
        with platform.store.lock:
            row = platform.store.files.find(file_id)
        if row is None:
            return Response("no such file", 404)
        return FileResponse(platform.store.blob_path(row["hash"]), media_type=row["meta"]["mime"])
