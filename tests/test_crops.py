"""Training crops: native resolution, labels that stay on their pixels, draws that depend on nothing but the seed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL.Image import Exif, fromarray
from torch.utils.data import DataLoader

from hrda_core.config import AdaptationConfig
from hrda_core.config_data import AugmentationConfig, DataConfig
from hrda_core.data.crops import SourceStream, TargetStream, draw_region, draw_region_on, scale_of
from hrda_core.data.samples import IGNORE, ClassInfo, Dataset, class_pixels
from hrda_core.data.sampling import SourceSampler

CLASSES = tuple(ClassInfo(f"c{i}", (i, i, i), i) for i in range(200))
PLAIN = DataConfig(crop_height=64, crop_width=64, flip=0.0, rare_class_sampling=False, workers=0)
Array = NDArray[np.uint8]


def coded(height: int, width: int) -> Array:
    """An image whose first two channels say where each pixel was: row and column."""
    rows, columns = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([rows, columns, rows ^ columns], axis=-1)


def smooth(height: int, width: int) -> tuple[Array, Array]:
    """An image of 8 grey steps in blocks, and the mask that holds the block's class: any shift between them shows."""
    rows, columns = np.mgrid[:height, :width]
    mask = ((rows // 32 + 3 * (columns // 32)) % 8).astype(np.uint8)
    return np.repeat((mask * 30)[..., None], 3, axis=-1), mask


def source(
    images: list[Array], masks: list[Array], config: DataConfig = PLAIN, scale: float = 1.0, seed: int = 0, **more: Any
) -> SourceStream:
    data = Dataset(tuple(images), tuple(masks), CLASSES)
    sampler = SourceSampler(class_pixels(data), config.rare_class_sampling, config.rare_class_temperature, 3000)
    return SourceStream(data, sampler, config, seed, iterations=10, batch=2, scale=scale, **more)


def target(images: list[Array], config: DataConfig = PLAIN, margins: AdaptationConfig | None = None) -> TargetStream:
    return TargetStream(Dataset(tuple(images), None, ()), config, margins or AdaptationConfig(), 0, iterations=10, batch=2)


def pixels(image: torch.Tensor) -> Array:
    return np.asarray(image.numpy().transpose(1, 2, 0))


# -- native resolution ------------------------------------------------------------------------------------------------


def test_crops_hold_the_very_pixels_of_the_image() -> None:
    image = coded(150, 200)
    seen = set()
    for i in range(20):
        crop, label = source([image], [image[..., 0] % 100])[i]
        assert (crop.shape, crop.dtype) == ((3, 64, 64), torch.uint8)
        assert (label.shape, label.dtype) == ((64, 64), torch.int64)
        top, left = int(crop[0, 0, 0]), int(crop[1, 0, 0])
        assert (pixels(crop) == image[top : top + 64, left : left + 64]).all()
        assert (label.numpy() == image[top : top + 64, left : left + 64, 0] % 100).all()
        seen.add((top, left))
    assert len(seen) > 10


def test_target_crops_too() -> None:
    image = coded(150, 200)
    for i in range(20):
        crop, valid, *_ = target([image])[i]
        top, left = int(crop[0, 0, 0]), int(crop[1, 0, 0])
        assert (pixels(crop) == image[top : top + 64, left : left + 64]).all()
        assert (valid.dtype, bool((valid == 1).all())) == (torch.uint8, True)


def test_every_place_can_be_drawn() -> None:
    rng = np.random.default_rng(0)
    regions = [draw_region(rng, 66, 67, (64, 64), 1.0) for _ in range(300)]
    assert {(r.top, r.left) for r in regions} == {(t, left) for t in range(3) for left in range(4)}


def test_crops_need_not_be_square() -> None:
    config = replace(PLAIN, crop_height=64, crop_width=96)
    crop, label = source([coded(150, 200)], [coded(150, 200)[..., 0]], config)[0]
    assert (crop.shape, label.shape) == ((3, 64, 96), (64, 96))


# -- scale ------------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 4000), st.integers(1, 4000), st.floats(0.05, 16), st.integers(0, 2**32))
def test_a_region_gives_the_crop_where_the_image_does(height: int, width: int, scale: float, seed: int) -> None:
    region = draw_region(np.random.default_rng(seed), height, width, (64, 96), scale)
    assert 0 <= region.top <= height - region.height
    assert 0 <= region.left <= width - region.width
    for side, part, crop in ((height, region.height, 64), (width, region.width, 96)):
        assert part == side or part * scale >= crop - 1e-6  # no padding inside a large image
        assert part - 1 < crop / scale


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.77, 1.3, 2.0, 3.0, 10.0])
def test_a_large_image_is_never_padded(scale: float) -> None:
    size = round(64 / scale) + 40
    images, masks = [np.full((size, size, 3), 9, np.uint8)], [np.ones((size, size), np.uint8)]
    for i in range(4):
        assert (source(images, masks, scale=scale)[i][1] == 1).all()
        assert (target(images, replace(PLAIN, target_scale=scale))[i][1] == 1).all()


