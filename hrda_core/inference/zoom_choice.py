"""At which sizes a photo is predicted: of several, those at which the network is surest (models/sureness.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hrda_core.models.hrda import Box, window_boxes
from hrda_core.models.sureness import foreground_found, nearest_to_one, sureness

ROWS, WINDOWS = 3, 9  # of a photo's windows at most so many are looked at, so that a large one does not take much longer


class Looked(NamedTuple):
    """A zoom at which a photo was looked at. known: the logits (1, C, h, w) of its windows, where all of them were seen."""

    zoom: float
    known: dict[Box, Tensor]


def surest_zooms(
    network: Callable[[Tensor], Tensor],
    sizes: Sequence[tuple[float, tuple[int, int], Callable[[Box], Tensor]]],
    window: tuple[int, int],
    overlap: float,
    most: float = 1.0,
) -> list[Looked]:
    """The surest of `sizes` first, each a zoom, the (height, width) of the photo at it, and what reads a window (1, 3, h, w).

    Sizes at which more than a share of `most` is foreground are left out: a shadow that becomes a crack is found surely, too.
    Where all are, the one with the least remains.
    """
    known = {zoom: (size, read) for zoom, size, read in sizes}
    ordered = nearest_to_one(list(known))
    looked, scores, shares = list[Looked](), list[Tensor](), list[Tensor]()
    for zoom in ordered:
        size, read = known[zoom]
        boxes = window_boxes(*size, window, overlap)
        some = spread_over(boxes)
        logits = [network(read(box)) for box in some]
        found = [foreground_found(seen) for seen in logits]
        pixels = torch.cat([n for _, n in found]).sum()
        scores.append(sureness(torch.cat([p for p, _ in found]).sum(), pixels))
        shares.append(pixels / sum(seen.shape[2] * seen.shape[3] for seen in logits))
        looked.append(Looked(zoom, dict(zip(some, logits, strict=True)) if len(some) == len(boxes) else {}))
    plausible = [i for i, share in enumerate(shares) if share <= most]
    if not plausible:
        return [looked[int(torch.stack(shares).argmin())]]
    return [looked[i] for i in sorted(plausible, key=lambda i: -float(scores[i]))]


def spread_over(boxes: Sequence[Box]) -> list[Box]:
    """Of a grid of windows, row by row: all of up to WINDOWS, else those of some of its rows and columns, evenly spread."""
    tops, lefts = sorted({box.top for box in boxes}), sorted({box.left for box in boxes})
    across = min(len(lefts), WINDOWS // min(len(tops), ROWS))
    down = min(len(tops), WINDOWS // across)
    rows = {tops[int((i + 0.5) * len(tops) / down)] for i in range(down)}
    columns = {lefts[int((i + 0.5) * len(lefts) / across)] for i in range(across)}
    return [box for box in boxes if box.top in rows and box.left in columns]


def zooms_averaged(count: int) -> int:
    """How many of `count` zooms make the prediction: the two surest of three or more, else the surest.

    A size at which the network is surest by mistake then counts half; measured on real cracks (docs/defaults.md).
    """
    return 2 if count > 2 else 1
