"""How many pixels of each class every labelled image holds: what rare-class sampling and the checks go by."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hrda_core.data.file_facts import count_classes, mask_facts
from hrda_core.data.memory_of_files import FileMemory
from hrda_core.data.parallel import Progress, Stop, in_order

if TYPE_CHECKING:
    from hrda_core.data.samples import Dataset


def most_foreground(pixels: NDArray[np.int64]) -> float:
    """Of `class_pixels` with a background: the share of foreground in the image that has most, of its labelled pixels."""
    labelled = pixels[:, :-1]
    return float((labelled[:, 1:].sum(axis=1) / np.maximum(labelled.sum(axis=1), 1)).max())


def class_pixels(
    dataset: Dataset,
    workers: int | None = None,
    *,
    cache: str | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> NDArray[np.int64]:
    """Pixel counts (images, classes + 1) over the masks of a data set; the last column counts ignored pixels.

    Images without a mask have zeros.

    Args:
        workers: threads that read masks; None: one for each core.
        cache: folder that remembers the counts by content, "" for the user's cache folder (`config.data.cache`), None for
            none. A second call then reads no mask that it knows, unless the classes' values have changed.
        progress: called with (done, total).
        stop: asked between masks.

    Raises:
        ValueError: a mask that cannot be read or has a value without a class.
        Stopped: `stop()` became true.
    """
    counts = np.zeros((len(dataset), len(dataset.classes) + 1), dtype=np.int64)

    def count(index: int) -> NDArray[np.int64] | None:
        mask = None if dataset.masks is None else dataset.masks[index]
        if mask is None:
            return None
        if isinstance(mask, Path):
            facts = mask_facts(mask, dataset.classes, memory)
            if facts.problem:
                raise ValueError(f"{mask}: {facts.problem}")
            return np.array(facts.pixels, dtype=np.int64)
        try:
            return count_classes(mask, len(dataset.classes))
        except ValueError as error:
            raise ValueError(f"{dataset.name(index)}: {error}") from error

    with FileMemory(cache) as memory:
        total = len(dataset)
        for index, found in enumerate(in_order(count, range(total), total, workers, progress, stop)):
            if found is not None:
                counts[index] = found
    return counts
