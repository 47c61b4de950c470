"""The size at which photos should be seen: where the network is surest of what it finds in them.

A network finds structures of the widths that it has learned. Where those in the photos are thinner, it finds them surely only in
photos that are enlarged. What models/sureness.py tells of one photo is a guess; the mean over many is not (docs/adaptation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from hrda_core.adaptation.step import Learner
from hrda_core.data.samples import Dataset
from hrda_core.inference.predictor import image_probabilities
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.window_network import WindowNetwork
from hrda_core.models.sureness import foreground_found, nearest_to_one, sureness
from hrda_core.training.evaluator import spread
from hrda_core.training.predicting import predicting_windows
from hrda_core.training.stopping import Stopped, StopRequest

PHOTOS = 24
WORTH_IT = 1.03  # times as sure; less is noise
FAINTEST = 1e-6  # of a probability


def scale_for(
    learner: Learner, photos: Dataset, preprocessing: Preprocessing, device: torch.device, stop: StopRequest
) -> tuple[float, str | None]:
    """The factor on the scale of `photos`, by the teacher, and a sentence for the user where it is not 1.

    Raises:
        Stopped: between two images, where a stop is requested.
    """

    def watch() -> None:
        if stop():
            raise Stopped

    factors = {1.0, *learner.config.adaptation.photo_scales}
    with predicting_windows(learner, "teacher", device) as network:
        scales = {factor: factor * preprocessing.scale for factor in sorted(factors)}
        sure = {factor: sureness_at(network, photos, preprocessing, scale, watch) for factor, scale in scales.items()}
    factor = surest_factor(sure)
    if factor == 1:
        return factor, None
    return factor, (
        f"photos are seen at {factor:g} times their size from here on, since the network is surer of what it finds there "
        f"({sure[factor]:.2f} instead of {sure[1.0]:.2f}): set adaptation.photo_scales=[1.0] to turn this off"
    )


def sureness_at(
    network: WindowNetwork, photos: Dataset, preprocessing: Preprocessing, scale: float, watch: Callable[[], None]
) -> float:
    """0 to 1: how sure the network is of what it finds, a mean over photos that it sees at `scale`."""
    settings = replace(preprocessing, scale=scale, zooms=(1.0,))
    found = []
    for position in spread(len(photos), PHOTOS):
        watch()
        probabilities = torch.from_numpy(image_probabilities(network, photos.image(position), settings))
        found.append(float(sureness(*foreground_found(probabilities.clamp(min=FAINTEST).log()[None]))))
    return float(np.mean(found))


def surest_factor(sure: Mapping[float, float]) -> float:
    """Of how sure the network is at each factor: the surest one; 1 unless that is clearly more."""
    best = max(nearest_to_one(list(sure)), key=lambda factor: sure[factor])
    return best if sure[best] >= WORTH_IT * sure[1.0] else 1.0
