"""Feature distance to a frozen ImageNet encoder (Hoyer et al., DAFormer, arXiv 2111.14887, section 3.3)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrda_core.adaptation.losses import IGNORE
from hrda_core.adaptation.whole_batch import ALONE, WholeBatch
from hrda_core.models.daformer_head import resize
from hrda_core.models.encoder import Encoder
from hrda_core.models.hrda import CONTEXT_SCALE


def downscale_label(label: Tensor, size: tuple[int, int], min_ratio: float, num_classes: int) -> Tensor:
    """(N, H, W) labels -> (N, h, w): the class that covers most of a cell, 255 below `min_ratio` of it.

    Ignored pixels count as a class of their own, so that a cell of them becomes 255.
    """
    classes = [*range(num_classes), IGNORE]
    # class by class: one-hot labels of a published-size batch would take most of a gigabyte
    shares = torch.stack([F.adaptive_avg_pool2d((label == c).float(), size) for c in classes], dim=1)
    ratio, small = shares.max(dim=1)
    small[(small == num_classes) | (ratio < min_ratio)] = IGNORE
    return small


class FeatureDistance(nn.Module):
    """Mean L2 distance of the student's last encoder stage to the frozen encoder's, where a chosen class dominates.

    Args:
        encoder: the student's encoder as it came from ImageNet; copied and frozen in eval mode.
        classes: indices of the classes that count ("things" in the paper).
        context: True for the multi-resolution network, whose features are at context scale.
    """

    def __init__(
        self, encoder: Encoder, classes: Sequence[int], min_ratio: float, num_classes: int, context: bool = True
    ) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(False).eval()
        self.register_buffer("classes", torch.tensor(list(classes), dtype=torch.int64), persistent=False)
        self.min_ratio = min_ratio
        self.num_classes = num_classes
        self.context = context

    def train(self, mode: bool = True) -> FeatureDistance:
        """Stays in eval mode."""
        return super().train(False)

    def forward(self, features: Tensor, image: Tensor, label: Tensor, batch: WholeBatch = ALONE) -> Tensor:
        """Student features (N, C, h, w) of the normalised source `image` (N, 3, H, W) with `label` (N, H, W) -> scalar.

        The mean is over the whole batch; 0 where no cell qualifies.
        """
        small = downscale_label(label, (features.shape[2], features.shape[3]), self.min_ratio, self.num_classes)
        counts = torch.isin(small, self.classes)  # type: ignore[arg-type]
        cells = batch.sum(counts.sum().float()).clamp(min=1)
        if not bool(counts.any()):
            return batch.sum(features.sum() * 0) / cells
        if self.context:
            image = resize(image, (round(image.shape[2] * CONTEXT_SCALE), round(image.shape[3] * CONTEXT_SCALE)))
        with torch.no_grad():
            frozen = self.encoder(image)[-1]
        distance = (features.float() - frozen.float()).norm(dim=1)
        return batch.sum(distance[counts].sum()) / cells
