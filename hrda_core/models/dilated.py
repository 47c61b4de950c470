"""Dilated depthwise convolutions without dilated kernels, which libraries run slowly channels last.

Pixels whose distance is a multiple of the dilation are put beside each other, where a plain convolution does the same. On an
H200, 8 x 1024 x 128 x 128 in bf16: a plain kernel takes 0.3 ms, each of the four copies around it 0.15 to 0.2.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

WIDE = torch.complex128  # 16 bytes: copies move whole words instead of 2 bytes each, at three times the speed


def dilated_depthwise(feature: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Depthwise 3x3 convolution, padding = dilation: (N, C, H, W) and (C, 1, 3, 3) -> (N, C, H, W).

    Reads and writes channels last.
    """
    if feature.device.type == "cpu":
        return apart(F.conv2d(beside(feature, dilation), weight, padding=1, groups=len(weight)), feature.shape, dilation)
    if torch.is_autocast_enabled(feature.device.type):
        feature = feature.to(torch.get_autocast_dtype(feature.device.type))
    result: Tensor = _Depthwise.apply(feature, weight.to(feature.dtype), dilation)
    return result


class _Depthwise(torch.autograd.Function):
    """Saves the feature itself, which several branches have in common, and puts its pixels beside each other once more."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(feature, weight)
        ctx.dilation = dilation
        return apart(F.conv2d(beside(feature, dilation), weight, padding=1, groups=len(weight)), feature.shape, dilation)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        feature, weight = ctx.saved_tensors
        # what puts pixels beside each other and what puts them apart are each other's gradient
        outer, inner = beside(gradient, ctx.dilation), beside(feature, ctx.dilation)
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        to_feature, to_weight, _ = torch.ops.aten.convolution_backward(
            outer, inner, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], len(weight), wanted
        )
        return (None if to_feature is None else apart(to_feature, feature.shape, ctx.dilation)), to_weight, None


def beside(feature: Tensor, dilation: int) -> Tensor:
    """(N, C, H, W) -> (N * dilation^2, C, rows, columns), zeros where the sides are no multiple of the dilation."""
    n, _, height, width = feature.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    pixels = _wide(feature.permute(0, 2, 3, 1))
    pixels = F.pad(pixels, (0, 0, 0, columns * dilation - width, 0, rows * dilation - height))
    phases = pixels.reshape(n, rows, dilation, columns, dilation, pixels.shape[3]).permute(0, 2, 4, 1, 3, 5)
    del pixels  # copies of what may be the largest tensor of a network: none is kept longer than needed
    return _narrow(phases.reshape(n * dilation**2, rows, columns, -1), feature).permute(0, 3, 1, 2)


def apart(phases: Tensor, shape: torch.Size, dilation: int) -> Tensor:
    """The inverse of `beside`, of a feature (N, C, H, W) of this `shape`."""
    n, _, height, width = shape
    rows, columns = phases.shape[2:]
    pixels = _wide(phases.permute(0, 2, 3, 1))
    pixels = pixels.reshape(n, dilation, dilation, rows, columns, pixels.shape[3]).permute(0, 3, 1, 4, 2, 5)
    pixels = pixels.reshape(n, rows * dilation, columns * dilation, -1)
    inside = pixels[:, :height, :width].contiguous()  # whole in memory: batch norm is slow on a view
    return _narrow(inside, phases).permute(0, 3, 1, 2)


def _wide(pixels: Tensor) -> Tensor:
    """(N, H, W, C) as words of 16 bytes, where that pays and fits."""
    words = WIDE.itemsize // pixels.element_size()
    if not _words_pay(pixels) or pixels.shape[3] % words:
        return pixels
    pixels = pixels.contiguous()
    return pixels.view(WIDE) if pixels.data_ptr() % WIDE.itemsize == 0 else pixels


def _words_pay(pixels: Tensor) -> bool:
    """On a GPU; gradients do not pass through words."""
    return pixels.device.type != "cpu" and not (torch.is_grad_enabled() and pixels.requires_grad)


def _narrow(pixels: Tensor, like: Tensor) -> Tensor:
    return pixels.view(like.dtype) if pixels.dtype == WIDE else pixels
