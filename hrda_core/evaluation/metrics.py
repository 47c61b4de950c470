"""Streaming segmentation metrics: memory does not grow with the number or the size of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

IGNORE = 255
NAN = float("nan")


@dataclass(frozen=True)
class Metrics:
    """All figures of one evaluation, fractions in 0..1; NaN where a figure is undefined (0/0).

    Per-class figures are in class order; `recall` is what mmsegmentation calls Acc, `dice` equals its F-score.
    `foreground_*` takes all non-background classes together against background.
    `tolerant_*` forgives shifts up to `tolerance` px: precision is the part of predicted pixels within that distance
    of a true pixel of the class, recall the part of true pixels within that distance of a predicted one.
    """

    iou: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]
    dice: tuple[float, ...]
    tolerant_precision: tuple[float, ...]
    tolerant_recall: tuple[float, ...]
    tolerant_f1: tuple[float, ...]
    mean_iou: float
    mean_iou_foreground: float
    pixel_accuracy: float
    foreground_iou: float
    foreground_recall: float
    foreground_precision: float
    foreground_dice: float
    foreground_tolerant_precision: float
    foreground_tolerant_recall: float
    foreground_tolerant_f1: float
    tolerance: int
    images: int
    pixels: int

    def as_dict(self) -> dict[str, float | int | list[float | None] | None]:
        """Plain types for JSON: tuples become lists, NaN becomes None."""
        return {
            name: [_none_for_nan(item) for item in value] if isinstance(value, tuple) else _none_for_nan(value)
            for name, value in asdict(self).items()
        }


class SegmentationMetrics:
    """Accumulates one confusion matrix and boundary-tolerant counts over a data set.

    classes: number of classes, background included. tolerance: px, for the `tolerant_*` figures; 0 means exact.
    """

    def __init__(self, classes: int, has_background: bool = True, tolerance: int = 2) -> None:
        first = check_classes(classes, has_background)
        if tolerance < 0:
            raise ValueError(f"tolerance: {tolerance} px is negative; use 0 for exact matching or a small number")
        self.classes = classes
        self.has_background = has_background
        self.tolerance = tolerance
        self._first_foreground = first
        # Rows: true class. Columns: predicted class, the last one "no class" (a prediction of 255).
        self._confusion = np.zeros((classes, classes + 1), dtype=np.int64)
        # Rows: every class, then the foreground. Columns: predicted pixels near a true one, predicted pixels,
        # true pixels near a predicted one, true pixels.
        self._tolerant = np.zeros((classes + 1, 4), dtype=np.int64)
        self._images = 0
        radius = np.arange(-tolerance, tolerance + 1)
        self._disc = (radius[:, None] ** 2 + radius[None, :] ** 2 <= tolerance**2).astype(np.uint8)

    def update(self, prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        """Add one image. Both (H, W) uint8 class indices.

        Label 255 is ignored. Prediction 255 ("no class") is a miss of the true class and a false positive of none.
        Raises ValueError for other values outside the classes, other types and different shapes.
        """
        check_class_map(prediction, "prediction")
        check_class_map(label, "label")
        if prediction.shape != label.shape:
            raise ValueError(f"prediction: shape {prediction.shape} differs from the label's {label.shape}; resize it")
        counts = joint_histogram(label, prediction)
        check_values(counts.sum(axis=1), self.classes, "label")
        check_values(counts.sum(axis=0), self.classes, "prediction")

        self._confusion[:, :-1] += counts[: self.classes, : self.classes]
        self._confusion[:, -1] += counts[: self.classes, IGNORE]
        self._images += 1

        visible = np.where(label == IGNORE, np.uint8(IGNORE), prediction)
        for index in range(self.classes):
            self._add_tolerant(index, visible == index, label == index)
        self._add_tolerant(
            self.classes,
            (visible >= self._first_foreground) & (visible != IGNORE),
            (label >= self._first_foreground) & (label != IGNORE),
        )

    def merge(self, other: SegmentationMetrics) -> None:
        """Add what another instance of the same settings has counted (another process, another part of the data)."""
        mine = (self.classes, self.has_background, self.tolerance)
        theirs = (other.classes, other.has_background, other.tolerance)
        if mine != theirs:
            raise ValueError(f"other: (classes, has_background, tolerance) is {theirs}, here {mine}; they must agree")
        self._confusion += other._confusion
        self._tolerant += other._tolerant
        self._images += other._images

    def compute(self) -> Metrics:
        """Figures over everything seen so far. Means skip classes that occur in neither label nor prediction."""
        first = self._first_foreground
        hit = np.diagonal(self._confusion)
        true = self._confusion.sum(axis=1)
        predicted = self._confusion[:, :-1].sum(axis=0)
        iou = _ratios(hit, true + predicted - hit)

        fg_hit = self._confusion[first:, first:-1].sum()
        fg_true = true[first:].sum()
        fg_predicted = predicted[first:].sum()

        near_predicted, all_predicted, near_true, all_true = self._tolerant.T
        tolerant_precision = _ratios(near_predicted, all_predicted)
        tolerant_recall = _ratios(near_true, all_true)
        tolerant_f1 = [
            _f1(p, r, n) for p, r, n in zip(tolerant_precision, tolerant_recall, all_predicted + all_true, strict=True)
        ]
        return Metrics(
            iou=tuple(iou),
            recall=tuple(_ratios(hit, true)),
            precision=tuple(_ratios(hit, predicted)),
            dice=tuple(_ratios(2 * hit, true + predicted)),
            tolerant_precision=tuple(tolerant_precision[:-1]),
            tolerant_recall=tuple(tolerant_recall[:-1]),
            tolerant_f1=tuple(tolerant_f1[:-1]),
            mean_iou=_nan_mean(iou),
            mean_iou_foreground=_nan_mean(iou[first:]),
            pixel_accuracy=_ratio(hit.sum(), true.sum()),
            foreground_iou=_ratio(fg_hit, fg_true + fg_predicted - fg_hit),
            foreground_recall=_ratio(fg_hit, fg_true),
            foreground_precision=_ratio(fg_hit, fg_predicted),
            foreground_dice=_ratio(2 * fg_hit, fg_true + fg_predicted),
            foreground_tolerant_precision=tolerant_precision[-1],
            foreground_tolerant_recall=tolerant_recall[-1],
            foreground_tolerant_f1=tolerant_f1[-1],
            tolerance=self.tolerance,
            images=self._images,
            pixels=int(true.sum()),
        )

    def _add_tolerant(self, row: int, predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> None:
        predicted_count, true_count = np.count_nonzero(predicted), np.count_nonzero(true)
        near_predicted = near_true = 0
        if predicted_count and true_count:
            near_predicted = int(np.count_nonzero(predicted & self._dilate(true)))
            near_true = int(np.count_nonzero(true & self._dilate(predicted)))
        self._tolerant[row] += (near_predicted, predicted_count, near_true, true_count)

    def _dilate(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.asarray(cv2.dilate(mask.view(np.uint8), self._disc)).view(np.bool_)


def joint_histogram(rows: NDArray[np.uint8], columns: NDArray[np.uint8]) -> NDArray[np.int64]:
    """(256, 256) counts of how often value r of `rows` meets value c of `columns` at the same pixel."""
    index = rows.astype(np.uint16).ravel() * np.uint16(256) + columns.ravel()
    return np.bincount(index, minlength=65536).reshape(256, 256).astype(np.int64)


def check_classes(classes: int, has_background: bool) -> int:
    """Index of the first foreground class; ValueError for an impossible number of classes."""
    first = 1 if has_background else 0
    if not first < classes <= IGNORE:
        kind = "background and at least one class" if has_background else "at least one class"
        raise ValueError(f"classes: {classes} is out of range; need {kind}, at most {IGNORE} in all")
    return first


def check_class_map(array: NDArray[np.uint8], name: str) -> None:
    if array.ndim != 2 or array.dtype != np.uint8:
        raise ValueError(f"{name}: {array.dtype} {array.shape} is no class map; pass (H, W) uint8 class indices")


def check_values(histogram: NDArray[np.int64], classes: int, name: str) -> None:
    """histogram (256,) of a class map: everything but 0..classes-1 and 255 must be empty."""
    wrong = classes + np.flatnonzero(histogram[classes:IGNORE])
    if wrong.size:
        found = wrong[:5].tolist()
        raise ValueError(f"{name}: values {found} are no class; use 0..{classes - 1}, or {IGNORE} for none")


def _ratio(part: np.int64, whole: np.int64) -> float:
    return float(part / whole) if whole else NAN


def _ratios(part: NDArray[np.int64], whole: NDArray[np.int64]) -> list[float]:
    return [_ratio(p, w) for p, w in zip(part, whole, strict=True)]


def _f1(precision: float, recall: float, pixels: int) -> float:
    if pixels == 0:
        return NAN
    # One side empty: nothing matched, so the score is 0 although one of the two ratios is undefined.
    if math.isnan(precision) or math.isnan(recall) or precision + recall == 0:
        return 0.0
    return 2 * precision * recall / (precision + recall)


def _nan_mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else NAN


def _none_for_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
