"""Picture sheets: the photos on which an arm is best and worst, beside source-only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.pairs import Pair
from benchmarks.photo_counts import PhotoCounts
from hrda_core import Predictor
from hrda_core.evaluation.pictures import overlay

TILE = 200  # pixels of a picture's longer side
TITLE = 18


def photo_iou(counts: PhotoCounts) -> NDArray[np.float64]:
    """Foreground IoU of each photo alone; 1 where nothing is there and nothing was found."""
    hit = counts.confusion[:, 1:, 1:].diagonal(axis1=1, axis2=2).sum(axis=1)
    union = counts.confusion.sum(axis=(1, 2)) - counts.confusion[:, 0, 0]
    return np.where(union > 0, hit / np.maximum(union, 1), 1.0)


def write_sheet(path: Path, pair: Pair, order: Sequence[int], arms: dict[str, Predictor], scores: NDArray[np.float64]) -> None:
    """Rows of photo, ground truth and each arm's prediction."""
    colours = [info.color for info in pair.report.classes]
    rows = []
    for index in order:
        photo, mask = pair.report.image(index), pair.report.mask(index)
        assert mask is not None
        maps = {"ground truth": mask, **{name: predictor.predict([photo])[0].labels for name, predictor in arms.items()}}
        tiles = [_tile(photo, f"{pair.report.name(index)[:24]} IoU {100 * scores[index]:.0f}")]
        tiles += [
            _tile(overlay(photo, labels, colours, has_background=pair.report.has_background), name)
            for name, labels in maps.items()
        ]
        rows.append(np.concatenate(tiles, axis=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.concatenate(rows)[..., ::-1])


def _tile(picture: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    factor = TILE / max(picture.shape[:2])
    size = (round(picture.shape[1] * factor), round(picture.shape[0] * factor))
    tile = np.full((TILE + TITLE, TILE, 3), 255, np.uint8)
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    tile[TITLE : TITLE + small.shape[0], : small.shape[1]] = small
    cv2.putText(tile, title, (2, TITLE - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    return tile
