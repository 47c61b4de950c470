"""How sure a network is of the foreground that it finds. Class 0 is background.

Photos of one project are taken from different distances, and annotators of a source draw cracks of a certain width; a network
finds what is as large as in its source. Where it sees a photo at the size that suits it, its foreground is surest (measured on
real cracks: docs/defaults.md). Training (adaptation/zooms.py) and prediction (inference/zoom_choice.py) choose sizes by it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

FEW = 20.0  # pixels by which the mean is damped: a speck of a few sure pixels must not decide


def foreground_found(logits: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits (N, C, H, W) -> where foreground is above one half: sum of its probability, and pixels; (N,) each.

    valid: (N, H, W), 0 where there is no photo.
    """
    foreground = 1 - logits.float().softmax(dim=1)[:, 0]
    found = foreground > 0.5
    if valid is not None:
        found &= valid > 0
    return (foreground * found).sum(dim=(1, 2)), found.sum(dim=(1, 2))


def sureness(probability: Tensor, pixels: Tensor) -> Tensor:
    """Mean probability of what was found; 0 where nothing was."""
    return probability / (pixels + FEW)


def nearest_to_one(zooms: Sequence[float]) -> list[float]:
    """In the order in which equally sure ones are preferred."""
    return sorted(zooms, key=lambda zoom: max(zoom, 1 / zoom))
