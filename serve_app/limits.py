"""What one request may cost: bytes, pixels, time and a place in line. Each limit has an environment variable."""

from __future__ import annotations

import io
import math
import os
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields

from PIL import TiffImagePlugin

from hrda_core.data.decoding import OPENERS, decode_image
from hrda_core.data.samples import Image
from serve_app.errors import RequestError

RETRY_AFTER = 2  # seconds that a refused client is told to wait
TIFF_WIDTH, TIFF_HEIGHT = 256, 257
VARIABLES = {
    "body_mb": "HRDA_MAX_BODY_MB",
    "megapixels": "HRDA_MAX_MEGAPIXELS",
    "side": "HRDA_MAX_SIDE",
    "probabilities_mb": "HRDA_MAX_PROBABILITIES_MB",
    "queue": "HRDA_MAX_QUEUE",
    "active": "HRDA_MAX_ACTIVE",
    "deadline": "HRDA_DEADLINE",
    "url_seconds": "HRDA_URL_SECONDS",
}


class Refused(RequestError):
    """A request that is not served: an HTTP status, a short code for programs, a sentence for people.

    retry_after: seconds after which the same request may succeed, None where it will not.
    """

    def __init__(self, status: int, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


@dataclass(frozen=True)
class Limits:
    """body_mb: of a request, 2**20 bytes each. megapixels, side: of an image, in 10**6 pixels and in pixels.

    probabilities_mb: of an answer with all probabilities (2 bytes each). queue: requests under way and in line. active:
    requests whose images are decoded and predicted at the same time. deadline: seconds for a request, upload included.
    url_seconds: for fetching an image from a url.
    """

    body_mb: float = 256.0
    megapixels: float = 128.0
    side: float = 50_000.0
    probabilities_mb: float = 256.0
    queue: float = 64.0
    active: float = 8.0
    deadline: float = 300.0
    url_seconds: float = 30.0

    @staticmethod
    def from_environment(environment: Mapping[str, str] = os.environ) -> Limits:
        """Raises ValueError, naming the variable, where one is no positive number."""
        values = {}
        for field in fields(Limits):
            text = environment.get(VARIABLES[field.name], "").strip()
            if text:
                values[field.name] = _positive(VARIABLES[field.name], text)
        return Limits(**values)

    @property
    def body_bytes(self) -> int:
        return int(self.body_mb * 2**20)


class PixelBudget:
    """Lets as many images be decoded at a time as have `most` pixels in all; one is always let in."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._used = 0
        self._change = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        with self._change:
            self._change.wait_for(lambda: self._used == 0 or self._used + pixels <= self._most)
            self._used += pixels
        try:
            yield
        finally:
            with self._change:
                self._used -= pixels
                self._change.notify_all()


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={text[:40]!r}: use a number above 0")
    return value


def image_size(content: bytes) -> tuple[int, int]:
    """(height, width) in pixels from the file's header; nothing is decoded.

    Raises:
        Refused: none of the formats that are read, or a broken header.
    """
    if not content:
        raise Refused(400, "empty_image", "the image is empty (0 bytes); send a JPEG, PNG, TIFF, WebP or BMP file")
    opener = next((opener for magic, opener in OPENERS if content.startswith(magic)), None)
    if opener is None:
        raise Refused(400, "not_an_image", "the file is none of JPEG, PNG, TIFF, WebP and BMP; send one of these")
    try:
        if opener is TiffImagePlugin.TiffImageFile:
            return _tiff_size(content)
        if content.startswith(b"RIFF"):
            return _webp_size(content)
        header = opener(io.BytesIO(content))
        return int(header.height), int(header.width)
    except MemoryError:
        raise
    except Exception as error:  # broken headers make Pillow raise nearly anything
        raise Refused(400, "broken_image", "the image's header is damaged or cut off; send the whole file") from error


def check_image_bytes(content: bytes, limits: Limits) -> tuple[int, int]:
    """(height, width) of an image file whose decoding the limits allow. Call it before anything decodes `content`.

    Raises:
        Refused: no image (400), or one of too many pixels (413).
    """
    height, width = image_size(content)
    if min(height, width) < 1:
        raise Refused(400, "broken_image", f"the image has {width}x{height} pixels by its header; send the whole file")
    if height * width > limits.megapixels * 1e6:
        raise Refused(
            413,
            "too_many_pixels",
            f"the image has {width}x{height} px = {height * width / 1e6:.1f} megapixels, more than {limits.megapixels:g}: cut or "
            f"shrink it, or raise {VARIABLES['megapixels']}",
        )
    if max(height, width) > limits.side:
        raise Refused(
            413,
            "side_too_long",
            f"the image has {width}x{height} px, a side of more than {limits.side:g}: cut it, or raise {VARIABLES['side']}",
        )
    return height, width


def decode_checked(content: bytes, limits: Limits) -> Image:
    """An image file within the limits -> (H, W, 3) uint8 RGB, upright.

    Raises:
        Refused: no image or a broken one (400), or one of too many pixels (413).
    """
    check_image_bytes(content, limits)
    try:
        return decode_image(content)
    except ValueError as error:
        raise Refused(400, "broken_image", f"the image {error}") from error


class Admission:
    """Counts the requests that are under way or in line, and refuses those beyond `queue`."""

    def __init__(self, queue: int) -> None:
        self.queue = queue
        self._lock = threading.Lock()
        self._inside = 0

    @property
    def inside(self) -> int:
        return self._inside

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Raises Refused (503, with retry_after) where the line is full."""
        with self._lock:
            if self._inside >= self.queue:
                raise Refused(
                    503, "busy", f"{self._inside} requests are under way or in line, the most allowed; try again", RETRY_AFTER
                )
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1


def _tiff_size(content: bytes) -> tuple[int, int]:
    """From the first directory: Pillow opens only TIFFs whose pixels it can decode, OpenCV reads more."""
    file = io.BytesIO(content)
    long = content[2:4] in (b"+\0", b"\0+")  # BigTIFF has 16 bytes of header
    directory = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if long else 8))
    file.seek(directory.next)
    directory.load(file)
    return int(directory[TIFF_HEIGHT]), int(directory[TIFF_WIDTH])


def _webp_size(content: bytes) -> tuple[int, int]:
    """Of the canvas, by the container's specification: Pillow would make room for it when it opens the file."""
    kind, head = content[12:16], content[20:30]
    if content[8:12] != b"WEBP" or len(head) < 10:
        raise ValueError("no WebP")
    if kind == b"VP8X":
        return int.from_bytes(head[7:10], "little") + 1, int.from_bytes(head[4:7], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[6:10])
        return height & 0x3FFF, width & 0x3FFF
    raise ValueError("no WebP")
