"""Rare-class sampling: rare classes are drawn as often as common ones (DAFormer, section 3.2)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrda_core.data.sampling import CROP_AREA, IMAGE_AREA, SourceSampler, rare_class_probabilities

COUNTS = st.lists(st.integers(0, 10**9), min_size=1, max_size=30).filter(any)


@settings(deadline=None)
@given(COUNTS, st.floats(0.001, 10))
def test_probabilities_are_a_distribution_over_the_classes_that_occur(counts: list[int], temperature: float) -> None:
    p = rare_class_probabilities(np.array(counts), temperature)
    assert np.isfinite(p).all()
    assert p.sum() == pytest.approx(1)
    assert (p >= 0).all()
    assert (p[np.array(counts) == 0] == 0).all()
    assert p[np.array(counts) > 0].max() > 0


@settings(deadline=None)
@given(COUNTS, st.floats(0.001, 10))
def test_rarer_is_never_less_probable(counts: list[int], temperature: float) -> None:
    p = rare_class_probabilities(np.array(counts), temperature)
    present = [i for i, count in enumerate(counts) if count]
    by_count = sorted(present, key=lambda i: counts[i])
    assert all(p[a] >= p[b] * (1 - 1e-9) for a, b in itertools.pairwise(by_count))


@settings(deadline=None)
@given(COUNTS, st.floats(0.01, 10), st.randoms())
def test_order_and_scale_of_the_counts_do_not_matter(counts: list[int], temperature: float, random: object) -> None:
    pixels = np.array(counts)
    order = np.array(sorted(range(len(counts)), key=lambda _: random.random()))  # type: ignore[attr-defined]
    p = rare_class_probabilities(pixels, temperature)
    assert np.allclose(rare_class_probabilities(pixels[order], temperature), p[order], atol=1e-12)
    assert np.allclose(rare_class_probabilities(pixels * 7, temperature), p, atol=1e-9)


def test_temperature_levels_the_classes() -> None:
    pixels = np.array([900, 90, 10])
    sharp, level = rare_class_probabilities(pixels, 0.01), rare_class_probabilities(pixels, 100.0)
    assert sharp[2] > 0.99
    assert np.allclose(level, 1 / 3, atol=0.01)
    share = pixels / pixels.sum()
    by_hand = np.exp((1 - share) / 0.1)
    assert np.allclose(rare_class_probabilities(pixels, 0.1), by_hand / by_hand.sum())


def drawn(sampler: SourceSampler, times: int = 300) -> list[tuple[int, int | None]]:
    rng = np.random.default_rng(0)
    return [sampler.draw(rng) for _ in range(times)]


# 4 images; columns: background, crack, ignored
PIXELS = np.array([[1000, 0, 0], [990, 10, 0], [500, 500, 0], [0, 0, 1000]])


def test_images_that_hold_the_class_are_drawn() -> None:
    draws = drawn(SourceSampler(PIXELS, temperature=1.0))
    assert {c for _, c in draws} == {0, 1}
    assert {i for i, c in draws if c == 1} == {1, 2}
    assert {i for i, c in draws if c == 0} == {0, 1, 2}  # nothing is learnt from an image that is all ignored


def test_off_means_uniform() -> None:
    draws = drawn(SourceSampler(PIXELS, rare_classes=False))
    assert {c for _, c in draws} == {None}
    counts = np.bincount([i for i, _ in draws], minlength=4)
    assert (counts > 300 / 4 * 0.6).all()


def test_nothing_labelled_means_uniform() -> None:
    draws = drawn(SourceSampler(np.array([[0, 0, 10], [0, 0, 10]])))
    assert {i for i, _ in draws} == {0, 1}
    assert {c for _, c in draws} == {None}


@pytest.mark.parametrize("area", [256 * 256, IMAGE_AREA, 6000 * 4000])
def test_the_pixel_rule_scales_with_the_image(area: int) -> None:
    """3000 pixels of a 2048 x 1024 image are 0.143 %; an image with a bit less does not count for the class."""
    enough, too_few = round(area * 3000 / IMAGE_AREA * 1.02), round(area * 3000 / IMAGE_AREA * 0.98)
    pixels = np.array([[area - enough, enough, 0], [area - too_few, too_few, 0]])
    draws = drawn(SourceSampler(pixels, min_pixels=3000))
    assert {i for i, c in draws if c == 1} == {0}


def test_ignored_pixels_belong_to_the_image() -> None:
    share = 3000 / IMAGE_AREA
    pixels = np.array([[0, 100, 900], [990_000, 10_000, 0], [0, 5, round(5 / share * 1.1)]])
    assert {i for i, c in drawn(SourceSampler(pixels)) if c == 1} == {0, 1}


def test_a_class_too_rare_for_every_image_is_drawn_from_those_that_hold_it() -> None:
    pixels = np.array([[IMAGE_AREA, 0, 0], [IMAGE_AREA - 5, 5, 0], [IMAGE_AREA - 2999, 2999, 0]])
    draws = drawn(SourceSampler(pixels))
    assert {i for i, c in draws if c == 1} == {1, 2}


def test_the_same_generator_draws_the_same() -> None:
    assert drawn(SourceSampler(PIXELS)) == drawn(SourceSampler(PIXELS))


@pytest.mark.parametrize(("side", "expected"), [(1024, 6000), (512, 1500), (64, 23.4375)])
def test_the_crop_rule_scales_with_the_crop(side: int, expected: float) -> None:
    assert CROP_AREA == 1024 * 1024
    assert SourceSampler(PIXELS, min_pixels=3000).crop_pixels(2.0, side * side) == expected


def test_foreground_is_drawn_from_the_images_that_have_it() -> None:
    rng = np.random.default_rng(0)
    uniform, rare = SourceSampler(PIXELS, rare_classes=False), SourceSampler(PIXELS)
    assert {uniform.draw_foreground(rng, 1) for _ in range(50)} == {(1, None), (2, None)}
    assert {rare.draw_foreground(rng, 1) for _ in range(50)} == {(1, 1), (2, 1)}
    assert {uniform.draw_foreground(rng, 0) for _ in range(50)} == {(0, None), (1, None), (2, None)}  # no background class
    assert SourceSampler(np.array([[9, 0, 1]])).draw_foreground(rng, 1) is None
