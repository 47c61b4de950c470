"""How much foreground photos hold, estimated without labels: labelled images often hold more than what they stand for.

A network's logits have one distribution on labelled foreground and one on labelled background. On photos they are a mixture of
the two, and the share at which the mixture comes nearest, in Hellinger distance, is the estimate (HDy: Gonzalez-Castro et al.,
Information Sciences 218, 2013). Photos do not look like labelled images, so it is a guess. Measured, it was too high by a third
to several times (docs/defaults.md), so it only ever lowers what is expected; where cracks of photos are less sure than labelled
ones, and background is not, it is too low, so it does so to a part at the least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from hrda_core.adaptation.step import Learner
from hrda_core.config import AdaptationConfig
from hrda_core.data.classes import IGNORE
from hrda_core.data.draws import generator
from hrda_core.data.samples import Dataset, spread
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.training.foreground_limit import logits_of_part
from hrda_core.training.predicting import predicting_windows

Histogram = NDArray[np.float64]  # (bins,)

IMAGES = 48  # labelled ones, and as many photos
EDGES = np.linspace(-14, 14, 57)  # of the bins of logits; what lies beyond counts as outermost
SHARES = np.geomspace(1e-4, 1, 921)  # of foreground: one per cent apart
ALIKE = 0.9  # affinity of foreground's logits to background's, 1 = the same; of networks that see cracks 0.3 to 0.5
WORTH_TELLING = 0.9  # of what was expected


def share_of_photos(
    learner: Learner,
    labelled: Dataset,
    photos: Dataset,
    preprocessing: Preprocessing,
    device: torch.device,
    tell: Callable[[int, int], None],
) -> float:
    """By the teacher: from `least_share` of the configuration's `foreground_share` up to the whole of it.

    preprocessing: as photos are seen now. tell: called before each look and at the end; may raise `Stopped`.
    """
    config = learner.config
    images, targets = spread(len(labelled), IMAGES), spread(len(photos), IMAGES)
    total, looks = len(images) + len(targets), count()
    foreground, background, mixture = (np.zeros(len(EDGES) - 1) for _ in range(3))
    with predicting_windows(learner, "teacher", device) as network:
        as_labelled = replace(preprocessing, scale=config.data.source_scale)
        for position in images:
            tell(next(looks), total)
            mask, rng = labelled.mask(position), generator(config.seed, 0, "share of labelled", position)
            assert mask is not None
            logits, seen = logits_of_part(network, labelled.image(position), as_labelled, rng)
            labels = mask[seen]
            foreground += histogram(logits[(labels > 0) & (labels != IGNORE)])
            background += histogram(logits[labels == 0])
        for position in targets:
            tell(next(looks), total)
            rng = generator(config.seed, 0, "share of photos", position)
            mixture += histogram(logits_of_part(network, photos.image(position), preprocessing, rng, config.adaptation)[0])
    tell(total, total)
    expected = config.adaptation.foreground_share
    return min(max(hellinger_share(foreground, background, mixture), config.adaptation.least_share * expected), expected)


def histogram(logits: NDArray[np.float32]) -> Histogram:
    """Any shape -> (bins,) pixels."""
    return np.histogram(logits.clip(EDGES[0], EDGES[-1]), EDGES)[0].astype(np.float64)


def hellinger_share(foreground: Histogram, background: Histogram, mixture: Histogram) -> float:
    """How much foreground a mixture holds, 0.0001 to 1; 1 where one of the three is empty, or the first two are alike.

    That tells nothing, and would give any share.
    """
    if min(part.sum() for part in (foreground, background, mixture)) == 0:
        return 1.0
    parts = [part / part.sum() for part in (foreground, background, mixture)]
    if np.sqrt(parts[0] * parts[1]).sum() > ALIKE:
        return 1.0
    mixtures = SHARES[:, None] * parts[0] + (1 - SHARES[:, None]) * parts[1]
    return float(SHARES[np.sqrt(mixtures * parts[2]).sum(axis=1).argmax()])  # the most alike are the least distant


def notice(share: float, rule: AdaptationConfig) -> str | None:
    """A sentence for the user where clearly less is expected from here on. rule: as it was until then."""
    expected = rule.foreground_share
    if share >= WORTH_TELLING * expected:
        return None
    held = "pseudo-labels and predictions are" if rule.hold_to_share else "pseudo-labels are"
    return (
        f"photos seem to hold less foreground than expected ({100 * share:.1f} % instead of {100 * expected:.1f} %), so {held} "
        f"held to that: give adaptation.foreground_share if you know it, or set adaptation.least_share=1 to turn this off"
    )
