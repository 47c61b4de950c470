"""What surrounds a pass of a network: the precision that it runs in, and the state that a trial must leave as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Mixed precision in `dtype`; none where that is None."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


@contextmanager
def state_kept(network: nn.Module) -> Iterator[None]:
    """Running statistics that passes move are put back, random numbers too; gradients end at zero."""
    before = [buffer.clone() for buffer in network.buffers()]
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
    with torch.no_grad():
        for buffer, kept in zip(network.buffers(), before, strict=True):
            buffer.copy_(kept)
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
