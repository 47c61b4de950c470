"""Weights in half precision for networks that run under autocast, which then has nothing to convert.

Autocast converts every weight of every convolution and linear map whenever they run, a thousand small launches a pass for a
deep network. Converted beforehand they are the same numbers. Norms of tokens, which autocast runs in float32, are converted too
where nothing is learned.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from hrda_core.models.compiling import compile_like
from hrda_core.models.hrda import HRDA
from hrda_core.models.mit import TokenNorm

CONVERTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)  # exactly these: what derives from them may calculate with its weights
WITHOUT_GRADIENTS = (*CONVERTED, TokenNorm)  # not in training, where small steps of a norm's weights would be lost in rounding


class HalfWeights:
    """A copy of `original` for autocast to `dtype`.

    It shares with the original everything that is not converted; `refresh` brings what is up to date. `learns`: gradients of the
    converted weights can be asked for, which are what autocast would convert and hand to the original's.
    """

    def __init__(self, original: HRDA, dtype: torch.dtype, learns: bool = False) -> None:
        converted = CONVERTED if learns else WITHOUT_GRADIENTS
        self._full = [
            parameter
            for module in original.modules()
            if type(module) in converted
            for parameter in module.parameters(recurse=False)
            if parameter.is_floating_point()
        ]
        self._half = [nn.Parameter(full.detach().to(dtype), learns and full.requires_grad) for full in self._full]
        known: dict[int, Any] = {id(t): t for t in (*original.parameters(), *original.buffers())}
        known |= {id(full): half for full, half in zip(self._full, self._half, strict=True)}
        self.network: HRDA = copy.deepcopy(original, known)
        compile_like(self.network, original)

    @torch.no_grad()
    def refresh(self) -> None:
        """After the original's weights have changed in place."""
        halves: list[Tensor] = list(self._half)
        torch._foreach_copy_(halves, [full.detach() for full in self._full])


def half_weights(original: HRDA, dtype: torch.dtype | None) -> HRDA:
    """`original` itself where `dtype` is None, else the copy for autocast to it."""
    return original if dtype is None else HalfWeights(original, dtype).network
