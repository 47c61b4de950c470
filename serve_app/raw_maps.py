"""Predictions as files in memory: label and confidence maps as PNG, probabilities as npz."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hrda_core.inference.png_stream import PngStream
from hrda_core.inference.writers import Writer


class MapWriter(Writer, Protocol):
    media_type: str

    def content(self) -> memoryview:
        """The whole file, after `close`."""


class _GreyPng:
    """8-bit grey; rows are compressed as they come, so that the map itself is never held."""

    media_type = "image/png"

    def open(self, height: int, width: int, classes: int) -> None:
        self._height, self._rows = height, 0
        self._file = io.BytesIO()
        self._png = PngStream(self._file, height, width)

    def close(self) -> None:
        if self._rows == self._height:
            self._png.finish()

    def content(self) -> memoryview:
        return self._file.getbuffer()

    def _write(self, top: int, rows: NDArray[np.uint8]) -> None:
        self._png.write(rows)
        self._rows = top + len(rows)


class LabelPng(_GreyPng):
    """Pixel values are class indices, 255 is no class."""

    def write(
        self, top: int, labels: NDArray[np.uint8], confidence: NDArray[np.float32], probabilities: NDArray[np.float32] | None
    ) -> None:
        self._write(top, labels)


class ConfidencePng(_GreyPng):
    """Pixel values 0..255 are probabilities 0..1 of the class that the label map shows."""

    def write(
        self, top: int, labels: NDArray[np.uint8], confidence: NDArray[np.float32], probabilities: NDArray[np.float32] | None
    ) -> None:
        self._write(top, np.rint(np.clip(confidence, 0, 1) * 255).astype(np.uint8))


class ProbabilitiesNpz:
    """`probabilities` (C, H, W) float16 and `classes` (C,), their names; `numpy.load` reads it without pickles."""

    media_type = "application/x-npz"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = np.array(list(names), dtype=np.str_)

    def open(self, height: int, width: int, classes: int) -> None:
        self._array = np.empty((classes, height, width), dtype=np.float16)
        self._file = io.BytesIO()

    def write(
        self, top: int, labels: NDArray[np.uint8], confidence: NDArray[np.float32], probabilities: NDArray[np.float32] | None
    ) -> None:
        if probabilities is None:
            raise ValueError("probabilities: predict with probabilities=True")
        self._array[:, top : top + len(labels)] = probabilities

    def close(self) -> None:
        pass

    def content(self) -> memoryview:
        np.savez(self._file, probabilities=self._array, classes=self._names)
        del self._array
        return self._file.getbuffer()
