"""What a request to the raw-map endpoints carries: an image, as a file, as the body or as a url, and settings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from serve_app.gate import check_json
from serve_app.limits import Refused
from serve_app.predict_options import PredictOptions

SETTINGS = ("tile_size", "overlap", "blending", "scale", "flips", "zooms", "thresholds")
LONGEST = 5_000  # characters of a setting: 255 thresholds fit
NUMBER = r"[-+]?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})([eE][-+]?\d{1,3})?"
RAW_TYPES = ("image/", "application/octet-stream")


class ImageRequest(NamedTuple):
    """content: bytes of an image file, None where there is a url. settings: by name; those of the body count over the query's."""

    content: bytes | None
    url: str | None
    settings: dict[str, Any]


async def read_image_request(request: Request) -> ImageRequest:
    """Reads the body by its content type.

    Raises:
        Refused: 415 for another content type, 400 for a body that does not hold what its type says, or settings given twice.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    query = _settings(request.query_params.multi_items())
    options_of(query)  # also where the body counts more
    if kind == "application/json":
        entries = dict(check_json(await request.body()))
        url = entries.pop("url", None)
        if not isinstance(url, str):
            raise Refused(400, "no_image", 'the JSON names no image: send {"url": "https://...", "settings": {...}}')
        nested = _nested(entries.pop("settings", None))
        return ImageRequest(None, url, query | _settings([*nested.items(), *entries.items()]))
    if kind == "multipart/form-data":
        content, fields = await _form(request)
        return ImageRequest(content, None, query | _settings(fields))
    if kind.startswith(RAW_TYPES):
        return ImageRequest(await request.body(), None, query)
    raise Refused(
        415,
        "unknown_content_type",
        f"Content-Type {kind[:60]!r}: use multipart/form-data with a file `image`, image/* or application/octet-stream with the "
        "file as the body, or application/json with a url",
    )


def options_of(settings: Mapping[str, Any], probabilities: bool = False) -> PredictOptions:
    """Words (of a query or form) or JSON values -> options.

    tile_size: "512", "512x768" (height x width) or [512, 768]. flips: true or false. zooms: numbers with commas between.
    thresholds: tuned, argmax, a number, or numbers with commas between.

    Raises:
        Refused: 400, naming the setting, its value and the fix.
    """
    values = {name: value for name, value in settings.items() if value is not None}
    unknown = sorted(set(values) - set(SETTINGS))
    if unknown:
        raise Refused(400, "unknown_setting", f"setting {unknown[0][:60]!r} is not known: use {', '.join(SETTINGS)}")
    too_long = next((name for name, value in values.items() if len(str(value)) > LONGEST), None)
    if too_long:
        raise Refused(400, "bad_setting", f"{too_long}: more than {LONGEST} characters; see /openapi_raw.json for what it takes")
    readers = {"tile_size": _tile_size, "overlap": _number, "scale": _number, "flips": _truth}
    readers |= {"zooms": _zooms, "thresholds": _thresholds}
    try:
        read = {name: readers.get(name, _same)(value) for name, value in values.items()}
        return PredictOptions(**read, probabilities=probabilities)
    except ValueError as error:
        raise Refused(400, "bad_setting", str(error)) from error


async def _form(request: Request) -> tuple[bytes, list[tuple[str, Any]]]:
    try:
        form = await request.form(max_files=1, max_fields=20, max_part_size=2**16)
    except (HTTPException, ValueError, KeyError, AssertionError) as error:
        reason = str(getattr(error, "detail", error))[:100]
        raise Refused(400, "bad_form", f"the form cannot be read ({reason}); send one file `image` and settings") from error
    try:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            raise Refused(400, "no_image", "the form holds no file `image`: curl sends one with -F image=@photo.jpg")
        fields = [(name, value) for name, value in form.multi_items() if name != "image"]
        if len(form.getlist("image")) > 1 or any(isinstance(value, UploadFile) for _, value in fields):
            raise Refused(400, "bad_form", "the form holds more than one file; send one `image` per request")
        return await image.read(), _with_nested(fields)
    finally:
        await form.close()


def _with_nested(fields: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """A field `settings` may hold all of them as JSON."""
    result: list[tuple[str, Any]] = []
    for name, value in fields:
        if name != "settings":
            result.append((name, value))
            continue
        try:
            result += _nested(json.loads(value)).items()
        except (json.JSONDecodeError, RecursionError) as error:
            raise Refused(400, "bad_setting", f"settings={value[:60]!r}: is no JSON; send an object") from error
    return result


def _nested(value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused(400, "bad_setting", f"settings={str(value)[:60]!r}: send an object of settings")
    return value


def _settings(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise Refused(400, "bad_setting", f"setting {name[:60]!r} is given twice; give it once")
        result[name] = value
    return result


def _same(value: Any) -> Any:
    return value


def _number(value: Any) -> Any:
    """What is no number is handed on to PredictOptions, which knows the field's name and range."""
    return float(value) if isinstance(value, str) and re.fullmatch(NUMBER, value, re.ASCII) else value


def _truth(value: Any) -> Any:
    return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value


def _tile_size(value: Any) -> Any:
    sides = value.lower().split("x") if isinstance(value, str) else value
    if isinstance(sides, int) and not isinstance(sides, bool):
        sides = [sides]
    if not isinstance(sides, list):
        return value
    whole = [int(side) if isinstance(side, str) and re.fullmatch("[1-9][0-9]{0,7}", side) else side for side in sides]
    return tuple(whole * 2 if len(whole) == 1 else whole)


def _thresholds(value: Any) -> Any:
    if not isinstance(value, str) or value in ("tuned", "argmax"):
        return value
    numbers = [_number(part.strip()) for part in value.split(",")]
    return numbers[0] if len(numbers) == 1 else numbers


def _zooms(value: Any) -> Any:
    return [_number(part.strip()) for part in value.split(",")] if isinstance(value, str) else value
