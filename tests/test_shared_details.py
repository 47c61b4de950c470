"""Windows that overlap share the details that they both see, and the answer stays that of whole windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_predictor import checkpoint, photo
from torch import Tensor

from hrda_core.inference.predictor import Predictor
from hrda_core.inference.shared_details import SharedDetails
from hrda_core.inference.window_network import WindowNetwork
from hrda_core.models.hrda import window_boxes


class Counted(WindowNetwork):
    """Counts the images that the encoder has seen."""

    def __init__(self, predictor: Predictor, in_parts: bool) -> None:
        super().__init__(predictor.model, predictor.device, None, 4, in_parts)
        self.seen = 0
        encoder = self.model.encoder
        forward = encoder.forward

        def counting(image: Tensor) -> Any:
            self.seen += len(image)
            return forward(image)

        encoder.forward = counting  # type: ignore[method-assign]


def probabilities(precision: str, image: np.ndarray[Any, Any], **options: Any) -> np.ndarray[Any, Any]:
    return Predictor(checkpoint(3), "cpu", precision, **options).probabilities(image)


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("overlap", [0.0, 0.3, 0.5, 0.75])
@pytest.mark.parametrize(("height", "width"), [(300, 400), (128, 300), (129, 128), (513, 130)])
def test_the_answer_is_that_of_whole_windows(height: int, width: int, overlap: float, flips: bool) -> None:
    image = photo(height, width)
    parts, whole = (probabilities(p, image, overlap=overlap, flips=flips) for p in ("auto", "reference"))
    assert np.allclose(parts, whole, atol=1e-5)


def test_details_that_overlap_within_a_window_too() -> None:
    content = checkpoint()
    content["model_config"] = {**content["model_config"], "detail_overlap": 0.5}
    image = photo(250, 390)
    parts, whole = (Predictor(content, "cpu", precision).probabilities(image) for precision in ("auto", "reference"))
    assert np.allclose(parts, whole, atol=1e-5)


def test_every_detail_is_looked_at_once() -> None:
    """9 windows of 128 px over 256 x 256 at an overlap of one half: 16 details instead of 36."""
    content = checkpoint()
    content["model_config"] = {**content["model_config"], "detail_overlap": 0.0}
    predictor, image = Predictor(content, "cpu"), photo(256, 256)
    whole, parts = Counted(predictor, False), None
    predictor.network = whole
    expected = predictor.probabilities(image)
    predictor = Predictor(content, "cpu")
    parts = Counted(predictor, True)
    predictor.network = parts
    assert np.allclose(predictor.probabilities(image), expected, atol=1e-5)
    assert (whole.seen, parts.seen) == (9 + 36, 9 + 16)


def test_what_no_window_to_come_can_see_is_forgotten() -> None:
    predictor = Predictor(checkpoint(), "cpu")
    boxes = window_boxes(1024, 256, (128, 128), 0.5)
    shared = SharedDetails.of(predictor.network, boxes)
    assert shared is not None
    windows = torch.randn(len(boxes), 1, 3, 128, 128)
    kept = []
    with torch.no_grad():
        for box, window in zip(boxes, windows, strict=True):
            shared([(box, False)], [window])
            kept.append(len(shared._known))
    assert max(kept) == kept[5]  # a second row of windows leaves as many as any later one


@pytest.mark.parametrize(
    ("size", "window", "overlap"),
    [((128, 128), (128, 128), 0.5), ((300, 300), (128, 128), 0.0), ((300, 300), (100, 100), 0.5), ((300, 300), (128, 128), 0.3)],
)
def test_windows_that_have_no_detail_in_common_stay_whole(size: tuple[int, int], window: tuple[int, int], overlap: float) -> None:
    """One window; no overlap; windows that need padding; an overlap that is off the details' grid."""
    network = Predictor(checkpoint(), "cpu").network
    assert SharedDetails.of(network, window_boxes(*size, window, overlap)) is None


def test_a_network_of_one_resolution_stays_whole() -> None:
    content = checkpoint()
    content["model_config"] = {**content["model_config"], "multi_resolution": False}
    for name in ("student", "teacher"):
        content[name] = {k: v for k, v in content[name].items() if not k.startswith("scale_attention")}
    network = Predictor(content, "cpu").network
    assert SharedDetails.of(network, window_boxes(300, 300, (128, 128), 0.5)) is None
