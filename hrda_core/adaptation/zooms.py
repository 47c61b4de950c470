"""The teacher sees each target photo at several sizes, of which the surest counts (models/sureness.py).

The student then learns the answer at the photo's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hrda_core.models.daformer_head import resize
from hrda_core.models.sureness import foreground_found, nearest_to_one, sureness


class Seen(NamedTuple):
    """What the teacher says of a batch. logits: (N, C, H, W). zoom: (N,), at which. plausible: (N,) bool, at any zoom."""

    logits: Tensor
    zoom: Tensor
    plausible: Tensor


def surest_zoom(
    predict: Callable[[Tensor], Tensor], image: Tensor, valid: Tensor, zooms: Sequence[float], most: float = 1.0
) -> Seen:
    """(N, 3, H, W) -> the answer at the zoom that is surest for each image.

    Args:
        valid: (N, H, W), 0 outside of the photo.
        most: share of a photo that can be foreground; an answer with more is a mistake, such as a shadow taken for a crack.
    """
    height, width = image.shape[2:]
    ordered = nearest_to_one(zooms)
    answers, scores = [], []
    for zoom in ordered:
        size = zoomed_size(height, width, zoom)
        seen = image if size == (height, width) else F.interpolate(image, size, mode="bilinear", antialias=zoom < 1)
        answers.append(resize(predict(seen).float(), (height, width)))
        probability, pixels = foreground_found(answers[-1], valid)
        too_much = pixels > most * (valid > 0).sum(dim=(1, 2))
        scores.append(torch.where(too_much, -1.0, sureness(probability, pixels)))
    best = torch.stack(scores).max(dim=0)
    chosen = torch.stack(answers)[best.indices, torch.arange(len(image), device=image.device)]
    return Seen(chosen, image.new_tensor(ordered)[best.indices], best.values >= 0)


def zoomed_size(height: int, width: int, zoom: float) -> tuple[int, int]:
    return max(round(height * zoom), 1), max(round(width * zoom), 1)
