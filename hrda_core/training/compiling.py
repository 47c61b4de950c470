"""torch.compile for the networks of a run, where it works."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from hrda_core.adaptation.teacher import Teacher
from hrda_core.models.hrda import HRDA

BACKEND = "inductor"


def compile_networks(student: HRDA, teacher: Teacher, crop: tuple[int, int], tell: Callable[[str], None]) -> bool:
    """Compiles encoder and heads of student and teacher in place, if a trial on a copy succeeds; else says why not.

    The parts, not the whole: a detail box is another one in every iteration, and the network would be compiled for each.
    Names in the state dict stay, and copies of a compiled network are not compiled.
    """
    try:
        _try(copy.deepcopy(student), crop)
    except Exception as error:  # a missing compiler, an operation that it does not know, or a fault of its own
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        tell(f"compile=true: torch.compile failed ({reason[:200]}), so the networks run without it")
        torch.compiler.reset()
        return False
    for network in (student, teacher.model):
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


def _try(network: HRDA, crop: tuple[int, int]) -> None:
    """Forward and backward pass of every part; raises what the compiler raises."""
    if not hasattr(torch.compiler, "set_stance"):
        raise RuntimeError("it needs PyTorch 2.6 or newer")
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    _compile(network)
    parameter = next(network.parameters())
    side = 2 if network.multi_resolution else 1
    image = torch.zeros(1, 3, crop[0] // side, crop[1] // side, device=parameter.device, dtype=parameter.dtype)
    features = network.encoder(image)
    total = network.head(features).sum()
    if network.scale_attention is not None:
        total = total + network.scale_attention(features).sum()
    total.backward()
