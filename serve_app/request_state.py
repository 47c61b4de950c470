"""What a request says beside its settings: its state as text or dictionary, and the rectangle to predict."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import supervisely as sly

from serve_app.errors import RequestError

LARGEST_STATE = 1_000_000  # characters; a list of 100,000 image ids has 800,000
LARGEST_BATCH = 256
UPLOAD_MODES = ("append", "replace", "create", "iou_merge")
FRAMES = {  # as the SDK's server reads them, and the names that clients have for them
    "startFrameIndex": ("startFrameIndex", "start_frame_index", "start_frame"),
    "endFrameIndex": ("endFrameIndex", "end_frame_index", "end_frame"),
    "framesCount": ("framesCount", "frames_count", "num_frames"),
    "stride": ("stride", "step"),
}


def read_state(state: Any) -> dict[str, Any]:
    """A request's state, from JSON where it came with files.

    Raises:
        RequestError: not a dictionary, or a batch size that does not fit.
    """
    if isinstance(state, str):
        if len(state) > LARGEST_STATE:
            raise RequestError(f"settings: {len(state)} characters; send at most {LARGEST_STATE}")
        try:
            state = json.loads(state or "{}")
        except (ValueError, RecursionError) as error:
            raise RequestError(f"settings: not JSON ({str(error)[:100]}); send {{'settings': {{'threshold': 0.5}}}}") from error
    if not isinstance(state, Mapping):
        raise RequestError(f"settings: {type(state).__name__} instead of names and values; send {{'settings': {{...}}}}")
    settings = state.get("settings")
    if settings is not None and not isinstance(settings, Mapping):
        raise RequestError(f"settings={str(settings)[:100]!r}: give names and values, such as {{'threshold': 0.5}}")
    check_transport({"batch_size": state.get("batch_size")})
    return dict(state)


def check_transport(given: Mapping[str, Any]) -> None:
    """What says how images come and results go, wherever a client puts it.

    Raises:
        RequestError: a value that does not fit.
    """
    size = given.get("batch_size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= LARGEST_BATCH):
        raise RequestError(f"batch_size={str(size)[:100]!r}: use a whole number from 1 to {LARGEST_BATCH}")
    mode = given.get("upload_mode")
    if mode is not None and mode not in UPLOAD_MODES:
        raise RequestError(f"upload_mode={str(mode)[:100]!r}: use {', '.join(UPLOAD_MODES)}")
    for ours, names in FRAMES.items():
        for name in names:
            _frame_number(name, given.get(name), ours)


def _frame_number(name: str, value: Any, ours: str) -> None:
    least = 0 if ours.endswith("Index") else 1
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise RequestError(f"{name}={str(value)[:100]!r}: use a whole number from {least} on")


def read_rectangles(settings: Mapping[str, Any], count: int, first: int = 0) -> list[sly.Rectangle | None]:
    """The part to predict of each of `count` images: `rectangles`, one each, or `rectangle` for all, or None for all of it.

    `first`: how many images of the request came before these.

    Raises:
        RequestError: no rectangle, or another number of them.
    """
    several = settings.get("rectangles")
    if several is not None:
        if not isinstance(several, (list, tuple)) or len(several) < first + count:
            raise RequestError(f"rectangles: give one for each of the {first + count} images")
        return [_rectangle(one) for one in several[first : first + count]]
    one = settings.get("rectangle")
    return [None if one is None else _rectangle(one)] * count


def clip(rectangle: sly.Rectangle, height: int, width: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of the part inside the image, the last two exclusive.

    Raises:
        RequestError: there is no such part.
    """
    top, left = max(rectangle.top, 0), max(rectangle.left, 0)
    bottom, right = min(rectangle.bottom + 1, height), min(rectangle.right + 1, width)
    if top >= bottom or left >= right:
        raise RequestError(
            f"rectangle: rows {rectangle.top} to {rectangle.bottom}, columns {rectangle.left} to {rectangle.right} lie outside "
            f"the image of {width}x{height} pixels"
        )
    return top, left, bottom, right


def read_frames(state: Mapping[str, Any], total: int) -> dict[str, Any]:
    """The state with the frames to predict under the names that the SDK's server reads, and none beyond the `total` there are.

    Its clients send others than its server reads, so that it would predict every frame.

    Raises:
        RequestError: a number that does not fit.
    """
    read = dict(state)
    for ours, theirs in FRAMES.items():
        value = next((state[name] for name in theirs if state.get(name) is not None), None)
        _frame_number(theirs[-1], value, ours)
        read[ours] = value
    start = read["startFrameIndex"] = read["startFrameIndex"] or 0
    if start >= total:
        raise RequestError(f"start_frame={start}: the video has {total} frames, counted from 0")
    left = total - start if state.get("direction", "forward") == "forward" else start + 1
    wanted = read["framesCount"]
    if wanted is None and read["endFrameIndex"] is not None:
        wanted = abs(read["endFrameIndex"] - start) + 1
    if wanted is not None or state.get("duration") is None:
        read["framesCount"] = min(wanted or left, left)
    return read


def _rectangle(content: Any) -> sly.Rectangle:
    """Both points of a rectangle belong to it. Those of {"points": {"exterior": [[left, top], [right, bottom]]}}."""
    try:
        (left, top), (right, bottom) = content["points"]["exterior"]
        sides = [round(float(side)) for side in (top, left, bottom, right)]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RequestError(
            f"rectangle={str(content)[:100]!r}: give {{'points': {{'exterior': [[left, top], [right, bottom]], 'interior': []}}}}"
        ) from error
    top, bottom = sorted((sides[0], sides[2]))
    left, right = sorted((sides[1], sides[3]))
    return sly.Rectangle(top, left, bottom, right)
