"""What a served model is: for people who use it, and for programs that record which model labelled an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import timm

from hrda_core.models.mit import MIT_VARIANTS

if TYPE_CHECKING:
    from serve_app.engine import Engine

OWN_LICENCE = "The program is Apache-2.0. Your own labels and photos decide about the rest."


def model_card(content: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    """The checkpoint `content` and the `engine` that serves it -> plain types that JSON knows."""
    options = content["model_config"]
    encoder = str(options.get("encoder", ""))
    which = content["selected"]
    return {
        "version": engine.weights_version,
        "encoder": encoder,
        "licence": licence_note(encoder),
        "network": {"selected": which, **{key: plain(value) for key, value in options.items() if key != "encoder"}},
        "classes": [
            {
                "index": index,
                "name": info.name,
                "color": list(info.color),
                "hex": "#{:02x}{:02x}{:02x}".format(*info.color),
                "value": info.value,
                "background": engine.has_background and index == 0,
            }
            for index, info in enumerate(engine.classes)
        ],
        "thresholds": plain(content["thresholds"].get(which)),
        "preprocessing": plain(engine.preprocessing.as_plain()),
        "metrics": plain(content["metrics"]),
        "provenance": plain(content["provenance"]),
        "device": str(engine.device),
        "precision": engine.precision,
    }


def licence_note(encoder: str) -> str:
    """What the licence of the encoder's pretrained weights means for users of the model."""
    if encoder in MIT_VARIANTS:
        return f"Encoder: Mix Transformer, NVIDIA's licence: research and evaluation only, no commercial use. {OWN_LICENCE}"
    try:
        config = timm.models.get_pretrained_cfg(encoder)
    except RuntimeError:
        config = None
    licence = getattr(config, "license", None)
    if not licence:
        return f"Encoder: the licence of timm's weights for {encoder or 'it'} is not known; look it up. {OWN_LICENCE}"
    return f"Encoder: timm's weights for {encoder} are under {licence}. {OWN_LICENCE}"


def plain(value: Any) -> Any:
    """Numbers, words, lists and dictionaries; NaN and infinity, which JSON lacks, become None, anything else its name."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(entry) for entry in value]
    return str(value)[:200]
