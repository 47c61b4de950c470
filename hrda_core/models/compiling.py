"""torch.compile for encoders, in training and in prediction, where it works."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hrda_core.models.hrda import HRDA, Box
from hrda_core.models.passes import autocast, state_kept

BACKEND = "inductor"
VARIANTS = 64  # of a block's code, by shapes; beyond it would run uncompiled


def compile_networks(networks: Sequence[HRDA], trial: Callable[[], None], tell: Callable[[str], None]) -> bool:
    """Compiles the encoders in place and runs `trial`; where that fails, tells why and leaves the networks as they were.

    Not the whole: a detail box is another one in every iteration, and the network would be compiled for each. The heads gain
    little, their time is in convolutions. Names in the state dict stay, and copies of a compiled network are not compiled, but
    for those with weights in half precision.

    Args:
        trial: runs the networks as they will be run (`train_once`, `predict_once`); other shapes are compiled when they come.
    """
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    parts = [part for network in networks for part in network.encoder.parts_to_compile()]
    try:
        if not hasattr(torch.compiler, "set_stance"):
            raise RuntimeError("it needs PyTorch 2.6 or newer")
        _compile(parts)
        trial()
    except Exception as error:  # a missing compiler, an operation that it does not know, or a fault of its own
        for part in parts:
            part._compiled_call_impl = None
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        tell(f"compile=true: torch.compile failed ({reason[:200]}), so the networks run without it")
        torch.compiler.reset()
        return False
    return True


def compile_like(ours: nn.Module, theirs: nn.Module) -> None:
    """A copy's parts where those of the original are compiled."""
    pairs = zip(ours.modules(), theirs.modules(), strict=True)
    _compile([part for part, original in pairs if original._compiled_call_impl is not None])


def train_once(network: HRDA, example: Tensor, precision: torch.dtype | None) -> None:
    """Forward and backward pass of (N, 3, H, W) with a detail, which leaves no trace."""
    height, width = network.detail_size
    box = Box(0, height, 0, width) if network.multi_resolution else None
    with state_kept(network):
        with autocast(example.device, precision):
            output = network(example, box)
        output.fused.sum().backward()
    network.zero_grad(set_to_none=True)


@torch.no_grad()
def predict_once(network: HRDA, example: Tensor, precision: torch.dtype | None) -> None:
    """Sliding windows over (N, 3, H, W), which leave no trace."""
    with state_kept(network), autocast(example.device, precision):
        network.logits(example)


@contextmanager
def without_compilation() -> Iterator[None]:
    """Networks run as they are, compiled or not."""
    if not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _compile(parts: Sequence[nn.Module]) -> None:
    if hasattr(torch._dynamo.config, "recompile_limit"):  # four stages, for each batch that student, teacher and windows have
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    for part in parts:
        part.compile(dynamic=False, backend=BACKEND)
