"""One frozen object describes a run. It validates itself and round-trips to YAML.

Every constant of the published method (DAFormer 2111.14887, HRDA 2204.13132, MIC 2212.01322) is a field here; the
presets (presets.py) hold the published values. "auto" fields are settled by `TrainConfig.resolve` when the classes are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hrda_core.config_adaptation import AUTO, AdaptationConfig
from hrda_core.config_auto import (
    Facts,
    settled_adaptation,
    settled_class_prior,
    settled_dice_weight,
    settled_warmup,
    settled_zooms,
)
from hrda_core.config_checks import check, one_of, share
from hrda_core.config_data import LARGEST_SCALE, AugmentationConfig, DataConfig
from hrda_core.config_yaml import as_dict, dump_yaml, from_dict, merged, parse_yaml

__all__ = [
    "AUTO",
    "MODES",
    "PRECISIONS",
    "AdaptationConfig",
    "AugmentationConfig",
    "DataConfig",
    "InferenceConfig",
    "ModelConfig",
    "OptimisationConfig",
    "ScheduleConfig",
    "TrainConfig",
]

MODES = ("source-only", "adapt", "supervised", "semi-supervised")
PRECISIONS = ("auto", "fp32", "bf16", "reference")


@dataclass(frozen=True)
class ModelConfig:
    encoder: str = "pvt_v2_b2"  # mit_b0 to mit_b5, or a timm model; MiT's ImageNet weights are non-commercial, PVTv2's Apache-2.0
    pretrained: bool = True  # ImageNet weights through the Hugging Face hub ...
    pretrained_file: str = ""  # ... or from this local file
    start_from: str = ""  # instead, a whole network: a checkpoint of this project or a published HRDA, DAFormer or MIC one
    head_channels: int = 256  # width of both heads
    dropout: float = 0.1  # channel dropout before the classifiers
    drop_path_rate: float = 0.1  # stochastic depth of the encoder's last block
    freeze_encoder_norms: bool = True  # batch norms of a pretrained CNN keep their ImageNet statistics
    multi_resolution: bool = True  # False: the single-resolution DAFormer network
    attention: str = "class"  # scale attention: one map per class, "single" for all, or "fixed" at 0.5
    detail_crop: str = "half"  # detail of a training crop: a random "half" of each side, or the "full" crop
    detail_overlap: float = 0.5  # share by which the teacher's detail windows overlap when it makes pseudo-labels
    detail_loss_weight: float = 0.1  # of the detail's cross entropy; the rest goes to the fused prediction
    context_loss_weight: float = 0.0  # of the context's cross entropy (0.1 with the full-image detail crop)
    # how often the classifier says each class without features: as the class is "labelled", so that a rare one has to be seen,
    # "equal" as published, or "auto": labelled for one class beside background
    class_prior: str = "auto"

    def __post_init__(self) -> None:
        check(self.head_channels >= 8, "model.head_channels", self.head_channels, "use at least 8")
        one_of("model.attention", self.attention, ("class", "single", "fixed"))
        one_of("model.detail_crop", self.detail_crop, ("half", "full"))
        one_of("model.class_prior", self.class_prior, ("auto", "labelled", "equal"))
        for name in ("dropout", "drop_path_rate", "detail_loss_weight", "context_loss_weight"):
            share(f"model.{name}", getattr(self, name))
        losses = self.detail_loss_weight + self.context_loss_weight
        check(losses < 1, "model.detail_loss_weight + context_loss_weight", losses, "keep the sum below 1")
        check(0 <= self.detail_overlap < 1, "model.detail_overlap", self.detail_overlap, "use 0 up to, not including, 1")


@dataclass(frozen=True)
class OptimisationConfig:
    iterations: int = 10_000
    batch_size: int = 2  # source crops per iteration, and as many target crops, over all processes together
    accumulation: int = 1  # parts in which a batch passes the student: less memory; norms, Dice and feature distance see a part
    recompute: bool = False  # encoder blocks again in the backward pass instead of keeping them: less memory, more time
    optimizer: str = "adamw"  # or "sgd"
    learning_rate: float = 6e-5  # of the encoder
    head_factor: float = 10.0  # the heads learn this many times faster
    weight_decay: float = 0.01
    norm_weight_decay: float = 0.0  # of the encoder's norm layers
    beta1: float = 0.9
    beta2: float = 0.999
    momentum: float = 0.9  # SGD only
    schedule_power: float = 1.0  # polynomial decay to min_learning_rate at the last iteration
    min_learning_rate: float = 0.0
    warmup_iterations: int = AUTO  # linear, from warmup_ratio times the learning rate; -1 = auto: a tenth, at most 1,500
    warmup_ratio: float = 1e-6
    clip_gradient_norm: float = 0.0  # 0 = no clipping
    dice_weight: float = -1.0  # soft Dice beside the cross entropy on labelled images; -1 = auto (thin: 1, else 0)

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size", "accumulation"):
            check(getattr(self, name) >= 1, f"optimisation.{name}", getattr(self, name), "use at least 1")
        fix = "use a divisor of optimisation.batch_size"
        check(self.batch_size % self.accumulation == 0, "optimisation.accumulation", self.accumulation, fix)
        one_of("optimisation.optimizer", self.optimizer, ("adamw", "sgd"))
        for name in ("learning_rate", "head_factor"):
            check(getattr(self, name) > 0, f"optimisation.{name}", getattr(self, name), "use a number above 0")
        for name in (
            *("weight_decay", "norm_weight_decay", "min_learning_rate", "warmup_ratio"),
            *("schedule_power", "clip_gradient_norm"),
        ):
            check(getattr(self, name) >= 0, f"optimisation.{name}", getattr(self, name), "must not be negative")
        for name in ("warmup_iterations", "dice_weight"):
            value = getattr(self, name)
            check(value >= 0 or value == AUTO, f"optimisation.{name}", value, "use 0 or more, or -1 for auto")
        for name in ("beta1", "beta2", "momentum"):
            check(
                0 <= getattr(self, name) < 1,
                f"optimisation.{name}",
                getattr(self, name),
                "use 0 up to, not including, 1",
            )


@dataclass(frozen=True)
class InferenceConfig:
    window_height: int = 0  # sliding window in pixels; 0 = the training crop
    window_width: int = 0
    overlap: float = 0.5  # share by which windows overlap
    detail_overlap: float = 0.0  # and, within a window, detail windows; 0.5 as published takes over twice as long
    blending: str = "smooth"  # of overlapping windows: "smooth" (their middle counts more), or "average" as published
    flips: bool = False  # average with the mirrored image: twice the time, a little better
    # sizes at which each photo is looked at, of which the two surest are averaged; none = auto: several for one class beside
    # background, unless labels are the target's own
    zooms: tuple[float, ...] = ()
    tile_batch: int = 4  # windows that go through the network at once
    network: str = "teacher"  # which of the two networks is selected by default: "teacher" or "student"
    tune_thresholds: bool = True  # choose each class's threshold on the validation set; argmax stays available
    tolerance: int = 2  # pixels within which a boundary still counts as hit, in the tolerant F1

    def __post_init__(self) -> None:
        for name in ("overlap", "detail_overlap"):
            check(0 <= getattr(self, name) < 1, f"inference.{name}", getattr(self, name), "use 0 up to, not including, 1")
        one_of("inference.blending", self.blending, ("smooth", "average"))
        in_range = all(0.1 <= zoom <= 10 for zoom in self.zooms)
        check(in_range, "inference.zooms", self.zooms, "use factors from 0.1 to 10")
        check(self.tile_batch >= 1, "inference.tile_batch", self.tile_batch, "use at least 1")
        one_of("inference.network", self.network, ("teacher", "student"))
        for name in ("window_height", "window_width"):
            value = getattr(self, name)
            check(value == 0 or value >= 64, f"inference.{name}", value, "use 0 (the training crop) or at least 64")
        check(self.tolerance >= 0, "inference.tolerance", self.tolerance, "must not be negative")


@dataclass(frozen=True)
class ScheduleConfig:
    validate_every: int = 1000  # iterations between evaluations; the last iteration is always evaluated
    checkpoint_every: int = 1000  # iterations between checkpoints/last.pth
    keep_checkpoints: int = 0  # also keep so many of the latest as checkpoints/iteration_*.pth, without the optimiser
    save_optimizer: bool = True  # False: last.pth is a third of the size, but the run cannot be resumed exactly
    early_stop: int = 0  # stop after so many evaluations of adapting without a better one; 0 = never; needs a validation set
    time_budget: float = 0.0  # minutes, baseline and all resumes included, after which the run ends as if stopped; 0 = none
    preview_every: int = 1000  # iterations between pictures of fixed target photos
    previews: int = 4  # how many photos
    label_free_photos: int = 16  # target photos on which each evaluation takes the scores that need no labels; 0 = none
    log_every: int = 20  # iterations between lines of metrics.jsonl

    def __post_init__(self) -> None:
        for name in ("validate_every", "checkpoint_every", "preview_every", "log_every"):
            check(getattr(self, name) >= 1, f"schedule.{name}", getattr(self, name), "use at least 1")
        for name in ("previews", "keep_checkpoints", "early_stop", "time_budget", "label_free_photos"):
            check(getattr(self, name) >= 0, f"schedule.{name}", getattr(self, name), "must not be negative")


@dataclass(frozen=True)
class TrainConfig:
    mode: str = "adapt"  # source-only, adapt, supervised (on the target's masks: the oracle), semi-supervised
    seed: int = 0
    device: str = "auto"  # "auto", "cpu", "cuda", "cuda:1"; under torchrun "auto" or "cuda" is a GPU for each process
    precision: str = "auto"  # "auto" (bf16 where the GPU has it), "fp32", "bf16", or "reference": fp32 in the published order
    compile: bool = False  # the networks by torch.compile, which takes minutes at first; where it fails they run as they are
    cuda_graphs: bool = True  # on a GPU record the passes of student and teacher, and replay them: more memory, fewer launches
    baseline: bool = False  # first train source-only in RUN/baseline, as long; adapting goes on from its warm-up
    fallback: bool = True  # with a baseline: where that scores better in the end, best.pth is the source-only network
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        one_of("mode", self.mode, MODES)
        one_of("precision", self.precision, PRECISIONS)
        check(0 <= self.seed < 2**31, "seed", self.seed, "use 0 to 2147483647")
        if self.model.multi_resolution and self.model.detail_crop == "half":
            for name in ("crop_height", "crop_width"):
                value = getattr(self.data, name)
                check(value % 32 == 0, f"data.{name}", value, "use a multiple of 32, since the detail crop is half of it")

    def resolve(self, num_classes: int, has_background: bool, foreground_share: float) -> TrainConfig:
        """Settles every "auto" by the classes of the labelled images (config_auto.py).

        Raises:
            ValueError: a rule that needs a background class, where there is none, or rules that contradict each other.
        """
        iterations, fitted = self.optimisation.iterations, self.data.fit_short > 0
        facts = Facts(self.mode, iterations, fitted, num_classes, has_background, foreground_share)
        zooms = settled_zooms(self.inference.zooms, facts)
        adaptation = settled_adaptation(self.adaptation, facts)
        scale, scales = self.data.target_scale, adaptation.photo_scales
        fix = (
            f"data.target_scale={scale:g} times each must not exceed {LARGEST_SCALE}; use factors up to {LARGEST_SCALE / scale:g}"
        )
        check(not facts.adapting or scale * max(scales) <= LARGEST_SCALE, "adaptation.photo_scales", scales, fix)
        model = replace(self.model, class_prior=settled_class_prior(self.model.class_prior, facts))
        optimisation = replace(
            self.optimisation,
            warmup_iterations=settled_warmup(self.optimisation.warmup_iterations, facts),
            dice_weight=settled_dice_weight(self.optimisation.dice_weight, facts),
        )
        inference = replace(self.inference, zooms=zooms)
        return replace(self, model=model, adaptation=adaptation, optimisation=optimisation, inference=inference)

    def updated(self, changes: Mapping[str, Any]) -> TrainConfig:
        """A copy with nested changes: `config.updated({"optimisation": {"iterations": 300}})`."""
        return from_dict(TrainConfig, merged(self.as_dict(), changes))

    def changed(self, assignments: Sequence[str]) -> TrainConfig:
        """A copy with changes written as text: ["optimisation.iterations=300", "mode=supervised"].

        All are applied at once, so that fields which constrain each other can change together.
        """
        changes: dict[str, Any] = {}
        for text in assignments:
            name, equals, value = text.partition("=")
            check(bool(equals), "assignment", text, "write it as field=value, for instance optimisation.iterations=300")
            content = parse_yaml(value)
            for part in reversed(name.split(".")):
                content = {part: content}
            changes = merged(changes, content)
        return self.updated(changes)

    def as_dict(self) -> dict[str, Any]:
        return as_dict(self)

    def to_yaml(self) -> str:
        return dump_yaml(self.as_dict())

    @staticmethod
    def from_yaml(text: str) -> TrainConfig:
        """Reads `to_yaml`'s text; missing fields take their defaults.

        Raises:
            ValueError: not YAML, an unknown field (with the fields that exist), a value of the wrong type or out of range.
        """
        return from_dict(TrainConfig, parse_yaml(text))

    @staticmethod
    def load(path: str | Path) -> TrainConfig:
        """Reads a YAML file; errors as in `from_yaml`, and for a file that cannot be read."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"configuration file {path} cannot be read ({error}): give a YAML text file") from error
        return TrainConfig.from_yaml(text)
