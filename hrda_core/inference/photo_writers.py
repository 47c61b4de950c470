"""Writers of a photo's outputs in a folder: the overlay, the probabilities, and several writers as one."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hrda_core.data.samples import Image
from hrda_core.evaluation.pictures import overlay
from hrda_core.inference.writers import NpyFile, PartialFile, Writer

OVERLAY_SIDE = 4000  # longer side of an overlay in pixels; a larger photo's is made smaller by a whole factor


class Several:
    """Passes everything on to each of the writers."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self.writers = writers

    def open(self, height: int, width: int, classes: int) -> None:
        for writer in self.writers:
            writer.open(height, width, classes)

    def write(
        self, top: int, labels: NDArray[np.uint8], confidence: NDArray[np.float32], probabilities: NDArray[np.float32] | None
    ) -> None:
        for writer in self.writers:
            writer.write(top, labels, confidence, probabilities)

    def close(self) -> None:
        for writer in self.writers:
            writer.close()


class OverlayWriter:
    """A JPEG of the photo (H, W, 3) RGB under the colours (RGB, in class order) of its labels.

    A photo whose longer side exceeds `side` is shrunk by the whole factor k that makes it fit: the photo by averaging, the
    labels so that k x k pixels show their highest class, since a crack of one pixel would vanish otherwise.
    """

    def __init__(
        self, path: Path, image: Image, colours: Sequence[Sequence[int]], has_background: bool, side: int = OVERLAY_SIDE
    ) -> None:
        self.path, self.image = path, image
        self.colours, self.has_background = colours, has_background
        self.factor = -(-max(image.shape[:2]) // side)

    def open(self, height: int, width: int, classes: int) -> None:
        self._height, self._rows = height, 0
        # One above the class, so that 255, "no class", becomes 0 and gives way to every class.
        self._above = np.zeros((-(-height // self.factor), -(-width // self.factor)), dtype=np.uint8)

    def write(
        self, top: int, labels: NDArray[np.uint8], confidence: NDArray[np.float32], probabilities: NDArray[np.float32] | None
    ) -> None:
        self._rows = top + len(labels)
        above = np.maximum.reduceat(labels + np.uint8(1), np.arange(0, labels.shape[1], self.factor), axis=1)
        first, last = top // self.factor, (self._rows - 1) // self.factor
        starts = [max(row * self.factor - top, 0) for row in range(first, last + 1)]
        rows = self._above[first : last + 1]
        np.maximum(rows, np.maximum.reduceat(above, starts, axis=0), out=rows)

    def close(self) -> None:
        if self._rows < self._height:
            return
        labels = self._above - np.uint8(1)  # 0 wraps back to 255
        photo = self.image
        if self.factor > 1:
            photo = np.asarray(cv2.resize(photo, labels.shape[::-1], interpolation=cv2.INTER_AREA), np.uint8)
        painted = overlay(photo, labels, self.colours, has_background=self.has_background)
        success, content = cv2.imencode(".jpg", cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
        if not success:
            raise ValueError(f"{self.path}: the overlay could not be encoded")
        file = PartialFile(self.path)
        file.stream.write(content.tobytes())
        file.close(complete=True)


class NpzWriter:
    """`probabilities` (C, H, W) float16 in a compressed .npz; the planes wait in a temporary file beside it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, height: int, width: int, classes: int) -> None:
        self._planes = self.path.with_name(f".{self.path.stem}.planes.npy")
        self._file = NpyFile(self._planes, (classes, height, width), np.float16)

    def write(
        self, top: int, labels: NDArray[np.uint8], confidence: NDArray[np.float32], probabilities: NDArray[np.float32] | None
    ) -> None:
        if probabilities is None:
            raise ValueError(f"{self.path}: no probabilities came; predict with probabilities=True")
        self._file.write(top, probabilities)

    def close(self) -> None:
        self._file.close()
        if not self._planes.is_file():
            return
        file = PartialFile(self.path)
        try:
            with zipfile.ZipFile(file.stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                archive.write(self._planes, "probabilities.npy")
            file.close(complete=True)
        except BaseException:
            file.close(complete=False)
            raise
        finally:
            self._planes.unlink(missing_ok=True)
