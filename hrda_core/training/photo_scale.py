"""The size at which photos should be seen: where what the network finds looks as wide as in the labelled images.

A network finds structures of the widths that it has learned. Where those in the photos are thinner, it draws them as wide as it
knows them, whatever the size of the photo; only at a larger size do they come out wider. That shows without any label.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from hrda_core.adaptation.step import Learner
from hrda_core.data.samples import Dataset
from hrda_core.evaluation.structure_width import structure_width, typical_width
from hrda_core.inference.predictor import image_probabilities
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.window_network import WindowNetwork
from hrda_core.training.evaluator import spread
from hrda_core.training.predicting import predicting_windows
from hrda_core.training.stopping import Stopped, StopRequest

IMAGES = 24  # of either set
WORTH_IT = 0.1  # by how much the logarithms of widths must come closer; less is noise


def scale_for(
    learner: Learner,
    labelled: Dataset,
    photos: Dataset,
    preprocessing: Preprocessing,
    device: torch.device,
    stop: StopRequest,
) -> tuple[float, str | None]:
    """The factor on the scale of `photos`, by the teacher, and a sentence for the user where it is not 1.

    Raises:
        Stopped: between two images, where a stop is requested.
    """

    def watch() -> None:
        if stop():
            raise Stopped

    config = learner.config
    known: dict[float, float] = {}
    with predicting_windows(learner, "teacher", device) as network:
        expected = widths_seen(network, labelled, preprocessing, config.data.source_scale, watch)

        def seen(factor: float) -> float:
            if factor not in known:
                known[factor] = widths_seen(network, photos, preprocessing, factor * preprocessing.scale, watch)
            return known[factor]

        factor = matching_factor(seen, expected, config.adaptation.photo_scales)
    if factor == 1:
        return factor, None
    return factor, (
        f"photos are seen at {factor:g} times their size from here on: what is found in them is then {known[factor]:.0f} pixels "
        f"wide, nearest to the {expected:.0f} of the labelled images; at their own size it is {known[1.0]:.0f}. "
        "adaptation.photo_scales=[1.0] turns this off"
    )


def widths_seen(
    network: WindowNetwork, images: Dataset, preprocessing: Preprocessing, scale: float, watch: Callable[[], None]
) -> float:
    """Pixels across what the network finds in images that it sees at `scale`; NaN where it finds next to nothing."""
    settings = replace(preprocessing, scale=scale, zooms=(1.0,))
    widths = []
    for position in spread(len(images), IMAGES):
        watch()
        image = images.image(position)
        found = image_probabilities(network, image, settings)[0] < 0.5  # anything but background
        seen_height, _ = settings.network_size(image.shape[0], image.shape[1])
        widths.append(structure_width(found) * seen_height / image.shape[0])
    return typical_width(widths)


def matching_factor(seen: Callable[[float], float], expected: float, candidates: Sequence[float]) -> float:
    """The candidate, up or down from 1, at which `seen` comes nearest to the expected width; 1 unless another is clearly nearer.

    Goes on only while it comes nearer, since larger sizes take long.
    """

    def distance(width: float) -> float:
        return abs(math.log(width / expected)) if width > 0 and expected > 0 else math.inf  # nothing was found

    width = seen(1.0)
    chosen, start = 1.0, distance(width)
    if not math.isfinite(start):
        return 1.0
    best = start
    larger, smaller = sorted(c for c in candidates if c > 1), sorted((c for c in candidates if c < 1), reverse=True)
    for factor in larger if width < expected else smaller:
        here = distance(seen(factor))
        if here >= best:
            break
        chosen, best = factor, here
    return chosen if start - best >= WORTH_IT else 1.0
