"""CUDA graphs: the launches of a whole pass are recorded once, and replayed by a single one.

A pass of MiT-B5 is thousands of small kernels, which Python launches more slowly than a GPU runs them. The memory that recordings
work in is theirs for good, so those that never run within one another should share a pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hrda_core.models.passes import autocast

Pool = Any  # of memory: what torch.cuda.graph_pool_handle gives
WARM_UP = 3  # passes before the recording, in which libraries choose their algorithms and take their memory


class RecordedPrediction:
    """A function of one tensor of fixed shape, without gradients; another shape takes the plain way."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], example: Tensor, precision: torch.dtype | None, pool: Pool | None = None
    ) -> None:
        self.function = function
        self.input = example.detach().clone()
        self.graph = torch.cuda.CUDAGraph()

        def run() -> Tensor:
            with torch.no_grad(), autocast(self.input.device, precision):
                return function(self.input)

        with quiet_stream():
            for _ in range(WARM_UP):
                run()
        # other threads, say, of a server, may go on using the GPU meanwhile
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.output = run()

    def __call__(self, image: Tensor) -> Tensor:
        if image.shape != self.input.shape:
            return self.function(image)
        self.input.copy_(image)
        self.graph.replay()
        return self.output.clone()


class RecordedShapes:
    """A function of one tensor, recorded for the shapes of `examples`; other shapes take the plain way."""

    def __init__(
        self, function: Callable[[Tensor], Tensor], examples: Sequence[Tensor], precision: torch.dtype | None, pool: Pool | None
    ) -> None:
        self.function = function
        self.recordings = {example.shape: RecordedPrediction(function, example, precision, pool) for example in examples}

    def __call__(self, image: Tensor) -> Tensor:
        return self.recordings.get(image.shape, self.function)(image)


@contextmanager
def quiet_stream() -> Iterator[None]:
    """Recording begins from a quiet state: nothing that warming up made is waited for on the stream of the caller."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)
