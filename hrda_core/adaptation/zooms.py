"""At which size the teacher sees a target photo: each one at several, of which the surest counts.

Photos of one project are taken from different distances, and annotators of a source draw cracks of a certain width; a network
finds what is as large as in its source. Where it sees a photo at the size that suits it, its foreground is surest (measured on
real cracks: README). The student then learns the answer at the photo's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hrda_core.models.daformer_head import resize

FEW = 20.0  # pixels by which the mean is damped: a speck of a few sure pixels must not decide


class Seen(NamedTuple):
    """What the teacher says of a batch. logits: (N, C, H, W). zoom: (N,), at which. plausible: (N,) bool, at any zoom."""

    logits: Tensor
    zoom: Tensor
    plausible: Tensor


def surest_zoom(
    predict: Callable[[Tensor], Tensor], image: Tensor, valid: Tensor, zooms: Sequence[float], most: float = 1.0
) -> Seen:
    """(N, 3, H, W) -> the answer at the zoom that is surest for each image. Class 0 is background.

    Args:
        valid: (N, H, W), 0 outside of the photo.
        most: share of a photo that can be foreground; an answer with more is a mistake, such as a shadow taken for a crack.
    """
    height, width = image.shape[2:]
    ordered = sorted(zooms, key=lambda zoom: max(zoom, 1 / zoom))  # of equally sure ones the first is taken
    answers, sureness = [], []
    for zoom in ordered:
        size = zoomed_size(height, width, zoom)
        seen = image if size == (height, width) else F.interpolate(image, size, mode="bilinear", antialias=zoom < 1)
        answers.append(resize(predict(seen).float(), (height, width)))
        sureness.append(foreground_sureness(answers[-1], valid, most))
    best = torch.stack(sureness).max(dim=0)
    chosen = torch.stack(answers)[best.indices, torch.arange(len(image), device=image.device)]
    return Seen(chosen, image.new_tensor(ordered)[best.indices], best.values >= 0)


def foreground_sureness(logits: Tensor, valid: Tensor, most: float = 1.0) -> Tensor:
    """(N, C, H, W) -> (N,): mean probability of foreground where it is above one half.

    0 where it nowhere is, -1 where it is so in more than the share `most` of the photo.
    """
    inside = valid > 0
    foreground = (1 - logits.softmax(dim=1)[:, 0]) * inside
    found = foreground > 0.5
    pixels = found.sum(dim=(1, 2))
    mean = (foreground * found).sum(dim=(1, 2)) / (pixels + FEW)
    return torch.where(pixels > most * inside.sum(dim=(1, 2)), -torch.ones_like(mean), mean)


def zoomed_size(height: int, width: int, zoom: float) -> tuple[int, int]:
    return max(round(height * zoom), 1), max(round(width * zoom), 1)
