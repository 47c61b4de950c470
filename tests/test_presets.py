"""The named configurations: every published constant by its value (papers and reference code), and the ready-made ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.cracks import configuration
from hrda_core.config import TrainConfig
from hrda_core.models.build import build_model
from hrda_core.presets import PRESETS, preset

# HRDA 2204.13132 on DAFormer 2111.14887 and DACS 2007.08702, for GTA to Cityscapes
PUBLISHED = {
    "mode": "adapt",
    "precision": "fp32",
    # network
    "model.encoder": "mit_b5",
    "model.pretrained": True,
    "model.head_channels": 256,
    "model.dropout": 0.1,
    "model.drop_path_rate": 0.1,
    "model.multi_resolution": True,
    "model.attention": "class",
    "model.detail_crop": "half",
    "model.detail_overlap": 0.5,
    "model.detail_loss_weight": 0.1,
    "model.context_loss_weight": 0.0,
    "model.class_prior": "equal",
    # data
    "data.crop_height": 1024,
    "data.crop_width": 1024,
    "data.source_scale": 1.0,
    "data.target_scale": 1.0,
    "data.fit_short": 0,
    "data.fit_long": 0,
    "data.scale_jitter": 0.0,
    "data.flip": 0.5,
    "data.flip_vertical": 0.0,
    "data.rotate": 0.0,
    "data.foreground_crops": 0.0,
    "augmentation.preset": "none",
    "data.rare_class_sampling": True,
    "data.rare_class_temperature": 0.01,
    "data.rare_class_min_pixels": 3000,
    "data.rare_class_crop_ratio": 2.0,
    "data.rare_class_crops": 10,
    # self-training
    "adaptation.source_warmup": 0,
    "adaptation.teacher_alpha": 0.999,
    "adaptation.teacher_norm": "batch",
    "adaptation.teacher_zooms": (1.0,),
    "adaptation.rounds": 0,
    "adaptation.colour_transfer": 0.0,
    "adaptation.photo_scales": (1.0,),
    "adaptation.dice_weight": 0.0,
    "adaptation.most_foreground": 1.0,
    "adaptation.pseudo_labels": "confident-fraction",
    "adaptation.pseudo_threshold": 0.968,
    "adaptation.pseudo_ignore_top": 0,
    "adaptation.pseudo_ignore_bottom": 0,
    "adaptation.foreground_at_least": 0.3,
    "adaptation.least_share": 1.0,
    "adaptation.edge_width": 0,
    "adaptation.class_balance": 0.0,
    "adaptation.mixing": "class-mix",
    "adaptation.jitter_probability": 0.8,
    "adaptation.jitter_strength": 0.2,
    "adaptation.blur_probability": 0.5,
    "adaptation.blur_sigma_min": 0.15,
    "adaptation.blur_sigma_max": 1.15,
    "adaptation.feature_distance_weight": 0.005,
    "adaptation.feature_distance_min_ratio": 0.75,
    # optimiser and schedule
    "optimisation.iterations": 40_000,
    "optimisation.batch_size": 2,
    "optimisation.optimizer": "adamw",
    "optimisation.learning_rate": 6e-5,
    "optimisation.head_factor": 10.0,
    "optimisation.weight_decay": 0.01,
    "optimisation.norm_weight_decay": 0.0,
    "optimisation.beta1": 0.9,
    "optimisation.beta2": 0.999,
    "optimisation.schedule_power": 1.0,
    "optimisation.min_learning_rate": 0.0,
    "optimisation.warmup_iterations": 1500,
    "optimisation.warmup_ratio": 1e-6,
    "optimisation.clip_gradient_norm": 0.0,
    "optimisation.dice_weight": 0.0,
    # inference
    "inference.overlap": 0.5,
    "inference.detail_overlap": 0.5,
    "inference.zooms": (1.0,),
    "inference.blending": "average",
    "inference.flips": False,
    "inference.network": "student",
    "inference.tune_thresholds": False,
}
# The crack tutorial
TUTORIAL = {
    "mode": "adapt",
    "model.encoder": "mit_b5",
    "model.pretrained": True,
    "data.fit_short": 512,
    "data.fit_long": 640,
    "optimisation.iterations": 20_000,
    "optimisation.batch_size": 6,
    "optimisation.optimizer": "adamw",
    "optimisation.learning_rate": 1e-4,
    "optimisation.weight_decay": 1e-4,
    "optimisation.schedule_power": 1.0,
    "optimisation.warmup_iterations": 500,
    "optimisation.dice_weight": 0.0,
}
# What docs/adaptation.md measured on real cracks
MEASURED = {
    "model.encoder": "mobilenetv2_100",
    "model.head_channels": 64,
    "data.crop_height": 256,
    "augmentation.preset": "light",
    "adaptation.teacher_alpha": 0.99,
    "adaptation.feature_distance_weight": 0.0,
    "optimisation.iterations": 1200,
    "optimisation.batch_size": 2,
    "optimisation.learning_rate": 4e-4,
    "optimisation.head_factor": 5.0,
    "optimisation.dice_weight": 1.0,
    "optimisation.warmup_iterations": 100,
    "inference.window_height": 448,
}
# Our default
STANDARD = {
    "mode": "adapt",
    "precision": "auto",
    "model.encoder": "pvt_v2_b2",  # Apache-2.0, unlike MiT's weights
    "data.crop_height": 512,
    "data.crop_width": 512,
    "data.source_scale": 1.0,  # native resolution
    "data.target_scale": 1.0,
    "adaptation.source_warmup": -1,
    "adaptation.pseudo_labels": "auto",
    "adaptation.mixing": "auto",
    "adaptation.band_foreground": 0.5,
    "adaptation.band_background": 0.1,
    "inference.network": "teacher",
    "inference.tune_thresholds": True,
}
THINGS = {"traffic light", "traffic sign", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"}


def value_of(config: TrainConfig, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


@pytest.mark.parametrize(("name", "value"), PUBLISHED.items())
@pytest.mark.parametrize("which", ["published-hrda", "published-mic"])
def test_published_constants(which: str, name: str, value: Any) -> None:
    assert value_of(preset(which), name) == value


@pytest.mark.parametrize("which", ["published-hrda", "published-mic"])
def test_published_feature_distance_is_on_things(which: str) -> None:
    assert set(preset(which).adaptation.feature_distance_classes) == THINGS


@pytest.mark.parametrize("which", ["published-hrda", "published-mic"])
def test_published_margins_are_pixels_of_cityscapes(which: str) -> None:
    rule = preset(which).adaptation
    rows = [rule.margin_top * 1024, rule.margin_bottom * 1024]
    columns = [rule.margin_left * 2048, rule.margin_right * 2048]
    assert (rows, columns) == ([30, 240], [30, 30])


def test_published_inference_slides_the_training_crop() -> None:
    inference = preset("published-hrda").inference
    assert (inference.window_height, inference.window_width) == (0, 0)  # 0 = the training crop, 1024, at a stride of 512


@pytest.mark.parametrize(("name", "value"), [("mask_weight", 1.0), ("mask_block", 64), ("mask_ratio", 0.7)])
def test_masked_image_consistency(name: str, value: float) -> None:
    assert getattr(preset("published-mic").adaptation, name) == value


def test_mic_is_hrda_with_masks() -> None:
    hrda, mic = preset("published-hrda"), preset("published-mic")
    assert hrda.adaptation.mask_weight == 0
    assert replace(mic, adaptation=replace(mic.adaptation, mask_weight=0.0)) == hrda


@pytest.mark.parametrize("which", ["published-hrda", "published-mic"])
@pytest.mark.parametrize(("num_classes", "share"), [(19, 0.9), (2, 0.03)])
def test_published_rules_hold_for_any_classes(which: str, num_classes: int, share: float) -> None:
    assert preset(which).resolve(num_classes, True, share) == preset(which)


@pytest.mark.parametrize(("name", "value"), TUTORIAL.items())
def test_crack_tutorial(name: str, value: Any) -> None:
    assert value_of(preset("crack-tutorial"), name) == value


@pytest.mark.parametrize(("name", "value"), MEASURED.items())
def test_cracks_is_what_was_measured(name: str, value: Any) -> None:
    assert value_of(preset("cracks"), name) == value
    assert value_of(configuration("", 1200, 0), name) == value  # of benchmarks/cracks.py


@pytest.mark.parametrize(("name", "value"), STANDARD.items())
def test_standard(name: str, value: Any) -> None:
    assert value_of(preset("standard"), name) == value


def test_standard_is_the_default() -> None:
    assert preset("standard") == TrainConfig()


@pytest.mark.parametrize(
    "holds",
    [
        lambda c: c.mode == "adapt",
        lambda c: c.optimisation.iterations <= 2000,
        lambda c: max(c.data.crop_height, c.data.crop_width) <= 256,
        lambda c: c.optimisation.batch_size <= 8,
        lambda c: c.model.head_channels < TrainConfig().model.head_channels,
        lambda c: c.precision != "bf16",
        lambda c: c.device == "auto",
        lambda c: c.optimisation.warmup_iterations < c.optimisation.iterations,
        lambda c: c.schedule.validate_every <= c.optimisation.iterations,
    ],
)
def test_quick_is_small_and_runs_without_a_gpu(holds: Callable[[TrainConfig], bool]) -> None:
    assert holds(preset("quick"))


def test_the_quick_network_is_small() -> None:
    config = preset("quick").model
    model = build_model(config.encoder, 2, head_channels=config.head_channels)
    assert sum(p.numel() for p in model.parameters()) < 10e6  # MiT-B5 with heads has 85.7 million


@pytest.mark.parametrize("name", list(PRESETS))
def test_presets_go_through_their_own_checks(name: str) -> None:
    config = preset(name)
    assert TrainConfig().updated(config.as_dict()) == config
    assert config.resolve(2, True, 0.03).adaptation.pseudo_labels != "auto"


def test_an_unknown_preset_lists_those_that_exist() -> None:
    with pytest.raises(ValueError) as caught:
        preset("fast")
    assert "preset='fast'" in str(caught.value)
    assert all(name in str(caught.value) for name in PRESETS)


def test_names() -> None:
    assert set(PRESETS) == {"quick", "cracks", "standard", "published-hrda", "published-mic", "crack-tutorial"}