@pytest.mark.parametrize("scale", [0.25, 0.5, 2.0, 3.0])
def test_scale_shrinks_or_enlarges_what_a_crop_shows(scale: float) -> None:
    ramp = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (400, 1))
    crop, _ = source([np.repeat(ramp[..., None], 3, axis=-1)], [ramp // 2], scale=scale)[0]
    shown = float(crop[0, :, -1].float().mean() - crop[0, :, 0].float().mean())
    assert shown == pytest.approx(255 / 400 * 64 / scale, rel=0.08, abs=2)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1024, 1024, 0.5),  # square: 512 x 512
        (1000, 2000, 0.32),  # wide: 320 x 640
        (2000, 1000, 0.32),  # tall: 640 x 320
        (800, 1000, 0.64),  # 512 x 640, both fit exactly
        (256, 256, 2.0),  # small: enlarged
    ],
)
def test_fit_to_short_and_long_side(height: int, width: int, expected: float) -> None:
    assert scale_of(height, width, 1.0, 512, 640) == expected
    assert scale_of(height, width, 0.7, 0, 0) == 0.7


def test_fit_shows_the_whole_photo_where_it_fits() -> None:
    config = replace(PLAIN, fit_short=64, fit_long=80)
    image = np.full((300, 600, 3), 50, np.uint8)  # becomes 40 x 80: cut to 64 columns, padded to 64 rows
    crop, valid, *_ = target([image], config)[0]
    assert crop.shape == (3, 64, 64)
    assert (valid[:40] == 1).all()
    assert (valid[40:] == 0).all()


def test_scale_jitter_varies_the_scale_both_ways() -> None:
    ramp = np.tile(np.linspace(0, 250, 1000).astype(np.uint8), (300, 1))
    stream = source([np.repeat(ramp[..., None], 3, axis=-1)], [ramp // 2], replace(PLAIN, scale_jitter=1.0))
    shown = [float(crop[0, :, -1].float().mean() - crop[0, :, 0].float().mean()) for crop, *_ in (stream[i] for i in range(20))]
    assert 7 < min(shown) < 14
    assert 18 < max(shown) < 34


# -- padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(40, 50), (40, 200), (200, 40), (20, 20), (1, 1), (1, 100), (5, 3)])
def test_small_images_are_reflected_and_their_padding_never_counts(height: int, width: int) -> None:
    image = coded(height, width)
    h, w = min(height, 64), min(width, 64)
    crop, label = source([image], [np.ones((height, width), np.uint8)])[0]
    assert (label[:h, :w] == 1).all()
    assert (label[h:] == IGNORE).all()
    assert (label[:, w:] == IGNORE).all()
    photo, valid, *_ = target([image])[0]
    assert int(valid.sum()) == h * w
    assert (valid[:h, :w] == 1).all()
    for picture in (pixels(crop), pixels(photo)):
        rows = np.pad(np.arange(h), (0, 64 - h), mode="reflect")
        columns = np.pad(np.arange(w), (0, 64 - w), mode="reflect")
        assert (picture == picture[:h, :w][rows][:, columns]).all()


# -- labels stay on their pixels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"flip": 1.0},
        {"flip_vertical": 1.0},
        {"rotate": 1.0},
        {"flip": 0.5, "flip_vertical": 0.5, "rotate": 0.5},
    ],
)
def test_flips_and_turns_move_image_and_label_together(change: dict[str, float]) -> None:
    image = coded(90, 110)
    for i in range(12):
        crop, label = source([image], [image[..., 2] % 200], replace(PLAIN, **change))[i]
        assert (label.numpy() == crop[2].numpy() % 200).all()
        rows, columns = crop[0].numpy().astype(int), crop[1].numpy().astype(int)
        assert len(np.unique(rows * 256 + columns)) == 64 * 64  # every pixel once: nothing but moved


