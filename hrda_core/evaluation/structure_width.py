"""How wide structures such as cracks are in a mask: tells whether photos are seen at the size of the labelled images."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

FEWEST_PIXELS = 10  # of a mask that says something


def structure_width(mask: NDArray[np.bool_]) -> float:
    """(H, W) -> pixels across a structure, the median along its middle lines; NaN where there is next to nothing.

    Middle lines are where the distance to the edge is largest among the neighbours.
    """
    if np.count_nonzero(mask) < FEWEST_PIXELS:
        return float("nan")
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
    ridge = mask & (distance >= cv2.dilate(distance, np.ones((3, 3), np.uint8)) - 1e-6)
    return 2 * float(np.median(distance[ridge])) - 1  # distances are to the middle of the nearest pixel outside


def typical_width(widths: list[float]) -> float:
    """The median of those that are numbers; NaN where most are not."""
    known = [width for width in widths if not np.isnan(width)]
    return float(np.median(known)) if 2 * len(known) >= len(widths) > 0 else float("nan")
