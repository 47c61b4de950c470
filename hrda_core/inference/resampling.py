"""Resizing in bands: rows of an image from the source rows they need, and logits back to the image's rows.

Both are separable, so that rows and columns are resized one after the other, and both give the same numbers however the rows
are cut. Pixel centres lie at half coordinates: output pixel i looks at (i + 0.5) * source / output - 0.5.
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrda_core.data.samples import Image
from hrda_core.inference.tiling import BAND_ROWS, Band
from hrda_core.models.daformer_head import resize

BLOCK_ROWS = 16  # rows of a resized image are computed in blocks on this grid, whichever rows are asked for


def resized_rows(image: Image, size: tuple[int, int], top: int, bottom: int) -> Image:
    """Rows [top, bottom) of the image (H, W, 3) uint8 RGB resized to `size` (height, width): (bottom - top, width, 3) uint8.

    Averages over areas along a side that shrinks, bilinear along one that grows, within 1 of `cv2.resize` (INTER_AREA,
    INTER_LINEAR). Only the source rows that are needed are read, so the image may be a `numpy.memmap`.
    """
    height, width = size
    if image.shape[:2] == size:
        return image[top:bottom]
    blocks = []
    for start in range(top // BLOCK_ROWS * BLOCK_ROWS, bottom, BLOCK_ROWS):
        block = _resized_block(image, height, width, start, min(start + BLOCK_ROWS, height))
        blocks.append(block[max(top - start, 0) : bottom - start])
    return np.concatenate(blocks)


def _resized_block(image: Image, height: int, width: int, top: int, bottom: int) -> Image:
    first, weights = row_weights(image.shape[0], height, top, bottom)
    source = np.ascontiguousarray(image[first : first + weights.shape[1]], dtype=np.float32)
    rows = (weights @ source.reshape(len(source), -1)).reshape(bottom - top, image.shape[1], 3)
    interpolation = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_LINEAR
    resized = np.asarray(cv2.resize(rows, (width, bottom - top), interpolation=interpolation))
    return np.clip(np.rint(resized), 0, 255).astype(np.uint8)


def row_weights(source: int, output: int, top: int, bottom: int) -> tuple[int, NDArray[np.float32]]:
    """The first source row that output rows [top, bottom) need, and weights (bottom - top, needed source rows).

    Every row of weights adds up to 1: shares of the area it covers where the side shrinks, bilinear where it grows.
    """
    rows = np.arange(top, bottom)
    ratio = source / output
    if ratio > 1:
        low, high = rows * ratio, np.minimum((rows + 1) * ratio, source)
        first, last = int(low[0]), min(int(np.ceil(high[-1])), source)
        cells = np.arange(first, last)
        overlap = np.minimum(high[:, None], cells + 1) - np.maximum(low[:, None], cells)
        weights = np.maximum(overlap, 0)
        return first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    upper, lower, share = _neighbours(source, output, top, bottom)
    first = int(upper[0])
    weights = np.zeros((bottom - top, int(lower[-1]) - first + 1))
    np.add.at(weights, (rows - top, upper - first), 1 - share)
    np.add.at(weights, (rows - top, lower - first), share)
    return first, weights.astype(np.float32)


def resized_bands(bands: Iterator[Band], source: tuple[int, int], size: tuple[int, int]) -> Iterator[Band]:
    """Bands of logits of an image of `source` (height, width) -> bands at `size`: what `models.daformer_head.resize` gives.

    Rows are emitted as soon as the source row below them is there; one row is kept from band to band.
    """
    if source == size:
        yield from bands
        return
    done = 0
    kept: torch.Tensor | None = None
    for top, logits in bands:
        strip = resize(logits, (logits.shape[2], size[1]))
        strip, first = (strip, top) if kept is None else (torch.cat([kept, strip], dim=2), top - 1)
        end = first + strip.shape[2]
        while done < size[0]:
            upper, lower, share = _neighbours(source[0], size[0], done, min(done + BAND_ROWS, size[0]))
            ready = int(np.count_nonzero(lower < end))
            if not ready:
                break
            above, below = (torch.from_numpy(row[:ready] - first).to(strip.device) for row in (upper, lower))
            weight = torch.from_numpy(share[:ready].astype(np.float32)).to(strip.device)[:, None]
            yield Band(done, strip.index_select(2, above) * (1 - weight) + strip.index_select(2, below) * weight)
            done += ready
        kept = strip[:, :, -1:].clone()


def _neighbours(
    source: int, output: int, top: int, bottom: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Source rows above and below each of the output rows [top, bottom), and the share of the one below."""
    position = np.maximum((np.arange(top, bottom) + 0.5) * source / output - 0.5, 0)
    upper = np.minimum(position.astype(np.int64), source - 1)
    return upper, np.minimum(upper + 1, source - 1), position - upper
