"""Windows over an image: the one place that knows them. Validation, pseudo-labels and prediction all go through it.

Windows are taken row by row and blended in a buffer as high as one window. A row of pixels leaves the buffer as soon as no
later window covers it, so memory grows with the image's width, never with its height.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from hrda_core.models.hrda import HRDA, Box, window_boxes

BLENDINGS = ("smooth", "average")
BAND_ROWS = 64  # finished rows leave in bands of at most this height, so that what follows needs little memory too
FAINTEST = 1e-3  # weight at the border of a smooth window, whose middle has about 1

Read = Callable[[Box], Tensor]  # a window of the image -> normalised (N, 3, h, w)
Network = Callable[[Tensor], Tensor]  # normalised (N, 3, h, w) -> logits (N, C, h, w)
# windows of the image, mirrored or not, and their pixels -> logits of each
Shared = Callable[[Sequence[tuple[Box, bool]], Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Tiling:
    """How windows cover an image.

    window: (height, width) in pixels. overlap: share by which neighbours overlap. blending: "average" counts windows alike,
    as published (HRDA, section 4.2); "smooth" lets a window count less towards its borders, where it sees less context,
    so that no seam shows. flips: average with the logits of the mirrored image. batch: windows per pass of the network.
    """

    window: tuple[int, int]
    overlap: float = 0.5
    blending: str = "average"
    flips: bool = False
    batch: int = 4

    def boxes(self, height: int, width: int) -> list[Box]:
        """The windows of an image of this size, row by row."""
        return window_boxes(height, width, self.window, self.overlap)


class Band(NamedTuple):
    """Finished rows from `top` on: logits (N, C, h, W) float32."""

    top: int
    logits: Tensor


@torch.no_grad()
def slide_logits(
    model: HRDA,
    image: Tensor,
    window: tuple[int, int],
    overlap: float = 0.5,
    batch: int = 4,
    blending: str = "average",
) -> Tensor:
    """Normalised (N, 3, H, W) -> logits (N, C, H, W) float32, blended where windows overlap; see `Tiling`.

    An image smaller than the (height, width) `window` is one window of its own size.
    """

    def read(box: Box) -> Tensor:
        return image[:, :, box.top : box.bottom, box.left : box.right]

    size = (image.shape[2], image.shape[3])
    result = image.new_empty((len(image), model.num_classes, *size), dtype=torch.float32)
    for top, logits in logit_bands(read, model.logits, size, Tiling(window, overlap, blending, batch=batch)):
        result[:, :, top : top + logits.shape[2]] = logits
    return result


@torch.no_grad()
def logit_bands(
    read: Read, network: Network, size: tuple[int, int], tiling: Tiling, shared: Shared | None = None
) -> Iterator[Band]:
    """Blended logits of an image of `size` (height, width), from top to bottom, without a gap.

    `shared`: runs windows in place of `network`, such as `SharedDetails`, which needs to know where in the image they are.
    With flips the mirrored windows are those of the mirrored image, so that a mirrored image gives the mirrored answer.

    Raises:
        ValueError: an unknown blending.
    """
    height, width = size
    boxes = tiling.boxes(height, width)
    rows = _axis(height, {b.top: b.bottom for b in boxes}, tiling.blending)
    columns = _axis(width, {b.left: b.right for b in boxes}, tiling.blending)
    views = [(box, mirrored) for box in boxes for mirrored in ((False, True) if tiling.flips else (False,))]
    column_divisor = columns.divisor + columns.divisor.flip(0) if tiling.flips else columns.divisor
    buffer, top = torch.empty(0), 0  # the blended logits of the rows from `top` on, as many as a window has
    for start in range(0, len(views), tiling.batch):
        chunk = views[start : start + tiling.batch]
        windows = [read(_mirror(box, width)).flip(-1) if mirrored else read(box) for box, mirrored in chunk]
        parts = shared(chunk, windows) if shared else network(torch.cat(windows)).float().split(len(windows[0]))
        if start == 0:
            buffer = parts[0].new_zeros((*parts[0].shape[:3], width))
        for (box, mirrored), logits in zip(chunk, parts, strict=True):
            if box.top > top:  # no window to come reaches above this one
                yield from _finished(buffer, top, box.top, rows.divisor, column_divisor)
                _move_up(buffer, box.top - top)
                top = box.top
            row_weights, column_weights = rows.weights[box.top].to(logits.device), columns.weights[box.left].to(logits.device)
            weighted = logits * torch.outer(row_weights, column_weights)
            place = _mirror(box, width) if mirrored else box
            buffer[:, :, :, place.left : place.right] += weighted.flip(-1) if mirrored else weighted
    yield from _finished(buffer, top, height, rows.divisor, column_divisor)


class _Axis(NamedTuple):
    """Weights of the windows along rows or columns, by their start, and what the sum of weighted logits is divided by."""

    weights: dict[int, Tensor]
    divisor: Tensor


def _axis(length: int, spans: dict[int, int], blending: str) -> _Axis:
    """Along an axis of `length` pixels, windows from `start` to `stop` (`spans`).

    "smooth" weights are divided here: they are exactly 1 where a pixel has one window, also at the image's border.
    """
    if blending not in BLENDINGS:
        raise ValueError(f"blending={blending!r}: use {' or '.join(map(repr, BLENDINGS))}")
    weights = {start: _profile(stop - start, blending) for start, stop in spans.items()}
    total = torch.zeros(length)
    for start, stop in spans.items():
        total[start:stop] += weights[start]
    if blending == "average":
        return _Axis(weights, total)
    return _Axis({start: weights[start] / total[start:stop] for start, stop in spans.items()}, torch.ones(length))


def _profile(length: int, blending: str) -> Tensor:
    if blending == "average":
        return torch.ones(length)
    return torch.sin(math.pi * (torch.arange(length) + 0.5) / length) ** 2 * (1 - FAINTEST) + FAINTEST


def _mirror(box: Box, width: int) -> Box:
    return box._replace(left=width - box.right, right=width - box.left)


def _finished(buffer: Tensor, top: int, bottom: int, row_divisor: Tensor, column_divisor: Tensor) -> Iterator[Band]:
    columns = column_divisor.to(buffer.device)
    for start in range(top, bottom, BAND_ROWS):
        stop = min(start + BAND_ROWS, bottom)
        divisor = torch.outer(row_divisor[start:stop].to(buffer.device), columns)
        yield Band(start, buffer[:, :, start - top : stop - top] / divisor)


def _move_up(buffer: Tensor, by: int) -> None:
    """In place, in pieces that do not overlap themselves: a copy of the buffer would double the memory."""
    kept = buffer.shape[2] - by
    for start in range(0, kept, by):
        stop = min(start + by, kept)
        buffer[:, :, start:stop] = buffer[:, :, start + by : stop + by]
    buffer[:, :, kept:] = 0
