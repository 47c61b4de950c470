"""Segmentation heads: DAFormer's context-aware fusion and the plain fusion of the scale attention.

Hoyer et al., DAFormer, arXiv 2111.14887, section 3.2; HRDA, arXiv 2204.13132, section 4.1 of the network details.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrda_core.models.convolutions import convolve, per_pixel
from hrda_core.models.published_order import keep_published_order

DILATIONS = (1, 6, 12, 18)
RAREST = 1e-3  # share of a class that the classifier may begin at
NARROW = 64  # heads of fewer channels: the order with less arithmetic took 6 to 16 % longer at 32, on one CPU core


def resize(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, corners not aligned: the one way in which this project changes the size of a feature map or of logits."""
    if tuple(feature.shape[-2:]) == tuple(size):
        return feature
    return F.interpolate(feature, size=size, mode="bilinear", align_corners=False)


def resize_by_products(feature: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize` as two matrix products, one per axis, channels last: in half precision on a GPU four times as fast.

    The height's result is rounded before the width's, where `resize` rounds once.
    """
    if tuple(feature.shape[-2:]) == tuple(size):
        return feature
    n, channels, height, width = feature.shape
    rows, columns = (_interpolation(*axis, feature.dtype, feature.device) for axis in ((height, size[0]), (width, size[1])))
    wide = torch.matmul(columns, feature.permute(0, 2, 3, 1))  # (N, H, W', C)
    high = torch.matmul(rows, wide.reshape(n, height, -1))  # (N, H', W' * C)
    return high.view(n, *size, channels).permute(0, 3, 1, 2)


@cache  # recorded passes read it where it lies
def _interpolation(length: int, wanted: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(wanted, length): what each pixel along an axis takes from those before resizing."""
    with torch.inference_mode(False), torch.no_grad():
        unit = torch.eye(length, dtype=torch.float64)[None, None]
        shares = resize(unit, (length, wanted))[0, 0]
        return shares.t().contiguous().to(device, dtype)


class ConvBNReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU; spatial size kept."""

    published_order = False  # see models/published_order.py
    narrow = False

    def __init__(self, in_channels: int, channels: int, kernel: int = 1, dilation: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(in_channels, channels, kernel, 1, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-5)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, feature: Tensor) -> Tensor:
        if self.published_order:
            return F.relu(self.bn(self.conv(feature)))
        return self.activate(convolve(self.conv, feature, self.conv.weight))

    def activate(self, convolved: Tensor) -> Tensor:
        """Batch norm and ReLU, in the place of the norm's output, which no gradient needs."""
        return F.relu(self.bn(convolved), inplace=True)


class SeparableASPP(nn.Module):
    """Atrous pyramid over the concatenated levels: a 1x1 branch and depthwise-separable 3x3 branches, no image pooling."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            ConvBNReLU(in_channels, channels)
            if dilation == 1
            else nn.Sequential(
                ConvBNReLU(in_channels, in_channels, 3, dilation, groups=in_channels), ConvBNReLU(in_channels, channels)
            )
            for dilation in DILATIONS
        )
        self.bottleneck = ConvBNReLU(len(DILATIONS) * channels, channels, 3)

    def forward(self, feature: Tensor, plain: Tensor | None = None) -> Tensor:
        """(N, C_in, H, W) -> (N, C, H, W). `plain`: the 1x1 branch where that has been computed already."""
        branches = [branch(feature) for branch in (self.branches if plain is None else self.branches[1:])]
        return self.bottleneck(torch.cat(branches if plain is None else [plain, *branches], dim=1))  # type: ignore[no-any-return]


class SegmentationHead(nn.Module):
    """Every level to `channels` by a linear map, to the size of the finest level, concatenated, fused, classified.

    Args:
        in_channels: channels of the encoder's features, finest level first.
        out_channels: classes, or attention channels.
        channels: width of the head; 256 in the papers.
        dropout: whole channels dropped before the classifier.
        context_aware: fuse by the atrous pyramid (DAFormer); otherwise by a 1x1 convolution (SegFormer-like, scale attention).
    """

    published_order = False  # see models/published_order.py
    narrow = False

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        channels: int = 256,
        dropout: float = 0.1,
        context_aware: bool = True,
    ) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(c, channels) for c in in_channels)
        fused = len(in_channels) * channels
        self.fuse: nn.Module = SeparableASPP(fused, channels) if context_aware else ConvBNReLU(fused, channels)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, out_channels, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.constant_(self.classifier.bias, 0.0)  # type: ignore[arg-type]
        if channels < NARROW:
            keep_published_order(self)

    def begin_at(self, shares: Sequence[float]) -> None:
        """Without features the classifier says what `shares` of the pixels each class has, instead of all the same.

        Features are not negative. Where a class is rare, background is what they learn to speak for first, and the class is left
        with none of them: its probability is then the bias's alone, the same wherever it is found, and grows slowly. With this
        start it is the class that needs features (Lin et al., Focal Loss, arXiv 1708.02002, section 3.3, for detectors).
        """
        with torch.no_grad():
            self.classifier.bias.copy_(torch.tensor(shares).clamp(min=RAREST).log())  # type: ignore[union-attr]

    def lower_foreground(self, by: float) -> None:
        """Logits of all classes but the first fall by `by`: all fused ones too, since scale attention averages."""
        with torch.no_grad():
            self.classifier.bias[1:] -= by  # type: ignore[index]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Features (N, C_i, H_i, W_i) -> logits (N, out_channels, H_0, W_0)."""
        if self.published_order:
            fused = self.fuse(self._embedded(features).contiguous())
            return self.classifier(self.dropout(fused))  # type: ignore[no-any-return]
        if isinstance(self.fuse, SeparableASPP):
            plain = self._fused_before_resizing(features, self.fuse.branches[0])
            fused = self.fuse(self._embedded(features), plain)
        else:
            fused = self._fused_before_resizing(features, self.fuse)
        return per_pixel(self.dropout(fused), self.classifier.weight.flatten(1), self.classifier.bias)

    def _embedded(self, features: Sequence[Tensor]) -> Tensor:
        """All levels at the finest size, one after the other: (N, levels * channels, H_0, W_0)."""
        size = (features[0].shape[2], features[0].shape[3])
        levels = []
        for linear, feature in zip(self.embed, features, strict=True):
            assert isinstance(linear, nn.Linear)
            levels.append(self._resize(per_pixel(feature, linear.weight, linear.bias), size))
        return torch.cat(levels, dim=1)

    def _resize(self, level: Tensor, size: tuple[int, int]) -> Tensor:
        """In the precision that the level has: autocast would convert it, and a convolution back, at twice the memory."""
        if self.published_order:
            return resize(level, size)
        with torch.autocast(level.device.type, enabled=False):
            if level.device.type == "cuda" and level.dtype != torch.float32:
                return resize_by_products(level, size)
            return resize(level, size)

    def _fused_before_resizing(self, features: Sequence[Tensor], fuse: nn.Module) -> Tensor:
        """A 1x1 `ConvBNReLU` of the embedded levels, without making them.

        It commutes with bilinear upsampling, so each level passes its own part of it at its own size; that part and the
        level's embedding are one linear map.
        """
        assert isinstance(fuse, ConvBNReLU)
        size = (features[0].shape[2], features[0].shape[3])
        parts = fuse.conv.weight.flatten(1).split(self.embed[0].out_features, dim=1)
        total: Tensor | None = None
        for linear, feature, part in zip(self.embed, features, parts, strict=True):
            level = self._resize(per_pixel(feature, part @ linear.weight, part @ linear.bias), size)
            total = level if total is None else total + level
        assert total is not None
        return fuse.activate(total)
