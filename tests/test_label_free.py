"""Scores that need no labels, on functions whose consistency is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hrda_core.data.samples import ClassInfo, Dataset
from hrda_core.evaluation.label_free import LONGEST, label_free_scores, label_free_sums
from hrda_core.inference.preprocessing import Preprocessing

CLASSES = (ClassInfo("background", (0, 0, 0), 0), ClassInfo("crack", (255, 0, 0), 1))
Image = NDArray[np.uint8]


def photo(height: int = 40, width: int = 60) -> Image:
    """Grey, with a bright block at the left that "is" the crack."""
    image = np.full((height, width, 3), 10, np.uint8)
    image[8:32, 4:28] = 250
    return image


def by_brightness(image: Image) -> NDArray[np.float32]:
    """Looks at every pixel alone: consistent under everything."""
    crack = (image[..., 0] > 128).astype(np.float32)
    return np.stack([1 - crack, crack])


def by_place(image: Image) -> NDArray[np.float32]:
    """Finds cracks in the left half, whatever is there: mirrored, it contradicts itself wholly."""
    crack = np.zeros(image.shape[:2], np.float32)
    crack[:, : image.shape[1] // 2] = 1
    return np.stack([1 - crack, crack])


def by_size(image: Image) -> NDArray[np.float32]:
    """Sees nothing in small pictures."""
    crack = np.full(image.shape[:2], 1.0 if image.shape[1] >= 60 else 0.0, np.float32)
    return np.stack([1 - crack, crack])


PHOTOS = Dataset((photo(), photo()), None, CLASSES)


def test_a_consistent_network_agrees_with_itself() -> None:
    scores, _ = label_free_scores(by_brightness, by_brightness, PHOTOS, [0, 1], has_background=True)
    assert (scores.flip, scores.teacher) == (1.0, 1.0)
    assert scores.scale > 0.9  # borders of the block blur
    assert (scores.uncertain, scores.entropy) == (0.0, pytest.approx(0.0))
    assert scores.fractions == pytest.approx((1 - 24 * 24 / 2400, 24 * 24 / 2400))


@pytest.mark.parametrize(("network", "flip", "scale"), [(by_place, 0.0, 1.0), (by_size, 1.0, 0.0)])
def test_contradictions_show(network: object, flip: float, scale: float) -> None:
    scores, _ = label_free_scores(network, by_brightness, PHOTOS, [0], has_background=True)  # type: ignore[arg-type]
    assert scores.flip == pytest.approx(flip, abs=0.02)
    assert scores.scale == pytest.approx(scale, abs=0.05)
    assert scores.teacher < 0.5


def test_an_undecided_network_is_uncertain() -> None:
    undecided = lambda image: np.full((2, *image.shape[:2]), 0.5, np.float32)  # noqa: E731
    scores, _ = label_free_scores(undecided, undecided, PHOTOS, [0, 1], has_background=True)
    assert (scores.uncertain, scores.entropy) == (1.0, pytest.approx(1.0))
    assert all(type(value) is float for value in (scores.scale, scores.flip, scores.teacher, scores.uncertain, scores.entropy))


def test_of_huge_photos_the_middle_counts() -> None:
    seen = []

    def network(image: Image) -> NDArray[np.float32]:
        seen.append(image.shape[:2])
        return by_brightness(image)

    label_free_scores(network, network, Dataset((photo(1500, 3000),), None, CLASSES), [0], has_background=True)
    assert max(max(shape) for shape in seen) == LONGEST


def test_photos_that_are_fitted_are_fitted_before_anything_is_cut_from_them() -> None:
    """Or the network would see the middle of a large photo, and the smaller one beside it, at sizes it never predicts at."""
    fitting = Preprocessing((0.5,) * 3, (0.2,) * 3, 1.0, 150, 200, (64, 64), 0.5).fitted
    seen = []

    def network(image: Image) -> NDArray[np.float32]:
        seen.append(image.shape[:2])
        return by_brightness(image)

    label_free_sums(network, network, Dataset((photo(1500, 2000),), None, CLASSES), [0], has_background=True, fit=fitting)
    assert set(seen) == {(150, 200), (112, 150)}


def test_each_network_predicts_a_photo_three_times_and_gets_its_own_scores() -> None:
    """As it is, scaled, mirrored; the prediction of the photo as it is serves both networks."""
    calls = {"one": 0, "two": 0}

    def one(image: Image) -> NDArray[np.float32]:
        calls["one"] += 1
        return by_brightness(image)

    def two(image: Image) -> NDArray[np.float32]:
        calls["two"] += 1
        return by_place(image)

    ours, theirs = label_free_scores(one, two, PHOTOS, [0, 1], has_background=True)
    assert calls == {"one": 6, "two": 6}
    assert (ours.flip, theirs.flip) == (1.0, pytest.approx(0.0, abs=0.02))
    assert ours.teacher == theirs.teacher
    assert theirs == label_free_scores(by_place, by_brightness, PHOTOS, [0, 1], has_background=True)[0]
