"""Signs that adapting does harm, as sentences for the user."""

from __future__ import annotations

from collections.abc import Mapping

LEAST = 0.05  # of the labelled images' share of foreground that pseudo-labels should hold


def no_gain_notice(best_iteration: int, began: int, evaluated: int) -> str | None:
    """Where the best checkpoint is from before adapting, although later ones were evaluated."""
    if not 0 < best_iteration <= began < evaluated:
        return None
    return (
        f"adaptation seems to hurt: no checkpoint after iteration {began}, where it begins, scores better than that of "
        f"iteration {best_iteration}, which is kept as the best. Look at the previews; a longer "
        f"adaptation.source_warmup or another adaptation.pseudo_labels may help"
    )


def no_foreground_notice(averages: Mapping[str, float], source_foreground: float, expected: float | None = None) -> str | None:
    """Where the teacher finds next to nothing: learning from such pseudo-labels unlearns what there was.

    Args:
        averages: of the logged scalars since the last line of the log.
        source_foreground: share of the foreground in the labelled images.
        expected: share of it that is expected of photos, where the run has one: pseudo-labels hold no more.
    """
    share = averages.get("pseudo/foreground")
    if share is None or share >= LEAST * (source_foreground if expected is None else min(source_foreground, expected)):
        return None
    return (
        f"the pseudo-labels hold {100 * share:.3f} % foreground, the labelled images {100 * source_foreground:.1f} %: adapting "
        f"to them unlearns the foreground. Let the network find it first, by a longer adaptation.source_warmup or "
        f"optimisation.dice_weight=1, or lower adaptation.foreground_at_least (of pseudo_labels=band: band_foreground)"
    )
