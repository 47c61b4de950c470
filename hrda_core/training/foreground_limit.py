"""What pseudo-labels are held to, predictions are: no more foreground in photos than is expected of them.

Pseudo-labels take the surest pixels, up to the expected share. The student that learns them finds more: on photos that are far
from the labelled images several times the share. The order of its probabilities is good, their level is not, and the level is the
bias of the classifier (logit adjustment by an expected share: Menon et al., arXiv 2007.07314, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from hrda_core.adaptation.step import Learner
from hrda_core.config import AdaptationConfig
from hrda_core.data.crops import within_margins
from hrda_core.data.draws import generator
from hrda_core.data.samples import Dataset, Image, spread
from hrda_core.inference.predictor import image_probabilities
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.window_network import WindowNetwork
from hrda_core.training.predicting import predicting_windows

NETWORKS = ("student", "teacher")
PHOTOS = 32
WINDOWS = 2  # of a photo, each way, so that large ones do not take longer
EVERY = 4  # pixels, each way: neighbours say the same
FAINTEST = 1e-12  # of a probability


def excess(
    learner: Learner, photos: Dataset, preprocessing: Preprocessing, device: torch.device, tell: Callable[[int, int], None]
) -> dict[str, float]:
    """By how much each network's foreground logits must fall until the expected share of `photos` remains; 0 if it finds less.

    preprocessing: as photos are seen now; they are looked at once, at one size. tell: called before each look and at the end;
    may raise `Stopped`.
    """
    chosen, share = spread(len(photos), PHOTOS), learner.config.adaptation.foreground_share
    total, done = len(chosen) * len(NETWORKS), 0
    found = {}
    for name in NETWORKS:
        logits = []
        with predicting_windows(learner, name, device) as network:
            for position in chosen:
                tell(done, total)
                rng, rule = generator(learner.config.seed, 0, "limit", position), learner.config.adaptation
                logits.append(logits_of_part(network, photos.image(position), preprocessing, rng, rule)[0].ravel())
                done += 1
        found[name] = above_share(np.concatenate(logits), share)
    tell(total, total)
    return found


def logits_of_part(
    network: WindowNetwork,
    image: Image,
    preprocessing: Preprocessing,
    rng: np.random.Generator,
    margins: AdaptationConfig | None = None,
) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
    """`foreground_logits` of at most WINDOWS windows each way, anywhere in the image, and which of its pixels they are of.

    margins: of photos, which learn nothing there.
    """
    whole = image.shape[:2]
    settings = replace(preprocessing.for_parts_of(whole[0], whole[1]), zooms=(1.0,), overlap=0.0)
    longest = [round(WINDOWS * side / settings.scale) for side in settings.window]
    rows, columns = (slice(0, whole[0]), slice(0, whole[1])) if margins is None else within_margins(whole[0], whole[1], margins)
    height, width = min(rows.stop - rows.start, longest[0]), min(columns.stop - columns.start, longest[1])
    top, left = int(rng.integers(rows.start, rows.stop - height + 1)), int(rng.integers(columns.start, columns.stop - width + 1))
    part = np.ascontiguousarray(image[top : top + height, left : left + width])
    seen = slice(top, top + height, EVERY), slice(left, left + width, EVERY)
    return foreground_logits(image_probabilities(network, part, settings)), seen


def foreground_logits(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """(C, H, W) -> of every EVERY-th pixel each way, the logarithm of all classes but the first over the first."""
    seen = probabilities[:, ::EVERY, ::EVERY].clip(min=FAINTEST)
    return np.asarray(np.log(seen[1:].sum(axis=0)) - np.log(seen[0]), dtype=np.float32)


def above_share(logits: NDArray[np.float32], share: float) -> float:
    """How far above 0 the logit is that `share` of the pixels exceed; 0 where fewer are above 0."""
    limit = float(np.quantile(logits, 1 - share))
    return limit if limit > 0 else 0.0  # not a number: the losses report that


def lower(learner: Learner, found: Mapping[str, float]) -> None:
    learner.student.head.lower_foreground(found["student"])
    learner.teacher.model.head.lower_foreground(found["teacher"])


def notice(found: Mapping[str, float], share: float) -> str | None:
    """A sentence for the user where a network is changed much."""
    if max(found.values()) < 1:
        return None
    return (
        f"more foreground is found in the photos than the {100 * share:.1f} % that are expected of them, so it has to be "
        f"surer from here on (its logits fall by {found['student']:.1f} in the student, {found['teacher']:.1f} in the teacher). "
        f"If there is more, give its share as adaptation.foreground_share; adaptation.hold_to_share=false turns this off"
    )
