"""Which checkpoint to keep where no photo has labels."""

from __future__ import annotations

from hrda_core.evaluation.label_free import LabelFreeScores

PLAUSIBLE = 3.0  # the target may hold so many times more, or less, foreground than the labelled images


def selection_score(scores: LabelFreeScores, source_foreground: float | None) -> float:
    """0 to 1, larger is better: the share of sure pixels, times how plausible the predicted share of foreground is.

    Of the checkpoints of 15 runs on three pairs of domains (docs/adaptation.md), sure pixels went with the best ones, while
    agreement under scaling went against them: a network whose probabilities are all near one half agrees with itself.
    One that has collapsed to nothing, or to foreground everywhere, is sure too: so the share counts fully only within a factor
    of `PLAUSIBLE` of that in the labelled images, and in proportion beyond.

    Args:
        source_foreground: share of the foreground among the labelled pixels; None where there is no background class.
    """
    sure = 1 - scores.uncertain
    if source_foreground is None or source_foreground == 0:
        return sure
    ratio = sum(scores.fractions[1:]) / source_foreground
    return sure * min(1.0, ratio * PLAUSIBLE, PLAUSIBLE / max(ratio, 1e-12))
