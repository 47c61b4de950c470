"""Windows over an image: they cover it, overlap as asked, and their average is what a plain loop gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hrda_core.inference.tiling import BAND_ROWS, Band, Tiling, _axis, logit_bands, slide_logits
from hrda_core.models.hrda import Box, window_boxes

SIDES = st.integers(1, 300)
OVERLAPS = st.sampled_from([0.0, 0.1, 0.25, 0.33, 0.5, 0.75, 0.9])


class Stub(nn.Module):
    """Three classes; the logits depend on the whole window, as a network's do, and on where in it a pixel is."""

    num_classes = 3

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, ...]] = []

    def logits(self, image: Tensor) -> Tensor:
        self.calls.append(tuple(image.shape))
        rows = torch.arange(image.shape[2]).view(1, 1, -1, 1)
        return image * 2 + image.mean(dim=(1, 2, 3), keepdim=True) + rows / 100


def slide(stub: Stub, *arguments: Any, **options: Any) -> Tensor:
    return slide_logits(stub, *arguments, **options)  # type: ignore[arg-type]


@settings(deadline=None)
@given(SIDES, SIDES, st.integers(1, 128), st.integers(1, 128), OVERLAPS)
def test_windows_cover_the_image_and_stay_inside(height: int, width: int, rows: int, columns: int, overlap: float) -> None:
    covered = np.zeros((height, width), bool)
    boxes = window_boxes(height, width, (rows, columns), overlap)
    for box in boxes:
        assert 0 <= box.top < box.bottom <= height
        assert 0 <= box.left < box.right <= width
        assert (box.bottom - box.top, box.right - box.left) == (min(rows, height), min(columns, width))
        covered[box.top : box.bottom, box.left : box.right] = True
    assert covered.all()
    assert len(set(boxes)) == len(boxes)  # no window twice


@settings(deadline=None)
@given(SIDES, st.integers(8, 128), OVERLAPS)
def test_neighbours_overlap_at_least_as_asked(side: int, window: int, overlap: float) -> None:
    starts = [box.top for box in window_boxes(side, window, (window, window), overlap)]
    strides = np.diff(starts)
    allowed = window * (1 - overlap) + 0.5  # whole pixels
    assert (strides > 0).all()
    assert (strides <= max(allowed, 1)).all()
    assert (strides[:-1] == strides[:1]).all()  # only the last one is shifted back, to overlap more


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 16), OVERLAPS)
def test_a_step_keeps_windows_on_its_grid(side: int, window: int, overlap: float) -> None:
    boxes = window_boxes(side * 8, side * 8, (window * 8, window * 8), overlap, step=8)
    assert all(value % 8 == 0 for box in boxes for value in box)
    assert max(box.bottom for box in boxes) == side * 8


def test_windows_by_hand() -> None:
    assert window_boxes(100, 40, (64, 64), 0.5) == [Box(0, 64, 0, 40), Box(32, 96, 0, 40), Box(36, 100, 0, 40)]
    assert window_boxes(128, 64, (64, 64), 0.0) == [Box(0, 64, 0, 64), Box(64, 128, 0, 64)]
    assert window_boxes(10, 10, (64, 64), 0.5) == [Box(0, 10, 0, 10)]


def test_cityscapes_has_three_windows() -> None:
    """2048 x 1024 with windows of 1024 at a stride of 512, as published."""
    assert [box.left for box in window_boxes(1024, 2048, (1024, 1024), 0.5)] == [0, 512, 1024]


def naive(stub: Stub, image: Tensor, window: tuple[int, int], overlap: float) -> Tensor:
    """Pixel by pixel: the mean over the windows that hold it."""
    out = torch.zeros(len(image), 3, *image.shape[2:])
    boxes = window_boxes(image.shape[2], image.shape[3], window, overlap)
    parts = [stub.logits(image[:, :, b.top : b.bottom, b.left : b.right]) for b in boxes]
    for y in range(image.shape[2]):
        for x in range(image.shape[3]):
            values = [
                part[:, :, y - b.top, x - b.left]
                for b, part in zip(boxes, parts, strict=True)
                if b.top <= y < b.bottom and b.left <= x < b.right
            ]
            out[:, :, y, x] = torch.stack(values).mean(dim=0)
    return out