def orientation(crop: torch.Tensor) -> str:
    """Where the image's top left went, and along which side its rows run."""
    rows, columns = crop[0].int(), crop[1].int()
    down = int(rows[1, 0] - rows[0, 0]), int(columns[1, 0] - columns[0, 0])
    right = int(rows[0, 1] - rows[0, 0]), int(columns[0, 1] - columns[0, 0])
    return {
        ((1, 0), (0, 1)): "upright",
        ((1, 0), (0, -1)): "mirrored",
        ((-1, 0), (0, 1)): "upside down",
        ((-1, 0), (0, -1)): "half turn",
        ((0, 1), (-1, 0)): "quarter turn",
        ((0, -1), (1, 0)): "three quarter turns",
    }[(down, right)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flip": 0.0}, {"upright"}),
        ({"flip": 1.0}, {"mirrored"}),
        ({"flip_vertical": 1.0}, {"upside down"}),
        ({"flip": 1.0, "flip_vertical": 1.0}, {"half turn"}),
        ({"flip": 0.5}, {"upright", "mirrored"}),
        ({"rotate": 1.0}, {"quarter turn", "half turn", "three quarter turns"}),
        ({"rotate": 0.5}, {"upright", "quarter turn", "half turn", "three quarter turns"}),
    ],
)
def test_which_flips_and_turns_occur(change: dict[str, float], expected: set[str]) -> None:
    image, config = coded(90, 110), replace(PLAIN, **change)
    assert {orientation(source([image], [image[..., 0]], config)[i][0]) for i in range(20)} == expected
    assert {orientation(target([image], config)[i][0]) for i in range(20)} == expected


@pytest.mark.parametrize("scale", [0.25, 0.4, 0.5, 1.0, 1.7, 3.0])
def test_scaling_keeps_the_label_on_the_image(scale: float) -> None:
    """Away from the steps between the blocks, the label must be the image's grey divided by 30."""
    image, mask = smooth(512, 512)
    for i in range(4):
        crop, label = source([image], [mask], scale=scale)[i]
        kernel = np.ones((2 * math.ceil(scale) + 3,) * 2, np.uint8)
        label = label.numpy().astype(np.uint8)
        inside = cv2.erode(label, kernel) == cv2.dilate(label, kernel)
        inside[:4] = inside[-4:] = inside[:, :4] = inside[:, -4:] = False  # a step may be just outside the crop
        assert inside.mean() > 0.1
        assert (crop[0].numpy()[inside] == 30 * label[inside]).all()


