"""Settings of a prediction: what a request carries -> checked values. Every setting is explained in inference_settings.yaml."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hrda_core.data.classes import ClassInfo
from hrda_core.inference.preprocessing import LARGEST_ZOOM, SMALLEST_WINDOW, SMALLEST_ZOOM
from hrda_core.inference.tiling import BLENDINGS
from serve_app.errors import RequestError
from serve_app.predict_options import LARGEST_OVERLAP, LARGEST_TILE, MOST_ZOOMS, SCALES, PredictOptions
from serve_app.request_state import check_transport

FILE = Path(__file__).with_name("inference_settings.yaml")
DEFAULTS: dict[str, Any] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
# Put into the settings by the SDK's clients and server; they say how images come and results go, or nothing at all.
TRANSPORT = frozenset(
    (
        *("batch_size", "upload_mode", "recursive", "show_progress", "output_project_id", "cache_project_on_model"),
        *(
            "step",
            "stride",
            "start_frame",
            "start_frame_index",
            "num_frames",
            "frames_count",
            "end_frame",
            "duration",
            "direction",
        ),
        *("tracker", "tracker_settings", "model_prediction_suffix", "existing_objects_iou_thresh", "rectangle", "rectangles"),
        *("sliding_window_mode", "sliding_window_params", "inference_mode", "conf", "img_size"),
    )
)
AUTO = ("auto", None)
LARGEST_AREA = 2**30
LARGEST_TEXT = 20_000  # characters of a setting that is a text


@dataclass(frozen=True)
class ModelFacts:
    """What settings are checked against. tuned: stored thresholds, one per foreground class, None where there are none."""

    classes: tuple[ClassInfo, ...]
    has_background: bool
    tuned: tuple[float, ...] | None = None

    @property
    def names(self) -> list[str]:
        return [info.name for info in self.classes]

    @property
    def foreground(self) -> list[str]:
        return self.names[int(self.has_background) :]


@dataclass(frozen=True)
class InferenceSettings:
    """model: what they were checked against. options: for the engine. indices: of the classes to return.

    uncertain_from: None = no tag. The rest: see inference_settings.yaml.
    """

    model: ModelFacts
    options: PredictOptions
    indices: tuple[int, ...]
    output: str
    objects: str
    min_area: int
    fill_holes: int
    simplify: float
    confidence_tag: bool
    uncertain_from: float | None


def read_settings(given: Mapping[str, Any] | None, model: ModelFacts) -> InferenceSettings:
    """The settings of a request, with defaults for what it leaves out.

    Raises:
        RequestError: an unknown setting, or a value that does not fit; it names the setting, the value and the fix.
    """
    if given is not None and not isinstance(given, Mapping):
        raise RequestError(f"settings={_shown(given)}: give names and values, such as {{'threshold': 0.5}}")
    values = {**DEFAULTS, **_known(given or {})}
    classes = _classes(values["classes"], model)
    foreground = classes - {0} if model.has_background else classes
    background = _truth("background", values["background"])
    alone = classes == {0}  # named beside others, as by clients that name all classes, it is not asked for
    with_background = {0} if model.has_background and (background or alone) else set()
    output = _choice("output", values["output"], ("bitmap", "polygon", "alpha_mask"))
    return InferenceSettings(
        model=model,
        options=PredictOptions(
            tile_size=_tile_size(values["tile_size"]),
            overlap=None if values["overlap"] in AUTO else _number("overlap", values["overlap"], 0, LARGEST_OVERLAP),
            blending=None if values["blending"] in AUTO else _choice("blending", values["blending"], BLENDINGS),
            scale=None if values["scale"] in AUTO else _number("scale", values["scale"], *SCALES),
            flips=None if values["flips"] in AUTO else _truth("flips", values["flips"]),
            zooms=_zooms(values["zooms"], model),
            thresholds=_thresholds(values["threshold"], model),
        ),
        indices=tuple(sorted(foreground | with_background)),
        output=output,
        objects=_choice("objects", values["objects"], ("class", "component")),
        min_area=_whole("min_area", values["min_area"], LARGEST_AREA),
        fill_holes=_whole("fill_holes", values["fill_holes"], LARGEST_AREA),
        simplify=_number("simplify", values["simplify"], 0, 100),
        confidence_tag=_truth("confidence_tag", values["confidence_tag"]),
        uncertain_from=_uncertain_from(values["uncertain_from"]),
    )


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are ours; `conf`, which clients have as an argument, is a threshold."""
    unknown = [name for name in given if name not in DEFAULTS and name not in TRANSPORT]
    if unknown:
        raise RequestError(f"setting {_shown(unknown[0])} is not known: use {', '.join(DEFAULTS)}")
    if given.get("img_size") is not None:
        raise RequestError(
            f"img_size={_shown(given['img_size'])}: images are predicted at their own size in windows; use scale or tile_size"
        )
    for name, value in given.items():
        if isinstance(value, str) and len(value) > LARGEST_TEXT:
            raise RequestError(f"{name}={_shown(value)}: a text of {len(value)} characters; use at most {LARGEST_TEXT}")
    check_transport(given)
    ours = {name: value for name, value in given.items() if name in DEFAULTS}
    if given.get("conf") is not None and "threshold" not in ours:
        ours["threshold"] = _number("conf", given["conf"], 0, 1)
    return ours


