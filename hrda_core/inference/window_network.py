"""The network as prediction asks it: batches of windows, whole or in parts, as large as memory allows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from hrda_core.models.half_weights import half_weights
from hrda_core.models.hrda import CPU_DETAIL_PIXELS, HRDA, Box
from hrda_core.models.passes import autocast
from hrda_core.models.recording import RecordedPrediction

FREQUENT = 3  # passes of a shape, from which on it is recorded
RECORDINGS = 4  # full batches of context and detail, and what is left of them at the end of a row
DETAILS = 4  # have the pixels of a window


class Part(Enum):
    """What of the network runs: all of it, or what a window's context or one of its details goes through."""

    WHOLE = "whole"  # windows (N, 3, h, w) -> logits (N, C, h, w) float32
    CONTEXT = "context"  # windows -> HRDA.see_context
    DETAIL = "detail"  # details of windows -> HRDA.see_detail


class Network(Protocol):
    """What `probability_bands` asks. Windows are normalised and on `device`."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, windows: Tensor, part: Part = Part.WHOLE) -> Tensor: ...

    def detail_boxes(self, height: int, width: int) -> list[Box]:
        """Of a window of this size, if it can be asked for in parts; else none."""
        ...

    def join(self, seen: Tensor, details: Sequence[Tensor], windows: Tensor) -> Tensor:
        """Logits (N, C, h, w) float32 of `windows` from what their parts gave."""
        ...


class WindowNetwork:
    """Halves a batch for which memory runs out, goes on, and stays with that size.

    On a GPU, shapes that come often are recorded and replayed. in_parts: False runs windows as a whole only, as published.
    """

    def __init__(
        self, model: HRDA, device: torch.device, autocast: torch.dtype | None, batch: int, in_parts: bool = True
    ) -> None:
        self.model = half_weights(model, autocast)
        self.device = device
        self.autocast = autocast
        self.batch = batch
        self.detail_batch = DETAILS * batch
        self.in_parts = in_parts and model.multi_resolution
        self._run = {part: partial(_run, self.model, autocast, part) for part in Part}
        self._passes: Counter[tuple[Part, torch.Size]] = Counter()
        self._recordings: dict[tuple[Part, torch.Size], Callable[[Tensor], Tensor]] = {}
        self._recording = device.type == "cuda"
        self._pool: Any = None  # of memory, which recordings share: they run one after the other

    def __call__(self, windows: Tensor, part: Part = Part.WHOLE) -> Tensor:
        """Normalised windows, or details of them -> what `part` says.

        Raises:
            RuntimeError: no memory even for one window (the message says what to change), or any other error.
        """
        found: list[Tensor] = []
        done = 0
        while done < len(windows):
            limit = self.limit(windows, part)
            chunk = self._attempt(windows[done : done + limit], part)
            if chunk is None:
                fewer = max(min(limit, len(windows) - done) // 2, 1)
                if part is Part.DETAIL:
                    self.detail_batch = fewer
                else:
                    self.batch = fewer
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            found.append(chunk)
            done += len(chunk)
        return torch.cat(found) if len(found) > 1 else found[0]  # without a copy where all went well

    def limit(self, windows: Tensor, part: Part = Part.WHOLE) -> int:
        """How many of such windows make a batch."""
        most = self.detail_batch if part is Part.DETAIL else self.batch
        if part is Part.WHOLE or self.device.type != "cpu":
            return most
        pixels = windows.shape[2] * windows.shape[3] // (DETAILS if part is Part.CONTEXT else 1)
        return max(min(most, CPU_DETAIL_PIXELS // pixels), 1)

    def detail_boxes(self, height: int, width: int) -> list[Box]:
        return self.model.detail_boxes(height, width) if self.in_parts and self.model.takes(height, width) else []

    @torch.no_grad()
    def join(self, seen: Tensor, details: Sequence[Tensor], windows: Tensor) -> Tensor:
        with autocast(windows.device, self.autocast):
            return self.model.logits_of_parts(seen, details, windows).float()

    def _attempt(self, windows: Tensor, part: Part) -> Tensor | None:
        """None where memory ran out; by then the error, which holds on to the tensors of its frames, is gone."""
        try:
            return self._found(windows, part)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            if len(windows) == 1:
                height, width = windows.shape[2:]
                raise RuntimeError(f"no memory for one window of {width}x{height} px: use a smaller window ({error})") from error
            return None

    def _found(self, windows: Tensor, part: Part) -> Tensor:
        if self._recording:
            self._record_if_frequent(windows, part)
        run = self._recordings.get((part, windows.shape), self._run[part])
        return run(windows)

    def _record_if_frequent(self, windows: Tensor, part: Part) -> None:
        key = (part, windows.shape)
        self._passes[key] += 1
        if self._passes[key] != FREQUENT or len(self._recordings) == RECORDINGS:
            return
        try:
            with torch.cuda.device(windows.device):
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._recordings[key] = RecordedPrediction(self._run[part], windows, None, self._pool)
        except Exception:  # an operation that waits for the GPU, or too little memory: it runs as it did
            self._recording = False
            torch.cuda.empty_cache()


def _run(model: HRDA, precision: torch.dtype | None, part: Part, windows: Tensor) -> Tensor:
    with autocast(windows.device, precision):
        if part is Part.CONTEXT:
            return model.see_context(windows)
        return model.see_detail(windows) if part is Part.DETAIL else model.logits(windows).float()


def ran_out_of_memory(error: Exception) -> bool:
    """PyTorch has a type for the GPU's memory, but for the processor's only the allocator's sentence."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return any(text in str(error) for text in ("can't allocate memory", "not enough memory", "out of memory"))