@pytest.mark.parametrize("size", [(20, 30), (8, 8), (5, 30), (17, 9), (1, 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.7])
def test_slide_is_the_mean_over_windows(size: tuple[int, int], overlap: float) -> None:
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = naive(Stub(), image, (8, 12), overlap)
    result = slide(Stub(), image, (8, 12), overlap)
    assert (result.shape, result.dtype) == ((2, 3, *size), torch.float32)
    assert torch.allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 100])
def test_the_batch_of_windows_does_not_matter(batch: int) -> None:
    image = torch.rand(2, 3, 33, 41, generator=torch.Generator().manual_seed(0))
    stub = Stub()
    result = slide(stub, image, (16, 16), 0.5, batch=batch)
    assert torch.allclose(result, slide(Stub(), image, (16, 16), 0.5), atol=1e-6)
    assert max(shape[0] for shape in stub.calls) <= batch * len(image)
    assert sum(shape[0] for shape in stub.calls) == 2 * len(window_boxes(33, 41, (16, 16), 0.5))


def test_a_small_image_is_one_window_of_its_own_size() -> None:
    stub = Stub()
    slide(stub, torch.rand(1, 3, 10, 12), (64, 64))
    assert stub.calls == [(1, 3, 10, 12)]


def test_no_gradient_is_kept() -> None:
    image = torch.rand(1, 3, 10, 12, requires_grad=True)
    assert not slide(Stub(), image, (8, 8)).requires_grad


def test_half_precision_logits_are_averaged_in_float32() -> None:
    class Half(Stub):
        def logits(self, image: Tensor) -> Tensor:
            return super().logits(image).bfloat16()

    assert slide(Half(), torch.rand(1, 3, 20, 20), (8, 8)).dtype == torch.float32


# -- blending -----------------------------------------------------------------------------------------------------------


def plain_average(stub: Stub, image: Tensor, window: tuple[int, int], overlap: float, batch: int = 4) -> Tensor:
    """What the whole image in memory gives, operation by operation."""
    n, _, height, width = image.shape
    boxes = window_boxes(height, width, window, overlap)
    total, count = torch.zeros(n, 3, height, width), torch.zeros(1, 1, height, width)
    for start in range(0, len(boxes), batch):
        chunk = boxes[start : start + batch]
        windows = torch.cat([image[:, :, b.top : b.bottom, b.left : b.right] for b in chunk])
        for box, logits in zip(chunk, stub.logits(windows).split(n), strict=True):
            total[:, :, box.top : box.bottom, box.left : box.right] += logits
            count[:, :, box.top : box.bottom, box.left : box.right] += 1
    return total / count


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(8, 64), st.integers(8, 64), OVERLAPS, st.integers(1, 9))
def test_bands_give_the_bits_of_the_whole_image(
    height: int, width: int, rows: int, columns: int, overlap: float, batch: int
) -> None:
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height))
    result = slide(Stub(), image, (rows, columns), overlap, batch)
    assert torch.equal(result, plain_average(Stub(), image, (rows, columns), overlap, batch))


@settings(deadline=None, max_examples=40)
@given(SIDES, st.integers(2, 128), OVERLAPS)
def test_smooth_weights_add_up_and_leave_lone_pixels_alone(side: int, window: int, overlap: float) -> None:
    spans = {box.top: box.bottom for box in window_boxes(side, 1, (window, 1), overlap)}
    weights, divisor = _axis(side, spans, "smooth")
    assert (divisor == 1).all()
    total, count = torch.zeros(side), torch.zeros(side)
    for start, stop in spans.items():
        assert (weights[start] > 0).all()
        total[start:stop] += weights[start]
        count[start:stop] += 1
    assert torch.allclose(total, torch.ones(side), atol=1e-6)
    assert (total[count == 1] == 1).all()


def test_smooth_weights_cross_over_without_a_jump() -> None:
    """Where two windows share 32 pixels, the first one's weight falls from nearly 1 to nearly 0, a little at a time."""
    first = _axis(96, {0: 64, 32: 96}, "smooth").weights[0]
    assert (first[:32] == 1).all()
    shared = first[32:]
    assert (shared.diff() < 0).all()
    assert shared.diff().abs().max() < 0.06
    assert shared[0] > 0.99
    assert 0 < shared[-1] < 0.01


