"""Colour jitter and blur on tensors, with the published implementation's definitions of each operation.

Images are (N, 3, H, W) RGB in 0..1. DAFormer, arXiv 2111.14887, section 4.1, after DACS (2007.08702).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = ("brightness", "contrast", "saturation", "hue")


@dataclass(frozen=True)
class ColourJitter:
    """Drawn strengths: brightness is added (factor - 1), contrast and saturation multiply, hue turns by `hue` of a circle."""

    brightness: float
    contrast: float
    saturation: float
    hue: float
    order: tuple[int, ...] = (0, 1, 2, 3)  # indices into OPERATIONS


def draw_jitter(rng: np.random.Generator, strength: float) -> ColourJitter:
    """Strengths uniform in 1 +- strength (hue: +- strength of a circle), order at random."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).tolist()
    hue = float(rng.uniform(-strength, strength))
    return ColourJitter(brightness, contrast, saturation, hue, tuple(rng.permutation(4).tolist()))


def jitter(image: Tensor, draw: ColourJitter) -> Tensor:
    operations = {
        "brightness": adjust_brightness,
        "contrast": adjust_contrast,
        "saturation": adjust_saturation,
        "hue": adjust_hue,
    }
    for index in draw.order:
        name = OPERATIONS[index]
        image = operations[name](image, getattr(draw, name))
    return image


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    return (image + (factor - 1)).clamp(0, 1)


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    return (image * factor).clamp(0, 1)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    hue, saturation, value = rgb_to_hsv(image)
    return hsv_to_rgb(hue, (saturation * factor).clamp(0, 1), value)


def adjust_hue(image: Tensor, shift: float) -> Tensor:
    hue, saturation, value = rgb_to_hsv(image)
    return hsv_to_rgb((hue + shift) % 1.0, saturation, value)


def rgb_to_hsv(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Hue in turns (0..1), saturation, value; each (N, H, W)."""
    red, green, blue = image.unbind(1)
    value, channel = image.max(dim=1)
    chroma = value - image.amin(dim=1)
    saturation = chroma / (value + 1e-6)
    safe = torch.where(chroma == 0, torch.ones_like(chroma), chroma)
    sixths = torch.stack([(green - blue) / safe, 2 + (blue - red) / safe, 4 + (red - green) / safe], dim=1)
    hue = sixths.gather(1, channel.unsqueeze(1)).squeeze(1) / 6 % 1.0
    return hue, saturation, value


def hsv_to_rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    channels = []
    for offset in (5, 3, 1):
        k = (offset + hue * 6) % 6
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)


def blur_kernel_size(side: int) -> int:
    """The published rule: a tenth of the image's side, rounded up, then down to odd."""
    size = math.ceil(0.1 * side)
    return max(size - 1 + size % 2, 1)


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian with reflected borders; kernel sides follow the image's (`blur_kernel_size`).

    Cells beyond six sigma are left out: they would weigh less than float32 resolves.
    """
    n, channels, height, width = image.shape
    for axis, side in ((2, height), (3, width)):
        kernel = _gaussian_kernel(min(blur_kernel_size(side), 2 * int(6 * sigma + 1) + 1), sigma, image)
        radius = kernel.numel() // 2
        shape: Sequence[int] = (1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1)
        padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = F.pad(image.reshape(n * channels, 1, *image.shape[2:]), padding, mode="reflect")
        image = F.conv2d(padded, kernel.reshape(shape)).reshape(n, channels, height, width)
    return image


def _gaussian_kernel(size: int, sigma: float, like: Tensor) -> Tensor:
    x = torch.arange(size, dtype=torch.float32, device=like.device) - size // 2
    kernel = torch.exp(-x.square() / (2 * sigma**2))
    return (kernel / kernel.sum()).to(like.dtype)
