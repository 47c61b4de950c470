"""The multi-resolution network: context crop, detail crop, and scale attention that fuses them.

Hoyer et al., HRDA, arXiv 2204.13132, section 3; domain-generalisation extension arXiv 2304.13615.
Shapes below: N images, C classes, H x W pixels; the stride of every head is 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrda_core.models.daformer_head import NARROW, SegmentationHead, resize
from hrda_core.models.encoder import Encoder

STRIDE = 4  # of the heads' logits
CONTEXT_SCALE = 0.5  # the context sees everything at half resolution, the detail a part at full resolution
BOX_STEP = 8  # detail boxes start on this grid, so that they fall on whole cells of the context logits
DETAIL_PIXELS = 4 * 2**20  # of sliding detail windows at once, or as many as the image itself has, if that is more
CPU_DETAIL_PIXELS = 2**16  # of them on a CPU: larger tensors leave its caches, and cost more than calls that are saved


class Box(NamedTuple):
    """Rows [top, bottom) and columns [left, right) in pixels of the padded image."""

    top: int
    bottom: int
    left: int
    right: int


class HRDAOutput(NamedTuple):
    """What one forward pass yields. All logits are float; `None` where the network is single-resolution.

    fused: (N, C, H/4, W/4), the prediction. detail: (N, C, h/4, w/4) of the detail box, `None` with sliding windows.
    context: (N, C, H/8, W/8), already weighted by 1 - attention. features: last encoder stage at context scale.
    """

    fused: Tensor
    detail: Tensor | None
    context: Tensor | None
    features: Tensor


class BothResolutions(NamedTuple):
    """What the networks make of a context and a detail, before their fusion. Sizes are those of the images.

    context: (N, C, h/4, w/4) logits. attention: (N, C or 1, h/4, w/4) in 0..1. detail: (N, C, H/4, W/4) logits.
    features: the last encoder stage of the context.
    """

    context: Tensor
    attention: Tensor
    detail: Tensor
    features: Tensor


class HRDA(nn.Module):
    """Encoder and head shared by both resolutions, and a scale-attention head.

    Args:
        encoder: four features at strides 4, 8, 16, 32.
        num_classes: classes including background.
        head_channels: width of both heads (256 in the paper).
        dropout: channel dropout before the classifiers.
        attention: "class" (one attention map per class), "single" (one for all), "fixed" (the constant 0.5).
        detail_size: (height, width) of the sliding detail windows in pixels at inference; the training crop's half.
        detail_overlap: share of a detail window covered by the next one at inference (0.5 in the paper).
        multi_resolution: False gives the single-resolution DAFormer network on the full image.
    """

    published_order = False  # see models/published_order.py

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        head_channels: int = 256,
        dropout: float = 0.1,
        attention: str = "class",
        detail_size: int | tuple[int, int] = 512,
        detail_overlap: float = 0.5,
        multi_resolution: bool = True,
    ) -> None:
        super().__init__()
        if attention not in ("class", "single", "fixed"):
            raise ValueError(f"attention={attention!r}: use 'class', 'single' or 'fixed'")
        if not 1 <= num_classes <= 255:
            raise ValueError(f"num_classes={num_classes}: masks are 8-bit and 255 means ignore, so use 1 to 255")
        step = max(BOX_STEP, encoder.size_multiple)
        sides = (detail_size, detail_size) if isinstance(detail_size, int) else tuple(detail_size)
        if len(sides) != 2:
            raise ValueError(f"detail_size={sides}: use one side, or (height, width)")
        if multi_resolution and any(side < encoder.min_size or side % step for side in sides):
            raise ValueError(f"detail_size={sides}: use multiples of {step}, at least {encoder.min_size}")
        if not 0 <= detail_overlap < 1:
            raise ValueError(f"detail_overlap={detail_overlap}: use a share from 0 up to, not including, 1")
        self.encoder = encoder
        self.num_classes = num_classes
        self.attention = attention
        self.detail_size = sides
        self.detail_overlap = detail_overlap
        self.multi_resolution = multi_resolution
        self.head = SegmentationHead(encoder.channels, num_classes, head_channels, dropout, context_aware=True)
        self.scale_attention: SegmentationHead | None = None
        if multi_resolution and attention != "fixed":
            maps = num_classes if attention == "class" else 1
            self.scale_attention = SegmentationHead(encoder.channels, maps, head_channels, dropout, context_aware=False)
        self.narrow = self.published_order = head_channels < NARROW

    # -- geometry ------------------------------------------------------------------------------------------------

    @property
    def size_multiple(self) -> int:
        """Height and width are padded to a multiple of this, so that context and detail cells coincide."""
        multiple = max(STRIDE, self.encoder.size_multiple)
        return 2 * multiple if self.multi_resolution else multiple

    @property
    def min_size(self) -> int:
        return 2 * self.encoder.min_size if self.multi_resolution else self.encoder.min_size

    def takes(self, height: int, width: int) -> bool:
        """Whether an image of this size needs no padding."""
        return self._padded(height) == height and self._padded(width) == width

    def pad(self, image: Tensor) -> Tensor:
        """Pads right and bottom to a size that the network takes, by reflection (by replication where that is too small)."""
        height, width = image.shape[-2:]
        pad_h = self._padded(height) - height
        pad_w = self._padded(width) - width
        mode = "reflect" if pad_h < height and pad_w < width else "replicate"
        return F.pad(image, (0, pad_w, 0, pad_h), mode=mode) if pad_h or pad_w else image

    def _padded(self, side: int) -> int:
        multiple = self.size_multiple
        return max(-(-side // multiple) * multiple, -(-self.min_size // multiple) * multiple)

    # -- forward -------------------------------------------------------------------------------------------------

    def forward(self, image: Tensor, detail_box: Box | None = None) -> HRDAOutput:
        """Normalised (N, 3, H, W) whose sides are multiples of `size_multiple` (see `pad`).

        With a `detail_box` the detail is that one crop (training); without, it is overlapping windows (inference).

        Raises:
            ValueError: the box is off the grid of `BOX_STEP`, where context and detail would be fused with an offset.
        """
        if not self.multi_resolution:
            features = self.encoder(image)
            return HRDAOutput(self.head(features), None, None, features[-1])
        if detail_box is not None:
            return self.fuse(self.both_resolutions(*self.crops(image, detail_box)), detail_box)
        context, attention, last = self._see_context(image)
        fused, context = self._fuse(context, self._detail_windows(image), attention, _whole(image))
        return HRDAOutput(fused, None, context, last)

    def crops(self, image: Tensor, detail_box: Box) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) -> the context (N, 3, H/2, W/2) and the detail (N, 3, h, w) of a training step."""
        if any(edge % BOX_STEP for edge in detail_box):
            raise ValueError(f"detail_box={tuple(detail_box)}: use multiples of {BOX_STEP}")
        top, bottom, left, right = detail_box
        return _context_of(image), image[:, :, top:bottom, left:right]

    def both_resolutions(self, context_image: Tensor, detail_image: Tensor) -> BothResolutions:
        """The part of `forward` that does not depend on where the detail lies, so that it can be recorded and replayed."""
        context_features, detail_features = self._encode(context_image, detail_image)
        context = self.head(context_features)
        attention = self._attention(context_features, context)
        return BothResolutions(context, attention, self.head(detail_features), context_features[-1])

    def fuse(self, both: BothResolutions, detail_box: Box) -> HRDAOutput:
        fused, context = self._fuse(both.context, both.detail, both.attention, detail_box)
        return HRDAOutput(fused, both.detail, context, both.features)

    def logits(self, image: Tensor) -> Tensor:
        """Normalised image of any size (N, 3, H, W) -> logits (N, C, H, W): pads, runs sliding detail windows, crops."""
        padded = self.pad(image)
        logits = resize(self(padded).fused, (padded.shape[2], padded.shape[3]))
        return logits[:, :, : image.shape[2], : image.shape[3]]

    # -- inference in parts, which images that overlap can share (inference/shared_details.py) ------------------------

    def detail_boxes(self, height: int, width: int) -> list[Box]:
        """Sliding detail windows over an image of such a size."""
        return window_boxes(height, width, self.detail_size, self.detail_overlap, BOX_STEP)

    def see_context(self, image: Tensor) -> Tensor:
        """Normalised (N, 3, H, W) -> context logits and attention, one after the other: (N, C + maps, H/8, W/8)."""
        return torch.cat(self._see_context(image)[:2], dim=1)

    def see_detail(self, windows: Tensor) -> Tensor:
        """Detail windows (N, 3, h, w) -> logits (N, C, h/4, w/4)."""
        return self.head(self.encoder(windows))  # type: ignore[no-any-return]

    def logits_of_parts(self, seen: Tensor, details: Sequence[Tensor], image: Tensor) -> Tensor:
        """Logits (N, C, H, W) of `image` from its `see_context`, and `see_detail` of each of its `detail_boxes`."""
        context, attention = seen.split([self.num_classes, seen.shape[1] - self.num_classes], dim=1)
        height, width = image.shape[2:]
        detail = _average(details, self.detail_boxes(height, width), (height, width))
        return resize(self._fuse(context, detail, attention, _whole(image))[0], (height, width))

    def _see_context(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, attention, and the encoder's last feature."""
        features = self.encoder(_context_of(image))
        context = self.head(features)
        return context, self._attention(features, context), features[-1]

    def _encode(self, context_image: Tensor, detail_image: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Features of both; on a GPU in one pass, which takes half the launches, where it gives the same."""
        alike = context_image.shape == detail_image.shape and not self.encoder.norms_see_the_batch
        if self.published_order or not alike or context_image.device.type == "cpu":
            return self.encoder(context_image), self.encoder(detail_image)
        halves = [feature.chunk(2) for feature in self.encoder(torch.cat([context_image, detail_image]))]
        return [context for context, _ in halves], [detail for _, detail in halves]

    def _attention(self, context_features: Sequence[Tensor], context: Tensor) -> Tensor:
        if self.scale_attention is None:
            return torch.full_like(context[:, :1], 0.5)
        return torch.sigmoid(self.scale_attention(context_features))

    def _fuse(self, context: Tensor, detail: Tensor, attention: Tensor, box: Box) -> tuple[Tensor, Tensor]:
        """Attention-weighted sum on the detail's grid; attention counts only inside the detail box."""
        inside = torch.zeros_like(attention)
        cell = round(STRIDE / CONTEXT_SCALE)
        inside[:, :, box.top // cell : box.bottom // cell, box.left // cell : box.right // cell] = 1
        attention = attention * inside
        size = (2 * context.shape[2], 2 * context.shape[3])
        context = (1 - attention) * context
        pasted = detail.new_zeros((detail.shape[0], detail.shape[1], *size))
        top, left = box.top // STRIDE, box.left // STRIDE
        pasted[:, :, top : top + detail.shape[2], left : left + detail.shape[3]] = detail
        return resize(attention, size) * pasted + resize(context, size), context

    def _detail_windows(self, image: Tensor) -> Tensor:
        """Logits (N, C, H/4, W/4) of overlapping detail windows, averaged where they overlap.

        The windows are one batch, as published. Only outside training it is split where it would need much more memory than
        the image itself; batch norms on batch statistics and gradients need it whole.
        """
        n, _, height, width = image.shape
        boxes = self.detail_boxes(height, width)
        per_pass = len(boxes)
        if not (self.training or torch.is_grad_enabled()):
            pixels = n * (boxes[0].bottom - boxes[0].top) * (boxes[0].right - boxes[0].left)
            at_once = max(DETAIL_PIXELS, n * height * width)
            if image.device.type == "cpu" and not self.published_order:
                at_once = CPU_DETAIL_PIXELS
            per_pass = max(at_once // pixels, 1)
        parts = []
        for start in range(0, len(boxes), per_pass):
            chunk = boxes[start : start + per_pass]
            parts.append(self.see_detail(torch.cat([image[:, :, b.top : b.bottom, b.left : b.right] for b in chunk])))
        return _average(torch.cat(parts).split(n), boxes, (height, width))


def _average(details: Sequence[Tensor], boxes: Sequence[Box], size: tuple[int, int]) -> Tensor:
    """Logits (N, C, h/4, w/4) of windows of an image (height, width), averaged where they overlap: (N, C, H/4, W/4)."""
    height, width = size[0] // STRIDE, size[1] // STRIDE
    total = details[0].new_zeros((*details[0].shape[:2], height, width))
    count = details[0].new_zeros((1, 1, height, width))
    for box, window in zip(boxes, details, strict=True):
        rows = slice(box.top // STRIDE, box.bottom // STRIDE)
        columns = slice(box.left // STRIDE, box.right // STRIDE)
        total[:, :, rows, columns] += window
        count[:, :, rows, columns] += 1
    averaged: Tensor = total / count
    return averaged


def _whole(image: Tensor) -> Box:
    return Box(0, image.shape[2], 0, image.shape[3])


def _context_of(image: Tensor) -> Tensor:
    return resize(image, (image.shape[2] // 2, image.shape[3] // 2))


def window_boxes(height: int, width: int, window: tuple[int, int], overlap: float, step: int = 1) -> list[Box]:
    """Windows (height, width) that cover the image, row by row; the last ones are shifted back inside.

    Neighbours overlap by the share `overlap`; the stride is rounded to a multiple of `step`. A side shorter than the
    window gives one window of that side.
    """
    boxes = []
    for top in _starts(height, window[0], overlap, step):
        for left in _starts(width, window[1], overlap, step):
            boxes.append(Box(top, min(top + window[0], height), left, min(left + window[1], width)))
    return boxes


def _starts(length: int, window: int, overlap: float, step: int) -> list[int]:
    stride = max(round(window * (1 - overlap) / step) * step, step)
    count = -(-max(length - window, 0) // stride) + 1
    return [max(min(i * stride, length - window), 0) for i in range(count)]
