"""Which checkpoint to keep where no photo has labels."""

from __future__ import annotations

from hrda_core.evaluation.label_free import LabelFreeScores

PLAUSIBLE = 3.0  # the target may hold so many times more, or less, foreground than the labelled images


def selection_score(scores: LabelFreeScores, source_foreground: float | None, expected: float | None = None) -> float:
    """0 to 1, larger is better: how sure the network is, times how plausible the predicted share of foreground is.

    Sure is one minus the mean of entropy and the share of uncertain pixels: over the checkpoints of four pairs of domains
    (docs/adaptation.md) sure networks were the better ones, by one measure on cracks and by the other on walls, while agreement
    under scaling went against them: a network whose probabilities are all near one half agrees with itself. Between
    runs that end within 0.01 of each other it does not judge, and training does not let it (training/loop.py).
    A network that has collapsed to nothing, or to foreground everywhere, is sure too: so the share counts fully only within a
    factor of `PLAUSIBLE` of that in the labelled images, or of what is expected of photos, and in proportion beyond.

    Args:
        source_foreground: share of the foreground among the labelled pixels; None where there is no background class.
        expected: share of it that is expected of photos, where the run has one.
    """
    sure = 1 - (scores.entropy + scores.uncertain) / 2
    if source_foreground is None or source_foreground == 0:
        return sure
    shares = [source_foreground, *([expected] if expected else [])]
    found = sum(scores.fractions[1:])
    return sure * min(1.0, found * PLAUSIBLE / min(shares), PLAUSIBLE * max(shares) / max(found, 1e-12))
