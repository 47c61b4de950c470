"""What one window of the sliding window computes, as a module that becomes an ONNX graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrda_core.models.daformer_head import resize
from hrda_core.models.hrda import BOX_STEP, CONTEXT_SCALE, HRDA, STRIDE, window_boxes


class WindowProbabilities(nn.Module):
    """RGB 0..255, float32 (N, 3, h, w) of the one size `window` -> probabilities float32 (N, C, h, w).

    `HRDA.logits` with normalisation before and softmax after it. All detail windows are one batch; what depends only on the
    window's size (their places, how many of them cover a cell) is a number in the graph, N is not.
    """

    mean: Tensor
    std: Tensor
    count: Tensor

    def __init__(
        self, model: HRDA, mean: tuple[float, float, float], std: tuple[float, float, float], window: tuple[int, int]
    ) -> None:
        super().__init__()
        self.model = model
        self.window = window
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        padded = model.pad(torch.empty(1, 3, *window))
        self.size = (padded.shape[2], padded.shape[3])
        self.padding = (0, self.size[1] - window[1], 0, self.size[0] - window[0])
        self.padding_mode = "reflect" if self.padding[1] < window[1] and self.padding[3] < window[0] else "replicate"
        self.boxes = window_boxes(*self.size, model.detail_size, model.detail_overlap, BOX_STEP)
        count = torch.zeros(1, 1, self.size[0] // STRIDE, self.size[1] // STRIDE)
        for box in self.boxes:
            count[:, :, box.top // STRIDE : box.bottom // STRIDE, box.left // STRIDE : box.right // STRIDE] += 1
        self.register_buffer("count", count)

    def forward(self, image: Tensor) -> Tensor:
        # Not `HRDA.pad`: it rounds sizes up by a floor division, which ONNX would round towards zero.
        padded = F.pad((image / 255 - self.mean) / self.std, self.padding, self.padding_mode)
        fused = self._fused(padded) if self.model.multi_resolution else self.model.head(self.model.encoder(padded))
        logits = resize(fused, self.size)[:, :, : self.window[0], : self.window[1]]
        return logits.softmax(dim=1)

    def _fused(self, image: Tensor) -> Tensor:
        """`HRDA.forward` for a detail that covers the whole image; the same sums in the same order."""
        height, width = self.size
        features = self.model.encoder(resize(image, (round(height * CONTEXT_SCALE), round(width * CONTEXT_SCALE))))
        context = self.model.head(features)
        attention = self.model._attention(features, context)
        cells = (height // STRIDE, width // STRIDE)
        return resize(attention, cells) * self._detail(image) + resize((1 - attention) * context, cells)

    def _detail(self, image: Tensor) -> Tensor:
        """Logits (N, C, H/4, W/4) averaged over detail windows; padded and added, since writing into slices exports badly."""
        windows = torch.cat([image[:, :, b.top : b.bottom, b.left : b.right] for b in self.boxes])
        logits = self.model.head(self.model.encoder(windows)).unflatten(0, (len(self.boxes), -1))
        total = torch.zeros_like(self.count)
        for box, window in zip(self.boxes, logits.unbind(0), strict=True):
            around = (box.left, self.size[1] - box.right, box.top, self.size[0] - box.bottom)
            total = total + F.pad(window, [side // STRIDE for side in around])
        return total / self.count
