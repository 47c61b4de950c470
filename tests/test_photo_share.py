"""Before its first round a run estimates how much foreground the photos hold, and expects no more than that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_runs import assert_same, state
from tiny_runs import CRACKS, cracks, tiny

from hrda_core import Dataset, TrainConfig, train
from hrda_core.models.checkpoints import load_checkpoint
from hrda_core.training import foreground_limit, photo_share
from hrda_core.training.events import Counting, Event, Notice
from hrda_core.training.photo_share import EDGES, hellinger_share, histogram

SOURCE, TARGET, VALIDATION = cracks(4, 1), replace(cracks(5, 2), masks=None), cracks(2, 3)
LOOKS = len(SOURCE) + len(TARGET)


def config(**adaptation: Any) -> TrainConfig:
    return tiny({"adaptation": {"teacher_zooms": [1.0], "photo_scales": [1.0], "rounds": 2, **adaptation}})


def run(directory: Path, settings: TrainConfig, **options: Any) -> list[Event]:
    heard: list[Event] = []
    train(settings, SOURCE, TARGET, VALIDATION, heard.append, directory=directory, **options)
    return heard


def expected_in(directory: Path) -> float:
    config = load_checkpoint(directory / "checkpoints" / "last.pth")["provenance"]["config"]
    return float(config["adaptation"]["foreground_share"])


def logits(centre: float, pixels: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(centre, 2.5, pixels).astype(np.float32)


@pytest.mark.parametrize("share", [0.005, 0.03, 0.4])
def test_the_share_of_a_mixture_of_overlapping_distributions(share: float) -> None:
    foreground, background = histogram(logits(3, 50_000, 1)), histogram(logits(-4, 400_000, 2))
    part = round(share * 200_000)
    mixture = histogram(np.concatenate([logits(3, part, 3), logits(-4, 200_000 - part, 4)]))
    assert hellinger_share(foreground, background, mixture) == pytest.approx(share, rel=0.1)


def test_nothing_is_known_where_nothing_was_seen() -> None:
    some, none = np.ones(len(EDGES) - 1), np.zeros(len(EDGES) - 1)
    assert hellinger_share(none, some, some) == hellinger_share(some, none, some) == hellinger_share(some, some, none) == 1


def test_nothing_is_known_where_foreground_looks_like_background() -> None:
    """Draws of one distribution fit any share."""
    parts = [histogram(logits(-3, 20_000, seed)) for seed in (1, 2, 3)]
    assert hellinger_share(*parts) == 1


def test_logits_beyond_the_bins_count_as_outermost() -> None:
    counts = histogram(np.array([[-27.0, -13.9, 0.1], [13.9, 27.0, np.inf]], np.float32))
    assert (counts[0], counts[-1], counts.sum()) == (2, 3, 6)


def whiteness(network: Any, image: NDArray[np.uint8], settings: Any) -> NDArray[np.float32]:
    """A network that is sure that white is foreground."""
    foreground = np.where(image[..., 0] == 255, 0.99, 0.01).astype(np.float32)
    return np.stack([1 - foreground, foreground])


@pytest.mark.parametrize(("in_photos", "found"), [(0.10, 0.10), (0.05, 0.06), (0.30, 0.20)])
def test_from_the_least_to_the_expected_share(
    in_photos: float, found: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of labelled images 20 % are white and foreground; the black stripe that is ignored says nothing."""

    def image(white: float) -> NDArray[np.uint8]:
        columns = np.zeros((64, 400, 3), np.uint8)
        columns[:, : round(400 * white)] = 255
        return columns

    mask = np.zeros((64, 400), np.uint8)
    mask[:, :80], mask[:, -20:] = 1, 255
    source = Dataset([image(0.2)] * 2, [mask] * 2, CRACKS)
    photos = Dataset([image(in_photos)] * 3, None, CRACKS)
    monkeypatch.setattr(foreground_limit, "image_probabilities", whiteness)
    changes = {"inference": {"window_height": 128, "window_width": 256}}  # so that all of an image is looked at
    heard: list[Event] = []
    settings = config(least_share=0.3, foreground_share=0.2).updated(changes)
    train(settings, source, photos, None, heard.append, directory=tmp_path)
    assert expected_in(tmp_path) == pytest.approx(found, rel=0.02)
    told = [event.text for event in heard if isinstance(event, Notice) and "seem to hold less" in event.text]
    assert len(told) == (found < 0.18)
    assert all(f"({100 * expected_in(tmp_path):.1f} % instead of 20.0 %)" in text for text in told)
    assert all("adaptation.least_share=1" in text for text in told)


