"""What the teacher says of whole photos, kept on disk while a round of self-training learns from it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hrda_core.whole_file import write_whole

OTHER, PROBABILITY, FIRST = 0, 1, 2  # the three values of a pixel
CHANNELS = 3


def compact(probabilities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Probabilities (C, H, W) -> (H, W, 3): the best class other than class 0, and 255 times its and class 0's probability.

    That is all that pseudo-labels ask for, whatever the number of classes.
    """
    other = probabilities[1:].argmax(axis=0)
    best = np.take_along_axis(probabilities[1:], other[None], axis=0)[0]
    seen = np.empty((*other.shape, CHANNELS), np.uint8)
    seen[..., OTHER], seen[..., PROBABILITY], seen[..., FIRST] = other + 1, np.rint(best * 255), np.rint(probabilities[0] * 255)
    return seen


def resized(seen: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) of `compact` at another size: classes by nearest pixel, probabilities smoothly."""
    if seen.shape[:2] == (height, width):
        return seen
    smooth = cv2.INTER_AREA if height < seen.shape[0] else cv2.INTER_LINEAR
    result: NDArray[np.uint8] = np.asarray(cv2.resize(seen, (width, height), interpolation=smooth), dtype=np.uint8)
    nearest = cv2.resize(np.ascontiguousarray(seen[..., OTHER]), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    result[..., OTHER] = nearest
    return result


END = b"IEND\xaeB`\x82"  # of a PNG


@dataclass(frozen=True)
class PhotoLabels:
    """One PNG for each of the photos at `positions` of the target, in `folder`."""

    folder: Path
    positions: Sequence[int]

    def path(self, position: int) -> Path:
        return self.folder / f"{position:06d}.png"

    def missing(self) -> list[int]:
        """Of which there is no whole file: a machine that loses power may leave empty ones."""
        return [position for position in self.positions if not ends_with(self.path(position), END)]

    def write(self, position: int, seen: NDArray[np.uint8]) -> None:
        """Whole or not at all, should the process be killed meanwhile."""
        good, content = cv2.imencode(".png", seen)
        assert good
        write_whole(self.path(position), content.tobytes(), durable=False)

    def read(self, position: int) -> NDArray[np.uint8]:
        """(H, W, 3), see `compact`.

        Raises:
            ValueError: the file is gone or damaged.
        """
        path = self.path(position)
        content = np.frombuffer(path.read_bytes(), np.uint8) if path.is_file() else np.empty(0, np.uint8)
        seen = cv2.imdecode(content, cv2.IMREAD_COLOR) if content.size else None
        if seen is None:
            raise ValueError(f"{path} is missing or damaged: resume the run, which makes it again")
        return np.asarray(seen, dtype=np.uint8)


def ends_with(path: Path, end: bytes) -> bool:
    if not path.is_file() or path.stat().st_size < len(end):
        return False
    with path.open("rb") as file:
        file.seek(-len(end), os.SEEK_END)
        return file.read() == end
