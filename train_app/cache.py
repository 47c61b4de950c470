"""What was fetched and drawn, kept between runs by content: images, annotations and masks.

Every entry is checked against its SHA-256 when it is used, so that a file that a crash or a full disk left damaged is fetched or
drawn again. Entries appear by renaming, so that several apps may share a cache.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import supervisely as sly

from train_app.connection import Incomplete
from train_app.labels import Mask
from train_app.listing import ListedImage

PART = ".part"
FORGOTTEN = 24 * 3600  # seconds, after which a partial file has no owner any more
PNG_SPEED = [cv2.IMWRITE_PNG_COMPRESSION, 3]


def default_cache() -> Path:
    """The agent's directory for caches of apps, which outlives a session; where there is none, the session's own."""
    shared = Path(sly.env.apps_cache_dir()) / "hrda"
    try:
        shared.mkdir(parents=True, exist_ok=True)
        if os.access(shared, os.W_OK):
            return shared
    except OSError:
        pass
    return Path(sly.app.get_synced_data_dir()) / "cache"


class Cache:
    """A directory with `images/`, `annotations/` and `masks/`, entries named by content."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        for part in root.glob(f"*{PART}"):
            try:
                if time.time() - part.stat().st_mtime > FORGOTTEN:
                    part.unlink()
            except OSError:  # another app was quicker
                continue

    def image(self, image: ListedImage) -> Path | None:
        """The image's file if it is there and whole."""
        path = self.image_path(image)
        try:
            return path if not flaw(image, path) else None
        except FileNotFoundError:
            return None

    def has_image(self, image: ListedImage) -> bool:
        """Whether there is such a file, whole or not."""
        return self.image_path(image).is_file()

    def add_image(self, image: ListedImage, part: Path) -> Path:
        """Takes over a file from `part()`. Raises Incomplete: it is not what the platform says it is."""
        found = flaw(image, part)
        if found:
            raise Incomplete(f"{image.place} arrived damaged: {found}")
        path = self.image_path(image)
        if _sha256(image) is None:
            self._write(path.with_suffix(".sha256"), _digest(part).hex().encode())
        _place(part, path)
        return path

    def annotation(self, key: str) -> dict[str, Any] | None:
        """The annotation's json if it is there and whole."""
        try:
            content = self._path("annotations", key).read_bytes()
        except FileNotFoundError:
            return None
        if hashlib.sha256(content[64:]).hexdigest().encode() != content[:64]:
            return None
        annotation: dict[str, Any] = json.loads(zlib.decompress(content[64:]))
        return annotation

    def add_annotation(self, key: str, annotation: dict[str, Any]) -> None:
        packed = zlib.compress(json.dumps(annotation, sort_keys=True).encode(), 3)
        self._write(self._path("annotations", key), hashlib.sha256(packed).hexdigest().encode() + packed)

    def mask(self, key: str) -> tuple[Path, dict[str, Any]] | None:
        """A drawn mask's file, and the facts that were noted about it, if both are there and whole."""
        path = self._path("masks", key)
        try:
            facts: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
            whole = hashlib.sha256(path.read_bytes()).hexdigest() == facts.pop("sha256")
        except (FileNotFoundError, ValueError, KeyError):
            return None
        return (path, facts) if whole else None

    def add_mask(self, key: str, mask: Mask, facts: dict[str, Any]) -> Path:
        written, content = cv2.imencode(".png", mask, PNG_SPEED)
        if not written:
            raise ValueError(f"a mask of {mask.shape} cannot be written as PNG")
        path, data = self._path("masks", key), content.tobytes()
        self._write(path, data)
        self._write(path.with_suffix(".json"), json.dumps({**facts, "sha256": hashlib.sha256(data).hexdigest()}).encode())
        return path

    @contextmanager
    def part(self) -> Iterator[Path]:
        """A path for a file that is not whole yet. What is still there afterwards is removed."""
        path = self.root / f"{os.getpid()}-{uuid.uuid4().hex}{PART}"
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _write(self, path: Path, content: bytes) -> None:
        with self.part() as part:
            part.write_bytes(content)
            _place(part, path)

    def image_path(self, image: ListedImage) -> Path:
        """Where the image's file is, or would be."""
        known = _sha256(image)
        return self._path("images", known.hex() if known else hashlib.sha256(image.content.encode()).hexdigest())

    def _path(self, kind: str, key: str) -> Path:
        return self.root / kind / key[:2] / (f"{key}.png" if kind == "masks" else key)


def key_of(*parts: Any) -> str:
    """A name for what depends on these parts alone."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def flaw(image: ListedImage, path: Path) -> str | None:
    """What is wrong with an image's file: its size, its content, or (for images by link, whose content the platform does not
    know) anything that changed since it was stored. None: nothing."""
    size = path.stat().st_size
    if image.size is not None and size != image.size:
        return f"{size} bytes instead of {image.size}"
    if size == 0:
        return "0 bytes"
    wanted = _sha256(image) or _noted(path)
    if wanted is not None and _digest(path) != wanted:
        return "its content has another SHA-256 than was noted"
    return None


def _sha256(image: ListedImage) -> bytes | None:
    try:
        digest = base64.b64decode(image.hash or "", validate=True)
    except binascii.Error:
        return None
    return digest if len(digest) == 32 else None


def _digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.digest()


def _noted(path: Path) -> bytes | None:
    note = path.with_suffix(".sha256")
    return bytes.fromhex(note.read_text()) if note.is_file() else None


def _place(part: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part.replace(path)
