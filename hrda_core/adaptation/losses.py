"""Losses of the multi-resolution network (HRDA, arXiv 2204.13132, equation 9)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hrda_core.adaptation.whole_batch import ALONE, WholeBatch
from hrda_core.models.daformer_head import resize
from hrda_core.models.hrda import Box, HRDAOutput

IGNORE = 255


class SegmentationLoss(NamedTuple):
    """Scalars, already weighted: `total` is the sum of the others."""

    total: Tensor
    fused: Tensor
    detail: Tensor
    context: Tensor


def multi_resolution_loss(
    output: HRDAOutput,
    label: Tensor,
    weight: Tensor | None,
    box: Box | None,
    detail_weight: float = 0.1,
    context_weight: float = 0.0,
    dice_weight: float = 0.0,
    batch: WholeBatch = ALONE,
) -> SegmentationLoss:
    """(1 - detail - context) * CE(fused) + detail * CE(detail, cropped label) + context * CE(context).

    Args:
        label: (N, H, W) class indices at image size, 255 = ignore.
        weight: (N, H, W) per-pixel weights, or None for ones.
        box: the detail box of this forward; None for the single-resolution network, where only the first term exists.
        dice_weight: weight of a soft Dice term on the fused logits, beside the cross entropy; 0 in the papers.
        batch: of which these are a part. The cross entropy of a part needs nothing of the others: parts are equally large.
    """
    zero = output.fused.new_zeros((), dtype=torch.float32)
    detail, context, rest = zero, zero, 1.0
    if output.detail is not None and box is not None:
        rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
        cropped_weight = None if weight is None else weight[:, rows, columns]
        detail = detail_weight * cross_entropy(output.detail, label[:, rows, columns], cropped_weight)
        rest -= detail_weight
    if output.context is not None and context_weight > 0:
        context = context_weight * cross_entropy(output.context, label, weight)
        rest -= context_weight
    fused = rest * cross_entropy(output.fused, label, weight)
    if dice_weight > 0:
        fused = fused + dice_weight * dice_loss(output.fused, label, weight, batch)
    return SegmentationLoss(fused + detail + context, fused, detail, context)


def cross_entropy(logits: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
    """Mean over ALL pixels, the ignored and the zero-weight ones included, so that a batch without labels gives 0, not NaN.

    Logits (N, C, h, w) are resized to the label's (N, H, W) first.
    """
    logits = resize(logits.float(), (label.shape[1], label.shape[2]))
    loss = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="none")
    return (loss if weight is None else loss * weight).mean()


def dice_loss(logits: Tensor, label: Tensor, weight: Tensor | None, batch: WholeBatch = ALONE) -> Tensor:
    """Soft Dice over the foreground classes of the whole batch; 0 where the batch has no foreground pixel."""
    logits = resize(logits.float(), (label.shape[1], label.shape[2]))
    valid = (label != IGNORE).float() if weight is None else (label != IGNORE).float() * weight
    probabilities = logits.softmax(dim=1)
    sums = [logits.new_zeros((0, 3))]
    for c in range(1, logits.shape[1]):
        truth = (label == c).float() * valid
        predicted = probabilities[:, c] * valid
        sums.append(torch.stack([(predicted * truth).sum(), predicted.sum(), truth.sum()])[None])
    losses = []
    for common, predicted, truth in batch.sum(torch.cat(sums)):
        if truth > 0:
            losses.append(1 - 2 * common / (predicted + truth + 1e-6))
    return torch.stack(losses).mean() if losses else logits.sum() * 0
