"""Images as they come in: bytes with a name, decoded as the core decodes its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hrda_core.data.samples import Image
from serve_app.errors import RequestError
from serve_app.limits import Limits, Refused, check_image_bytes, decode_checked


@dataclass(frozen=True)
class Upload:
    """An encoded image. The name is for messages and results only, never a path."""

    name: str
    content: bytes

    @staticmethod
    def of_path(path: Path) -> Upload:
        """Raises RequestError where the file cannot be read."""
        try:
            return Upload(path.name, path.read_bytes())
        except OSError as error:
            raise RequestError(f"{path}: cannot be read ({error.strerror}); check that it exists and may be read") from error


def pixels_of(upload: Upload, limits: Limits) -> int:
    """By its header. Raises Refused as `decode`."""
    try:
        height, width = check_image_bytes(upload.content, limits)
    except Refused as error:
        raise Refused(error.status, error.code, f"{upload.name[:200]}: {error}", error.retry_after) from error
    return height * width


def decode(upload: Upload, limits: Limits) -> Image:
    """(H, W, 3) uint8 RGB, upright.

    Raises:
        Refused: empty, truncated, no image, or too large; the message names it.
    """
    try:
        return decode_checked(upload.content, limits)
    except Refused as error:
        raise Refused(error.status, error.code, f"{upload.name[:200]}: {error}", error.retry_after) from error
