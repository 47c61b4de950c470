"""Pasting source pixels into target images (ClassMix, Olsson et al. 2007.07936; cross-domain in DACS, 2007.08702)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hrda_core.adaptation.losses import IGNORE


class Mixed(NamedTuple):
    """image: (N, 3, H, W). labels: (N, H, W) int64. weight: (N, H, W) float32."""

    image: Tensor
    labels: Tensor
    weight: Tensor


def choose_classes(present: Tensor, rng: np.random.Generator) -> Tensor:
    """Half (rounded up) of the classes present in the batch; 255 counts as one of them, as published."""
    count = (present.numel() + 1) // 2
    picks = rng.choice(present.numel(), count, replace=False)
    return present[torch.from_numpy(np.sort(picks)).to(present.device)]


def class_mask(label: Tensor, classes: Tensor) -> Tensor:
    """(N, H, W) labels -> (N, H, W) bool, True where the label is one of `classes`."""
    return torch.isin(label, classes)


def foreground_mask(label: Tensor, margin: int) -> Tensor:
    """Foreground pixels and `margin` pixels of source around them, so that the paste brings its own surroundings."""
    foreground = ((label > 0) & (label != IGNORE)).float().unsqueeze(1)
    if margin:
        foreground = F.max_pool2d(foreground, 2 * margin + 1, stride=1, padding=margin)
    return foreground.squeeze(1) > 0


def mix(mask: Tensor, source: Mixed, target: Mixed) -> Mixed:
    """Source where `mask` (N, H, W) is True, target elsewhere."""
    return Mixed(
        torch.where(mask.unsqueeze(1), source.image, target.image),
        torch.where(mask, source.labels, target.labels),
        torch.where(mask, source.weight, target.weight),
    )
