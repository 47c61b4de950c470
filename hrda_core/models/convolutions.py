"""Convolutions of the heads with less work than the plain ones; the same function, rounded in another order.

`convolve` chooses by measurement. On a GPU the libraries choose among such algorithms by themselves, but for dilated depthwise
kernels (models/dilated.py).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrda_core.models.dilated import dilated_depthwise

TILE = 4  # outputs of a Winograd tile per side; 6 x 6 products then serve 16 outputs where 9 each would be needed
PATCH = TILE + 2
MIN_CHANNELS = 128  # below, the transforms cost more than the products they save
MIN_TILES = 96  # likewise, where the transform of the weights serves few tiles

# Winograd's minimal filtering F(4x4, 3x3): Lavin & Gray, arXiv 1509.09308, section 4.3. Patches, weights, outputs.
_PATCHES = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    dtype=np.float64,
)
_WEIGHTS = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)
_OUTPUTS = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    dtype=np.float64,
)


def convolve(conv: nn.Conv2d, feature: Tensor, weight: Tensor) -> Tensor:
    """`conv` without its bias on (N, C, H, W), with `weight` in the place of its own."""
    n, channels, height, width = feature.shape
    dilation, cpu = conv.dilation[0], feature.device.type == "cpu"
    if conv.kernel_size == (3, 3) and conv.groups == channels and dilation > 1:
        # pictures of one pixel cost too much, and the library has no fast depthwise kernels of double precision
        if feature.dtype != torch.float64 and 3 * dilation <= 2 * min(height, width):
            return dilated_depthwise(feature, weight, dilation)
        plain = F.conv2d(feature.contiguous(), weight, None, 1, conv.padding, dilation, channels)
        return plain.contiguous(memory_format=torch.channels_last)
    if cpu and conv.kernel_size == (1, 1):
        return per_pixel(feature, weight.flatten(1))
    if cpu and conv.kernel_size == (3, 3):
        tiles = n * -(-height // TILE) * -(-width // TILE)
        whole = conv.groups == 1 and conv.dilation == (1, 1) and min(channels, conv.out_channels) >= MIN_CHANNELS
        if whole and tiles >= MIN_TILES and not torch.is_autocast_enabled("cpu"):  # bf16 is too coarse for the transforms
            return winograd(feature, weight)
    return F.conv2d(feature, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def per_pixel(feature: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map of the channels: (N, C, H, W) and (C_out, C) -> (N, C_out, H, W), channels last."""
    return F.linear(feature.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def winograd(feature: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution, padding 1: (N, C, H, W) and (C_out, C, 3, 3) -> (N, C_out, H, W), 2.25 instead of 9 products an output.

    Errors are about 1e-5 of the largest output in float32, ten times those of the plain sum. Reads and writes channels last.
    """
    n, channels, height, width = feature.shape
    rows, columns = -(-height // TILE), -(-width // TILE)
    padded = F.pad(feature.permute(0, 2, 3, 1), (0, 0, 1, columns * TILE - width + 1, 1, rows * TILE - height + 1))
    patches = padded.unfold(1, PATCH, TILE).unfold(2, PATCH, TILE).permute(0, 1, 2, 4, 5, 3)
    spectra = torch.matmul(_both_axes(_PATCHES, feature), patches.reshape(-1, PATCH**2, channels))
    taps = (_both_axes(_WEIGHTS, feature) @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(PATCH**2, channels, -1)
    products = torch.bmm(spectra.transpose(0, 1), taps)
    tiles = (_both_axes(_OUTPUTS, feature) @ products.view(PATCH**2, -1)).view(TILE, TILE, n, rows, columns, -1)
    outputs = tiles.permute(2, 3, 0, 4, 1, 5).reshape(n, rows * TILE, columns * TILE, -1)
    return outputs[:, :height, :width].contiguous().permute(0, 3, 1, 2)  # whole in memory: batch norm is slow on a view


def _both_axes(matrix: np.ndarray[tuple[int, int], np.dtype[np.float64]], like: Tensor) -> Tensor:
    """The transform of rows and columns at once, as one matrix over the flattened patch."""
    return torch.as_tensor(np.kron(matrix, matrix), dtype=like.dtype, device=like.device)
