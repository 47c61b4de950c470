"""The teacher sees each target photo at several sizes, and the surest answer counts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_predictor import checkpoint, photo
from tiny_runs import cracks, tiny
from torch import Tensor

from hrda_core import TrainConfig, train
from hrda_core.adaptation.teacher import Teacher
from hrda_core.adaptation.zooms import surest_zoom
from hrda_core.inference.image_bands import ProbabilityBand, averaged, probability_bands
from hrda_core.inference.predictor import Predictor
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.window_network import Network, Part
from hrda_core.inference.zoom_choice import WINDOWS, spread_over
from hrda_core.models.hrda import Box, window_boxes
from hrda_core.models.sureness import foreground_found, sureness


def logits_of(foreground: Tensor) -> Tensor:
    """(N, H, W) probabilities -> (N, 2, H, W)."""
    p = foreground.clamp(1e-4, 1 - 1e-4)
    return torch.stack([torch.zeros_like(p), torch.logit(p)], dim=1)


def network_that_knows_width(image: Tensor) -> Tensor:
    """Finds bright bars, and is the surer the nearer to 8 pixels the bar in the first row of the image is."""
    bright = image[:, 0] > 0.5
    width = bright[:, 0].sum(dim=1).float()
    sure = 0.9 / (1 + (width / 8).log().abs())
    return logits_of(bright * sure.view(-1, 1, 1))


def bars(*widths: int) -> Tensor:
    image = torch.zeros(len(widths), 3, 64, 64)
    for i, width in enumerate(widths):
        image[i, :, :, 10 : 10 + width] = 1
    return image


def test_each_photo_is_seen_at_the_size_that_suits_the_network() -> None:
    image = bars(4, 8, 16)
    logits, zooms, plausible = surest_zoom(network_that_knows_width, image, torch.ones(3, 64, 64), (0.5, 1.0, 2.0))
    assert plausible.all() and zooms.tolist() == [2.0, 1.0, 0.5]
    assert logits.shape == (3, 2, 64, 64)
    found = logits.softmax(dim=1)[:, 1] > 0.5
    for i, width in enumerate((4, 8, 16)):
        assert found[i, 32].sum().item() == pytest.approx(width, abs=2)  # at the photo's own size again


@pytest.mark.parametrize("size", [(2448, 3264), (2560, 1920), (3024, 4032), (600, 6000), (6000, 600), (512, 9000)])
def test_windows_that_are_looked_at_lie_all_over_a_large_photo(size: tuple[int, int]) -> None:
    boxes = window_boxes(*size, (512, 512), 0.5)
    some = spread_over(boxes)
    assert 6 <= len(some) <= WINDOWS and some == sorted(some, key=boxes.index)
    for first, last, side in (("top", "bottom", size[0]), ("left", "right", size[1])):
        seen = sorted({(getattr(box, first), getattr(box, last)) for box in some})
        gaps = [begin - end for (_, end), (begin, _) in pairwise([(0, 0), *seen, (side, side)])]
        assert max(gaps) < side / 4


def test_of_a_small_photo_every_window_is_looked_at() -> None:
    for rows, columns in [(1, 1), (1, 9), (9, 1), (2, 4), (4, 2), (3, 3), (2, 3), (7, 1)]:
        boxes = window_boxes(64 * rows, 64 * columns, (64, 64), 0.0)
        assert len(boxes) == rows * columns and spread_over(boxes) == boxes


def test_one_zoom_is_the_plain_answer() -> None:
    image = bars(5)
    logits, zooms, _ = surest_zoom(network_that_knows_width, image, torch.ones(1, 64, 64), (1.0,))
    assert torch.equal(logits, network_that_knows_width(image)) and zooms.tolist() == [1.0]


def test_where_nothing_is_found_the_photo_is_seen_as_it_is() -> None:
    _, zooms, plausible = surest_zoom(network_that_knows_width, bars(0), torch.ones(1, 64, 64), (2.0, 0.5, 1.0))
    assert plausible.all() and zooms.tolist() == [1.0]


def test_a_speck_is_less_sure_than_a_crack() -> None:
    speck, crack = torch.zeros(1, 32, 32), torch.zeros(1, 32, 32)
    speck[0, 3, 3], crack[0, 10:14] = 0.99, 0.9
    valid = torch.ones(1, 32, 32)
    assert sureness(*foreground_found(logits_of(speck), valid)) < sureness(*foreground_found(logits_of(crack), valid))
    assert sureness(*foreground_found(logits_of(crack), 0 * valid)) == 0  # what lies outside of the photo does not count


def test_an_answer_with_too_much_foreground_does_not_count() -> None:
    def shadow_at_half_size(image: Tensor) -> Tensor:
        """Half of the image, and very sure, at half the size; a thin bar otherwise."""
        found = torch.zeros(len(image), *image.shape[2:])
        if image.shape[2] == 32:
            found[:, :16] = 0.99
        else:
            found[:, :2] = 0.7
        return logits_of(found)

    image, valid = bars(4), torch.ones(1, 64, 64)
    assert surest_zoom(shadow_at_half_size, image, valid, (0.5, 1.0)).zoom.tolist() == [0.5]
    bounded = surest_zoom(shadow_at_half_size, image, valid, (0.5, 1.0), most=0.1)
    assert bounded.zoom.tolist() == [1.0] and bounded.plausible.all()
    nowhere = surest_zoom(shadow_at_half_size, image, valid, (0.5,), most=0.1)
    assert nowhere.plausible.tolist() == [False]  # such a photo teaches nothing


def test_zooms_need_a_background_and_must_be_in_range() -> None:
    config = TrainConfig().updated({"adaptation": {"teacher_zooms": [0.5, 1.0]}})
    with pytest.raises(ValueError, match=r"adaptation.teacher_zooms=\(0.5, 1.0\): needs a class named 'background'"):
        config.resolve(19, False, 1.0)
    with pytest.raises(ValueError, match=r"adaptation.teacher_zooms=\(20.0,\): use factors from 0.1 to 10"):
        TrainConfig().updated({"adaptation": {"teacher_zooms": [20.0]}})


def test_in_training_the_teacher_sees_crops_at_every_zoom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    plain = Teacher.logits

    def watched(teacher: Teacher, image: Tensor) -> Tensor:
        seen.add(tuple(image.shape[2:]))
        return plain(teacher, image)

    monkeypatch.setattr(Teacher, "logits", watched)
    train(
        tiny({"adaptation": {"rounds": 0, "teacher_zooms": [0.7, 1.4]}}),
        cracks(3, 0),
        cracks(3, 1, masks=False),
        directory=tmp_path,
    )
    assert seen == {(45, 45), (90, 90)}  # of crops of 64


# --- in prediction


class WidthNetwork:
    device = torch.device("cpu")

    def __call__(self, windows: Tensor, part: Part = Part.WHOLE) -> Tensor:
        return network_that_knows_width(windows)

    def detail_boxes(self, height: int, width: int) -> list[Box]:
        return []

    def join(self, seen: Tensor, details: Sequence[Tensor], windows: Tensor) -> Tensor:
        raise AssertionError("it has no details")


def predicted(
    width: int,
    *zooms: float,
    most_foreground: float = 1.0,
    window: int = 128,
    flips: bool = False,
    network: Network | None = None,
) -> np.ndarray[Any, Any]:
    pixels = (bars(width)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    rules: Any = {"zooms": zooms, "most_foreground": most_foreground, "flips": flips}
    preprocessing = Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 1.0, 0, 0, (window, window), 0.0, **rules)
    bands = probability_bands(network or WidthNetwork(), pixels, preprocessing)
    return np.concatenate([band.probabilities for band in bands], axis=1)


@pytest.mark.parametrize(("width", "zooms", "zoom"), [(4, (1.0, 2.0), 2.0), (8, (2.0, 1.0), 1.0), (16, (0.5, 1.0), 0.5)])
def test_a_photo_is_predicted_at_the_size_that_suits_the_network(width: int, zooms: tuple[float, ...], zoom: float) -> None:
    np.testing.assert_array_equal(predicted(width, *zooms), predicted(width, zoom))


class CountingNetwork(WidthNetwork):
    def __init__(self) -> None:
        self.windows = 0

    def __call__(self, windows: Tensor, part: Part = Part.WHOLE) -> Tensor:
        self.windows += len(windows)
        return super().__call__(windows)


@pytest.mark.parametrize(
    ("width", "other", "window", "flips", "windows"),
    [
        (8, 2.0, 128, False, 1 + 1),  # the whole photo at either size
        (8, 2.0, 64, False, 1 + 4),
        (2, 4.0, 64, False, 1 + 9 + 16),  # 9 of the 16 windows of the larger size, which is then chosen
        (8, 2.0, 128, True, 1 + 1 + 2),  # nobody has looked at the mirrored photo yet
    ],
)
def test_what_choosing_the_size_has_seen_is_not_predicted_again(
    width: int, other: float, window: int, flips: bool, windows: int
) -> None:
    network = CountingNetwork()
    seen = predicted(width, 1.0, other, window=window, flips=flips, network=network)
    assert network.windows == windows
    np.testing.assert_array_equal(seen, predicted(width, 1.0 if width == 8 else other, window=window, flips=flips))


@pytest.mark.parametrize(("width", "surest"), [(4, (2.0, 1.0)), (16, (0.5, 1.0))])
def test_of_three_sizes_or_more_the_two_surest_are_averaged(width: int, surest: tuple[float, float]) -> None:
    expected = np.mean([predicted(width, zoom) for zoom in surest], axis=0)
    np.testing.assert_allclose(predicted(width, 0.5, 1.0, 2.0), expected, atol=1e-6)


def test_a_size_at_which_more_is_found_than_in_any_labelled_image_does_not_count() -> None:
    """A bar of 16 of 128 columns: at half its size, which suits the network, an eighth of the photo."""
    assert np.array_equal(predicted(16, 0.5, 1.0), predicted(16, 0.5))
    with_less = predicted(16, 0.5, 1.0, most_foreground=0.05)  # at either size too much: the one with less
    assert np.array_equal(with_less, predicted(16, 1.0))


def test_streams_whose_bands_end_elsewhere_are_averaged_row_by_row() -> None:
    rows = np.arange(20, dtype=np.float32).reshape(1, 10, 2)
    streams = []
    for ends, factor in (((3, 4, 10), 1), ((1, 10), 3), ((5, 6, 10), 5)):
        starts = (0, *ends[:-1])
        streams.append(iter([ProbabilityBand(a, factor * rows[:, a:b]) for a, b in zip(starts, ends, strict=True)]))
    bands = list(averaged(streams))
    assert [band.top for band in bands] == [0, 1, 3, 4, 5, 6]
    np.testing.assert_allclose(np.concatenate([band.probabilities for band in bands], axis=1), 3 * rows)


def test_a_predictor_takes_zooms_and_says_which_do_not_fit() -> None:
    content, pixels = checkpoint(), photo(100, 120)
    one, several = (Predictor(content, "cpu", zooms=zooms).probabilities(pixels) for zooms in ([1.0], [0.5, 1.0]))
    half = Predictor(content, "cpu", zooms=[0.5]).probabilities(pixels)
    assert np.array_equal(several, one) or np.array_equal(several, half)
    assert not np.array_equal(one, half)
    with pytest.raises(ValueError, match=r"zooms=\(0.0,\): use factors from 0.1 to 10"):
        Predictor(content, "cpu", zooms=[0.0])


def test_several_zooms_need_a_background() -> None:
    config = TrainConfig().updated({"inference": {"zooms": [0.5, 1.0]}})
    with pytest.raises(ValueError, match=r"inference.zooms=\(0.5, 1.0\): several need a class named 'background'"):
        config.resolve(19, False, 1.0)


def test_a_checkpoint_knows_how_full_the_fullest_labelled_image_is(tmp_path: Path) -> None:
    source = cracks(3, 0)
    result = train(tiny(), source, cracks(3, 1, masks=False), directory=tmp_path)
    fullest = max((np.asarray(source.mask(i)) == 1).mean() for i in range(3))
    assert Predictor(result.last, "cpu").preprocessing.most_foreground == pytest.approx(fullest)
