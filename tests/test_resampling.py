"""Resizing in bands: like OpenCV's and PyTorch's on the whole, and independent of where the bands are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hrda_core.inference.resampling import resized_bands, resized_rows, row_weights
from hrda_core.inference.tiling import BAND_ROWS, Band
from hrda_core.models.daformer_head import resize

SIDES = st.integers(1, 150)
SCALES = st.sampled_from([0.1, 0.25, 0.5, 0.73, 0.999, 1.0, 1.001, 1.7, 2.0, 3.3])


def photo(height: int, width: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scaled(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(round(height * scale), 1), max(round(width * scale), 1)


def whole(image: np.ndarray[Any, Any], size: tuple[int, int], scale: float) -> np.ndarray[Any, Any]:
    """What the training crops use."""
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size[::-1], interpolation=interpolation)).reshape(*size, 3)


@settings(deadline=None)
@given(SIDES, SIDES, SCALES)
def test_rows_are_those_of_opencv(height: int, width: int, scale: float) -> None:
    image, size = photo(height, width), scaled(height, width, scale)
    result = resized_rows(image, size, 0, size[0])
    assert (result.shape, result.dtype) == ((*size, 3), np.uint8)
    difference = np.abs(result.astype(int) - whole(image, size, scale))
    assert difference.max() <= 1  # ties are rounded either way


@settings(deadline=None)
@given(SIDES, SIDES, SCALES, st.data())
def test_rows_do_not_depend_on_the_cut(height: int, width: int, scale: float, data: st.DataObject) -> None:
    image, size = photo(height, width), scaled(height, width, scale)
    top = data.draw(st.integers(0, size[0] - 1))
    bottom = data.draw(st.integers(top + 1, size[0]))
    assert (resized_rows(image, size, top, bottom) == resized_rows(image, size, 0, size[0])[top:bottom]).all()


def test_an_image_of_that_size_is_itself() -> None:
    image = photo(30, 20)
    rows = resized_rows(image, (30, 20), 5, 9)
    assert np.shares_memory(rows, image)
    assert (rows == image[5:9]).all()


@pytest.mark.parametrize(("source", "output"), [(1000, 100), (1000, 999), (100, 1000), (7, 3), (3, 7), (1, 5), (5, 1)])
def test_weights_add_up_and_read_few_rows(source: int, output: int) -> None:
    for top in range(0, output, 10):
        bottom = min(top + 10, output)
        first, weights = row_weights(source, output, top, bottom)
        assert np.allclose(weights.sum(axis=1), 1, atol=1e-6)
        assert (weights >= 0).all()
        assert 0 <= first < first + weights.shape[1] <= source
        assert weights.shape[1] <= (bottom - top) * source / output + 3


def test_only_the_rows_that_are_needed_are_read() -> None:
    class Recorder(np.ndarray):  # type: ignore[type-arg]
        def __getitem__(self, key: Any) -> Any:
            asked.append((key.start, key.stop))
            return np.asarray(self)[key]

    asked: list[tuple[int, int]] = []
    resized_rows(photo(4000, 10).view(Recorder), (2000, 5), 1000, 1040)
    assert min(start for start, _ in asked) >= 1960
    assert max(stop for _, stop in asked) <= 2120


def cut(logits: Tensor, heights: list[int]) -> Iterator[Band]:
    top = 0
    for height in heights:
        if top < logits.shape[2]:
            yield Band(top, logits[:, :, top : top + height])
        top += height
    if top < logits.shape[2]:
        yield Band(top, logits[:, :, top:])


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES, st.lists(st.integers(1, 40), max_size=8))
def test_bands_of_logits_are_resized_like_the_whole(height: int, width: int, rows: int, columns: int, cuts: list[int]) -> None:
    logits = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(height))
    expected, bottom = resize(logits, (rows, columns)), 0
    for top, band in resized_bands(cut(logits, cuts), (height, width), (rows, columns)):
        assert top == bottom
        bottom += band.shape[2]
        assert band.shape[2] <= max(BAND_ROWS, height)
        assert torch.allclose(band, expected[:, :, top:bottom], atol=2e-4)
    assert bottom == rows


def test_bands_of_the_right_size_pass_through() -> None:
    band = Band(0, torch.randn(1, 2, 5, 6))
    assert next(resized_bands(iter([band]), (5, 6), (5, 6))) is band