def _tile_size(value: Any) -> tuple[int, int] | None:
    if value in AUTO:
        return None
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:[x, ]\s*(\d{1,6}))?\s*", value)
        value = [int(side) for side in match.groups() if side] if match else value
    sides = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    whole = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if len(sides) not in (1, 2) or not whole or not all(SMALLEST_WINDOW <= side <= LARGEST_TILE for side in sides):
        raise RequestError(
            f"tile_size={_shown(value)}: use auto, one side in pixels, or height x width as '512x1024', each from "
            f"{SMALLEST_WINDOW} to {LARGEST_TILE}"
        )
    return (sides[0], sides[-1])


def _zooms(value: Any, model: ModelFacts) -> tuple[float, ...] | None:
    if value in AUTO:
        return None
    parts = [part for part in value.strip("[] ").split(",") if part.strip()] if isinstance(value, str) else value
    zooms = parts if isinstance(parts, list | tuple) else [parts]
    if not 1 <= len(zooms) <= MOST_ZOOMS:
        raise RequestError(f"zooms={_shown(value)}: use auto, or 1 to {MOST_ZOOMS} factors such as [0.5, 0.7, 1, 1.4]")
    factors = tuple(_number("zooms", zoom, SMALLEST_ZOOM, LARGEST_ZOOM) for zoom in zooms)
    if len(factors) > 1 and not model.has_background:
        raise RequestError(f"zooms={_shown(value)}: several need a model with a background, which this one lacks; use one factor")
    return factors


def _thresholds(value: Any, model: ModelFacts) -> str | tuple[float, ...]:
    if isinstance(value, str):
        if value.strip().lower() in ("tuned", "argmax"):
            return value.strip().lower()
        value = _parsed(value)
    if isinstance(value, Mapping):
        missing = [name for name in value if name not in model.foreground]
        if missing:
            raise RequestError(f"threshold={_shown(value)}: the model has no class {missing[0]!r}; it finds {_listed(model)}")
        tuned = model.tuned or (0.5,) * len(model.foreground)
        given = {name: _number(f"threshold of {name}", number, 0, 1) for name, number in value.items()}
        return tuple(given.get(name, t) for name, t in zip(model.foreground, tuned, strict=True))
    if isinstance(value, list | tuple | bool) or value is None:
        raise RequestError(f"threshold={_shown(value)}: use tuned, argmax, a probability 0 to 1, or one per class by its name")
    return (_number("threshold", value, 0, 1),) * len(model.foreground)


def _parsed(text: str) -> Any:
    """A number or "crack: 0.4, rust: 0.6" (also with =), as a command line or a keyword argument gives them."""
    try:
        return float(text)
    except ValueError:
        pass
    pairs = [re.fullmatch(r"\s*(.+?)\s*[:=]\s*([^:=]+?)\s*", part) for part in text.strip().strip("{}").split(",")]
    if not all(pairs):
        return text
    return {pair[1].strip("'\""): pair[2] for pair in pairs if pair}


def _classes(value: Any, model: ModelFacts) -> set[int]:
    """Indices of the named classes."""
    if value is None or value == "all":
        return set(range(len(model.classes)))
    names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise RequestError(f"classes={_shown(value)}: use all, or a list of names")
    strange = [name for name in names if name not in model.names]
    if strange:
        raise RequestError(f"classes={_shown(value)}: the model has no class {_shown(strange[0])}; it finds {_listed(model)}")
    return {model.names.index(name) for name in names}


def _uncertain_from(value: Any) -> float | None:
    if value is None or value is False or (isinstance(value, str) and value.strip().lower() in ("false", "never", "no")):
        return None
    return _number("uncertain_from", value, 0, 1, "; or false for no tag")


def _number(name: str, value: Any, low: float, high: float, more: str = "") -> float:
    number = value
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            number = math.nan
    good = isinstance(number, (int, float)) and not isinstance(number, bool) and low <= number <= high
    if not good:
        raise RequestError(f"{name}={_shown(value)}: use a number from {low:,.10g} to {high:,.10g}{more}")
    return float(number)


def _whole(name: str, value: Any, high: int) -> int:
    number = _number(name, value, 0, high)
    if number != int(number):
        raise RequestError(f"{name}={_shown(value)}: use a whole number of pixels")
    return int(number)


def _choice(name: str, value: Any, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value.strip().lower() not in choices:
        raise RequestError(f"{name}={_shown(value)}: use {' or '.join(choices)}")
    return value.strip().lower()


def _truth(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false", "yes", "no"):
        return value.strip().lower() in ("true", "yes")
    raise RequestError(f"{name}={_shown(value)}: use true or false")


def _listed(model: ModelFacts) -> str:
    return ", ".join(model.foreground)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