def test_smooth_blending_has_no_seam() -> None:
    """Every window answers with a constant of its own: averaging shows steps, smooth blending a slope."""

    class Moody(Stub):
        def logits(self, image: Tensor) -> Tensor:
            return image.amax(dim=(2, 3), keepdim=True).expand_as(image)  # the rightmost pixel's value

    ramp = torch.linspace(0, 1, 256).expand(1, 3, 64, 256)
    steps = {b: slide(Moody(), ramp, (64, 64), 0.5, blending=b).diff(dim=3).abs().max() for b in ("average", "smooth")}
    assert steps["smooth"] < 0.12 * steps["average"]


@pytest.mark.parametrize("size", [(40, 30), (64, 64), (70, 200), (130, 65)])
def test_blending_windows_that_agree_changes_nothing(size: tuple[int, int]) -> None:
    class Local(Stub):
        def logits(self, image: Tensor) -> Tensor:
            return image * 3 - 1

    image = torch.rand(1, 3, *size)
    for blending in ("average", "smooth"):
        assert torch.allclose(slide(Local(), image, (64, 64), 0.4, blending=blending), image * 3 - 1, atol=1e-6)


def test_an_unknown_blending() -> None:
    with pytest.raises(ValueError, match="blending='soft': use 'smooth' or 'average'"):
        slide(Stub(), torch.rand(1, 3, 8, 8), (8, 8), blending="soft")


# -- bands --------------------------------------------------------------------------------------------------------------


def bands(stub: Stub, image: Tensor, tiling: Tiling) -> Iterator[Band]:
    def read(box: Box) -> Tensor:
        return image[:, :, box.top : box.bottom, box.left : box.right]

    return logit_bands(read, stub.logits, (image.shape[2], image.shape[3]), tiling)


def test_rows_leave_as_soon_as_they_are_finished() -> None:
    """The first band comes before the windows of the third row have been looked at, whatever the image's height."""
    stub = Stub()
    stream = bands(stub, torch.rand(1, 3, 6400, 64), Tiling((64, 64), 0.5, batch=1))
    next(stream)
    assert len(stub.calls) <= 2
    tops, bottom = [0], 32
    for band in stream:
        tops.append(band.top)
        assert band.top == bottom  # no gap
        bottom += band.logits.shape[2]
    assert bottom == 6400
    assert len(stub.calls) == 199


def test_bands_are_low() -> None:
    assert max(b.logits.shape[2] for b in bands(Stub(), torch.rand(1, 3, 500, 20), Tiling((400, 20)))) == BAND_ROWS


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 100), st.integers(1, 150), OVERLAPS, st.sampled_from(["average", "smooth"]), st.integers(1, 5))
def test_flips_give_the_mirrored_image_the_mirrored_answer(
    height: int, width: int, overlap: float, blending: str, batch: int
) -> None:
    class Lopsided(Stub):
        def logits(self, image: Tensor) -> Tensor:
            return super().logits(image) + torch.arange(image.shape[3]) / 30

    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(width))
    tiling = Tiling((32, 48), overlap, blending, flips=True, batch=batch)
    plain = torch.cat([b.logits for b in bands(Lopsided(), image, tiling)], dim=2)
    mirrored = torch.cat([b.logits for b in bands(Lopsided(), image.flip(3), tiling)], dim=2)
    assert torch.allclose(plain, mirrored.flip(3), atol=1e-5)


def test_flips_are_the_mean_of_both_logits() -> None:
    image = torch.rand(1, 3, 70, 96)
    both = torch.cat([b.logits for b in bands(Stub(), image, Tiling((32, 32), 0.5, "smooth", flips=True))], dim=2)
    alone = slide(Stub(), image, (32, 32), 0.5, blending="smooth")
    mirrored = slide(Stub(), image.flip(3), (32, 32), 0.5, blending="smooth").flip(3)
    assert torch.allclose(both, (alone + mirrored) / 2, atol=1e-5)
