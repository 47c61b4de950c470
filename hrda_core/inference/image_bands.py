"""An image in, bands of probabilities out: scaling, normalisation, windows, and resizing back, all in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrda_core.data.samples import Image
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.resampling import resized_bands, resized_rows
from hrda_core.inference.tiling import logit_bands
from hrda_core.inference.zoom_choice import surest_zoom
from hrda_core.models.half_weights import half_weights
from hrda_core.models.hrda import HRDA, Box
from hrda_core.models.passes import autocast
from hrda_core.models.recording import RecordedPrediction

FREQUENT = 3  # passes of a shape, from which on it is recorded
RECORDINGS = 2  # a full batch, and one window


class ProbabilityBand(NamedTuple):
    """Finished rows from `top` on: probabilities (C, h, W) float32."""

    top: int
    probabilities: NDArray[np.float32]


class Network(Protocol):
    """What `probability_bands` asks: normalised (N, 3, h, w) on `device` -> logits (N, C, h, w) float32."""

    @property
    def device(self) -> torch.device: ...

    def __call__(self, windows: Tensor) -> Tensor: ...


class WindowNetwork:
    """The network on batches of windows. Where memory runs out it halves the batch, goes on, and stays with that batch.

    On a GPU, shapes that come often are recorded and replayed.
    """

    def __init__(self, model: HRDA, device: torch.device, autocast: torch.dtype | None, batch: int) -> None:
        self.model = half_weights(model, autocast)
        self.device = device
        self.autocast = autocast
        self.batch = batch
        self._run = partial(_logits_of, self.model, autocast)
        self._passes: Counter[torch.Size] = Counter()
        self._recordings: dict[torch.Size, RecordedPrediction] = {}
        self._recording = device.type == "cuda"

    def __call__(self, windows: Tensor) -> Tensor:
        """Normalised (N, 3, h, w) -> logits (N, C, h, w) float32.

        Raises:
            RuntimeError: no memory even for one window (the message says what to change), or any other error.
        """
        parts: list[Tensor] = []
        done = 0
        while done < len(windows):
            part = self._attempt(windows[done : done + self.batch])
            if part is None:
                self.batch = max(min(self.batch, len(windows) - done) // 2, 1)
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
                continue
            parts.append(part)
            done += len(part)
        return torch.cat(parts) if len(parts) > 1 else parts[0]  # without a copy where all went well

    def _attempt(self, windows: Tensor) -> Tensor | None:
        """None where memory ran out; by then the error, which holds on to the tensors of its frames, is gone."""
        try:
            return self._logits(windows)
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
            if len(windows) == 1:
                height, width = windows.shape[2:]
                raise RuntimeError(f"no memory for one window of {width}x{height} px: use a smaller window ({error})") from error
            return None

    def _logits(self, windows: Tensor) -> Tensor:
        if self._recording:
            self._record_if_frequent(windows)
        run = self._recordings.get(windows.shape, self._run)
        return run(windows)

    def _record_if_frequent(self, windows: Tensor) -> None:
        self._passes[windows.shape] += 1
        if self._passes[windows.shape] != FREQUENT or len(self._recordings) == RECORDINGS:
            return
        try:
            with torch.cuda.device(windows.device):
                self._recordings[windows.shape] = RecordedPrediction(self._run, windows, None)
        except Exception:  # an operation that waits for the GPU, or too little memory: it runs as it did
            self._recording = False
            torch.cuda.empty_cache()


def _logits_of(model: HRDA, precision: torch.dtype | None, windows: Tensor) -> Tensor:
    with autocast(windows.device, precision):
        return model.logits(windows).float()


def ran_out_of_memory(error: Exception) -> bool:
    """PyTorch has a type for the GPU's memory, but for the processor's only the allocator's sentence."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return any(text in str(error) for text in ("can't allocate memory", "not enough memory", "out of memory"))


class ImageWindows:
    """Windows of an image (H, W, 3) uint8 RGB at the size that the network sees: (1, 3, h, w) normalised, on the device.

    Scaled strips are made when a window of another row is asked for; nothing is made of the image as a whole.
    """

    def __init__(self, image: Image, preprocessing: Preprocessing, device: torch.device, zoom: float = 1.0) -> None:
        self.image = image
        self.size = preprocessing.network_size(image.shape[0], image.shape[1], zoom)
        self.device = device
        self.mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
        self._rows = (0, 0)
        self._strip = image[:0]

    def __call__(self, box: Box) -> Tensor:
        if self._rows != (box.top, box.bottom):
            self._rows, self._strip = (box.top, box.bottom), resized_rows(self.image, self.size, box.top, box.bottom)
        window = torch.from_numpy(np.array(self._strip[:, box.left : box.right]))  # a copy: memory-mapped images are read-only
        pixels = window.to(self.device).permute(2, 0, 1)[None].float() / 255
        return (pixels - self.mean) / self.std


@torch.no_grad()
def probability_bands(network: Network, image: Image, preprocessing: Preprocessing) -> Iterator[ProbabilityBand]:
    """(H, W, 3) uint8 RGB -> probabilities from top to bottom, without a gap, at the image's size.

    Logits are resized, never labels; softmax comes last. Flips average logits: one buffer then serves both views.
    """
    views = [ImageWindows(image, preprocessing, network.device, zoom) for zoom in preprocessing.zooms]
    read = views[0]
    if len(views) > 1:
        sizes = [(zoom, view.size, view) for zoom, view in zip(preprocessing.zooms, views, strict=True)]
        zoom = surest_zoom(network, sizes, preprocessing.window, preprocessing.overlap)
        read = views[preprocessing.zooms.index(zoom)]
    bands = logit_bands(read, network, read.size, preprocessing.tiling)
    for top, logits in resized_bands(bands, read.size, (image.shape[0], image.shape[1])):
        yield ProbabilityBand(top, np.asarray(logits[0].softmax(dim=0).cpu().numpy()))
