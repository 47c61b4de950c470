"""Published HRDA, DAFormer and MIC checkpoints -> the content of a checkpoint of this project, which the engine serves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.models.build import build_model
from hrda_core.models.checkpoints import FORMAT_VERSION
from hrda_core.models.encoder import IMAGENET_MEAN, IMAGENET_STD
from hrda_core.models.mit import MIT_VARIANTS
from hrda_core.models.weights import load_reference_weights, read_state_dict

# In the order of the published networks' outputs, with the data set's own colours.
CITYSCAPES: dict[str, tuple[int, int, int]] = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
CLASSIFIER = re.compile(r"decode_head\.(head\.)?conv_seg\.weight$")


def published_content(path: Path, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """A public checkpoint with its student selected, as the papers evaluate. Encoder and kind are read from the tensors.

    `class_names`: in the order of the network's outputs; None for the 19 of Cityscapes.

    Raises:
        ValueError: not such a checkpoint, or names that do not fit it.
    """
    state = read_state_dict(path)
    tensors = _tensors(state)
    classifier = next((value for key, value in tensors.items() if CLASSIFIER.search(key)), None)
    if classifier is None:
        raise ValueError(f"{path.name} holds no segmentation network; use a checkpoint of Train HRDA, HRDA, DAFormer or MIC")
    count, head_channels = int(classifier.shape[0]), int(classifier.shape[1])
    colors = _colors(path, count, class_names)
    attention = next((v for key, v in tensors.items() if re.search(r"scale_attention\..*conv_seg\.weight$", key)), None)
    options: dict[str, Any] = {
        "encoder": _encoder(path, tensors),
        "num_classes": count,
        "head_channels": head_channels,
        "multi_resolution": attention is not None,
    }
    if attention is not None:
        options["attention"] = "class" if attention.shape[0] == count else "single"
    model = build_model(**options)
    report = load_reference_weights(model, state, "student")
    if report.missing or report.mismatched:
        raise ValueError(f"{path.name} does not hold the whole network: {report}")
    weights = model.state_dict()
    return {
        "format_version": FORMAT_VERSION,
        "model_config": options,
        "classes": [{"name": name, "color": list(color), "value": i} for i, (name, color) in enumerate(colors.items())],
        "preprocessing": {**_preprocessing(attention is not None).as_plain(), "has_background": False},
        "student": weights,
        "teacher": weights,
        "selected": "student",
        "thresholds": {},
        "metrics": {},
        "provenance": {"published": path.name},
    }


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    inner = state.get("state_dict", state)
    return {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}


def _encoder(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """By the depth of the third stage and the width of the first."""
    depth = len({match[1] for key in tensors if (match := re.search(r"\bblock3\.(\d+)\.", key))})
    second = len({match[1] for key in tensors if (match := re.search(r"\bblock2\.(\d+)\.", key))})
    width = next((int(v.shape[0]) for key, v in tensors.items() if key.endswith("patch_embed1.proj.weight")), 0)
    for name, variant in MIT_VARIANTS.items():
        if (variant.channels[0], variant.depths[1], variant.depths[2]) == (width, second, depth):
            return name
    raise ValueError(
        f"{path.name} has no Mix Transformer as encoder; of public checkpoints only HRDA, DAFormer and MIC are served"
    )


def _colors(path: Path, count: int, names: Sequence[str] | None) -> dict[str, tuple[int, int, int]]:
    if names is None:
        if count != len(CITYSCAPES):
            raise ValueError(
                f"{path.name} finds {count} classes, whose names it does not hold: give them in the order of its outputs "
                f"(class_names)"
            )
        return CITYSCAPES
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"class_names={list(names)}: {path.name} finds {count} classes, give each one its own name")
    palette = list(CITYSCAPES.values())
    return {name: palette[index % len(palette)] for index, name in enumerate(names)}


def _preprocessing(multi_resolution: bool) -> Preprocessing:
    """As evaluated in the papers: HRDA and MIC at full size in windows of 1024, DAFormer at half size."""
    return Preprocessing(
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        scale=1.0 if multi_resolution else 0.5,
        fit_short=0,
        fit_long=0,
        window=(1024, 1024) if multi_resolution else (512, 1024),
        overlap=0.5,
    )
