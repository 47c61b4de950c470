"""Windows over an image: the one place that knows them."""

from __future__ import annotations

import torch
from torch import Tensor

from hrda_core.models.hrda import HRDA, window_boxes


@torch.no_grad()
def slide_logits(model: HRDA, image: Tensor, window: tuple[int, int], overlap: float = 0.5, batch: int = 4) -> Tensor:
    """Normalised (N, 3, H, W) -> logits (N, C, H, W) float32, averaged where windows overlap (HRDA, section 4.2).

    An image smaller than the (height, width) `window` is one window of its own size. `overlap` is the share by which
    neighbours overlap. `batch` windows go through the network at once.
    """
    n, _, height, width = image.shape
    boxes = window_boxes(height, width, window, overlap)
    total = image.new_zeros((n, model.num_classes, height, width), dtype=torch.float32)
    count = image.new_zeros((1, 1, height, width), dtype=torch.float32)
    for start in range(0, len(boxes), batch):
        chunk = boxes[start : start + batch]
        windows = torch.cat([image[:, :, b.top : b.bottom, b.left : b.right] for b in chunk])
        for box, logits in zip(chunk, model.logits(windows).float().split(n), strict=True):
            total[:, :, box.top : box.bottom, box.left : box.right] += logits
            count[:, :, box.top : box.bottom, box.left : box.right] += 1
    return total / count
