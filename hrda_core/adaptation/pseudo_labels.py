"""From the teacher's logits to labels and pixel weights for the target."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from hrda_core.adaptation.losses import IGNORE
from hrda_core.adaptation.whole_batch import ALONE, WholeBatch
from hrda_core.data.photo_labels import FIRST, OTHER, PROBABILITY

BINS = 256  # of the foreground probability
FORGETTING = 0.98  # per batch: thresholds follow the last 50 batches or so, since a batch of crops alone may hold no crack
FAINTEST = 1e-4  # of a probability
RAREST = 1e-3  # share of a class, below which it is raised no further
WORTH = 5.0  # batches that the shares of classes are worth before any is seen
LOWEST, HIGHEST = 0.3, 0.99  # of the foreground threshold, whatever share it would take
BACKGROUND_AT_MOST = 0.5


class PseudoLabels(NamedTuple):
    """labels: (N, H, W) int64, 255 = ignore. weight: (N, H, W) float32. confident: share of pixels that are trusted."""

    labels: Tensor
    weight: Tensor
    confident: Tensor


def confident_fraction(logits: Tensor, threshold: float = 0.968, batch: WholeBatch = ALONE) -> PseudoLabels:
    """Argmax everywhere, all pixels weighted by the share of the WHOLE batch at or above `threshold` (DACS, 2007.08702)."""
    probability, labels = logits.float().softmax(dim=1).max(dim=1)
    confident = batch.mean((probability >= threshold).float().mean())
    return PseudoLabels(labels, confident.expand_as(probability).clone(), confident)


def uncertain_band(logits: Tensor, foreground: float = 0.5, background: float = 0.1, edge: int = 0) -> PseudoLabels:
    """For thin classes: sure foreground and sure background are labels, the uncertain pixels between are ignored.

    On cracks, hard labels turn missed cracks into background and training collapses towards predicting nothing; leaving
    out only the uncertain background keeps recall. Background is class 0; "foreground" is one minus its probability.

    edge: uncertain pixels that are so near to foreground belong to its edge rather than to a missed crack. They are background,
    since where they are ignored nothing keeps the student's cracks from growing wider; so are short gaps in a crack.
    """
    probabilities = logits.float().softmax(dim=1)
    any_foreground = 1 - probabilities[:, 0]
    labels = torch.full_like(any_foreground, IGNORE, dtype=torch.int64)
    found = any_foreground > foreground
    labels[(any_foreground < background) | _near(found, edge)] = 0
    best = probabilities[:, 1:].argmax(dim=1) + 1
    labels = torch.where(found, best, labels)
    known = (labels != IGNORE).float()
    return PseudoLabels(labels, known, known.mean())


def _near(found: Tensor, distance: int) -> Tensor:
    """(N, H, W) bool -> True within a square that reaches `distance` pixels to each side of a True one."""
    if not distance:
        return found
    side, one = 2 * distance + 1, found[:, None].float()
    rows = max_pool2d(one, (side, 1), stride=1, padding=(distance, 0))
    return max_pool2d(rows, (1, side), stride=1, padding=(0, distance))[:, 0] > 0


def log_probabilities(seen: Tensor, classes: int) -> Tensor:
    """What is known of whole photos, (N, 3, H, W) uint8 as data/photo_labels.py stores it -> (N, C, H, W), like logits.

    Classes that are neither the first nor the best of the others share what is left.
    """
    best, first = seen[:, PROBABILITY].float() / 255, seen[:, FIRST].float() / 255
    left = (1 - best - first).clamp(min=0) / max(classes - 2, 1)
    probabilities = left[:, None].repeat(1, classes, 1, 1)
    probabilities[:, 0] = first
    return probabilities.scatter(1, seen[:, OTHER, None].long(), best[:, None]).clamp(min=FAINTEST).log()


class ClassShares:
    """How much of the target the teacher gives each class, as far as the latest batches tell."""

    def __init__(self, classes: int) -> None:
        self.totals = torch.full((classes,), WORTH / classes, dtype=torch.float64)  # each batch counts 1; all alike at first

    def note(self, probabilities: Tensor, valid: Tensor, batch: WholeBatch = ALONE) -> None:
        """Adds the pixels of (N, C, H, W) where `valid` (N, H, W) is not 0."""
        known = (probabilities.nan_to_num(0.0) * (valid > 0)[:, None]).sum(dim=(0, 2, 3)).double()  # the loss reports the rest
        totals = batch.sum(known)
        self.totals = FORGETTING * self.totals.to(totals.device) + totals / totals.sum().clamp(min=1)

    def shares(self) -> Tensor:
        """(C,) float64, which sum up to 1."""
        return self.totals / self.totals.sum()


def balanced(logits: Tensor, valid: Tensor, shares: ClassShares, power: float, batch: WholeBatch = ALONE) -> Tensor:
    """Logits (N, C, H, W) less `power` times the logarithm of the class's share of the target. Notes the batch in `shares`.

    A network that learns from few pixels of a class finds it almost nowhere, though it knows where it would be: its probability
    is raised there, but not above that of the classes around it. Post-hoc logit adjustment (Menon et al., arXiv 2007.07314,
    section 4) with the teacher's own shares of the photos, so that what is found more is raised less from then on.
    """
    shares.note(logits.float().softmax(dim=1), valid, batch)
    correction = power * shares.shares().clamp(min=RAREST).log().to(logits.device, torch.float32)
    return logits.float() - correction.view(1, -1, 1, 1)


class ForegroundHistogram:
    """How the teacher's foreground probability is distributed over the target, as far as the latest batches tell."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)

    def note(self, probability: Tensor, valid: Tensor, batch: WholeBatch = ALONE) -> None:
        """Adds the pixels of (N, H, W) where `valid` (N, H, W) is not 0."""
        known = probability[valid > 0].nan_to_num(0.0)  # what is not finite, the loss reports
        bins = (known * BINS).long().clamp(0, BINS - 1)
        counts = batch.sum(torch.bincount(bins, minlength=BINS).double())
        self.counts = FORGETTING * self.counts.to(counts.device) + counts

    def threshold(self, share: float) -> float:
        """The lowest one above which at most `share` of the pixels lies."""
        from_top = self.counts.flip(0).cumsum(0).flip(0)
        return int((from_top > share * self.counts.sum()).sum()) / BINS


