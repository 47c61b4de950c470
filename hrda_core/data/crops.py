"""Training crops at native resolution, and the streams of them that a run consumes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data

from hrda_core.config import AdaptationConfig
from hrda_core.config_data import AugmentationConfig, DataConfig
from hrda_core.data.augmentation import augment
from hrda_core.data.colour_transfer import ColourTransfer
from hrda_core.data.draws import generator
from hrda_core.data.photo_labels import CHANNELS, OTHER, PhotoLabels, resized
from hrda_core.data.samples import IGNORE, Dataset, Mask
from hrda_core.data.sampling import SourceSampler


class Region(NamedTuple):
    """Part of the original image that becomes one crop: rows and columns in original pixels."""

    top: int
    left: int
    height: int
    width: int


def scale_of(height: int, width: int, scale: float, fit_short: int, fit_long: int) -> float:
    """By how much an image is resized: the given factor, or what makes it fit into fit_short x fit_long."""
    if not fit_short:
        return scale
    return min(fit_short / min(height, width), fit_long / max(height, width))


def within_margins(height: int, width: int, margins: AdaptationConfig) -> tuple[slice, slice]:
    """Rows and columns of a photo that has pseudo-labels: all but its margins, which are shares of its sides."""
    rows = slice(round(margins.margin_top * height), height - round(margins.margin_bottom * height))
    return rows, slice(round(margins.margin_left * width), width - round(margins.margin_right * width))


def draw_region(rng: np.random.Generator, height: int, width: int, crop: tuple[int, int], scale: float) -> Region:
    """A region that, resized by `scale`, gives the crop; the whole side where the image is smaller."""
    h, w = min(math.ceil(crop[0] / scale), height), min(math.ceil(crop[1] / scale), width)
    return Region(int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w)


def draw_region_with(
    rng: np.random.Generator,
    mask: Mask,
    rare_class: int | None,
    enough: float,
    tries: int,
    crop: tuple[int, int],
    scale: float,
) -> Region:
    """The first of at most `tries` regions with more than `enough` pixels of the class; as published, else the last one."""
    region = draw_region(rng, mask.shape[0], mask.shape[1], crop, scale)
    for _ in range(tries - 1):
        if np.count_nonzero(cut(mask, region) == rare_class) * scale * scale > enough:
            break
        region = draw_region(rng, mask.shape[0], mask.shape[1], crop, scale)
    return region


def draw_region_on(rng: np.random.Generator, wanted: NDArray[np.bool_], crop: tuple[int, int], scale: float) -> Region:
    """A region around a random one of the wanted pixels (H, W), which may lie anywhere within it."""
    (height, width), rows = wanted.shape, np.count_nonzero(wanted, axis=1)
    number = int(rng.integers(rows.sum()))  # of the wanted pixels, counted row by row
    row = int(np.searchsorted(rows.cumsum(), number, side="right"))
    column = int(np.flatnonzero(wanted[row])[number - int(rows[:row].sum())])
    h, w = min(math.ceil(crop[0] / scale), height), min(math.ceil(crop[1] / scale), width)
    top = int(rng.integers(max(row - h + 1, 0), min(row, height - h) + 1))
    left = int(rng.integers(max(column - w + 1, 0), min(column, width - w) + 1))
    return Region(top, left, h, w)


def foreground(mask: Mask, rare_class: int | None, dataset: Dataset) -> NDArray[np.bool_]:
    """(H, W): pixels of the rare class, or of any class but background."""
    if rare_class is not None:
        return np.asarray(mask == rare_class)
    return np.asarray((mask >= int(dataset.has_background)) & (mask != IGNORE))


def cut(array: NDArray[np.uint8], region: Region) -> NDArray[np.uint8]:
    return array[region.top : region.top + region.height, region.left : region.left + region.width]


def to_crop(array: NDArray[np.uint8], crop: tuple[int, int], scale: float, fill: int | None) -> NDArray[np.uint8]:
    """Resizes a cut region by `scale` and pads it to the crop: with `fill` (masks, nearest), or reflected (images)."""
    height, width = max(round(array.shape[0] * scale), 1), max(round(array.shape[1] * scale), 1)
    if array.shape[:2] != (height, width):
        smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        array = np.asarray(
            cv2.resize(array, (width, height), interpolation=cv2.INTER_NEAREST_EXACT if fill is not None else smooth)
        )
    array = array[: crop[0], : crop[1]]  # the region is rounded up to whole pixels
    pad = (0, max(crop[0] - height, 0), 0, max(crop[1] - width, 0))
    if any(pad):
        mode = cv2.BORDER_REFLECT_101 if fill is None else cv2.BORDER_CONSTANT
        array = np.asarray(cv2.copyMakeBorder(array, *pad, mode, value=[fill or 0]))
    return array


def flipped(rng: np.random.Generator, arrays: list[NDArray[np.uint8]], config: DataConfig) -> list[NDArray[np.uint8]]:
    """The same flips and quarter turns for an image and what belongs to it."""
    mirror, upside_down, turns = rng.random() < config.flip, rng.random() < config.flip_vertical, int(rng.integers(1, 4))
    turn = rng.random() < config.rotate
    for i, array in enumerate(arrays):
        array = array[:, ::-1] if mirror else array
        array = array[::-1] if upside_down else array
        arrays[i] = np.ascontiguousarray(np.rot90(array, turns) if turn else array)
    return arrays


@dataclass
class SourceStream(data.Dataset[tuple[Tensor, Tensor]]):
    """Item i = sample (i % batch) of iteration (i // batch): image (3, H, W) uint8, label (H, W) int64.

    With `labelled_target`, every second sample comes from it (semi-supervised training).
    """

    dataset: Dataset
    sampler: SourceSampler
    config: DataConfig
    seed: int
    iterations: int
    batch: int
    scale: float
    labelled_target: tuple[Dataset, SourceSampler, float] | None = None
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    colours: ColourTransfer | None = None  # of `dataset`, not of the labelled target

    def __post_init__(self) -> None:
        self.augmentation = self.augmentation.settled()

    def __len__(self) -> int:
        return self.iterations * self.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        iteration, sample = divmod(index, self.batch)
        rng = generator(self.seed, iteration, "source", sample)
        dataset, sampler, scale, colours = self.dataset, self.sampler, self.scale, self.colours
        if self.labelled_target is not None and index % 2:
            (dataset, sampler, scale), colours = self.labelled_target, None
        position, rare_class, on_foreground = self._draw(rng, sampler, dataset)
        mask = dataset.mask(position)
        if mask is None:
            raise ValueError(f"{dataset.name(position)}: has no mask; every labelled training image needs one")
        image = dataset.image(position)
        if mask.shape != image.shape[:2]:
            sizes = f"the mask is {mask.shape[1]}x{mask.shape[0]}, the image {image.shape[1]}x{image.shape[0]}"
            raise ValueError(f"{dataset.location(position)}: {sizes}; make them the same size")
        crop = (self.config.crop_height, self.config.crop_width)
        scale = scale_of(mask.shape[0], mask.shape[1], scale, self.config.fit_short, self.config.fit_long)
        scale *= 2.0 ** rng.uniform(-self.config.scale_jitter, self.config.scale_jitter)
        if on_foreground:
            region = draw_region_on(rng, foreground(mask, rare_class, dataset), crop, scale)
        else:
            enough = sampler.crop_pixels(self.config.rare_class_crop_ratio, crop[0] * crop[1])
            tries = self.config.rare_class_crops if rare_class is not None else 1
            region = draw_region_with(rng, mask, rare_class, enough, tries, crop, scale)
        arrays = [to_crop(cut(image, region), crop, scale, None), to_crop(cut(mask, region), crop, scale, IGNORE)]
        if colours is not None:
            arrays[0] = colours(generator(self.seed, iteration, "colours", sample), iteration, arrays[0], image)
        image, label = flipped(rng, arrays, self.config)
        image, label = augment(rng, image, label, self.augmentation)
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), torch.from_numpy(label.astype(np.int64))

    def _draw(self, rng: np.random.Generator, sampler: SourceSampler, dataset: Dataset) -> tuple[int, int | None, bool]:
        """Position of an image, the rare class of this crop, and whether it is to be placed on a foreground pixel."""
        share = self.config.foreground_crops
        drawn = sampler.draw_foreground(rng, int(dataset.has_background)) if share and rng.random() < share else None
        return (*drawn, True) if drawn is not None else (*sampler.draw(rng), False)


@dataclass
class TargetStream(data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Item i = sample (i % batch) of iteration (i // batch): image (3, H, W) uint8, valid (H, W) uint8, seen (3, H, W) uint8.

    `valid` is 0 on padding and on the margins of the photo (shares of its sides). `seen` is what the teacher said of the
    photo, as data/photo_labels.py stores it, and empty without `labels`; with them, only photos that have labels are drawn.
    """

    dataset: Dataset
    config: DataConfig
    margins: AdaptationConfig
    seed: int
    iterations: int
    batch: int
    labels: PhotoLabels | None = None

    def __len__(self) -> int:
        return self.iterations * self.batch

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = generator(self.seed, index // self.batch, "target", index % self.batch)
        if self.labels is None:
            position = int(rng.integers(len(self.dataset)))
        else:
            position = self.labels.positions[int(rng.integers(len(self.labels.positions)))]
        photo, shorter = self.dataset.shrunk_image(position, self._shrinking)
        height, width = photo.shape[:2]
        crop = (self.config.crop_height, self.config.crop_width)
        scale = scale_of(height, width, self.config.target_scale * shorter, self.config.fit_short, self.config.fit_long)
        region = draw_region(rng, height, width, crop, scale)
        arrays = [
            to_crop(cut(photo, region), crop, scale, None),
            to_crop(cut(self._valid(height, width), region), crop, scale, 0),
        ]
        if self.labels is not None:
            seen = cut(resized(self.labels.read(position), height, width), region)
            arrays.append(seen_in_crop(seen, crop, scale))
        image, valid, *rest = flipped(rng, arrays, self.config)
        seen = rest[0] if rest else np.empty((0, 0, CHANNELS), np.uint8)
        return (
            torch.from_numpy(image.transpose(2, 0, 1).copy()),
            torch.from_numpy(valid),
            torch.from_numpy(seen.transpose(2, 0, 1).copy()),
        )

    def _valid(self, height: int, width: int) -> Mask:
        valid = np.zeros((height, width), dtype=np.uint8)
        valid[within_margins(height, width, self.margins)] = 1
        return valid

    def _shrinking(self, height: int, width: int) -> int:
        """How much smaller a photo is made, as a whole factor: there are no labels that its pixels must stay under."""
        scale = scale_of(height, width, self.config.target_scale, self.config.fit_short, self.config.fit_long)
        return max(int(1 / scale), 1)


def seen_in_crop(seen: NDArray[np.uint8], crop: tuple[int, int], scale: float) -> NDArray[np.uint8]:
    """(h, w, 3) of data/photo_labels.py -> the crop; padding, which is not valid, is of the first class."""
    result = to_crop(seen, crop, scale, None)
    result[..., OTHER] = to_crop(np.ascontiguousarray(seen[..., OTHER]), crop, scale, 1)
    return result
