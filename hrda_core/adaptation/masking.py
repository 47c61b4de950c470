"""Masked image consistency (Hoyer et al., MIC, arXiv 2212.01322, section 3.2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def noise_shape(height: int, width: int, block: int) -> tuple[int, int]:
    """How many blocks cover an image: rounded, at least one in each direction."""
    return max(round(height / block), 1), max(round(width / block), 1)


def keep_mask(noise: Tensor, ratio: float, size: tuple[int, int]) -> Tensor:
    """Uniform noise (N, 1, rows, columns), one value per block -> (N, 1, H, W) of 1 where noise > ratio, else 0."""
    return F.interpolate((noise > ratio).float(), size=size, mode="nearest")


def hide_blocks(image: Tensor, noise: Tensor, ratio: float) -> Tensor:
    """Hidden blocks become 0, the mean colour of a normalised image."""
    keep = keep_mask(noise.to(image.device), ratio, (image.shape[2], image.shape[3]))
    return image * keep.to(image.dtype)
