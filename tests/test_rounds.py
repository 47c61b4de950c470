"""Rounds of self-training: the teacher labels whole photos, the student learns from crops of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_runs import assert_same, state
from tiny_runs import cracks, tiny
from torch import Tensor

from hrda_core import TrainConfig, train
from hrda_core.adaptation.pseudo_labels import log_probabilities
from hrda_core.adaptation.teacher import Teacher
from hrda_core.config import SEVERAL_ZOOMS, AdaptationConfig
from hrda_core.config_data import DataConfig
from hrda_core.data.crops import TargetStream
from hrda_core.data.photo_labels import PhotoLabels, compact, resized
from hrda_core.data.samples import Dataset
from hrda_core.training import rounds as rounds_module
from hrda_core.training.events import Event, Labelling, Progress
from hrda_core.training.rounds import Stretch, stretches

SOURCE, TARGET, VALIDATION = cracks(4, 1), replace(cracks(5, 2), masks=None), cracks(2, 3)


def run(directory: Path, config: TrainConfig, **options: Any) -> list[Event]:
    heard: list[Event] = []
    train(config, SOURCE, TARGET, VALIDATION, heard.append, directory=directory, **options)
    return heard


def rounds(count: int, **more: Any) -> TrainConfig:
    return tiny({"adaptation": {"rounds": count, "teacher_zooms": [1.0], **more}})


# -- what is kept of a photo ------------------------------------------------------------------------------------------------


def probabilities(classes: int, height: int = 9, width: int = 11) -> np.ndarray[Any, np.dtype[np.float32]]:
    logits = torch.randn(classes, height, width, generator=torch.Generator().manual_seed(classes)) * 3
    return np.asarray(logits.softmax(dim=0).numpy())


@pytest.mark.parametrize("classes", [2, 3, 19])
def test_pseudo_labels_ask_for_nothing_that_is_lost(classes: int) -> None:
    """The best class and how sure it is, and how sure the background is."""
    whole = torch.from_numpy(probabilities(classes))[None]
    kept = log_probabilities(torch.from_numpy(compact(whole[0].numpy()).transpose(2, 0, 1).copy())[None], classes).exp()
    clear = (whole.topk(2, dim=1).values.diff(dim=1).abs() > 2 / 255)[:, 0]
    assert torch.equal(kept.argmax(dim=1)[clear], whole.argmax(dim=1)[clear])
    torch.testing.assert_close(kept.max(dim=1).values, whole.max(dim=1).values, atol=1 / 255, rtol=0)
    torch.testing.assert_close(kept[:, 0], whole[:, 0], atol=1 / 255, rtol=0)
    if classes == 2:
        torch.testing.assert_close(kept, whole, atol=1 / 255, rtol=0)


def test_classes_are_never_averaged() -> None:
    seen = np.zeros((8, 8, 3), np.uint8)
    seen[:, :4], seen[:, 4:] = (1, 255, 0), (9, 55, 200)
    for size in ((4, 4), (16, 16), (5, 7)):
        other = resized(seen, *size)
        assert other.shape == (*size, 3)
        assert set(np.unique(other[..., 0])) == {1, 9}
    assert resized(seen, 16, 16)[0, 7, 1] not in (255, 55)  # probabilities are
    assert resized(seen, 8, 8) is seen


def test_labels_on_disk(tmp_path: Path) -> None:
    labels, seen = PhotoLabels(tmp_path, [3, 5]), compact(probabilities(4))
    assert labels.missing() == [3, 5]
    labels.write(5, seen)
    assert labels.missing() == [3]
    np.testing.assert_array_equal(labels.read(5), seen)
    assert [path.name for path in tmp_path.iterdir()] == ["000005.png"]
    with pytest.raises(ValueError, match=r"000003\.png is missing or damaged: resume the run, which makes it again"):
        labels.read(3)
    labels.path(3).write_bytes(labels.path(5).read_bytes()[:40])
    with pytest.raises(ValueError, match="missing or damaged"):
        labels.read(3)


# -- crops of them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.6])
@pytest.mark.parametrize("stored", [1.0, 0.5])
def test_labels_lie_on_their_photo(scale: float, stored: float, tmp_path: Path) -> None:
    """Flipped, turned, scaled and padded like it, and wherever they are stored smaller; photos without labels are not drawn."""
    rng = np.random.default_rng(0)
    photos = []
    for position in range(3):
        photo = np.zeros((90, 120, 3), np.uint8)
        for _ in range(6):
            top, left = rng.integers(80), rng.integers(110)
            photo[top : top + 24, left : left + 24] = 200
        photos.append(photo if position else np.full_like(photo, 77))
    labels = PhotoLabels(tmp_path, [1, 2])
    for position in (1, 2):
        bright = (photos[position][..., 0] > 100).astype(np.float32)
        whole = compact(np.stack([1 - bright, bright]))
        labels.write(position, resized(whole, round(90 * stored), round(120 * stored)))
    config = DataConfig(crop_height=64, crop_width=64, target_scale=scale, flip=0.5, flip_vertical=0.5, rotate=0.5)
    stream = TargetStream(Dataset(tuple(photos), None, ()), config, AdaptationConfig(), 0, 10, 2, labels)
    for i in range(20):
        image, valid, seen = stream[i]
        assert not (image == 77).all()
        kept = log_probabilities(seen[None], 2)[0].argmax(dim=0)
        sure = ((image[0] < 20) | (image[0] > 180)) & (valid > 0)
        wrong = (kept != (image[0] > 100).long()) & sure
        # where they are stored smaller, edges may be a pixel of the photo off
        assert wrong.sum() <= (0 if stored == 1 and scale == 1 else 0.08 * sure.sum())


# -- the course of a run ------------------------------------------------------------------------------------------------------


def test_rounds_share_the_iterations_after_the_warm_up() -> None:
    config = tiny({"optimisation": {"iterations": 10}, "adaptation": {"source_warmup": 3, "rounds": 2}}).resolve(2, True, 0.05)
    assert list(stretches(config, True)) == [Stretch(0, 3, 0), Stretch(3, 6, 1), Stretch(6, 10, 2)]
    assert list(stretches(config, False)) == [Stretch(0, 10, 0)]
    assert list(stretches(config.changed(["adaptation.rounds=0"]), True)) == [Stretch(0, 10, 0)]
    assert list(stretches(config.changed(["adaptation.source_warmup=0", "adaptation.rounds=1"]), True)) == [Stretch(0, 10, 1)]
    crowded = list(stretches(config.changed(["adaptation.rounds=9"]), True))
    assert crowded[0] == Stretch(0, 3, 0) and crowded[-1].end == 10 and all(s.end > s.begin for s in crowded)


def test_what_auto_means() -> None:
    thin = TrainConfig().resolve(2, True, 0.03).adaptation
    assert (thin.rounds, thin.teacher_zooms, thin.dice_weight) == (1, SEVERAL_ZOOMS, 1.0)
    several = TrainConfig().resolve(4, True, 0.05).adaptation
    assert (several.rounds, several.teacher_zooms, several.dice_weight) == (1, (1.0,), 1.0)
    streets = TrainConfig().resolve(19, False, 1.0).adaptation
    assert (streets.rounds, streets.teacher_zooms, streets.dice_weight) == (0, (1.0,), 0.0)
    own_statistics = TrainConfig().changed(["adaptation.teacher_norm=batch"])
    assert own_statistics.resolve(2, True, 0.03).adaptation.rounds == 0
    with pytest.raises(ValueError, match=r"adaptation\.rounds=2: .*use adaptation\.teacher_norm=running, or no rounds"):
        own_statistics.changed(["adaptation.rounds=2"]).resolve(2, True, 0.03)


def test_the_teacher_labels_whole_photos_and_is_not_asked_about_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(teacher: Teacher, image: Tensor) -> Tensor:
        raise AssertionError("asked about crops")

    monkeypatch.setattr(Teacher, "logits", fail)
    heard = run(tmp_path, rounds(2, round_photos=3))
    told = [(event.iteration, event.done, event.total) for event in heard if isinstance(event, Labelling)]
    assert told == [(begin, done, 3) for begin in (2, 4) for done in range(4)]
    assert [event.iteration for event in heard if isinstance(event, Progress)] == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "photo_labels").exists()  # they were of use to this run only


def test_each_round_draws_its_photos_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[list[int]] = []
    plain = PhotoLabels.missing

    def watched(labels: PhotoLabels) -> list[int]:
        drawn.append(list(labels.positions))
        return plain(labels)

    monkeypatch.setattr(PhotoLabels, "missing", watched)
    run(tmp_path, rounds(2, round_photos=3))
    one, two = drawn
    assert len(one) == len(two) == 3 and one != two
    assert one == sorted(set(one))


def test_pseudo_labels_are_what_the_average_over_the_warm_up_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not the student as the warm-up left it; the next round's are the later teacher's."""
    teachers: list[Tensor] = []
    plain = rounds_module.seen_by

    def watched(network: Any, *rest: Any) -> Any:
        teachers.append(network.model.head.classifier.weight.detach().clone())
        return plain(network, *rest)

    monkeypatch.setattr(rounds_module, "seen_by", watched)
    run(tmp_path / "adapt", rounds(2))
    baseline = tiny({"schedule": {"keep_checkpoints": 9, "checkpoint_every": 1}}, mode="source-only")
    run(tmp_path / "source", baseline)
    after = torch.load(tmp_path / "source" / "checkpoints" / "iteration_000002.pth", weights_only=True)
    assert torch.equal(teachers[0], after["teacher"]["head.classifier.weight"])
    assert not torch.equal(teachers[0], after["student"]["head.classifier.weight"])
    assert not torch.equal(teachers[0], teachers[5])


