"""Images of the platform, kept for a while as they are stored there, and decoded as the core decodes its files."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import supervisely as sly
from supervisely.nn.inference.cache import InferenceImageCache

from serve_app.errors import RequestError
from serve_app.uploads import Upload


class ImageCache(InferenceImageCache):
    """The SDK's cache of an inference server. Its own way to images lets a second request for an image whose download failed
    wait ten minutes, and decodes without regard to depth and orientation."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._doors = [threading.Lock() for _ in range(64)]  # one download of an image at a time

    def download_image(self, api: sly.Api, image_id: int, related: bool = False) -> Upload:
        """As it is stored: it is decoded when its turn comes. Raises what the platform answers."""
        return Upload(f"image {image_id}", self._content(api, image_id))

    def download_images(self, api: sly.Api, dataset_id: int, image_ids: Sequence[int], **options: Any) -> list[Upload] | None:
        if not options.get("return_images", True):
            for image_id in image_ids:
                self._content(api, image_id)
            return None
        return [self.download_image(api, image_id) for image_id in image_ids]

    def _content(self, api: sly.Api, image_id: int) -> bytes:
        name = self._image_name(int(image_id))
        with self._doors[int(image_id) % len(self._doors)]:
            kept = self._kept(name)
            if kept is not None:
                return kept
            path = self._data_dir / f"{name}.download-{threading.get_ident()}"
            try:
                api.image.download_path(int(image_id), str(path))
                content = path.read_bytes()
            finally:
                path.unlink(missing_ok=True)
            with self._lock:
                self._cache.save_image(name, content, ".image")
            return content

    def _kept(self, name: str) -> bytes | None:
        with self._lock:
            try:
                return Path(self._cache.get_image_path(name)).read_bytes()
            except (KeyError, OSError):
                return None

    def _parse_state(self, state: dict[str, Any]) -> Any:
        """What a request asks to be cached: its ids become names of files, so they must be numbers."""
        ids = state.get("image_ids") or ([state["video_id"]] if "video_id" in state else [])
        if not isinstance(state, Mapping) or not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
            raise RequestError("image_ids, video_id: give numbers")
        if any("." in str(one) for one in state.get("image_hashes", [])):
            raise RequestError("image_hashes: give hashes as the platform does")
        return super()._parse_state(state)
