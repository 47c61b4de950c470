"""From data sets to the batches of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from hrda_core.adaptation.step import SourceBatch, TargetBatch
from hrda_core.config import TrainConfig
from hrda_core.data.colour_transfer import ColourTransfer
from hrda_core.data.crops import SourceStream, TargetStream
from hrda_core.data.photo_labels import PhotoLabels
from hrda_core.data.samples import Dataset
from hrda_core.data.sampling import SourceSampler
from hrda_core.inference.predictor import Preprocessing
from hrda_core.training.distributed import ALONE, Ranks
from hrda_core.training.stopping import leave_signals_to_the_trainer


@dataclass(frozen=True)
class Labelled:
    """A labelled data set and its pixel counts (images, classes + 1), see `class_pixels`."""

    dataset: Dataset
    pixels: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingData:
    """What the mode learns from. `target`: photos to adapt to, None where the mode does not adapt.

    labelled_target: every second labelled sample comes from it (semi-supervised training). colours: of the target's photos,
    which labelled images get while adapting.
    """

    labelled: Labelled
    target: Dataset | None
    labelled_target: Labelled | None
    colours: ColourTransfer | None = None


def batches(
    data: TrainingData,
    config: TrainConfig,
    preprocessing: Preprocessing,
    device: torch.device,
    start: int,
    ranks: Ranks = ALONE,
    end: int | None = None,
    labels: PhotoLabels | None = None,
) -> Iterator[tuple[SourceBatch, TargetBatch | None]]:
    """The batches of iterations `start` up to, not including, `end` (None: all that are left).

    Samples know their iteration, so a resumed run just skips. Of each batch, this rank's share.

    labels: of the target's photos, where the teacher has labelled whole ones; there may be several times as many crops of them.
    """
    batch, workers, iterations = config.optimisation.batch_size, config.data.workers, config.optimisation.iterations

    def load(stream: SourceStream | TargetStream) -> DataLoader[Any]:
        share, init = ranks.share(batch, stream.batch // batch), leave_signals_to_the_trainer
        order = [iteration * stream.batch + sample for iteration in range(start, end or iterations) for sample in share]
        return DataLoader(
            stream, len(share), sampler=order, num_workers=workers, pin_memory=device.type == "cuda", worker_init_fn=init
        )

    def ours(image: Tensor, label: Tensor) -> SourceBatch:
        return SourceBatch(_normalise(image, preprocessing, device), label.to(device))

    def theirs(photo: Tensor, valid: Tensor, seen: Tensor) -> TargetBatch:
        known = None if labels is None else seen.to(device)
        return TargetBatch(_normalise(photo, preprocessing, device), valid.to(device), known)

    with _single_threaded_opencv():
        if data.target is None:
            for labelled in load(_source_stream(data, config)):
                yield ours(*labelled), None
            return
        crops = batch if labels is None else batch * config.adaptation.round_crops
        target = TargetStream(data.target, config.data, config.adaptation, config.seed, iterations, crops, labels)
        for labelled, photos in zip(load(_source_stream(data, config)), load(target), strict=True):
            yield ours(*labelled), theirs(*photos)


@contextmanager
def _single_threaded_opencv() -> Iterator[None]:
    """Loading processes fill the cores by themselves, and OpenCV's threads do not survive the fork that makes them."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _source_stream(data: TrainingData, config: TrainConfig) -> SourceStream:
    extra = data.labelled_target
    return SourceStream(
        data.labelled.dataset,
        _sampler(data.labelled, config),
        config.data,
        config.seed,
        config.optimisation.iterations,
        config.optimisation.batch_size,
        config.data.target_scale if config.mode == "supervised" else config.data.source_scale,
        None if extra is None else (extra.dataset, _sampler(extra, config), config.data.target_scale),
        config.augmentation,
        data.colours,
    )


def _sampler(labelled: Labelled, config: TrainConfig) -> SourceSampler:
    data = config.data
    return SourceSampler(labelled.pixels, data.rare_class_sampling, data.rare_class_temperature, data.rare_class_min_pixels)


def _normalise(image: Tensor, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """(N, 3, H, W) uint8 -> float32 as the encoder expects it."""
    pixels = image.to(device, non_blocking=True).float() / 255
    mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)
    return (pixels - mean) / std
