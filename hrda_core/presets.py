"""The named configurations. The published ones hold the papers' constants; their tests assert each value."""

from __future__ import annotations

from dataclasses import replace

from hrda_core.config import (
    AdaptationConfig,
    InferenceConfig,
    ModelConfig,
    OptimisationConfig,
    ScheduleConfig,
    TrainConfig,
)
from hrda_core.config_data import AugmentationConfig, DataConfig

_CITYSCAPES_THINGS = (
    *("traffic light", "traffic sign", "person", "rider", "car"),
    *("truck", "bus", "train", "motorcycle", "bicycle"),
)
_STANDARD = TrainConfig()
_PUBLISHED_HRDA = TrainConfig(
    precision="fp32",
    model=ModelConfig(encoder="mit_b5", class_prior="equal"),
    data=DataConfig(crop_height=1024, crop_width=1024),
    adaptation=AdaptationConfig(
        source_warmup=0,
        colour_transfer=0.0,
        teacher_norm="batch",
        rounds=0,
        photo_scales=(1.0,),
        teacher_zooms=(1.0,),
        dice_weight=0.0,
        pseudo_labels="confident-fraction",
        margin_top=30 / 1024,
        margin_bottom=240 / 1024,
        margin_left=30 / 2048,
        margin_right=30 / 2048,
        pseudo_threshold=0.968,
        foreground_at_least=0.3,
        least_share=1.0,
        edge_width=0,
        round_crops=1,
        class_balance=0.0,
        mixing="class-mix",
        feature_distance_classes=_CITYSCAPES_THINGS,
        mask_weight=0.0,
    ),
    optimisation=OptimisationConfig(iterations=40_000, warmup_iterations=1500, dice_weight=0.0),
    inference=InferenceConfig(network="student", tune_thresholds=False, blending="average", detail_overlap=0.5, zooms=(1.0,)),
    schedule=ScheduleConfig(validate_every=4000, checkpoint_every=4000, preview_every=4000),
)
PRESETS: dict[str, TrainConfig] = {
    "quick": TrainConfig(  # a first look, also on CPU
        model=ModelConfig(encoder="resnet10t", head_channels=32, drop_path_rate=0.0, detail_overlap=0.0),
        data=DataConfig(crop_height=128, crop_width=128, flip_vertical=0.5, rotate=0.5, workers=0),
        augmentation=AugmentationConfig("light"),
        # batch norms that learn from scratch know the source's statistics alone; on the target's own, pseudo-labels are good
        # from the first iteration on (measured: adapted crack IoU 43 instead of 5)
        adaptation=AdaptationConfig(teacher_alpha=0.99, teacher_norm="batch", feature_distance_weight=0.0),
        optimisation=OptimisationConfig(
            iterations=600, batch_size=4, learning_rate=4e-4, head_factor=5.0, warmup_iterations=40, dice_weight=1.0
        ),
        inference=InferenceConfig(window_height=256, window_width=256, overlap=0.25, zooms=(1.0,)),
        schedule=ScheduleConfig(validate_every=200, checkpoint_every=200, preview_every=200, log_every=10, label_free_photos=8),
    ),
    "cracks": TrainConfig(  # what was measured on real cracks (docs/adaptation.md), also on CPU
        model=ModelConfig(encoder="mobilenetv2_100", head_channels=64),
        data=DataConfig(crop_height=256, crop_width=256, flip_vertical=0.5, rotate=0.5),
        augmentation=AugmentationConfig("light"),
        # photos of a round: as many as it has iterations, so that it draws crops of each more than once
        adaptation=AdaptationConfig(teacher_alpha=0.99, feature_distance_weight=0.0, round_photos=300),
        optimisation=OptimisationConfig(
            iterations=1200, learning_rate=4e-4, head_factor=5.0, warmup_iterations=100, dice_weight=1.0
        ),
        inference=InferenceConfig(window_height=448, window_width=448, overlap=0.25),
        schedule=ScheduleConfig(validate_every=300, checkpoint_every=300, preview_every=300),
    ),
    "standard": _STANDARD,
    "published-hrda": _PUBLISHED_HRDA,
    "published-mic": replace(_PUBLISHED_HRDA, adaptation=replace(_PUBLISHED_HRDA.adaptation, mask_weight=1.0)),
    "crack-tutorial": TrainConfig(
        model=ModelConfig(encoder="mit_b5"),
        data=DataConfig(crop_height=512, crop_width=512, fit_short=512, fit_long=640),
        optimisation=OptimisationConfig(
            iterations=20_000,
            batch_size=6,
            learning_rate=1e-4,
            weight_decay=1e-4,
            warmup_iterations=500,
            warmup_ratio=1e-3,
            min_learning_rate=1e-7,
            dice_weight=0.0,
        ),
    ),
}


def preset(name: str) -> TrainConfig:
    """One of the named configurations: quick, cracks, standard, published-hrda, published-mic, crack-tutorial."""
    if name not in PRESETS:
        raise ValueError(f"preset={name!r}: use one of {', '.join(PRESETS)}")
    return PRESETS[name]