# -- stopped and resumed --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("photo", [0, 2])
def test_a_stop_while_photos_are_labelled(photo: int, tmp_path: Path) -> None:
    """What is labelled is not labelled again, and the result is the same."""
    config = rounds(2)
    run(tmp_path / "whole", config)
    asked: list[Event] = []

    def hear(event: Event) -> None:
        asked.append(event)

    def stop() -> bool:
        last = asked[-1] if asked else None
        return isinstance(last, Labelling) and last.iteration == 4 and last.done == photo

    result = train(config, SOURCE, TARGET, VALIDATION, hear, directory=tmp_path / "parts", stop=stop)
    assert result.stopped == "stop requested"
    kept = sorted(path.name for path in (tmp_path / "parts" / "photo_labels" / "round_2").iterdir())
    assert len(kept) == photo + 1
    heard = run(tmp_path / "parts", config, resume=True)
    assert next(event.total for event in heard if isinstance(event, Labelling)) == 5 - len(kept)
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


@pytest.mark.parametrize("iteration", [1, 3, 5])
@pytest.mark.parametrize("lost", [False, True])
def test_a_stop_within_a_round(iteration: int, lost: bool, tmp_path: Path) -> None:
    """Its labels are used again. Where they are lost, the teacher of now makes new ones, and the run ends well."""
    config, heard = rounds(2), list[Event]()
    run(tmp_path / "whole", config)

    def stop() -> bool:
        return bool(heard) and isinstance(heard[-1], Progress) and heard[-1].iteration == iteration

    train(config, SOURCE, TARGET, VALIDATION, heard.append, directory=tmp_path / "parts", stop=stop)
    if lost:
        for file in (tmp_path / "parts").glob("photo_labels/round_*/*.png"):
            file.unlink()
    again = run(tmp_path / "parts", config, resume=True)
    labelled = {event.iteration for event in again if isinstance(event, Labelling) and event.total}
    assert labelled == {1: {2, 4}, 3: {2, 4} if lost else {4}, 5: {4} if lost else set()}[iteration]
    if not lost or iteration == 1:
        assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_a_start_anew_keeps_no_labels(tmp_path: Path) -> None:
    config, heard = rounds(1), list[Event]()

    def stop() -> bool:
        return bool(heard) and heard[-1].iteration == 4

    train(config, SOURCE, TARGET, VALIDATION, heard.append, directory=tmp_path, stop=stop)
    assert (tmp_path / "photo_labels" / "round_1").is_dir()
    again = run(tmp_path, config, overwrite=True)
    assert next(event.total for event in again if isinstance(event, Labelling)) == len(TARGET)
