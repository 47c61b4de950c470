"""Image files of every kind that users send, good and bad, in memory: for the tests of the serving app's routes."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from PIL import Image as PillowImage
from serve_scene import Picture, picture

ORIENTATION = 0x0112  # tag of EXIF


def saved(image: PillowImage.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def deep_png(image: Picture) -> bytes:
    """16 bits for each of the picture's 8."""
    return bytes(cv2.imencode(".png", image[..., ::-1].astype(np.uint16) * 257)[1])


def turned_jpeg(image: PillowImage.Image, orientation: int) -> bytes:
    """Stored as it lies, with a tag that tells how to turn it."""
    exif = PillowImage.Exif()
    exif[ORIENTATION] = orientation
    return saved(image, "JPEG", quality=95, exif=exif)


def bomb(side: int = 12_000) -> bytes:
    """A whole and valid PNG of a few KB: side x side pixels, 1 bit each, all black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((-(-side // 8) + 1) * side), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def good_files() -> dict[str, bytes]:
    """By file name; all of them differ."""
    files = {
        f"{width}x{height}.png": saved(PillowImage.fromarray(picture(50 + width, height, width)[0]), "PNG")
        for width, height in ((1, 1), (7, 1), (500, 3), (3, 500), (65, 33))
    }
    array = picture(60, 70, 90)[0]
    photo = PillowImage.fromarray(array)
    alpha = PillowImage.fromarray(np.tile(np.arange(90, dtype=np.uint8), (70, 1)))
    grey, colours = photo.convert("L"), photo.copy()
    colours.putalpha(alpha)
    files |= {
        "grey.png": saved(grey, "PNG"),
        "grey-alpha.png": saved(PillowImage.merge("LA", (grey, alpha)), "PNG"),
        "rgba.png": saved(colours, "PNG"),
        "palette.png": saved(photo.quantize(64), "PNG"),
        "two-colours.png": saved(photo.convert("1"), "PNG"),
        "16-bit-grey.png": saved(PillowImage.fromarray(array[..., 1].astype(np.uint16) * 257), "PNG"),
        "16-bit-rgb.png": deep_png(array),
        "cmyk.jpg": saved(photo.convert("CMYK"), "JPEG", quality=95),
        "grey.jpg": saved(grey, "JPEG", quality=95),
        "progressive.jpg": saved(photo, "JPEG", quality=95, progressive=True),
        "tiff-in-truth.png": saved(photo, "TIFF"),
        "jpeg-in-truth.png": saved(photo, "JPEG", quality=90),
        "png-in-truth.txt": saved(photo.rotate(90), "PNG"),
    }
    return files | {f"turned-{tag}.jpg": turned_jpeg(photo, tag) for tag in range(1, 9)}


def bad_files(payload: Any) -> dict[str, tuple[bytes, int, str]]:
    """By name: content, status, and words of the answer. `payload` is an object that must not be unpickled."""
    photo = PillowImage.fromarray(picture(61, 300, 400)[0])
    png, jpeg = saved(photo, "PNG"), saved(photo, "JPEG", quality=95)
    return {
        "cut.png": (png[: len(png) // 2], 400, "truncated"),
        "head.png": (png[:20], 400, "damaged or cut off"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], 400, "truncated"),
        "head.jpg": (jpeg[:30], 400, "damaged or cut off"),
        "empty.png": (b"", 400, "is empty"),
        "text.png": (b"This is no image.\n" * 50, 400, "none of JPEG, PNG"),
        "pickle.png": (pickle.dumps(payload), 400, "none of JPEG, PNG"),
        "film.gif": (saved(photo, "GIF"), 400, "none of JPEG, PNG"),
        "bomb.png": (bomb(), 413, "144.0 megapixels, more than 128"),
    }
