"""Which checkpoint to keep where no photo has labels."""

from __future__ import annotations

from hrda_core.evaluation.label_free import LabelFreeScores

PLAUSIBLE = 3.0  # the target may hold so many times more, or less, foreground than the labelled images


def selection_score(scores: LabelFreeScores, source_foreground: float | None) -> float:
    """0 to 1, larger is better: agreement under scaling, times how plausible the predicted share of foreground is.

    Networks that find next to nothing, or foreground everywhere, agree with themselves very well: so the share counts
    fully only within a factor of `PLAUSIBLE` of that in the labelled images, and in proportion beyond.

    Args:
        source_foreground: share of the foreground among the labelled pixels; None where there is no background class.
    """
    if source_foreground is None or source_foreground == 0:
        return scores.scale
    ratio = sum(scores.fractions[1:]) / source_foreground
    return scores.scale * min(1.0, ratio * PLAUSIBLE, PLAUSIBLE / max(ratio, 1e-12))
