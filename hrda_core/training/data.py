"""What a run works on: roles of the data sets, checked, counted, and every "auto" of the configuration settled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from hrda_core.config import TrainConfig
from hrda_core.data.checks import check_data
from hrda_core.data.colour_transfer import ColourTransfer, colours_of_photos
from hrda_core.data.pixel_index import most_foreground
from hrda_core.data.samples import ClassInfo, Dataset, class_pixels
from hrda_core.training.distributed import ALONE, Ranks
from hrda_core.training.events import Listener, Notice, Preparation, Stage
from hrda_core.training.loading import Labelled, TrainingData
from hrda_core.training.roles import roles, same_classes
from hrda_core.training.stopping import StopRequest
from hrda_core.training.validation import NO_LABELS


@dataclass(frozen=True)
class RunData:
    """config: resolved. photos: of the target, where there are any: for previews and scores without labels."""

    config: TrainConfig
    training: TrainingData
    photos: Dataset | None
    validation: Dataset | None

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return self.training.labelled.dataset.classes

    @property
    def has_background(self) -> bool:
        return self.training.labelled.dataset.has_background

    def class_fractions(self) -> tuple[float, ...]:
        """Share of each class in the labelled pixels."""
        return class_fractions(self.training.labelled.pixels)

    def foreground_share(self) -> float:
        """Share of all classes but the first in the labelled pixels."""
        return sum(self.class_fractions()[1:])

    def most_foreground(self) -> float:
        """Share of the foreground among the labelled pixels of the image that has most; 1 without a background."""
        return most_foreground(self.training.labelled.pixels) if self.has_background else 1.0


def class_fractions(pixels: NDArray[np.int64]) -> tuple[float, ...]:
    """(images, classes + 1) pixels of each class, ignored ones last -> share of each class."""
    totals = pixels[:, :-1].sum(axis=0)
    return tuple((totals / max(int(totals.sum()), 1)).tolist())


def prepare(
    config: TrainConfig,
    source: Dataset | None,
    target: Dataset | None,
    validation: Dataset | None,
    tell: Listener,
    stop: StopRequest,
    ranks: Ranks = ALONE,
) -> RunData:
    """The first rank checks and counts for all.

    Raises ValueError, before anything is written, where data and mode do not suit each other.
    """
    labelled, photos, labelled_target = roles(config.mode, source, target)
    validation = same_classes(validation, labelled)
    if labelled.has_background and len(labelled.classes) == 1:
        raise ValueError(f"classes: {labelled.classes[0].name!r} alone leaves nothing to find; give classes.json one more")
    if validation is not None and len(validation.labelled()) == 0:
        raise ValueError(NO_LABELS)

    def checked_and_counted() -> list[NDArray[np.int64]]:
        if config.data.check:
            tell_progress = partial(_tell_progress, tell)
            report = check_data(source, target, validation, config, progress=tell_progress, stop=stop)
            for warning in report.warnings:
                tell(Notice(0, text=warning))
            report.raise_if_bad()
        sets = [labelled] if labelled_target is None else [labelled, labelled_target]
        return [class_pixels(dataset, cache=config.data.cache, stop=stop) for dataset in sets]

    pixels, *pixels_of_target = ranks.from_first(checked_and_counted)
    adapting = config.mode in ("adapt", "semi-supervised")
    training = TrainingData(
        Labelled(labelled, pixels),
        photos if adapting else None,
        None if labelled_target is None else Labelled(labelled_target, pixels_of_target[0]),
    )
    data = RunData(config, training, photos, validation)
    settled = _expecting(config.resolve(len(data.classes), data.has_background, data.foreground_share()), config, training)
    training = replace(training, colours=_colours(settled, training.target, tell, stop, ranks))
    return RunData(settled, training, photos, validation)


def _expecting(settled: TrainConfig, given: TrainConfig, training: TrainingData) -> TrainConfig:
    """Of photos at least as much foreground as those of them hold that have labels."""
    share = settled.adaptation.foreground_share
    if training.labelled_target is None or share == given.adaptation.foreground_share:  # the user's own, or none
        return settled
    in_photos = sum(class_fractions(training.labelled_target.pixels)[1:])
    return settled.updated({"adaptation": {"foreground_share": max(share, in_photos)}})


def _colours(
    config: TrainConfig, target: Dataset | None, tell: Listener, stop: StopRequest, ranks: Ranks
) -> ColourTransfer | None:
    share, since = config.adaptation.colour_transfer, config.adaptation.source_warmup
    if target is None or not share:
        return None

    tell(Stage(0, name="reading the colours of photos"))
    return ColourTransfer(ranks.from_first(partial(colours_of_photos, target, partial(_tell_progress, tell), stop)), share, since)


def _tell_progress(tell: Listener, done: int, total: int) -> None:
    tell(Preparation(0, done=done, total=total))
