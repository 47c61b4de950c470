"""From a configuration and classes to the networks of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hrda_core.adaptation.feature_distance import FeatureDistance
from hrda_core.config import ModelConfig, TrainConfig
from hrda_core.config_data import DataConfig
from hrda_core.data.samples import ClassInfo
from hrda_core.inference.predictor import Preprocessing
from hrda_core.models.build import build_model
from hrda_core.models.hrda import HRDA
from hrda_core.models.published_order import use_published_order
from hrda_core.training.start_from import load_start


def model_options(config: TrainConfig, num_classes: int) -> dict[str, Any]:
    """The arguments of `build_model`, plain types: what a checkpoint stores to rebuild the network."""
    model, data = config.model, config.data
    part = 2 if model.detail_crop == "half" else 1
    return {
        "encoder": model.encoder,
        "num_classes": num_classes,
        "drop_path_rate": model.drop_path_rate,
        "head_channels": model.head_channels,
        "dropout": model.dropout,
        "attention": model.attention,
        "detail_size": (data.crop_height // part, data.crop_width // part),
        "detail_overlap": model.detail_overlap,
        "multi_resolution": model.multi_resolution,
    }


def build_student(config: TrainConfig, class_names: Sequence[str], tell: Callable[[str], None] | None = None) -> HRDA:
    """The network with its pretrained encoder or its start weights, checked against the training crop.

    Args:
        tell: hears what of a network that the run starts from is not used.

    Raises:
        ValueError: the crop does not suit the encoder, or the weights do not fit.
    """
    start = config.model.start_from
    pretrained: bool | str = not start and (config.model.pretrained_file or config.model.pretrained)
    options = model_options(config, len(class_names))
    detail_size = options.pop("detail_size")
    model = use_published_order(build_model(**options, pretrained=pretrained), config.precision == "reference")
    _check_crop(model, config.model, config.data)  # before the detail's size, which it implies, is set
    model.detail_size = detail_size
    if start:
        notice = load_start(model, options, class_names, start)
        if notice and tell is not None:
            tell(notice)
    if config.optimisation.recompute:
        model.encoder.recompute_blocks()
    if config.model.freeze_encoder_norms and (pretrained or start):
        model.encoder.freeze_norms()
    return model


def build_feature_distance(
    config: TrainConfig, student: HRDA, classes: tuple[ClassInfo, ...], background: bool
) -> FeatureDistance | None:
    """None where the run has none: weight 0, no pretrained weights, no class that counts, not an adapting mode."""
    rule = config.adaptation
    wanted = set(rule.feature_distance_classes)
    first = 1 if background else 0
    counting = [i for i, c in enumerate(classes) if (c.name in wanted if wanted else i >= first)]
    pretrained = config.model.pretrained or config.model.pretrained_file or config.model.start_from
    adapting = config.mode in ("adapt", "semi-supervised")
    if not (rule.feature_distance_weight and pretrained and counting and adapting and student.encoder.last_feature_is_pretrained):
        return None
    ratio = rule.feature_distance_min_ratio
    return FeatureDistance(student.encoder, counting, ratio, len(classes), config.model.multi_resolution)


def preprocessing_of(config: TrainConfig, student: HRDA, most_foreground: float = 1.0) -> Preprocessing:
    """most_foreground: share of it in the fullest labelled image."""
    data, inference = config.data, config.inference
    return Preprocessing(
        mean=student.encoder.mean,
        std=student.encoder.std,
        scale=data.target_scale,
        fit_short=data.fit_short,
        fit_long=data.fit_long,
        window=(inference.window_height or data.crop_height, inference.window_width or data.crop_width),
        overlap=inference.overlap,
        blending=inference.blending,
        flips=inference.flips,
        tile_batch=inference.tile_batch,
        zooms=inference.zooms or (1.0,),
        most_foreground=most_foreground,
    )


def plain_classes(classes: tuple[ClassInfo, ...]) -> list[Mapping[str, Any]]:
    return [{"name": c.name, "color": list(c.color), "value": c.value} for c in classes]


def _check_crop(model: HRDA, config: ModelConfig, data: DataConfig) -> None:
    multiple, smallest = model.size_multiple, model.min_size
    for name in ("crop_height", "crop_width"):
        value = getattr(data, name)
        if value % multiple or value < smallest:
            raise ValueError(f"data.{name}={value}: encoder {config.encoder} needs a multiple of {multiple}, at least {smallest}")
