"""Labelled images in the colours of photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from hrda_core.config import TrainConfig
from hrda_core.config_data import DataConfig
from hrda_core.data.colour_transfer import PHOTOS, ColourTransfer, colours_of, colours_of_photos, in_colours
from hrda_core.data.crops import SourceStream
from hrda_core.data.samples import ClassInfo, Dataset, class_pixels
from hrda_core.data.sampling import SourceSampler
from hrda_core.training.data import prepare
from hrda_core.training.events import Preparation, Stage
from hrda_core.training.stopping import Stopped

Array = NDArray[np.uint8]
CLASSES = tuple(ClassInfo(name, (i, i, i), i) for i, name in enumerate(("background", "road", "sky")))
CROP = DataConfig(crop_height=64, crop_width=64, flip=0.5, rotate=0.5, rare_class_sampling=False, workers=0)


def scene(brightness: float, contrast: float, tint: tuple[int, int, int], seed: int = 0, side: int = 96) -> Array:
    """A soft random image."""
    grey = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=(side, side)), (0, 0), 6)
    grey = brightness + contrast * grey / grey.std()
    return np.clip(grey[..., None] + np.array(tint), 0, 255).astype(np.uint8)


DULL, HARSH = scene(100, 10, (20, 0, -20)), scene(150, 30, (-10, 0, 15), seed=1)


def test_an_image_gets_brightness_contrast_and_tint_of_the_photo() -> None:
    changed = in_colours(DULL, colours_of(DULL), colours_of(HARSH))
    np.testing.assert_allclose(colours_of(changed), colours_of(HARSH), atol=2)
    assert np.abs(colours_of(DULL) - colours_of(HARSH)).max() > 15


def test_what_has_the_colours_already_stays_as_it_is() -> None:
    changed = in_colours(HARSH, colours_of(HARSH), colours_of(HARSH))
    difference = changed.astype(int) - HARSH
    assert np.abs(difference).max() <= 6  # there and back through 8 bits of L, a and b
    assert np.abs(difference.mean(axis=(0, 1))).max() < 1


def test_a_crop_is_changed_as_its_image_is() -> None:
    """A crop of nothing but sky is not made as dark as the whole photo."""
    own, wanted = colours_of(DULL), colours_of(HARSH)
    whole, part = in_colours(DULL, own, wanted), in_colours(DULL[:20, :30], own, wanted)
    np.testing.assert_array_equal(part, whole[:20, :30])


def test_the_noise_of_an_even_image_is_not_blown_up() -> None:
    even = scene(100, 2, (0, 0, 0))
    changed = in_colours(even, colours_of(even), colours_of(HARSH))
    assert changed.std(axis=(0, 1)).max() < 4 * even.std(axis=(0, 1)).max() < 0.5 * HARSH.std(axis=(0, 1)).min()


def test_grey_photos_make_grey_images() -> None:
    grey = scene(120, 30, (0, 0, 0))
    changed = in_colours(scene(100, 10, (40, 0, -40)), colours_of(scene(100, 10, (40, 0, -40))), colours_of(grey)).astype(int)
    assert (changed.max(axis=-1) - changed.min(axis=-1)).max() <= 4


# -- while training -----------------------------------------------------------------------------------------------------


def stream(colours: ColourTransfer | None, **more: Any) -> SourceStream:
    data = Dataset((DULL,), (np.random.default_rng(2).integers(0, 3, DULL.shape[:2], dtype=np.uint8),), CLASSES)
    sampler = SourceSampler(class_pixels(data), False, CROP.rare_class_temperature, 3000)
    return SourceStream(data, sampler, CROP, 0, iterations=50, batch=2, scale=1.0, colours=colours, **more)


def changed(colours: ColourTransfer, **more: Any) -> list[bool]:
    """Of 100 samples, two an iteration: whether they differ from those without a transfer."""
    plain, other = stream(None, **more), stream(colours, **more)
    return [not np.array_equal(plain[i][0], other[i][0]) for i in range(100)]


def test_crops_change_once_the_run_adapts() -> None:
    transfer = ColourTransfer(colours_of(HARSH)[None], share=1.0, since=20)
    assert changed(transfer) == [False] * 40 + [True] * 60


def test_a_share_of_the_crops_changes_and_nothing_else_is_drawn_differently() -> None:
    transfer = ColourTransfer(colours_of(HARSH)[None], share=0.5, since=0)
    assert 35 < sum(changed(transfer)) < 65
    plain, other = stream(None), stream(transfer)
    assert all(np.array_equal(plain[i][1], other[i][1]) for i in range(100))  # regions, flips and turns are the same


def test_labelled_photos_keep_their_own_colours() -> None:
    photos = Dataset((HARSH,), (np.zeros(HARSH.shape[:2], np.uint8),), CLASSES)
    extra = (photos, SourceSampler(class_pixels(photos), False, CROP.rare_class_temperature, 3000), 1.0)
    transfer = ColourTransfer(colours_of(HARSH)[None], share=1.0, since=0)
    assert changed(transfer, labelled_target=extra) == [True, False] * 50


# -- of a data set -------------------------------------------------------------------------------------------------------


def test_colours_come_from_photos_all_over_the_set_and_files_are_read_small(tmp_path: Path) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), cv2.resize(scene(60 + 60 * i, 5, (0, 0, 0)), (800, 600)))
    told: list[tuple[int, int]] = []
    found = colours_of_photos(Dataset.from_folder(tmp_path), lambda *counts: told.append(counts), lambda: False)
    assert found.shape == (3, 2, 3)
    assert np.all(np.diff(found[:, 0, 0]) > 40)  # lightness
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]

    many = Dataset([scene(60 + i / 4, 5, (0, 0, 0), side=64) for i in range(PHOTOS + 100)], None, ())
    lightness = colours_of_photos(many, lambda done, total: None, lambda: False)[:, 0, 0]
    assert len(lightness) == PHOTOS
    assert lightness.max() - lightness.min() > 60
    with pytest.raises(Stopped):
        colours_of_photos(many, lambda done, total: None, lambda: True)


def test_of_a_large_image_a_part_of_the_pixels_is_enough() -> None:
    large = cv2.resize(HARSH, (1500, 1100), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(colours_of(large), colours_of(HARSH), atol=1)


@pytest.mark.parametrize(
    ("classes", "given", "mode", "share"),
    [
        (CLASSES, {}, "adapt", 1.0),
        (CLASSES, {"colour_transfer": 0.3}, "adapt", 0.3),
        (CLASSES, {"colour_transfer": 0.0}, "adapt", None),
        (CLASSES, {}, "source-only", None),
        (CLASSES[:2], {}, "adapt", None),  # thin: one class beside background
        (CLASSES[:2], {"colour_transfer": 1.0}, "adapt", 1.0),
    ],
)
def test_many_classes_get_the_colours_of_photos(
    classes: tuple[ClassInfo, ...], given: dict[str, float], mode: str, share: float | None
) -> None:
    mask = np.random.default_rng(0).integers(0, len(classes), DULL.shape[:2]).astype(np.uint8)
    source, target = Dataset((DULL,), (mask,), classes), Dataset((HARSH, scene(90, 20, (0, 0, 0))), None, ())
    config = TrainConfig().updated({"mode": mode, "data": {"check": False}, "adaptation": {**given, "source_warmup": 7}})
    heard: list[object] = []
    colours = prepare(config, source, target, None, heard.append, lambda: False).training.colours
    assert (None if colours is None else (colours.share, colours.since, len(colours.photos))) == (
        None if share is None else (share, 7, 2)
    )
    told = [(event.done, event.total) for event in heard if isinstance(event, Preparation)]
    stages = [event.name for event in heard if isinstance(event, Stage)]
    assert (told, stages) == (([(0, 2), (1, 2), (2, 2)], ["reading the colours of photos"]) if share else ([], []))
