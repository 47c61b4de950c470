"""The size at which photos should be seen: where the network is surest of what it finds in them.

A network finds structures of the widths that it has learned. Where those in the photos are thinner, it finds them surely only in
photos that are enlarged. What models/sureness.py tells of one photo is a guess; the mean over many is not (docs/defaults.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from hrda_core.adaptation.step import Learner
from hrda_core.data.samples import Dataset, spread
from hrda_core.evaluation.label_free import middle
from hrda_core.inference.predictor import image_probabilities
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.window_network import WindowNetwork
from hrda_core.models.sureness import foreground_found, nearest_to_one, sureness
from hrda_core.training.predicting import predicting_windows
from hrda_core.training.stopping import Stopped, StopRequest

Sureness = NDArray[np.float64]  # (photos,)

PHOTOS = 96
WINDOWS = 2  # by so many the middle of a photo is seen: of photos of any size the same, so that time stays bounded
WORTH_IT = 1.03  # times as sure
ERRORS = 2  # standard errors; less is chance
FAINTEST = 1e-6  # of a probability


def scale_for(
    learner: Learner,
    photos: Dataset,
    preprocessing: Preprocessing,
    device: torch.device,
    stop: StopRequest,
    tell: Callable[[int, int], None],
) -> tuple[float, str | None]:
    """The factor on the scale of `photos`, by the teacher, and a sentence for the user where it is not 1.

    tell: called with the number of looks that are done, and of all.

    Raises:
        Stopped: between two images, where a stop is requested.
    """

    factors = {1.0, *learner.config.adaptation.photo_scales}
    looks = count()
    total = len(factors) * min(PHOTOS, len(photos))

    def watch() -> None:
        if stop():
            raise Stopped
        tell(next(looks), total)

    with predicting_windows(learner, "teacher", device) as network:
        scales = {factor: factor * preprocessing.scale for factor in sorted(factors)}
        sure = {factor: sureness_at(network, photos, preprocessing, scale, watch) for factor, scale in scales.items()}
    tell(total, total)
    factor = surest_factor(sure)
    if factor == 1:
        return factor, None
    return factor, (
        f"photos are seen at {factor:g} times their size from here on, since the network is surer of what it finds there "
        f"({sure[factor].mean():.2f} instead of {sure[1.0].mean():.2f}): set adaptation.photo_scales=[1.0] to turn this off"
    )


def sureness_at(
    network: WindowNetwork, photos: Dataset, preprocessing: Preprocessing, scale: float, watch: Callable[[], None]
) -> Sureness:
    """0 to 1, for each of some photos: how sure the network is of what it finds in the photo's middle, seen at `scale`.

    Windows do not overlap: that takes 0.4 to 0.7 of the time and tells the same (docs/defaults.md).
    """
    settings = replace(preprocessing, scale=scale, zooms=(1.0,), overlap=0.0)
    longest = [round(WINDOWS * side / preprocessing.scale) for side in preprocessing.window]
    found = []
    for position in spread(len(photos), PHOTOS):
        watch()
        photo = middle(photos.image(position), *longest)
        probabilities = torch.from_numpy(image_probabilities(network, photo, settings))
        found.append(float(sureness(*foreground_found(probabilities.clamp(min=FAINTEST).log()[None]))))
    return np.array(found)


def surest_factor(sure: Mapping[float, Sureness]) -> float:
    """Of how sure the network is of each photo at each factor: the surest one; 1 unless that is clearly more."""
    return max(
        (factor for factor in nearest_to_one(list(sure)) if factor == 1 or _is_surer(sure[factor], sure[1.0])),
        key=lambda factor: sure[factor].mean(),
    )


def _is_surer(here: Sureness, before: Sureness) -> bool:
    """By more than chance would have it: photos in which nothing is found at one of the sizes weigh much in a mean."""
    if len(here) < 2 or here.mean() < WORTH_IT * before.mean():
        return False
    gain = here - before
    return bool(gain.mean() > ERRORS * gain.std(ddof=1) / np.sqrt(len(gain)))
