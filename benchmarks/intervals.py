"""Figures from counts of single photos: thresholds chosen on the other half, paired bootstrap intervals, rank correlation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.photo_counts import BINS, THRESHOLDS, PhotoCounts

Flags = NDArray[np.bool_]
RESAMPLES = 2000


class Foreground(NamedTuple):
    """Shares of 1; NaN where nothing was found or nothing is there."""

    iou: float
    precision: float
    recall: float
    tolerant_f1: float


def foreground_at(counts: PhotoCounts, thresholds: Sequence[float] | NDArray[np.float64]) -> Foreground:
    """All photos together, each at its own threshold."""
    hit, found, true, near = 0, 0, 0, np.zeros(4)
    for i, threshold in enumerate(thresholds):
        first = min(round(threshold * BINS), BINS - 1)
        hit += int(counts.positive[i, first:].sum())
        found += int(counts.positive[i, first:].sum() + counts.negative[i, first:].sum())
        true += int(counts.positive[i].sum())
        near += counts.tolerant[i, int(np.abs(THRESHOLDS - threshold).argmin())]
    precision, recall = _share(near[0], near[1]), _share(near[2], near[3])
    f1 = 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0
    return Foreground(_share(hit, found + true - hit), _share(hit, found), _share(hit, true), f1)


def thresholds_of_the_other_half(counts: PhotoCounts, first_half: Sequence[bool]) -> NDArray[np.float64]:
    """For each photo the threshold of best IoU on the half that it does not belong to."""
    here = np.array(first_half)
    return np.where(here, best_threshold(counts, ~here), best_threshold(counts, here))


def best_threshold(counts: PhotoCounts, photos: Flags) -> float:
    positive, negative = counts.positive[photos].sum(axis=0), counts.negative[photos].sum(axis=0)
    hit, false = (np.cumsum(part[::-1])[::-1] for part in (positive, negative))
    curve = hit / np.maximum(positive.sum() + false, 1)
    winners = np.flatnonzero(curve == curve.max())
    return float(winners[len(winners) // 2]) / BINS  # the middle one where several tie


def mean_iou(confusion: NDArray[np.int64]) -> float:
    """(C, C) -> mean over the classes that occur in label or prediction."""
    hit = np.diagonal(confusion, axis1=-2, axis2=-1)
    union = confusion.sum(axis=-1) + confusion.sum(axis=-2) - hit
    return float(np.mean(hit[union > 0] / union[union > 0]))


def argmax_iou(counts: PhotoCounts, weights: NDArray[np.int64] | None = None) -> float:
    """IoU of the one foreground class, or the mean over several classes; `weights`: how often each photo counts."""
    factor = np.ones(len(counts.confusion), dtype=np.int64) if weights is None else weights
    confusion = np.tensordot(factor, counts.confusion, axes=1)
    if len(confusion) == 2:
        return _share(confusion[1, 1], confusion[1].sum() + confusion[0, 1])
    return mean_iou(confusion)


def difference(
    ours: Sequence[PhotoCounts], theirs: Sequence[PhotoCounts], groups: Sequence[str], seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high) of argmax IoU of one arm less another's over equal seeds; 95 % by resampling whole groups."""
    names = sorted(set(groups))
    member = np.array([[group == name for group in groups] for name in names], dtype=np.int64)
    draws = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names)))
    means = []
    for draw in draws:
        weights = member[draw].sum(axis=0)
        means.append(np.mean([argmax_iou(a, weights) - argmax_iou(b, weights) for a, b in zip(ours, theirs, strict=True)]))
    low, high = np.nanpercentile(means, [2.5, 97.5])
    plain = float(np.mean([argmax_iou(a) - argmax_iou(b) for a, b in zip(ours, theirs, strict=True)]))
    return plain, float(low), float(high)


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Rank correlation; equal values share their mean rank. NaN where all of one kind are equal."""
    if len(x) < 3:
        raise ValueError(f"{len(x)} points: a rank correlation needs at least 3")
    if len(set(x)) == 1 or len(set(y)) == 1:
        return float("nan")
    return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=float)
    below = (array[None, :] < array[:, None]).sum(axis=1)
    equal = (array[None, :] == array[:, None]).sum(axis=1)
    ranks: NDArray[np.float64] = below + (equal - 1) / 2
    return ranks


def _share(part: float, whole: float) -> float:
    return float(part) / float(whole) if whole else float("nan")