def prior_band(
    logits: Tensor,
    valid: Tensor,
    histogram: ForegroundHistogram,
    share: float,
    ignored: float,
    batch: WholeBatch = ALONE,
    lowest: float = LOWEST,
    edge: int = 0,
) -> PseudoLabels:
    """`uncertain_band` with thresholds by which `share` of the target is foreground, and `ignored` of it neither; less where
    fewer pixels are above `lowest`.

    Fixed thresholds keep what the source taught: a network that finds too little finds less and less, one that finds too much
    more and more. The expected share holds it where it is, from both sides. Notes the batch in the histogram.
    """
    histogram.note(1 - logits.float().softmax(dim=1)[:, 0], valid, batch)
    foreground = min(max(histogram.threshold(share), lowest), max(lowest, HIGHEST))
    background = min(histogram.threshold(share + ignored), foreground, BACKGROUND_AT_MOST)
    return uncertain_band(logits, foreground, background, edge)


def without_margins(pseudo: PseudoLabels, valid: Tensor | None, ignore_top: int = 0, ignore_bottom: int = 0) -> PseudoLabels:
    """Weight 0 where `valid` (N, H, W) is 0 (padding, margins of the photo) and in rows at the top and bottom of the crop."""
    weight = pseudo.weight if valid is None else pseudo.weight * valid.to(pseudo.weight.dtype)
    if ignore_top or ignore_bottom:
        weight = weight.clone()
        weight[:, :ignore_top] = 0
        weight[:, max(weight.shape[1] - ignore_bottom, 0) :] = 0
    return pseudo._replace(weight=weight)
