"""Figures of the whole batch, of which several processes may each hold a part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

LABELS = 256  # of an 8-bit mask, 255 = ignore included


@dataclass(frozen=True)
class WholeBatch:
    """This process holds one of `parts` equal parts. Alone it holds all, and nothing is exchanged.

    Every process must ask for the same figures in the same order.
    """

    parts: int = 1

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all parts.

        Its gradient is that of this part times `parts`: the processes average their gradients afterwards, and the average
        of those is the gradient of the sum.
        """
        if self.parts == 1:
            return value
        total: Tensor = value.detach().clone()
        dist.all_reduce(total)
        total = total + self.parts * (value - value.detach())
        return total

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all parts; gradients as in `sum`."""
        mean: Tensor = self.sum(value) / self.parts
        return mean

    def present(self, label: Tensor) -> Tensor:
        """Every value, in order, that occurs in the labels (N, H, W) int64 of any part; 255 is one of them."""
        present: Tensor = label.unique()
        if self.parts == 1:
            return present
        flags = torch.zeros(LABELS, dtype=torch.int32, device=label.device)
        flags[present] = 1
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return flags.nonzero().flatten()


ALONE = WholeBatch()
