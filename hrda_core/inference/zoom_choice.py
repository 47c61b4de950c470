"""At which sizes a photo is predicted: of several, those at which the network is surest (models/sureness.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hrda_core.models.hrda import Box, window_boxes
from hrda_core.models.sureness import foreground_found, nearest_to_one, sureness

WINDOWS = 9  # of a photo are looked at, spread over it, so that a large one does not take several times as long


def surest_zooms(
    network: Callable[[Tensor], Tensor],
    sizes: Sequence[tuple[float, tuple[int, int], Callable[[Box], Tensor]]],
    window: tuple[int, int],
    overlap: float,
    most: float = 1.0,
) -> list[float]:
    """The surest of `sizes` first, each a zoom, the (height, width) of the photo at it, and what reads a window (1, 3, h, w).

    Sizes at which more than a share of `most` is foreground are left out: a shadow that becomes a crack is found surely, too.
    Where all are, the one with the least remains.
    """
    known = {zoom: (size, read) for zoom, size, read in sizes}
    ordered = nearest_to_one(list(known))
    scores, shares = [], []
    for zoom in ordered:
        size, read = known[zoom]
        boxes = window_boxes(*size, window, overlap)
        step = max(len(boxes) / WINDOWS, 1)
        seen = [read(boxes[int(i * step)]) for i in range(min(len(boxes), WINDOWS))]
        found = [foreground_found(network(windows)) for windows in seen]
        pixels = torch.cat([n for _, n in found]).sum()
        scores.append(sureness(torch.cat([p for p, _ in found]).sum(), pixels))
        shares.append(pixels / sum(windows.shape[2] * windows.shape[3] for windows in seen))
    plausible = [i for i, share in enumerate(shares) if share <= most]
    if not plausible:
        return [ordered[int(torch.stack(shares).argmin())]]
    return [ordered[i] for i in sorted(plausible, key=lambda i: -float(scores[i]))]


def zooms_averaged(count: int) -> int:
    """How many of `count` zooms make the prediction: the two surest of three or more, else the surest.

    A size at which the network is surest by mistake then counts half; measured on real cracks (README).
    """
    return 2 if count > 2 else 1
