"""Labelled images in the colours of photos: mean and spread of lightness and of both colour axes (Reinhard et al., 2001).

Rendered images are often of middling contrast where photos have white skies and black shadows. To remove that difference takes no
learning (measured on streets: docs/defaults.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hrda_core.data.decoding import Image
from hrda_core.data.parallel import Progress, Stop, in_order
from hrda_core.data.samples import Dataset, spread

Colours = NDArray[np.float32]  # (2, 3): mean and standard deviation of L, a and b, as OpenCV scales them to 0..255

PHOTOS = 200  # tell what colours a set has
SIDE = 64  # of the small version that colours are taken from: neither noise nor texture is part of them
MOST = 3.0  # times the contrast: more would enlarge noise and compression


@dataclass(frozen=True)
class ColourTransfer:
    """share: of the labelled crops that get the colours of one of the `photos` (N, 2, 3), drawn at random.

    since: the iteration from which on, that of the end of the warm-up on source, which a source-only baseline shares.
    """

    photos: NDArray[np.float32]
    share: float
    since: int

    def __call__(self, rng: np.random.Generator, iteration: int, crop: Image, image: Image) -> Image:
        """The crop (h, w, 3) uint8 RGB of `image`, perhaps in other colours."""
        if iteration < self.since or rng.random() >= self.share:
            return crop
        return in_colours(crop, colours_of(image), self.photos[int(rng.integers(len(self.photos)))])


def colours_of(image: Image) -> Colours:
    """Of an RGB image (H, W, 3) uint8."""
    step = max(min(image.shape[:2]) // (4 * SIDE), 1)  # of a large image not every pixel: it is read once for each of its crops
    small = cv2.resize(np.ascontiguousarray(image[::step, ::step]), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    pixels = cv2.cvtColor(small, cv2.COLOR_RGB2LAB).reshape(-1, 3).astype(np.float32)
    return np.stack([pixels.mean(axis=0), pixels.std(axis=0)])


def in_colours(image: Image, own: Colours, wanted: Colours) -> Image:
    """What has the colours `own`, as a whole, in those that are `wanted`."""
    contrast = np.minimum(wanted[1] / np.maximum(own[1], 1e-3), MOST)
    levels = np.arange(256, dtype=np.float32)[:, None]  # every possible value once, instead of every pixel
    table = np.clip(np.round((levels - own[0]) * contrast + wanted[0]), 0, 255).astype(np.uint8)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    return np.asarray(cv2.cvtColor(cv2.LUT(lab, table[None]), cv2.COLOR_LAB2RGB), np.uint8)


def colours_of_photos(photos: Dataset, progress: Progress, stop: Stop) -> NDArray[np.float32]:
    """(N, 2, 3) of up to `PHOTOS` photos, spread over the set.

    Raises:
        Stopped: `stop()` became true.
        ValueError: a photo cannot be read.
    """
    positions = spread(len(photos), PHOTOS)

    def look(position: int) -> Colours:
        return colours_of(photos.shrunk_image(position, lambda height, width: min(height, width) // SIDE)[0])

    return np.stack(list(in_order(look, positions, len(positions), progress=progress, stop=stop)))
