"""Evaluation of a network on labelled images, one image in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hrda_core.data.samples import Dataset, Image
from hrda_core.evaluation.metrics import Metrics, SegmentationMetrics
from hrda_core.evaluation.thresholds import ThresholdSweep, apply_thresholds
from hrda_core.training.distributed import ALONE, Ranks

Probabilities = Callable[[Image], NDArray[np.float32]]  # (H, W, 3) uint8 RGB -> (C, H, W) float32

NO_LABELS = "the validation set has no labelled image: give it masks, or train without validation"


@dataclass(frozen=True)
class Evaluation:
    """argmax: figures of the plain argmax. thresholded: at the given thresholds (equal to argmax without any).

    tuned: the threshold of best IoU for each foreground class on this very set. tuned_iou: that IoU, an optimistic
    figure, since the threshold was chosen on the same pixels.
    """

    argmax: Metrics
    thresholded: Metrics
    tuned: tuple[float, ...]
    tuned_iou: tuple[float, ...]

    def score(self, tuned: bool, has_background: bool) -> float:
        """What the best checkpoint is chosen by: mean IoU over the foreground classes (over all without background)."""
        if tuned:
            values = [v for v in self.tuned_iou if not math.isnan(v)]
            return float(np.mean(values)) if values else math.nan
        return self.argmax.mean_iou_foreground if has_background else self.argmax.mean_iou


def evaluate(
    probabilities: Probabilities,
    dataset: Dataset,
    thresholds: Sequence[float] | None = None,
    tolerance: int = 2,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> Evaluation:
    """Predicts every labelled image of the data set and compares; several ranks share the images out.

    Raises:
        ValueError: the data set has no labelled image, or a mask has not its image's size.
    """
    dataset = dataset.labelled()
    if len(dataset) == 0:
        raise ValueError(NO_LABELS)
    classes, background = len(dataset.classes), dataset.has_background

    def counted() -> tuple[SegmentationMetrics, SegmentationMetrics, ThresholdSweep]:
        argmax = SegmentationMetrics(classes, background, tolerance)
        thresholded = SegmentationMetrics(classes, background, tolerance)
        sweep = ThresholdSweep(classes, background)
        for i in range(ranks.rank, len(dataset), ranks.size):
            shares, mask = probabilities(dataset.image(i)), dataset.mask(i)
            assert mask is not None  # `labelled` keeps only those
            if mask.shape != shares.shape[1:]:
                size = f"{mask.shape[1]}x{mask.shape[0]}, the image {shares.shape[2]}x{shares.shape[1]}"
                raise ValueError(f"{dataset.name(i)}: the mask is {size}; save it at the image's size")
            argmax.update(apply_thresholds(shares, None, background)[0], mask)
            if thresholds is not None:
                thresholded.update(apply_thresholds(shares, thresholds, background)[0], mask)
            sweep.update(shares, mask)
            if progress is not None:
                progress(i + 1, len(dataset))
        return argmax, thresholded, sweep

    (argmax, thresholded, sweep), *others = ranks.together(counted)
    for part in others:
        argmax.merge(part[0])
        thresholded.merge(part[1])
        sweep.merge(part[2])
    tuned = sweep.best()
    tuned_iou = tuple(sweep.iou_at(threshold)[i] for i, threshold in enumerate(tuned))
    plain = argmax.compute()
    return Evaluation(plain, plain if thresholds is None else thresholded.compute(), tuple(tuned), tuned_iou)


def scalars(network: str, result: Evaluation, dataset: Dataset) -> dict[str, float]:
    """The figures to log, named validation/{network}/...; undefined ones are left out."""
    metrics = result.argmax
    values = {
        f"validation/{network}/mean_iou": metrics.mean_iou,
        f"validation/{network}/pixel_accuracy": metrics.pixel_accuracy,
        **{f"validation/{network}/iou/{info.name}": metrics.iou[i] for i, info in enumerate(dataset.classes)},
    }
    if dataset.has_background:
        values |= {
            f"validation/{network}/mean_iou_foreground": metrics.mean_iou_foreground,
            f"validation/{network}/foreground_iou": metrics.foreground_iou,
            f"validation/{network}/foreground_precision": metrics.foreground_precision,
            f"validation/{network}/foreground_recall": metrics.foreground_recall,
            f"validation/{network}/foreground_tolerant_f1": metrics.foreground_tolerant_f1,
            f"validation/{network}/tuned_iou": result.score(tuned=True, has_background=True),
            f"validation/{network}/tuned_threshold": float(np.mean(result.tuned)),
        }
    return {name: value for name, value in values.items() if not math.isnan(value)}
