"""torch.compile for networks, in training and in prediction, where it works."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hrda_core.models.hrda import HRDA, Box

BACKEND = "inductor"


def compile_networks(
    networks: Sequence[HRDA],
    example: Tensor,
    autocast: torch.dtype | None,
    tell: Callable[[str], None],
    training: bool = True,
) -> bool:
    """Compiles encoder and heads in place and runs them once; where that fails, tells why and leaves them as they were.

    The parts, not the whole: a detail box is another one in every iteration, and the network would be compiled for each.
    Names in the state dict stay, and copies of a compiled network are not compiled.

    Args:
        example: (N, 3, H, W) of what the networks will see, since other shapes are compiled when they come.
        training: the first network learns, the others predict; otherwise all predict.
    """
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    parts = [
        part for network in networks for part in (network.encoder, network.head, network.scale_attention) if part is not None
    ]
    try:
        if not hasattr(torch.compiler, "set_stance"):
            raise RuntimeError("it needs PyTorch 2.6 or newer")
        _compile(parts)
        for position, network in enumerate(networks):
            _try(network, example, autocast, training and position == 0)
    except Exception as error:  # a missing compiler, an operation that it does not know, or a fault of its own
        for part in parts:
            part._compiled_call_impl = None
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        tell(f"compile=true: torch.compile failed ({reason[:200]}), so the networks run without it")
        torch.compiler.reset()
        return False
    return True


@contextmanager
def without_compilation() -> Iterator[None]:
    """Networks run as they are, compiled or not."""
    if not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _compile(parts: Sequence[nn.Module]) -> None:
    for part in parts:
        part.compile(dynamic=False, backend=BACKEND)


def _try(network: HRDA, example: Tensor, autocast: torch.dtype | None, training: bool) -> None:
    """Runs every part as it will be run; raises what the compiler raises. The network's state stays as it was."""
    before = [buffer.clone() for buffer in network.buffers()]
    device = example.device
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.set_grad_enabled(training),
        torch.autocast(device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None),
    ):
        if training and network.multi_resolution:
            height, width = network.detail_size
            output = network(example, Box(0, height, 0, width)).fused
        else:
            output = network(example).fused if training else network.logits(example)
    if training:
        output.sum().backward()
        network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, kept in zip(network.buffers(), before, strict=True):
            buffer.copy_(kept)
