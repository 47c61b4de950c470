"""torch.compile for networks, in training and in prediction, where it works."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from hrda_core.models.hrda import HRDA

BACKEND = "inductor"


def compile_networks(
    networks: Sequence[HRDA], image: tuple[int, int], tell: Callable[[str], None], training: bool = True
) -> bool:
    """Compiles encoder and heads in place, if a trial of the first on a copy succeeds; else tells why not.

    The parts, not the whole: a detail box is another one in every iteration, and the network would be compiled for each.
    Names in the state dict stay, and copies of a compiled network are not compiled. `image`: (height, width) that they will see.
    """
    try:
        _try(copy.deepcopy(networks[0]), image, training)
    except Exception as error:  # a missing compiler, an operation that it does not know, or a fault of its own
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        tell(f"compile=true: torch.compile failed ({reason[:200]}), so the networks run without it")
        torch.compiler.reset()
        return False
    for network in networks:
        _compile(network)
    return True


@contextmanager
def without_compilation() -> Iterator[None]:
    """Networks run as they are, compiled or not."""
    if not hasattr(torch.compiler, "set_stance"):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _compile(network: HRDA) -> None:
    for part in (network.encoder, network.head, network.scale_attention):
        if part is not None:
            part.compile(dynamic=False, backend=BACKEND)


def _try(network: HRDA, image: tuple[int, int], training: bool) -> None:
    """Forward and, in training, backward pass of every part; raises what the compiler raises."""
    if not hasattr(torch.compiler, "set_stance"):
        raise RuntimeError("it needs PyTorch 2.6 or newer")
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    _compile(network)
    parameter = next(network.parameters())
    side = 2 if network.multi_resolution else 1
    context = torch.zeros(1, 3, image[0] // side, image[1] // side, device=parameter.device, dtype=parameter.dtype)
    with torch.set_grad_enabled(training):
        features = network.encoder(context)
        total = network.head(features).sum()
        if network.scale_attention is not None:
            total = total + network.scale_attention(features).sum()
        if training:
            total.backward()
