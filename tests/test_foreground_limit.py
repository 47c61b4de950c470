"""Predictions on photos are held to the expected share of foreground, as pseudo-labels are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_runs import assert_same, state
from tiny_runs import cracks, tiny

from hrda_core import TrainConfig, train
from hrda_core.inference.predictor import Predictor
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.models.build import build_model
from hrda_core.training import foreground_limit
from hrda_core.training.events import Counting, Event, Notice
from hrda_core.training.foreground_limit import above_share, foreground_logits

SOURCE, TARGET, VALIDATION = cracks(4, 1), replace(cracks(5, 2), masks=None), cracks(2, 3)
ONE_SIZE = {"teacher_zooms": [1.0], "photo_scales": [1.0], "rounds": 2, "foreground_at_least": 0.0}


def config(**adaptation: Any) -> TrainConfig:
    # classes begin alike and next to nothing is learned, so that about half of each photo is foreground
    start = {"model": {"class_prior": "equal"}, "optimisation": {"learning_rate": 1e-9}}
    return tiny({**start, "adaptation": {**ONE_SIZE, "foreground_share": 0.05, **adaptation}})


def run(directory: Path, settings: TrainConfig, **options: Any) -> list[Event]:
    heard: list[Event] = []
    train(settings, SOURCE, TARGET, VALIDATION, heard.append, directory=directory, **options)
    return heard


def share_found(directory: Path, network: str) -> float:
    predictor = Predictor(directory / "checkpoints" / "last.pth", network=network, zooms=(1.0,))
    return float(np.mean([predictor.probabilities(TARGET.image(i))[0] < 0.5 for i in range(len(TARGET))]))


def test_the_logit_that_a_share_of_the_pixels_exceeds() -> None:
    logits = np.arange(-49.5, 50, dtype=np.float32)  # half of them above 0
    assert np.mean(logits > above_share(logits, 0.1)) == pytest.approx(0.1)
    assert above_share(logits, 0.6) == 0  # fewer are found than expected
    assert above_share(np.full(9, np.nan, np.float32), 0.1) == 0


def test_foreground_is_all_classes_but_the_first() -> None:
    probabilities = np.zeros((3, 8, 8), np.float32)
    probabilities[:, :, :4] = np.array([0.2, 0.5, 0.3])[:, None, None]
    probabilities[0, :, 4:] = 1
    found = foreground_logits(probabilities)
    assert found.shape == (2, 2)
    assert found[0, 0] == pytest.approx(np.log(0.8 / 0.2), rel=1e-5)
    assert np.isfinite(found).all() and found[0, 1] < -20


def test_lowering_the_bias_lowers_every_fused_logit() -> None:
    """Foreground's alike, background's not: scale attention averages context and detail, which have the same head."""
    torch.manual_seed(0)
    model = build_model("mit_b0", 3, head_channels=32).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = model.logits(image)
        model.head.lower_foreground(1.5)
        after = model.logits(image)
    torch.testing.assert_close(after[:, :1], before[:, :1])
    torch.testing.assert_close(after[:, 1:], before[:, 1:] - 1.5, atol=1e-4, rtol=1e-4)


def test_both_networks_end_near_the_expected_share(tmp_path: Path) -> None:
    heard = run(tmp_path, config())
    for network in ("student", "teacher"):
        assert 0 < share_found(tmp_path, network) < 0.08  # in other windows, and after other norms, than it was counted with
    times = [event.iteration for event in heard if isinstance(event, Counting) and event.done == event.total]
    assert times == [2, 4, 6]  # after the warm-up and after both rounds
    assert all(event.total == 2 * len(TARGET) for event in heard if isinstance(event, Counting))


def test_it_can_be_turned_off_and_needs_an_expected_share(tmp_path: Path) -> None:
    for name, changes in (("off", {"hold_to_share": False}), ("band", {"pseudo_labels": "band"})):
        assert not any(isinstance(event, Counting) for event in run(tmp_path / name, config(**changes)))
        assert max(share_found(tmp_path / name, network) for network in ("student", "teacher")) > 0.1


def test_less_than_expected_is_left_as_it_is(tmp_path: Path) -> None:
    run(tmp_path / "held", config(foreground_share=1.0))
    run(tmp_path / "off", config(foreground_share=1.0, hold_to_share=False))
    ours, theirs = (torch.load(tmp_path / name / "checkpoints" / "last.pth", weights_only=True) for name in ("held", "off"))
    for network in ("student", "teacher"):
        for key, value in ours[network].items():
            assert torch.equal(value, theirs[network][key]), key


def test_the_user_is_told_where_much_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreground_limit, "above_share", lambda logits, share: 2.25)
    told = [event.text for event in run(tmp_path, config()) if isinstance(event, Notice)]
    [text] = [text for text in told if "more foreground is found" in text]
    assert "than the 5.0 % that are expected" in text and "adaptation.hold_to_share=false" in text
    assert foreground_limit.notice({"student": 0.2, "teacher": 0.0}, 0.05) is None


@pytest.mark.parametrize("look", [3, 25])
def test_a_run_that_is_stopped_while_it_counts_goes_on_exactly(
    look: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the first round begins, and at the end of the run; each time there is something to lower."""
    monkeypatch.setattr(foreground_limit, "above_share", lambda logits, share: 0.5)
    run(tmp_path / "whole", config())
    heard: list[Event] = []

    def stop() -> bool:
        return sum(isinstance(event, Counting) for event in heard) == look

    options: dict[str, Any] = {"directory": tmp_path / "parts", "stop": stop}
    assert train(config(), SOURCE, TARGET, VALIDATION, heard.append, **options).stopped == "stop requested"
    run(tmp_path / "parts", config(), resume=True)
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def preprocessing(**changes: Any) -> Preprocessing:
    return Preprocessing(**{"mean": (0.5,) * 3, "std": (0.2,) * 3, "scale": 1.0, "fit_short": 0, "fit_long": 0, **changes})