@pytest.mark.parametrize("scale", [0.1, 0.25, 0.5, 1.0, 2.0])
def test_the_label_is_not_shifted_by_scaling(scale: float) -> None:
    """Bars at many places: on average the label's centre is within half an original pixel of the image's."""
    side, shifts = round(64 / scale), []
    for start in range(side // 4, side // 4 + 20):
        image, mask = np.zeros((side, side, 3), np.uint8), np.zeros((side, side), np.uint8)
        bar = slice(start, start + side // 2)
        image[:, bar], mask[:, bar] = 200, 1
        crop, label = source([image], [mask], scale=scale)[0]
        columns = np.arange(64)
        ours, theirs = ((row * columns).sum() / row.sum() for row in (label[0].numpy(), crop[0, 0].numpy().astype(float)))
        shifts.append(float(ours - theirs) / scale)
    assert abs(np.mean(shifts)) <= 0.51


# -- rare classes -----------------------------------------------------------------------------------------------------


def share_of_crops_with(image_size: int, config: DataConfig, crops: int = 60) -> float:
    mask = np.zeros((image_size, image_size), np.uint8)
    mask[40:60, 40:60] = 1  # the only object
    images = [np.zeros((image_size, image_size, 3), np.uint8)] * 3
    stream = source(images, [mask, np.zeros_like(mask), np.zeros_like(mask)], config)
    stream.iterations = crops
    return float(np.mean([(stream[i][1] == 1).sum().item() > 23 for i in range(crops)]))


def test_crops_hold_the_rare_class() -> None:
    rare = replace(PLAIN, rare_class_sampling=True)
    assert share_of_crops_with(160, PLAIN) < 0.15
    assert share_of_crops_with(160, rare) > 0.75
    assert share_of_crops_with(160, replace(rare, rare_class_crops=1)) < 0.5  # image chosen, crop not


def test_more_attempts_find_a_tiny_object_in_a_big_image() -> None:
    rare = replace(PLAIN, rare_class_sampling=True, rare_class_crops=200)
    assert share_of_crops_with(640, rare, 30) > 0.75


def test_without_attempts_a_crop_still_comes() -> None:
    assert source([coded(90, 90)], [coded(90, 90)[..., 0]], replace(PLAIN, rare_class_sampling=True, rare_class_crops=0))[0]


# -- foreground -------------------------------------------------------------------------------------------------------

WITH_BACKGROUND = (ClassInfo("background", (0, 0, 0), 0), *CLASSES[1:])


def dotted(size: int, dots: dict[tuple[int, int], int]) -> Array:
    mask = np.zeros((size, size), np.uint8)
    for place, value in dots.items():
        mask[place] = value
    return mask


def foreground_stream(masks: list[Array], config: DataConfig, crops: int = 60) -> SourceStream:
    data = Dataset(tuple(np.zeros((*mask.shape, 3), np.uint8) for mask in masks), tuple(masks), WITH_BACKGROUND)
    sampler = SourceSampler(class_pixels(data), config.rare_class_sampling)
    return SourceStream(data, sampler, config, 0, iterations=crops, batch=1, scale=1.0)


@pytest.mark.parametrize("rare", [False, True])
def test_foreground_crops_hold_a_foreground_pixel(rare: bool) -> None:
    """One pixel in 400 x 400, in one of three images: a random crop holds it once in a hundred times."""
    masks = [dotted(400, {}), dotted(400, {(399, 7): 1}), np.full((400, 400), IGNORE, np.uint8)]
    stream = foreground_stream(masks, replace(PLAIN, foreground_crops=1.0, rare_class_sampling=rare))
    places = [np.argwhere(stream[i][1].numpy() == 1) for i in range(60)]
    assert all(len(place) == 1 for place in places)
    assert {int(place[0, 0]) for place in places} == {63}  # at the image's lower edge: nowhere else in the crop


def test_the_pixel_lies_anywhere_in_the_crop() -> None:
    stream = foreground_stream([dotted(400, {(200, 200): 1})], replace(PLAIN, foreground_crops=1.0), crops=200)
    places = np.array([np.argwhere(stream[i][1].numpy() == 1)[0] for i in range(200)])
    counts = np.histogram2d(places[:, 0], places[:, 1], bins=2, range=[[0, 64], [0, 64]])[0]
    assert counts.min() > 30


def test_foreground_crops_take_the_rare_class_drawn() -> None:
    """Class 1 is common and in the left half, class 2 is one pixel at the right."""
    mask = dotted(400, {(350, 390): 2})
    mask[:, :200] = 1
    stream = foreground_stream([mask], replace(PLAIN, foreground_crops=1.0, rare_class_sampling=True))
    assert all((stream[i][1] == 2).any() for i in range(30))


def test_the_share_of_foreground_crops() -> None:
    stream = foreground_stream([dotted(1000, {(500, 500): 1})], replace(PLAIN, foreground_crops=0.4), crops=300)
    assert np.mean([bool((stream[i][1] == 1).any()) for i in range(300)]) == pytest.approx(0.4, abs=0.1)


def test_without_any_foreground_a_crop_still_comes() -> None:
    stream = foreground_stream([dotted(100, {})], replace(PLAIN, foreground_crops=1.0))
    assert (stream[0][1] == 0).all()


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.floats(0.1, 8), st.integers(0, 2**32))
def test_a_region_on_a_pixel_holds_it_and_stays_inside(height: int, width: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = rng.random((height, width)) < 0.05
    wanted[rng.integers(height), rng.integers(width)] = True
    region = draw_region_on(rng, wanted, (64, 96), scale)
    assert wanted[region.top : region.top + region.height, region.left : region.left + region.width].any()
    assert 0 <= region.top <= height - region.height
    assert 0 <= region.left <= width - region.width
    assert region[2:] == draw_region(rng, height, width, (64, 96), scale)[2:]


# -- margins ----------------------------------------------------------------------------------------------------------


def test_margins_are_shares_of_the_photo() -> None:
    margins = AdaptationConfig(margin_top=0.1, margin_bottom=0.2, margin_left=0.25, margin_right=0.05)
    image = coded(100, 80)
    for i in range(20):
        crop, valid, *_ = target([image], replace(PLAIN, flip=0.5, rotate=0.5), margins)[i]
        rows, columns = crop[0].numpy(), crop[1].numpy()
        expected = (rows >= 10) & (rows < 80) & (columns >= 20) & (columns < 76)
        assert (valid.numpy() == expected).all()


def test_margins_and_padding_add_up() -> None:
    _, valid, *_ = target([coded(40, 40)], PLAIN, AdaptationConfig(margin_top=0.25, margin_right=0.25))[0]
    expected = np.zeros((64, 64))
    expected[10:40, :30] = 1
    assert (valid.numpy() == expected).all()


# -- draws ------------------------------------------------------------------------------------------------------------

BUSY = replace(PLAIN, flip=0.5, flip_vertical=0.5, rotate=0.5, scale_jitter=0.5, foreground_crops=0.3, rare_class_sampling=True)
MEDIUM = AugmentationConfig("medium")


def streams(seed: int = 0) -> tuple[SourceStream, TargetStream]:
    images = [coded(100 + i, 120) for i in range(4)]
    photos = target(images, BUSY)
    photos.seed = seed
    return source(images, [image[..., 0] % 3 for image in images], BUSY, seed=seed, augmentation=MEDIUM), photos


@pytest.mark.parametrize("which", [0, 1])
def test_an_item_depends_neither_on_order_nor_on_workers(which: int) -> None:
    stream = streams()[which]
    alone = [stream[i] for i in range(len(stream))]
    for i in (13, 2, 13, 0):
        assert all(torch.equal(a, b) for a, b in zip(streams()[which][i], alone[i], strict=True))
    for workers in (0, 2):
        batches = list(DataLoader(stream, 2, num_workers=workers))
        assert len(batches) == 10
        for i, batch in enumerate(batches):
            for part in (0, 1):
                assert torch.equal(batch[part], torch.stack([alone[2 * i][part], alone[2 * i + 1][part]]))


@pytest.mark.parametrize("which", [0, 1])
def test_items_and_seeds_differ(which: int) -> None:
    items = [streams(seed)[which][i][0] for seed in (0, 1) for i in range(4)]
    assert len({item.numpy().tobytes() for item in items}) == 8


def test_the_length_is_the_runs() -> None:
    assert [len(stream) for stream in streams()] == [20, 20]


@pytest.mark.parametrize("preset", ["light", "medium", "hard"])
def test_augmentation_presets_change_the_source(preset: str) -> None:
    image = coded(100, 120)
    plain = source([image], [image[..., 0] % 100])
    changed = source([image], [image[..., 0] % 100], augmentation=AugmentationConfig(preset))
    assert any(not torch.equal(plain[i][0], changed[i][0]) for i in range(4))
    for i in range(4):
        assert (changed[i][0].shape, changed[i][0].dtype) == ((3, 64, 64), torch.uint8)
        assert preset != "light" or torch.equal(plain[i][1], changed[i][1])  # which changes colours and nothing else


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_semi_supervised_streams_alternate(batch: int) -> None:
    ours, theirs = ([np.full((80, 80, 3), value, np.uint8)] for value in (10, 20))
    mask = [np.ones((80, 80), np.uint8)]
    other = Dataset(tuple(theirs), tuple(mask), CLASSES)
    stream = source(ours, mask, labelled_target=(other, SourceSampler(class_pixels(other), False), 1.0))
    stream.batch = batch
    assert [int(stream[i][0].max()) for i in range(6)] == [10, 20, 10, 20, 10, 20]


def test_the_labelled_target_has_its_own_scale() -> None:
    ramp = np.repeat(np.tile(np.arange(200, dtype=np.uint8), (200, 1))[..., None], 3, axis=-1)
    other = Dataset((ramp,), (np.ones((200, 200), np.uint8),), CLASSES)
    labelled = (other, SourceSampler(class_pixels(other), False), 0.5)
    stream = source([ramp], [np.ones((200, 200), np.uint8)], labelled_target=labelled)
    shown = [int(stream[i][0][0, 0, -1]) - int(stream[i][0][0, 0, 0]) for i in range(2)]
    assert shown == [63, 126]


# -- errors -----------------------------------------------------------------------------------------------------------


def test_a_mask_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match=r"image 0: the mask is 70x80, the image 90x100"):
        source([coded(100, 90)], [np.ones((80, 70), np.uint8)])[0]


def test_an_image_without_mask_is_named() -> None:
    stream = source([coded(100, 90)], [np.ones((100, 90), np.uint8)])
    stream.dataset = Dataset(stream.dataset.images, None, CLASSES)
    with pytest.raises(ValueError, match="image 0: has no mask"):
        stream[0]


def photo_file(path: Path, height: int, width: int, orientation: int = 1) -> Array:
    """A JPEG of soft blobs; returns what it holds, upright."""
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels = np.asarray(cv2.GaussianBlur(noise, (0, 0), 12))
    pixels = np.asarray(cv2.normalize(pixels, pixels.copy(), 0, 255, cv2.NORM_MINMAX))
    exif = Exif()
    exif[0x0112] = orientation
    fromarray(pixels).save(path, quality=95, exif=exif)
    return np.ascontiguousarray(np.rot90(pixels, -1)) if orientation == 6 else pixels


@pytest.mark.parametrize(("scale", "shorter"), [(0.6, 1), (0.5, 2), (0.26, 2), (0.2, 4), (0.1, 8)])
def test_photos_that_are_made_smaller_are_not_decoded_whole(tmp_path: Path, scale: float, shorter: int) -> None:
    """What is shown stays the same, to the eye; a size that no factor divides too."""
    pixels = photo_file(tmp_path / "photo.jpg", 1003, 801)
    config = replace(PLAIN, crop_height=128, crop_width=96, target_scale=scale)
    stream = TargetStream(Dataset([tmp_path / "photo.jpg"], None, CLASSES[:2]), config, AdaptationConfig(), 0, 4, 1)
    photo, found = stream.dataset.shrunk_image(0, stream._shrinking)
    assert found == shorter and photo.shape == (-(-1003 // shorter), -(-801 // shorter), 3)
    whole = np.pad(pixels, ((0, -1003 % shorter), (0, -801 % shorter), (0, 0)), "edge")  # the last blocks are not full
    expected = np.asarray(cv2.resize(whole, photo.shape[1::-1], interpolation=cv2.INTER_AREA)).astype(float)
    assert np.abs(photo - expected).mean() < 4
    image, valid, _ = stream[0]
    assert image.shape == (3, 128, 96) and valid.shape == (128, 96)
    filled = (min(round(1003 * scale), 128), min(round(801 * scale), 96))
    assert abs(int(valid.any(1).sum()) - filled[0]) <= 1 and abs(int(valid.any(0).sum()) - filled[1]) <= 1


def test_fitted_photos_are_shrunk_by_their_size_and_turned_upright(tmp_path: Path) -> None:
    pixels = photo_file(tmp_path / "photo.jpg", 800, 1200, orientation=6)
    config = replace(PLAIN, fit_short=128, fit_long=256)
    stream = TargetStream(Dataset([tmp_path / "photo.jpg"], None, CLASSES[:2]), config, AdaptationConfig(), 0, 4, 1)
    photo, shorter = stream.dataset.shrunk_image(0, stream._shrinking)
    assert shorter == 4 and photo.shape == (300, 200, 3)
    expected = np.asarray(cv2.resize(pixels, (200, 300), interpolation=cv2.INTER_AREA)).astype(float)
    assert np.abs(photo - expected).mean() < 4


def test_other_kinds_and_arrays_come_whole(tmp_path: Path) -> None:
    pixels = coded(200, 240)
    fromarray(pixels).save(tmp_path / "photo.png")
    for image in (tmp_path / "photo.png", pixels):
        photo, shorter = Dataset([image], None, CLASSES[:2]).shrunk_image(0, lambda height, width: 8)
        assert shorter == 1 and (photo == pixels).all()


def test_a_broken_photo_is_named_also_where_it_is_shrunk(tmp_path: Path) -> None:
    photo_file(tmp_path / "photo.jpg", 400, 400)
    content = (tmp_path / "photo.jpg").read_bytes()
    (tmp_path / "photo.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"photo\.jpg: cannot be read as an image, it is truncated"):
        Dataset([tmp_path / "photo.jpg"], None, CLASSES[:2]).shrunk_image(0, lambda height, width: 4)
