"""Where predictions go, band by band: arrays, .npy files, PNG files.

A file appears under its name only when it is complete; until then it has a temporary one beside it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import DTypeLike, NDArray

from hrda_core.inference.png_stream import PngStream


class Writer(Protocol):
    """What `Predictor.predict_to` needs. Bands come from top to bottom, without a gap."""

    def open(self, height: int, width: int, classes: int) -> None:
        """Called once, before the first band, with the image's size."""

    def write(
        self,
        top: int,
        labels: NDArray[np.uint8],
        confidence: NDArray[np.float32],
        probabilities: NDArray[np.float32] | None,
    ) -> None:
        """Rows from `top` on: labels (h, W), confidence (h, W), probabilities (C, h, W) where asked for."""

    def close(self) -> None:
        """Called once, also where the prediction failed halfway: then rows are missing."""


class PartialFile:
    """A file that gets its name when it is complete."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = path.with_name(f".{path.name}-{os.getpid()}")
        self.stream: BinaryIO = self.temporary.open("w+b")

    def close(self, complete: bool) -> None:
        self.stream.close()
        if complete:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink(missing_ok=True)


class ArrayWriter:
    """Into memory: `labels`, `confidence`, and `probabilities` where they are asked for."""

    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None = None

    def open(self, height: int, width: int, classes: int) -> None:
        self.labels = np.empty((height, width), dtype=np.uint8)
        self.confidence = np.empty((height, width), dtype=np.float32)
        self._shape = (classes, height, width)

    def write(
        self, top: int, labels: NDArray[np.uint8], confidence: NDArray[np.float32], probabilities: NDArray[np.float32] | None
    ) -> None:
        rows = slice(top, top + len(labels))
        self.labels[rows], self.confidence[rows] = labels, confidence
        if probabilities is not None:
            if self.probabilities is None:
                self.probabilities = np.empty(self._shape, dtype=np.float32)
            self.probabilities[:, rows] = probabilities

    def close(self) -> None:
        pass


class NpyFile:
    """A `.npy` array (..., H, W) written in bands of rows, seeking from plane to plane: nothing is mapped into memory."""

    def __init__(self, path: Path, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.dtype, self.shape = np.dtype(dtype), tuple(shape)
        self.file = PartialFile(path)
        header = {"descr": npy_format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
        npy_format.write_array_header_1_0(self.file.stream, header)
        self.start = self.file.stream.tell()
        self.rows = 0

    def write(self, top: int, band: NDArray[Any]) -> None:
        height, width = self.shape[-2:]
        planes = band.reshape(-1, *band.shape[-2:])
        for index, plane in enumerate(planes):
            self.file.stream.seek(self.start + (index * height + top) * width * self.dtype.itemsize)
            self.file.stream.write(np.ascontiguousarray(plane, dtype=self.dtype).data)
        self.rows = top + band.shape[-2]

    def close(self) -> None:
        self.file.close(complete=self.rows == self.shape[-2])


class NpyWriter:
    """Into a folder: labels.npy (H, W) uint8, confidence.npy (H, W) float32, and where they are asked for
    probabilities.npy (C, H, W) of `dtype`. `numpy.load(..., mmap_mode="r")` reads them without loading them."""

    def __init__(self, directory: str | Path, dtype: DTypeLike = np.float32) -> None:
        self.directory, self.dtype = Path(directory), dtype

    def open(self, height: int, width: int, classes: int) -> None:
        self._labels = NpyFile(self.directory / "labels.npy", (height, width), np.uint8)
        self._confidence = NpyFile(self.directory / "confidence.npy", (height, width), np.float32)
        self._shape = (classes, height, width)
        self._probabilities: NpyFile | None = None

    def write(
        self, top: int, labels: NDArray[np.uint8], confidence: NDArray[np.float32], probabilities: NDArray[np.float32] | None
    ) -> None:
        self._labels.write(top, labels)
        self._confidence.write(top, confidence)
        if probabilities is not None:
            if self._probabilities is None:
                self._probabilities = NpyFile(self.directory / "probabilities.npy", self._shape, self.dtype)
            self._probabilities.write(top, probabilities)

    def close(self) -> None:
        for file in (self._labels, self._confidence, self._probabilities):
            if file is not None:
                file.close()


class PngWriter:
    """Grey 8-bit PNG files: `mask` of the labels, translated by `values` (256 entries) where given, and `confidence`
    (0..255 for 0..1)."""

    def __init__(self, mask: str | Path, confidence: str | Path | None = None, values: NDArray[np.uint8] | None = None) -> None:
        self.paths = [Path(path) for path in (mask, confidence) if path is not None]
        self.values = np.arange(256, dtype=np.uint8) if values is None else values

    def open(self, height: int, width: int, classes: int) -> None:
        self._height, self._rows = height, 0
        self._files = [PartialFile(path) for path in self.paths]
        self._streams = [PngStream(file.stream, height, width) for file in self._files]

    def write(
        self, top: int, labels: NDArray[np.uint8], confidence: NDArray[np.float32], probabilities: NDArray[np.float32] | None
    ) -> None:
        self._streams[0].write(self.values[labels])
        if len(self._streams) > 1:
            self._streams[1].write(np.rint(np.clip(confidence, 0, 1) * 255).astype(np.uint8))
        self._rows = top + len(labels)

    def close(self) -> None:
        complete = self._rows == self._height
        for stream in self._streams if complete else []:
            stream.finish()
        for file in self._files:
            file.close(complete)