def seen_of(monkeypatch: pytest.MonkeyPatch, image: NDArray[np.uint8], settings: Preprocessing, **margins: float) -> Any:
    """The part that is looked at, the settings it is looked at with, and where it lies."""
    looked: list[Any] = []

    def look(network: Any, part: NDArray[np.uint8], used: Preprocessing) -> NDArray[np.float32]:
        looked.extend([part, used])
        return np.full((2, *part.shape[:2]), 0.5, np.float32)

    monkeypatch.setattr(foreground_limit, "image_probabilities", look)
    rng, rule = np.random.default_rng(0), config(**margins).adaptation
    _, place = foreground_limit.logits_of_part(None, image, settings, rng, rule)  # type: ignore[arg-type]
    return (*looked, place)


def test_a_part_is_seen_as_large_as_in_the_whole_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where photos are fitted into a size, what is cut from them is not fitted once more."""
    photo = np.zeros((1200, 1600, 3), np.uint8)
    fitted = preprocessing(fit_short=150, fit_long=200, window=(64, 64), overlap=0.5)
    part, used, _ = seen_of(monkeypatch, photo, fitted)
    assert fitted.network_size(1200, 1600) == (150, 200)
    assert part.shape[:2] == (1024, 1024)  # two windows of 64 each way, at an eighth of the size
    assert used.network_size(*part.shape[:2]) == (128, 128)


def test_margins_of_photos_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caption strip that learns nothing must not use up the expected share."""
    photo = np.zeros((100, 200, 3), np.uint8)
    photo[90:] = 255
    plain = preprocessing(window=(128, 128), overlap=0.5)
    part, _, (rows, columns) = seen_of(monkeypatch, photo, plain, margin_bottom=0.1, margin_left=0.25)
    assert part.shape[:2] == (90, 150) and not part.any()
    assert (rows.start, rows.stop, columns.start, columns.stop) == (0, 90, 50, 200)