def test_it_is_done_once_before_the_first_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_share, "hellinger_share", lambda *_: 0.02)
    counting = [event for event in run(tmp_path, config()) if isinstance(event, Counting) and event.total == LOOKS]
    assert [(event.iteration, event.done) for event in counting] == [(2, done) for done in range(LOOKS + 1)]
    assert expected_in(tmp_path) == 0.02


def test_who_knows_the_share_or_wants_none_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_share, "hellinger_share", lambda *_: pytest.fail("estimated"))
    run(tmp_path / "given", config(foreground_share=0.05))
    assert expected_in(tmp_path / "given") == 0.05
    run(tmp_path / "off", config(least_share=1.0))
    told = run(tmp_path / "band", config(pseudo_labels="band", least_share=0.5))  # which has no share
    assert not any(isinstance(event, Notice) and "seem to hold" in event.text for event in told)


def test_the_notice_says_what_is_held() -> None:
    rule = config(foreground_share=0.05).adaptation
    assert "labels and predictions are held to that" in str(photo_share.notice(0.02, rule))
    assert "so pseudo-labels are held to that" in str(photo_share.notice(0.02, replace(rule, hold_to_share=False)))
    assert photo_share.notice(0.05, rule) is None


@pytest.mark.parametrize("look", [3, LOOKS - 1])
def test_a_run_that_is_stopped_while_it_looks_goes_on_exactly(look: int, tmp_path: Path) -> None:
    run(tmp_path / "whole", config(least_share=0.01))
    heard: list[Event] = []

    def stop() -> bool:
        return sum(isinstance(event, Counting) for event in heard) == look

    options: dict[str, Any] = {"directory": tmp_path / "parts", "stop": stop}
    ended = train(config(least_share=0.01), SOURCE, TARGET, VALIDATION, heard.append, **options)
    assert (ended.stopped, heard[-1].iteration) == ("stop requested", 2)
    run(tmp_path / "parts", config(least_share=0.01), resume=True)
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_what_was_found_is_not_sought_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_share, "hellinger_share", lambda *_: 0.02)
    heard: list[Event] = []
    stopped = {"stop": lambda: any(event.iteration == 5 for event in heard)}
    train(config(), SOURCE, TARGET, VALIDATION, heard.append, directory=tmp_path, **stopped)
    monkeypatch.setattr(photo_share, "hellinger_share", lambda *_: pytest.fail("estimated again"))
    run(tmp_path, config(), resume=True)
    assert expected_in(tmp_path) == 0.02


def test_what_auto_means() -> None:
    def least(*changes: str, classes: int = 2) -> float:
        return TrainConfig().changed(list(changes)).resolve(classes, True, 0.03).adaptation.least_share

    assert least() == 0.3
    assert least("adaptation.foreground_share=0.03") == 1.0
    assert least("adaptation.pseudo_labels=band") == 1.0
    assert least("mode=semi-supervised") == 1.0  # labelled photos say what photos hold
    assert least(classes=4) == 1.0
    assert least("adaptation.least_share=0.5", "adaptation.foreground_share=0.03") == 0.5
    with pytest.raises(ValueError, match=r"adaptation\.least_share=1\.5: use a share from 0 to 1"):
        TrainConfig().changed(["adaptation.least_share=1.5"])
