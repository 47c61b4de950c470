"""At which size the teacher sees a target photo: each one at several, of which the surest counts.

Photos of one project are taken from different distances, and annotators of a source draw cracks of a certain width; a network
finds what is as large as in its source. Where it sees a photo at the size that suits it, its foreground is surest (measured on
real cracks: README). The student then learns the answer at the photo's own size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hrda_core.models.daformer_head import resize

FEW = 20.0  # pixels by which the mean is damped: a speck of a few sure pixels must not decide


def surest_logits(
    predict: Callable[[Tensor], Tensor], image: Tensor, valid: Tensor, zooms: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """(N, 3, H, W) -> logits (N, C, H, W) at the zoom that is surest for each image, and that zoom (N,).

    Class 0 is background. Where no zoom finds foreground, the one nearest to 1 counts. valid: (N, H, W), 0 outside of the photo.
    """
    height, width = image.shape[2:]
    ordered = sorted(zooms, key=lambda zoom: max(zoom, 1 / zoom))  # of equally sure ones the first is taken
    answers, sureness = [], []
    for zoom in ordered:
        size = zoomed_size(height, width, zoom)
        seen = image if size == (height, width) else F.interpolate(image, size, mode="bilinear", antialias=zoom < 1)
        logits = resize(predict(seen).float(), (height, width))
        answers.append(logits)
        sureness.append(foreground_sureness(logits, valid))
    best = torch.stack(sureness).argmax(dim=0)
    chosen = torch.stack(answers)[best, torch.arange(len(image), device=image.device)]
    return chosen, image.new_tensor(ordered)[best]


def foreground_sureness(logits: Tensor, valid: Tensor) -> Tensor:
    """(N, C, H, W) -> (N,): mean probability of foreground where it is above one half; 0 where it nowhere is."""
    foreground = (1 - logits.softmax(dim=1)[:, 0]) * (valid > 0)
    found = foreground > 0.5
    total: Tensor = (foreground * found).sum(dim=(1, 2)) / (found.sum(dim=(1, 2)) + FEW)
    return total


def zoomed_size(height: int, width: int, zoom: float) -> tuple[int, int]:
    return max(round(height * zoom), 1), max(round(width * zoom), 1)
