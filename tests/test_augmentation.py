"""Augmentation: how strong each change is, that labels stay on their pixels, that a preset is what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hrda_core.config_data import AUGMENTATIONS, AugmentationConfig
from hrda_core.data import augmentation
from hrda_core.data.augmentation import augment
from hrda_core.data.classes import IGNORE
from hrda_core.data.photometric import ColourJitter, jitter

Array = NDArray[np.uint8]


def scene(size: int = 128) -> tuple[Array, Array]:
    """Coloured blocks of 32 pixels, and the mask that numbers them."""
    rows, columns = np.mgrid[:size, :size] // 32
    mask = (rows * 4 + columns).astype(np.uint8)
    colours = np.random.default_rng(1).integers(30, 220, (int(mask.max()) + 1, 3), dtype=np.uint8)
    return colours[mask], mask


def own(**numbers: Any) -> AugmentationConfig:
    return AugmentationConfig("own", **numbers)


def results(config: AugmentationConfig, count: int = 40, **more: Any) -> list[tuple[Array, Array]]:
    image, mask = scene(**more)
    return [augment(np.random.default_rng(i), image, mask, config) for i in range(count)]


ONE_EACH = [
    own(colour=0.3),
    own(gamma=1.0),
    own(shade=0.5),
    own(grey=1.0),
    own(blur=1.0),
    own(noise=0.1),
    own(jpeg=1.0),
]


@pytest.mark.parametrize("config", ONE_EACH)
def test_changes_of_light_leave_labels_and_arguments_alone(config: AugmentationConfig) -> None:
    image, mask = scene()
    made = [augment(np.random.default_rng(i), image, mask, config) for i in range(8)]
    for changed, label in made:
        assert (changed.dtype, changed.shape) == (np.uint8, image.shape)
        assert np.array_equal(label, mask)
    assert sum(not np.array_equal(changed, image) for changed, _ in made) >= 4  # a draw may be too weak to see
    assert np.array_equal(image, scene()[0])


@pytest.mark.parametrize("preset", ["none", *AUGMENTATIONS])
def test_presets_change_as_many_crops_as_they_say(preset: str) -> None:
    config = AugmentationConfig(preset).settled()
    image = scene()[0]
    share = np.mean([not np.array_equal(changed, image) for changed, _ in results(config, 200)])
    assert share == pytest.approx(config.probability, abs=0.1)


def test_presets_grow_stronger() -> None:
    image = scene()[0].astype(float)
    change = [
        np.mean([np.abs(changed - image).mean() for changed, _ in results(AugmentationConfig(name).settled(), 100)])
        for name in ("none", "light", "medium", "hard")
    ]
    assert change[0] == 0
    assert change == sorted(change)
    assert len(set(change)) == 4


def test_the_same_generator_changes_the_same() -> None:
    hard = AugmentationConfig("hard").settled()
    for (a, b), (c, d) in zip(results(hard, 10), results(hard, 10), strict=True):
        assert np.array_equal(a, c)
        assert np.array_equal(b, d)


class Fixed:
    """A generator whose uniform draws are given."""

    def __init__(self, *draws: Any) -> None:
        self.draws = list(draws)

    def uniform(self, *_: Any) -> Any:
        return self.draws.pop(0)


@pytest.mark.parametrize(
    ("brightness", "contrast", "saturation", "hue"),
    [(1.2, 1, 1, 0), (0.8, 1, 1, 0), (1, 1.25, 1, 0), (1, 0.75, 1, 0), (1, 1, 0.5, 0), (1, 1, 1.25, 0), (1, 1, 1, 0.2)],
)
def test_colours_change_as_in_the_jitter_of_target_crops(
    brightness: float, contrast: float, saturation: float, hue: float
) -> None:
    """The fast tables on bytes follow the definitions of data/photometric.py, up to rounding."""
    image = scene()[0]
    ours = augmentation.coloured(Fixed((brightness, contrast, saturation), hue, 0.0), image, 0.3, 0.0)  # type: ignore[arg-type]
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    theirs = jitter(tensor, ColourJitter(brightness, contrast, saturation, hue))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(ours - theirs).max() < 8
    assert np.abs(ours - theirs).mean() < 2


def test_gamma_is_an_exponent() -> None:
    grey = np.full((8, 8, 3), 64, np.uint8)
    dark = augmentation.coloured(Fixed((1, 1, 1), 0.0, 1.0), grey, 0.0, 1.0)  # type: ignore[arg-type]
    assert (dark == round(255 * (64 / 255) ** 2)).all()


def test_grey_has_no_colour() -> None:
    for changed, _ in results(own(grey=1.0), 3):
        assert (changed == changed[..., :1]).all()


def test_noise_is_at_most_as_strong_as_said() -> None:
    image, mask = np.full((128, 128, 3), 128, np.uint8), np.zeros((128, 128), np.uint8)
    deviations = [float(augment(np.random.default_rng(i), image, mask, own(noise=0.1))[0].std()) / 255 for i in range(60)]
    assert max(deviations) < 0.105
    assert max(deviations) > 0.08
    assert min(deviations) < 0.02


def test_blur_softens_edges_and_keeps_the_mean() -> None:
    image = scene()[0]
    for changed, _ in results(own(blur=1.0, blur_sigma=3.0), 10):
        assert np.abs(np.diff(changed.astype(int), axis=0)).max() <= np.abs(np.diff(image.astype(int), axis=0)).max()
        assert changed.mean() == pytest.approx(image.mean(), abs=1.5)


def test_shade_darkens_or_lightens_a_part() -> None:
    image, mask = np.full((64, 64, 3), 120, np.uint8), np.zeros((64, 64), np.uint8)
    ratios = [augment(np.random.default_rng(i), image, mask, own(shade=0.5))[0] / 120 for i in range(80)]
    assert min(r.min() for r in ratios) == pytest.approx(0.5, abs=0.1)
    assert max(r.max() for r in ratios) == pytest.approx(1.5, abs=0.1)
    assert np.mean([r.max() - r.min() > 0.05 for r in ratios]) > 0.5


def test_the_label_turns_with_the_image() -> None:
    """Away from the edges of the blocks every pixel has its block's colour still."""
    image, mask = scene(256)
    colours = np.array([image[mask == value][0] for value in range(int(mask.max()) + 1)])
    moved = 0
    for changed, label in results(own(rotate_degrees=30.0), 12, size=256):
        inside = label != IGNORE
        near = np.abs(changed.astype(int) - colours[np.where(inside, label, 0)]).max(axis=-1) < 3
        assert near[inside].mean() > 0.9
        moved += int(not np.array_equal(label, mask))
    assert moved >= 10  # a turn may be too small to see


def test_what_turns_in_from_outside_is_ignored_and_reflected() -> None:
    image, mask = np.full((100, 100, 3), 200, np.uint8), np.ones((100, 100), np.uint8)
    for i in range(10):
        changed, label = augment(np.random.default_rng(i), image, mask, own(rotate_degrees=45.0))
        assert (changed == 200).all()  # no black corners
        assert set(np.unique(label)) <= {1, IGNORE}
        assert label[50, 50] == 1
    angles = [(augment(np.random.default_rng(i), image, mask, own(rotate_degrees=45.0))[1] == IGNORE).mean() for i in range(20)]
    assert max(angles) > 0.1  # near 45 degrees the corners are missing
    assert min(angles) < 0.05


def test_padding_stays_ignored_through_a_turn() -> None:
    image, mask = scene()
    mask = mask.copy()
    mask[:, 64:] = IGNORE
    _, label = augment(np.random.default_rng(0), image, mask, own(rotate_degrees=20.0))
    assert (label[:, 100:] == IGNORE).all()
