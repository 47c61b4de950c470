"""An image in, bands of probabilities out: scaling, normalisation, windows, and resizing back, all in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrda_core.data.samples import Image
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.resampling import resized_bands, resized_rows
from hrda_core.inference.shared_details import SharedDetails
from hrda_core.inference.tiling import Shared, logit_bands
from hrda_core.inference.window_network import Network
from hrda_core.inference.zoom_choice import Looked, surest_zooms, zooms_averaged
from hrda_core.models.hrda import Box


class ProbabilityBand(NamedTuple):
    """Finished rows from `top` on: probabilities (C, h, W) float32."""

    top: int
    probabilities: NDArray[np.float32]


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


def probability_bands(network: Network, image: Image, preprocessing: Preprocessing) -> Iterator[ProbabilityBand]:
    """(H, W, 3) uint8 RGB -> probabilities from top to bottom, without a gap, at the image's size.

    Logits are resized, never labels; softmax comes last. Flips average logits: one buffer then serves both views. Of several
    zooms the surest count, whose probabilities are averaged.
    """
    views = {zoom: ImageWindows(image, preprocessing, network.device, zoom) for zoom in preprocessing.zooms}
    chosen = [Looked(zoom, {}) for zoom in views]
    if len(views) > 1:
        with torch.no_grad():
            sizes = [(zoom, view.size, view) for zoom, view in views.items()]
            surest = surest_zooms(network, sizes, preprocessing.window, preprocessing.overlap, preprocessing.most_foreground)
        chosen = surest[: zooms_averaged(len(views))]
    streams = [_bands_of(network, views[look.zoom], preprocessing, look.known) for look in chosen]
    yield from streams[0] if len(streams) == 1 else averaged(streams)


@torch.no_grad()
def _bands_of(
    network: Network, read: ImageWindows, preprocessing: Preprocessing, known: Mapping[Box, Tensor]
) -> Iterator[ProbabilityBand]:
    """known: logits of all windows, not mirrored, where the choice of the zoom has seen them; else nothing."""

    def remembered(places: Sequence[tuple[Box, bool]], windows: Sequence[Tensor]) -> list[Tensor]:
        return [known[box] for box, _ in places]

    shared: Shared | None = remembered
    if preprocessing.tiling.flips or not known:
        shared = SharedDetails.of(network, preprocessing.tiling.boxes(*read.size))
    bands = logit_bands(read, network, read.size, preprocessing.tiling, shared)
    for top, logits in resized_bands(bands, read.size, read.image.shape[:2]):
        yield ProbabilityBand(top, np.asarray(logits[0].softmax(dim=0).cpu().numpy()))


def averaged(streams: Sequence[Iterator[ProbabilityBand]]) -> Iterator[ProbabilityBand]:
    """The mean of several streams of bands of one image, whose bands end at different rows."""
    rest: list[NDArray[np.float32] | None] = [None] * len(streams)
    done = 0
    while True:
        for i, stream in enumerate(streams):
            if rest[i] is None:
                band = next(stream, None)
                rest[i] = None if band is None else band.probabilities
        ready = [part for part in rest if part is not None]
        if len(ready) < len(streams):  # they end together
            return
        rows = min(part.shape[1] for part in ready)
        yield ProbabilityBand(done, np.mean([part[:, :rows] for part in ready], axis=0, dtype=np.float32))
        done += rows
        rest = [part[:, rows:] if part.shape[1] > rows else None for part in ready]
