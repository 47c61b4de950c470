"""What OpenAPI says about the endpoints whose bodies FastAPI cannot read off a signature."""

from __future__ import annotations

from typing import Any, NamedTuple

from hrda_core.inference.preprocessing import SMALLEST_WINDOW
from hrda_core.inference.tiling import BLENDINGS
from serve_app.predict_options import LARGEST_OVERLAP, LARGEST_TILE, MOST_ZOOMS, SCALES

DESCRIPTION = "Label, confidence and probability maps of images of any size, and the state of the service."
IMAGE_TYPES = ("image/jpeg", "image/png", "image/tiff", "image/webp", "image/bmp")
BINARY = {"type": "string", "format": "binary"}
ERROR = {
    "type": "object",
    "required": ["success", "code", "message", "detail", "request_id"],
    "properties": {
        "success": {"const": False},
        "code": {"type": "string", "description": "for programs"},
        "message": {"type": "string", "description": "what is wrong, with its value, and the fix"},
        "detail": {"type": "string", "description": "the same, where the SDK's clients look"},
        "request_id": {"type": "string", "description": "also in the header X-Request-Id and in the log"},
    },
}
SIDE = r"(6[4-9]|[7-9]\d|[1-9]\d\d|1\d{3}|20[0-3]\d|204[0-8])"  # SMALLEST_WINDOW to LARGEST_TILE
ZOOM = r"(0\.[1-9]\d{0,8}|[1-9](\.\d{1,9})?|10)"  # SMALLEST_ZOOM to LARGEST_ZOOM
SHARE = r"(0(\.\d{1,9})?|1(\.0)?)"
SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "tile_size": (
        {"type": "string", "pattern": f"^{SIDE}(x{SIDE})?$"},
        f"one side, or height x width in pixels, {SMALLEST_WINDOW} to {LARGEST_TILE}",
    ),
    "overlap": ({"type": "number", "minimum": 0, "maximum": LARGEST_OVERLAP}, "share by which neighbouring tiles overlap"),
    "blending": ({"type": "string", "enum": list(BLENDINGS)}, "how overlapping tiles become one"),
    "scale": ({"type": "number", "minimum": SCALES[0], "maximum": SCALES[1]}, "by how much the image is resized"),
    "flips": ({"type": "boolean"}, "average with the mirrored image"),
    "zooms": (
        {"type": "string", "pattern": f"^{ZOOM}(,{ZOOM}){{0,{MOST_ZOOMS - 1}}}$"},
        "several factors with commas between: predictions at the two at which the model is surest are averaged",
    ),
    "thresholds": (
        {"type": "string", "pattern": f"^(tuned|argmax|{SHARE}(,{SHARE})*)$", "maxLength": 5000},
        "tuned, argmax, one number, or one per foreground class with commas between",
    ),
}
REFUSALS = {
    400: "No image, a broken one, or a setting that does not fit; `message` tells",
    413: "More bytes or pixels than the limits allow",
    415: "Another content type",
    503: "No model is loaded, or the line is full: see Retry-After",
    504: "The request took longer than the deadline",
}


class MapSchema(NamedTuple):
    """responses: by status, as FastAPI takes them. extra: parameters and body of the operation."""

    responses: dict[int | str, dict[str, Any]]
    extra: dict[str, Any]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/json": {"schema": ERROR}}
    return {status: {"description": REFUSALS[status], "content": content} for status in statuses}


NOT_READY = _errors(503)
METRICS: dict[int | str, dict[str, Any]] = {
    200: {"description": "Text format 0.0.4", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


def of_map(media_type: str) -> MapSchema:
    """Of an endpoint that takes an image and answers with a file of `media_type`."""
    success = {
        "description": "The map, at the image's size",
        "content": {media_type: {"schema": BINARY}},
        "headers": {
            "X-Model-Version": {"schema": {"type": "string"}, "description": "SHA-256 of the weights"},
            "X-Image-Size": {"schema": {"type": "string"}, "description": "width x height in pixels, after EXIF rotation"},
        },
    }
    parameters = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": text}
        for name, (schema, text) in SETTINGS.items()
    ]
    fields = {name: {**schema, "description": text} for name, (schema, text) in SETTINGS.items()}
    url = {"type": "string", "format": "uri", "description": "http or https, of a public address"}
    nested = {"type": "object", "properties": fields, "additionalProperties": False}
    body = {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": BINARY, **fields},
                    "additionalProperties": False,
                }
            },
            "application/octet-stream": {"schema": BINARY},
            **{kind: {"schema": BINARY} for kind in IMAGE_TYPES},
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["url"],
                    "properties": {"url": url, "settings": nested},
                    "additionalProperties": False,
                }
            },
        },
    }
    return MapSchema({200: success, **_errors(*REFUSALS)}, {"parameters": parameters, "requestBody": body})
