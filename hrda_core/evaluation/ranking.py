"""Which photos to look at first: those predicted worst."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hrda_core.data.samples import Dataset, Image
from hrda_core.evaluation.metrics import IGNORE

Labels = Callable[[Image], NDArray[np.uint8]]  # (H, W, 3) uint8 RGB -> (H, W) uint8


def worst_photos(predict: Labels, labelled: Dataset, indices: Sequence[int]) -> list[tuple[int, float]]:
    """(index, IoU over the foreground together), worst first; photos without a mask are left out.

    A photo where neither the labels nor the prediction have foreground counts as 1.
    """
    first = 1 if labelled.has_background else 0
    scores = []
    for index in indices:
        mask = labelled.mask(index)
        if mask is None:
            continue
        predicted = predict(labelled.image(index))
        known = mask != IGNORE
        found, true = (known & (m >= first) & (m != IGNORE) for m in (predicted, mask))
        either = int((found | true).sum())
        right = int((found & true & (predicted == mask)).sum())
        scores.append((index, right / either if either else 1.0))
    return sorted(scores, key=lambda entry: entry[1])
