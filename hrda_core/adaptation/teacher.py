"""The mean teacher: an exponential moving average of the student (Tarvainen & Valpola 2017; DAFormer, equation 5)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from hrda_core.models.half_weights import HalfWeights
from hrda_core.models.hrda import HRDA


def ema_alpha(iteration: int, alpha: float) -> float:
    """min(1 - 1 / (iteration + 1), alpha): a plain average at first, so that early noise is forgotten."""
    return min(1 - 1 / (iteration + 1), alpha)


class Teacher:
    """Copy of the student at `iteration` 0, then its average.

    Args:
        norm: "batch" keeps the batch norms in train mode on the target's own statistics, buffers not averaged, as the
            published code does; "running" averages the student's running statistics with the parameters and uses those.
        autocast: the type that `logits` will be asked under.
    """

    def __init__(self, student: HRDA, alpha: float = 0.999, norm: str = "running", autocast: torch.dtype | None = None) -> None:
        if norm not in ("batch", "running"):
            raise ValueError(f"norm={norm!r}: use 'batch' or 'running'")
        self.model = copy.deepcopy(student).requires_grad_(False)
        self.alpha = alpha
        self.norm = norm
        self._half = None if autocast is None else HalfWeights(self.model, autocast)
        self.recorded: Callable[[Tensor], Tensor] | None = None  # `network.logits`, see training/cuda_graphs.py
        self.set_mode()

    @property
    def network(self) -> HRDA:
        """What `logits` runs: the model, or its copy with weights in half precision."""
        return self.model if self._half is None else self._half.network

    @torch.no_grad()
    def update(self, student: HRDA, iteration: int) -> None:
        """Called before each iteration; iteration 0 copies the student, buffers included."""
        alpha = ema_alpha(iteration, self.alpha)
        ours: list[Tensor] = [*self.model.parameters()]
        theirs: list[Tensor] = [p.detach() for p in student.parameters()]
        if alpha == 0 or self.norm == "running":
            ours += self.model.buffers()
            theirs += student.buffers()
        averaged = [pair for pair in zip(ours, theirs, strict=True) if pair[0].is_floating_point()]
        # all tensors at once: one launch on a GPU instead of a thousand
        averages, current = [a for a, _ in averaged], [c for _, c in averaged]
        torch._foreach_mul_(averages, alpha)
        torch._foreach_add_(averages, current, alpha=1 - alpha)
        for count, latest in zip(ours, theirs, strict=True):
            if not count.is_floating_point():
                count.copy_(latest)
        if self._half is not None:
            self._half.refresh()

    @torch.no_grad()
    def logits(self, image: Tensor) -> Tensor:
        """Un-augmented normalised target (N, 3, H, W) -> logits (N, C, H, W), context plus overlapping detail windows."""
        return (self.recorded or self.network.logits)(image)

    def set_mode(self) -> None:
        """Back to the mode of training, after an evaluation changed it."""
        for network in {self.model, self.network}:
            network.train(self.norm == "batch")
            for module in network.modules():
                if isinstance(module, (nn.Dropout, nn.Dropout2d, DropPath)):
                    module.eval()
