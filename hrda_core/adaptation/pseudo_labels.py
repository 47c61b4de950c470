"""From the teacher's logits to labels and pixel weights for the target."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hrda_core.adaptation.losses import IGNORE
from hrda_core.adaptation.whole_batch import ALONE, WholeBatch


class PseudoLabels(NamedTuple):
    """labels: (N, H, W) int64, 255 = ignore. weight: (N, H, W) float32. confident: share of pixels that are trusted."""

    labels: Tensor
    weight: Tensor
    confident: Tensor


def confident_fraction(logits: Tensor, threshold: float = 0.968, batch: WholeBatch = ALONE) -> PseudoLabels:
    """Argmax everywhere, all pixels weighted by the share of the WHOLE batch at or above `threshold` (DACS, 2007.08702)."""
    probability, labels = logits.float().softmax(dim=1).max(dim=1)
    confident = batch.mean((probability >= threshold).float().mean())
    return PseudoLabels(labels, confident.expand_as(probability).clone(), confident)


def uncertain_band(logits: Tensor, foreground: float = 0.5, background: float = 0.1) -> PseudoLabels:
    """For thin classes: sure foreground and sure background are labels, the uncertain pixels between are ignored.

    On cracks, hard labels turn missed cracks into background and training collapses towards predicting nothing; leaving
    out only the uncertain background keeps recall. Background is class 0; "foreground" is one minus its probability.
    """
    probabilities = logits.float().softmax(dim=1)
    any_foreground = 1 - probabilities[:, 0]
    labels = torch.full_like(any_foreground, IGNORE, dtype=torch.int64)
    labels[any_foreground < background] = 0
    best = probabilities[:, 1:].argmax(dim=1) + 1
    labels = torch.where(any_foreground > foreground, best, labels)
    known = (labels != IGNORE).float()
    return PseudoLabels(labels, known, known.mean())


def without_margins(pseudo: PseudoLabels, valid: Tensor | None, ignore_top: int = 0, ignore_bottom: int = 0) -> PseudoLabels:
    """Weight 0 where `valid` (N, H, W) is 0 (padding, margins of the photo) and in rows at the top and bottom of the crop."""
    weight = pseudo.weight if valid is None else pseudo.weight * valid.to(pseudo.weight.dtype)
    if ignore_top or ignore_bottom:
        weight = weight.clone()
        weight[:, :ignore_top] = 0
        weight[:, max(weight.shape[1] - ignore_bottom, 0) :] = 0
    return pseudo._replace(weight=weight)
