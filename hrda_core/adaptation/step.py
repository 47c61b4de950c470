"""One training iteration, readable from top to bottom.

HRDA's self-training (arXiv 2204.13132) on DACS (2007.08702), with DAFormer's feature distance (2111.14887) and MIC's
masked consistency (2212.01322). Gradients of all parts add up; the caller steps the optimiser once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from hrda_core.adaptation.class_mix import Mixed, class_mask, foreground_mask, mix
from hrda_core.adaptation.feature_distance import FeatureDistance
from hrda_core.adaptation.losses import multi_resolution_loss
from hrda_core.adaptation.masking import hide_blocks
from hrda_core.adaptation.pseudo_labels import (
    ClassShares,
    ForegroundHistogram,
    PseudoLabels,
    balanced,
    confident_fraction,
    log_probabilities,
    prior_band,
    uncertain_band,
    without_margins,
)
from hrda_core.adaptation.teacher import Teacher
from hrda_core.adaptation.whole_batch import ALONE, WholeBatch
from hrda_core.adaptation.zooms import surest_zoom
from hrda_core.config import TrainConfig
from hrda_core.data.photometric import ColourJitter, gaussian_blur, jitter
from hrda_core.models.hrda import HRDA, Box, HRDAOutput
from hrda_core.models.passes import autocast


class SourceBatch(NamedTuple):
    """image: normalised (N, 3, H, W). label: (N, H, W) int64, 255 = ignore (padding too)."""

    image: Tensor
    label: Tensor


class TargetBatch(NamedTuple):
    """image: normalised (N, 3, H, W), not augmented. valid: (N, H, W), 0 on padding and on the photo's margins.

    seen: what the teacher said of the whole photos (data/photo_labels.py), (N, 3, H, W) uint8; None: ask it about the crops.
    """

    image: Tensor
    valid: Tensor
    seen: Tensor | None = None


class Draws(Protocol):
    """The random decisions that a step asks for; `StepDraws` makes them."""

    def detail_box(self, stream: str, height: int, width: int) -> Box: ...
    def mixed_classes(self, present: Tensor, sample: int) -> Tensor: ...
    def pastes(self, sample: int) -> bool: ...
    def jitter(self, stream: str, sample: int) -> ColourJitter | None: ...
    def blur_sigma(self, stream: str, sample: int) -> float | None: ...
    def mask_noise(self, samples: int, height: int, width: int) -> Tensor: ...


@dataclass
class Learner:
    """What an iteration works on. `config` must be resolved; `student_forward` is the student, or a recording of it
    (training/cuda_graphs.py), which needs gradients set to zero, not to None, between iterations.
    """

    student: HRDA
    teacher: Teacher
    config: TrainConfig
    feature_distance: FeatureDistance | None = None
    autocast: torch.dtype | None = None  # bfloat16 for mixed precision; softmax, losses and EMA stay in float32
    student_forward: nn.Module | None = None
    batch: WholeBatch = ALONE  # of which the step sees this process's part
    foreground: ForegroundHistogram = field(default_factory=ForegroundHistogram)  # of the teacher on the target
    shares: ClassShares = field(init=False)  # of the same

    def __post_init__(self) -> None:
        self.shares = ClassShares(self.student.num_classes)


def step(learner: Learner, iteration: int, source: SourceBatch, target: TargetBatch | None, draws: Draws) -> dict[str, Tensor]:
    """Accumulates the gradients of one iteration and returns detached scalars to log.

    `target` is None where there is nothing to adapt to: source-only and supervised training, and the warm-up on source.
    Where `target` holds several times as many photos as there are labelled images, they pass in parts as large as `source`.
    """
    adaptation = learner.config.adaptation
    adapting = target is not None and iteration >= adaptation.source_warmup
    # a teacher that is asked in every iteration begins with the student as the warm-up left it; one that labels whole photos
    # right after the warm-up is best as the average over it
    crop_by_crop = learner.config.mode in ("adapt", "semi-supervised") and adaptation.rounds < 1
    averaging_since = adaptation.source_warmup if crop_by_crop else 0
    learner.teacher.update(learner.student, max(iteration - averaging_since, 0))

    distance = learner.feature_distance if adapting else None
    log = _learn(learner, source.image, source.label, None, "source", draws, distance=distance)

    if target is not None and adapting:
        pseudo = _pseudo_label(learner, target)
        log["pseudo/confident"] = pseudo.confident
        log["pseudo/foreground"] = _foreground_share(pseudo, learner.batch)

        mixed = _mix(learner, source, target, pseudo, draws)
        augmented = _strong_augmentation(learner, mixed.image, "mixed", draws)
        passes = len(target.image) // len(source.image)
        log |= _learn(learner, augmented, mixed.labels, mixed.weight, "mixed", draws, passes=passes)

        if adaptation.mask_weight > 0:
            augmented = _strong_augmentation(learner, target.image, "masked", draws)
            noise = draws.mask_noise(*augmented.shape[:1], *augmented.shape[2:])
            hidden = hide_blocks(augmented, noise, adaptation.mask_ratio)
            rest = ("masked", draws, adaptation.mask_weight)
            log |= _learn(learner, hidden, pseudo.labels, pseudo.weight, *rest, passes=passes)
    return {name: value.detach() for name, value in log.items()}


def _learn(
    learner: Learner,
    image: Tensor,
    label: Tensor,
    weight: Tensor | None,
    stream: str,
    draws: Draws,
    factor: float = 1.0,
    distance: FeatureDistance | None = None,
    passes: int = 1,
) -> dict[str, Tensor]:
    """Forward and backward pass of the student, `passes` times in `optimisation.accumulation` parts; the losses to log.

    Parts add up to the whole batch where every loss is a mean over pixels and norms do not use the batch's statistics.
    """
    model, rule = learner.config.model, learner.config.adaptation
    parts = image.chunk(passes * learner.config.optimisation.accumulation)
    box = draws.detail_box(stream, image.shape[2], image.shape[3]) if model.multi_resolution else None
    dice = learner.config.optimisation.dice_weight if stream == "source" else rule.dice_weight
    log: dict[str, Tensor] = {}
    weights = [None] * len(parts) if weight is None else weight.chunk(len(parts))
    for images, labels, pixel_weight in zip(parts, label.chunk(len(parts)), weights, strict=True):
        share = len(images) / len(image)
        with autocast(images.device, learner.autocast):
            output: HRDAOutput = (learner.student_forward or learner.student)(images, box)
        loss = multi_resolution_loss(
            output, labels, pixel_weight, box, model.detail_loss_weight, model.context_loss_weight, dice, learner.batch
        )
        losses = {f"loss/{stream}": factor * loss.fused, f"loss/{stream}_detail": factor * loss.detail}
        if stream == "source" and loss.context.requires_grad:
            losses["loss/source_context"] = loss.context
        total = factor * loss.total
        if distance is not None:
            with autocast(images.device, learner.autocast):
                far = distance(output.features, images, labels, learner.batch)
            losses["loss/feature_distance"] = rule.feature_distance_weight * far
            total = total + losses["loss/feature_distance"]
        (share * total).backward()
        for name, value in losses.items():
            log[name] = log.get(name, 0) + share * value.detach()
    return log


def _pseudo_label(learner: Learner, target: TargetBatch) -> PseudoLabels:
    rule = learner.config.adaptation
    logits, valid = _teacher_says(learner, target)
    if rule.pseudo_labels == "prior-band":
        shares, more = (rule.foreground_share, rule.ignored_share), (rule.foreground_at_least, rule.edge_width)
        pseudo = prior_band(logits, valid, learner.foreground, *shares, learner.batch, *more)
    elif rule.pseudo_labels == "band":
        pseudo = uncertain_band(logits, rule.band_foreground, rule.band_background, rule.edge_width)
    else:
        pseudo = confident_fraction(logits, rule.pseudo_threshold, learner.batch)
        if rule.class_balance > 0:
            labels = balanced(logits, valid, learner.shares, rule.class_balance, learner.batch).argmax(dim=1)
            pseudo = pseudo._replace(labels=labels)
    return without_margins(pseudo, valid, rule.pseudo_ignore_top, rule.pseudo_ignore_bottom)


def _teacher_says(learner: Learner, target: TargetBatch) -> tuple[Tensor, Tensor]:
    """Logits (N, C, H, W) of the crops, and where they count (N, H, W)."""
    rule, valid = learner.config.adaptation, target.valid
    if target.seen is not None:
        return log_probabilities(target.seen, learner.student.num_classes), valid
    with autocast(target.image.device, learner.autocast):
        if rule.teacher_zooms in ((), (1.0,)) and rule.most_foreground == 1:
            return learner.teacher.logits(target.image), valid
        seen = surest_zoom(learner.teacher.logits, target.image, valid, rule.teacher_zooms, rule.most_foreground)
    return seen.logits, valid * seen.plausible.view(-1, 1, 1)


def _mix(learner: Learner, source: SourceBatch, target: TargetBatch, pseudo: PseudoLabels, draws: Draws) -> Mixed:
    rule = learner.config.adaptation
    theirs = Mixed(target.image, pseudo.labels, pseudo.weight)
    if rule.mixing == "none":
        return theirs
    ours = Mixed(source.image, source.label, torch.ones_like(pseudo.weight))
    if rule.mixing == "foreground":
        masks = [
            foreground_mask(label[None], rule.foreground_paste_margin)[0]
            if draws.pastes(i)
            else torch.zeros_like(label, dtype=torch.bool)
            for i, label in enumerate(source.label)
        ]
    else:
        present = learner.batch.present(source.label)
        masks = [class_mask(label, draws.mixed_classes(present, i)) for i, label in enumerate(source.label)]
    return mix(torch.stack(masks), ours, theirs)


def _strong_augmentation(learner: Learner, image: Tensor, stream: str, draws: Draws) -> Tensor:
    """Colour jitter and blur of a normalised batch."""
    mean = image.new_tensor(learner.student.encoder.mean).view(1, 3, 1, 1)
    std = image.new_tensor(learner.student.encoder.std).view(1, 3, 1, 1)
    samples = []
    for i, sample in enumerate(image.split(1)):
        colours = draws.jitter(stream, i)
        if colours is not None:
            sample = (jitter(sample * std + mean, colours) - mean) / std
        sigma = draws.blur_sigma(stream, i)
        samples.append(sample if sigma is None else gaussian_blur(sample, sigma))
    return torch.cat(samples)


def _foreground_share(pseudo: PseudoLabels, batch: WholeBatch) -> Tensor:
    """Share of the trusted pixels that is not background: collapse and drift show here first."""
    trusted = pseudo.weight > 0
    foreground = trusted & (pseudo.labels > 0) & (pseudo.labels != 255)
    found, all_of_them = batch.sum(torch.stack([foreground.float().sum(), trusted.float().sum()]))
    share: Tensor = found / all_of_them.clamp(min=1)
    return share
