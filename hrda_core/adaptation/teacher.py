"""The mean teacher: an exponential moving average of the student (Tarvainen & Valpola 2017; DAFormer, equation 5)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from hrda_core.models.half_weights import HalfWeights
from hrda_core.models.hrda import HRDA


def ema_alpha(iteration: int, alpha: float) -> float:
    """min(1 - 1 / (iteration + 1), alpha): a plain average at first, so that early noise is forgotten."""
    return min(1 - 1 / (iteration + 1), alpha)


class _Lists(NamedTuple):
    averages: list[Tensor]
    current: list[Tensor]

    @staticmethod
    def of(pairs: Sequence[tuple[Tensor, Tensor]]) -> _Lists:
        return _Lists([ours for ours, _ in pairs], [theirs for _, theirs in pairs])


class _Pairs(NamedTuple):
    """Tensors of teacher and student. addresses: of their first parameters. counts: integers, which are copied."""

    addresses: tuple[int, int]
    parameters: _Lists
    everything: _Lists
    counts: list[tuple[Tensor, Tensor]]


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
        self._pairs: _Pairs | None = None
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
        pairs = self._pairs_with(student)
        kept = pairs.parameters if alpha and self.norm == "batch" else pairs.everything
        # all tensors at once: one launch on a GPU instead of a thousand
        torch._foreach_mul_(kept.averages, alpha)
        torch._foreach_add_(kept.averages, kept.current, alpha=1 - alpha)
        for count, latest in pairs.counts if kept is pairs.everything else ():
            count.copy_(latest)
        if self._half is not None:
            self._half.refresh()

    def _pairs_with(self, student: HRDA) -> _Pairs:
        """Collected once: to go through a thousand tensors takes longer than to average them on a GPU."""
        # other ones when the networks were moved to another device
        addresses = (next(student.parameters()).data_ptr(), next(self.model.parameters()).data_ptr())
        if self._pairs is None or self._pairs.addresses != addresses:
            ours: list[Tensor] = [*self.model.parameters(), *self.model.buffers()]
            theirs: list[Tensor] = [*(p.detach() for p in student.parameters()), *student.buffers()]
            pairs = list(zip(ours, theirs, strict=True))
            learned = len(list(student.parameters()))
            self._pairs = _Pairs(
                addresses,
                _Lists.of(pairs[:learned]),
                _Lists.of([pair for pair in pairs if pair[0].is_floating_point()]),
                [pair for pair in pairs if not pair[0].is_floating_point()],
            )
        return self._pairs

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
