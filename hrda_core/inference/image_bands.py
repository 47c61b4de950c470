"""An image in, bands of probabilities out: scaling, normalisation, windows, and resizing back, all in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hrda_core.data.samples import Image
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.resampling import resized_bands, resized_rows
from hrda_core.inference.shared_details import SharedDetails
from hrda_core.inference.tiling import logit_bands
from hrda_core.inference.window_network import Network
from hrda_core.inference.zoom_choice import surest_zoom
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
    shared = SharedDetails.of(network, preprocessing.tiling.boxes(*read.size))
    bands = logit_bands(read, network, read.size, preprocessing.tiling, shared)
    for top, logits in resized_bands(bands, read.size, (image.shape[0], image.shape[1])):
        yield ProbabilityBand(top, np.asarray(logits[0].softmax(dim=0).cpu().numpy()))
