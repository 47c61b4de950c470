"""Rounds of self-training: the teacher labels whole photos, the student learns from crops of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from test_runs import assert_same, state
from tiny_runs import cracks, tiny, write_folder
from torch import Tensor

from hrda_core import TrainConfig, train
from hrda_core.adaptation.pseudo_labels import log_probabilities
from hrda_core.adaptation.step import Draws, Learner, SourceBatch, TargetBatch, step
from hrda_core.adaptation.teacher import Teacher
from hrda_core.config import AdaptationConfig
from hrda_core.config_auto import PHOTO_SCALES, SEVERAL_ZOOMS
from hrda_core.config_data import DataConfig
from hrda_core.data.crops import TargetStream
from hrda_core.data.photo_labels import PhotoLabels, compact, resized
from hrda_core.data.samples import Dataset
from hrda_core.inference.predictor import Predictor
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.window_network import Part
from hrda_core.models.checkpoints import load_checkpoint
from hrda_core.models.hrda import Box
from hrda_core.models.sureness import FEW
from hrda_core.training import photo_scale
from hrda_core.training import rounds as rounds_module
from hrda_core.training import run as run_module
from hrda_core.training.events import Counting, Event, Finished, Labelling, Notice, Progress, Sizing, Stage
from hrda_core.training.listeners import ProgressBar
from hrda_core.training.photo_scale import WORTH_IT, sureness_at, surest_factor
from hrda_core.training.rounds import Stretch, rates_of, stretches
from hrda_core.training.stopping import TimeBudget

SOURCE, TARGET, VALIDATION = cracks(4, 1), replace(cracks(5, 2), masks=None), cracks(2, 3)


def run(directory: Path, config: TrainConfig, **options: Any) -> list[Event]:
    heard: list[Event] = []
    train(config, SOURCE, TARGET, VALIDATION, heard.append, directory=directory, **options)
    return heard


def rounds(count: int, **more: Any) -> TrainConfig:
    return tiny({"adaptation": {"rounds": count, "teacher_zooms": [1.0], "photo_scales": [1.0], **more}})


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
    assert labels.missing() == [3]  # cut short
    labels.path(3).write_bytes(b"")  # as a machine leaves it that lost power
    assert labels.missing() == [3]


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
    assert list(stretches(config)) == [Stretch(0, 3, 0), Stretch(3, 6, 1), Stretch(6, 10, 2)]
    assert list(stretches(config.changed(["adaptation.rounds=0"]))) == [Stretch(0, 10, 0)]
    assert list(stretches(config.changed(["adaptation.source_warmup=0", "adaptation.rounds=1"]))) == [Stretch(0, 10, 1)]
    crowded = list(stretches(config.changed(["adaptation.rounds=9"])))
    assert crowded[0] == Stretch(0, 3, 0) and crowded[-1].end == 10 and all(s.end > s.begin for s in crowded)


def test_the_learning_rate_falls_over_the_warm_up_and_over_each_round(tmp_path: Path) -> None:
    """Labels come from a network that has settled. A baseline has the same rates, source-only alone falls once."""
    changes = {"schedule": {"log_every": 1}, "optimisation": {"warmup_iterations": 0, "learning_rate": 1e-3}}

    def rates(directory: Path) -> list[float]:
        entries = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
        return [entry["learning_rate"] for entry in entries if "learning_rate" in entry]

    run(tmp_path / "adapt", rounds(2).updated({**changes, "baseline": True}))
    expected = [1.0, 0.5, 1.0, 0.5, 1.0, 0.5]
    assert rates(tmp_path / "adapt" / "baseline") == pytest.approx([1e-3 * rate for rate in expected])
    assert rates(tmp_path / "adapt") == pytest.approx([1e-3 * rate for rate in expected[2:]])
    run(tmp_path / "source", rounds(2).updated({**changes, "mode": "source-only"}))
    assert rates(tmp_path / "source") == pytest.approx([1e-3 * (1 - i / 6) for i in range(6)])
    long = rates_of(Stretch(2, 5, 1), replace(rounds(1).optimisation, iterations=6, warmup_iterations=4))
    assert (long.iterations, long.warmup_iterations) == (3, 2)  # it rises over the same part of each


def test_what_auto_means() -> None:
    thin = TrainConfig().resolve(2, True, 0.03).adaptation
    assert (thin.rounds, thin.teacher_zooms, thin.dice_weight) == (2, SEVERAL_ZOOMS, 1.0)
    several = TrainConfig().resolve(4, True, 0.05).adaptation
    assert (several.rounds, several.teacher_zooms, several.dice_weight) == (2, (1.0,), 1.0)
    streets = TrainConfig().resolve(19, False, 1.0).adaptation
    assert (streets.rounds, streets.teacher_zooms, streets.dice_weight) == (0, (1.0,), 0.0)
    short = TrainConfig().changed(["optimisation.iterations=600"]).resolve(2, True, 0.03).adaptation
    assert (short.rounds, short.teacher_zooms, short.dice_weight) == (0, (1.0,), 0.0)  # its warm-up settles too little
    source_only = TrainConfig(mode="source-only").resolve(2, True, 0.03).adaptation
    assert (source_only.rounds, source_only.teacher_zooms, source_only.dice_weight) == (0, (1.0,), 0.0)
    lowest = [settled.foreground_at_least for settled in (thin, several, streets, short)]
    assert lowest == [0.5, 0.3, 0.3, 0.3]  # at the size that suits a photo, argmax finds what is there
    assert [settled.edge_width for settled in (thin, several, streets, short)] == [8, 0, 0, 0]
    assert [settled.round_crops for settled in (thin, several, streets, short)] == [2, 1, 1, 1]
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


@pytest.mark.parametrize(("crops", "expected"), [(-1, 4), (1, 2), (3, 6)])
def test_rounds_learn_from_more_crops_of_photos(
    crops: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many as of labelled images, unless it says otherwise. The warm-up is as ever."""
    given: list[tuple[int, int]] = []

    def watched(learner: Learner, iteration: int, source: SourceBatch, target: TargetBatch, draws: Draws) -> Any:
        given.append((len(source.image), len(target.image)))
        return step(learner, iteration, source, target, draws)

    monkeypatch.setattr(run_module, "step", watched)
    run(tmp_path, rounds(2, round_crops=crops))
    assert given == 2 * [(2, 2)] + 4 * [(2, expected)]


def test_a_labelled_image_is_mixed_into_one_crop() -> None:
    assert rounds(2, mixing="class-mix").resolve(2, True, 0.03).adaptation.round_crops == 1
    with pytest.raises(ValueError, match=r"adaptation\.round_crops=2: .*mixing=class-mix\): use 1, or adaptation\.mixing=none"):
        rounds(2, mixing="class-mix", round_crops=2).resolve(2, True, 0.03)


def test_more_crops_are_of_rounds() -> None:
    with pytest.raises(ValueError, match=r"adaptation\.round_crops=2: is of rounds, and this run has none"):
        rounds(0, round_crops=2).resolve(2, True, 0.03)
    source_only = replace(rounds(2, mixing="class-mix", round_crops=2), mode="source-only")
    assert source_only.resolve(2, True, 0.03).mode == "source-only"  # where nothing adapts it says nothing


def test_the_terminal_has_a_bar_of_photos_between_those_of_iterations(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    sizing = [Sizing(1, done=i, total=5) for i in range(6)]
    counting = [Counting(1, done=i, total=4) for i in range(5)]
    labelling = [Labelling(1, done=i, total=3) for i in range(4)]
    events: list[Event] = [Stage(0, name="adapt"), Progress(1, total=2), *sizing, *counting, *labelling]
    for event in (*events, Progress(2, total=2), Finished(2, score=None)):
        bar(event)
    shown = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "100%" in line or "50%" in line]
    assert [line.split(":")[0] for line in shown] == [
        "adapt",
        "choosing the size of photos",
        "counting foreground in photos",
        "labelling photos",
        "adapt",
        "adapt",
    ]
    assert "5/5" in shown[1] and "4/4" in shown[2] and "3/3" in shown[3] and "1/2" in shown[4] and "2/2" in shown[5]


def test_time_and_speed_are_of_the_whole_stage_also_after_photos_were_labelled() -> None:
    bar = ProgressBar()
    bar(Stage(0, name="adapt"))
    bar(Progress(5, total=9))  # a resumed one
    first = bar.bar
    for event in (*(Labelling(5, done=i, total=3) for i in range(4)), Progress(6, total=9)):
        bar(event)
    assert first is not None and bar.bar is not None and bar.bar is not first
    assert (bar.bar.start_t, bar.bar.initial, bar.bar.n) == (first.start_t, 4, 6)
    bar(Stage(6, name="baseline"))
    bar(Progress(1, total=9))
    assert (bar.bar.initial, bar.bar.n) == (0, 1) and bar.bar.start_t > first.start_t


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


def test_who_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The average of the networks so far, which is better than the student as the warm-up left it."""
    labelling: list[Tensor] = []
    plain = rounds_module.seen_by

    def watched(network: Any, *rest: Any) -> Any:
        labelling.append(network.model.head.classifier.weight.detach().clone())
        return plain(network, *rest)

    monkeypatch.setattr(rounds_module, "seen_by", watched)
    run(tmp_path, rounds(2).updated({"schedule": {"keep_checkpoints": 9, "checkpoint_every": 1}}))
    weights = [load_checkpoint(tmp_path / "checkpoints" / f"iteration_00000{i}.pth") for i in (2, 4)]
    key = "head.classifier.weight"
    for first, content in ((0, weights[0]), (5, weights[1])):
        assert torch.equal(labelling[first], content["teacher"][key]) and torch.equal(labelling[first + 4], labelling[first])
        assert not torch.equal(content["teacher"][key], content["student"][key])


def test_a_baseline_shares_the_warm_up(tmp_path: Path) -> None:
    """The round begins where the baseline was at its end, and is as without one."""
    run(tmp_path / "alone", rounds(2))
    heard = run(tmp_path / "both", rounds(2).updated({"baseline": True}))
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "last.pth") for name in ("alone", "both"))
    for network in ("student", "teacher"):
        assert all(torch.equal(value, two[network][key]) for key, value in one[network].items()), network
    assert [event.iteration for event in heard if isinstance(event, Progress)] == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]


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


def test_labels_of_other_photos_are_not_kept(tmp_path: Path) -> None:
    """A photo more, sorted first: what lies at each position is another photo's."""
    config, heard = rounds(1), list[Event]()

    def stop() -> bool:
        return bool(heard) and isinstance(heard[-1], Labelling) and heard[-1].done == 3

    train(config, SOURCE, TARGET, VALIDATION, heard.append, directory=tmp_path, stop=stop)
    again: list[Event] = []
    more = replace(cracks(6, 2), masks=None)
    train(config, SOURCE, more, VALIDATION, again.append, directory=tmp_path, resume=True)
    assert next(event.total for event in again if isinstance(event, Labelling)) == 6


def test_labels_of_another_photo_of_the_same_name_are_not_kept(tmp_path: Path) -> None:
    photos = write_folder(tmp_path / "photos", 5, seed=2, masks=False)

    def go_on(until: int) -> int:
        """Stops with the next photo after so many; returns how many there were to label."""
        heard = list[Event]()

        def stop() -> bool:
            return bool(heard) and isinstance(heard[-1], Labelling) and heard[-1].done == until

        target = replace(Dataset.from_folder(photos, SOURCE.classes), masks=None)
        train(rounds(1), SOURCE, target, VALIDATION, heard.append, directory=tmp_path / "run", resume=True, stop=stop)
        return next(event.total for event in heard if isinstance(event, Labelling))

    assert go_on(until=1) == 5
    assert go_on(until=0) == 3  # two were there
    (photos / "images" / "0.png").write_bytes((photos / "images" / "1.png").read_bytes())
    assert go_on(until=0) == 5


def test_time_that_is_spent_and_patience_end_a_run_before_photos_are_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    used = [0.0]
    monkeypatch.setattr(TimeBudget, "used", lambda self: used[0])

    def hear(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Progress) and event.iteration == 2:  # the end of the warm-up
            used[0] = 61.0

    config = rounds(1, hold_to_share=False, least_share=1.0).updated({"schedule": {"time_budget": 1.0}})
    result = train(config, SOURCE, TARGET, VALIDATION, hear, directory=tmp_path)
    assert result.stopped == "time budget of 1 minutes is spent"
    assert not any(isinstance(event, Labelling) for event in heard)
    used[0] = 0.0
    heard.clear()

    def later(event: Event) -> None:
        heard.append(event)
        if isinstance(event, Labelling) and event.done == 2:
            used[0] = 61.0

    result = train(config, SOURCE, TARGET, VALIDATION, later, directory=tmp_path, resume=True)
    assert result.stopped == "time budget of 1 minutes is spent"
    assert heard[-2].iteration == 2 and sum(isinstance(event, Labelling) for event in heard) == 3


def test_a_start_anew_keeps_no_labels(tmp_path: Path) -> None:
    config, heard = rounds(1), list[Event]()

    def stop() -> bool:
        return bool(heard) and heard[-1].iteration == 4

    train(config, SOURCE, TARGET, VALIDATION, heard.append, directory=tmp_path, stop=stop)
    assert (tmp_path / "photo_labels" / "round_1").is_dir()
    again = run(tmp_path, config, overwrite=True)
    assert next(event.total for event in again if isinstance(event, Labelling)) == len(TARGET)


# -- the size of photos ---------------------------------------------------------------------------------------------------


def sure_photos(means: dict[float, float], spread: float = 0.02) -> dict[float, NDArray[np.float64]]:
    """96 photos of these mean sureness, about which they vary independently."""
    noise = np.random.default_rng(0)
    return {factor: np.clip(mean + spread * noise.standard_normal(96), 0, 1) for factor, mean in means.items()}


@pytest.mark.parametrize(
    ("sure", "factor"),
    [
        ({1.0: 0.487, 1.4: 0.519, 2.0: 0.550}, 2.0),  # thin cracks, and a network of wide ones (measured)
        ({1.0: 0.551, 1.4: 0.550, 2.0: 0.551}, 1.0),  # of the network's own width (measured)
        ({0.7: 0.470, 1.0: 0.534, 1.4: 0.549, 2.0: 0.548}, 1.0),  # surer, but too little to be worth it
        ({0.5: 0.60, 0.7: 0.55, 1.0: 0.50, 1.4: 0.40}, 0.5),
        ({0.7: 0.0, 1.0: 0.0, 1.4: 0.0}, 1.0),  # nothing was found
    ],
)
def test_photos_are_seen_at_the_size_at_which_the_network_is_surest(sure: dict[float, float], factor: float) -> None:
    assert surest_factor(sure_photos(sure)) == factor


def test_a_gain_that_a_few_photos_make_is_chance() -> None:
    """In 3 of 96 photos something is found at one of the sizes only, as was measured in 1 of 24."""
    own = np.full(96, 0.55)
    own[:3] = 0
    twice = np.full(96, 0.55)
    assert twice.mean() > WORTH_IT * own.mean()
    assert surest_factor({1.0: own, 2.0: twice}) == 1.0
    own[:15] = 0
    assert surest_factor({1.0: own, 2.0: twice}) == 2.0
    assert surest_factor({1.0: own[:1], 2.0: twice[:1]}) == 1.0  # one photo tells nothing
    assert surest_factor({1.0: own, 1.4: twice, 2.0: twice}) == 1.4  # the nearest of equally sure ones


def test_how_sure_a_network_is_of_what_it_finds_in_photos() -> None:
    class Half:
        """Finds the bright half of a photo with 0.9."""

        device = torch.device("cpu")
        model = SimpleNamespace(num_classes=2)

        def __call__(self, windows: Tensor, part: Part = Part.WHOLE) -> Tensor:
            foreground = torch.where(windows[:, :1] > 0, 0.9, 0.1)
            return torch.cat([1 - foreground, foreground], dim=1).log()

        def detail_boxes(self, height: int, width: int) -> list[Box]:
            return []

    preprocessing: Any = Preprocessing((0.5,) * 3, (0.2,) * 3, 1.0, 0, 0, (128, 128), 0.0)
    photo = np.zeros((100, 100, 3), np.uint8)
    photo[:, 50:] = 255
    looked: list[int] = []
    network: Any = Half()
    sure = sureness_at(network, Dataset([photo, photo], None, SOURCE.classes), preprocessing, 1.0, lambda: looked.append(1))
    assert sure == pytest.approx([0.9 * 5000 / (5000 + FEW)] * 2, abs=1e-3) and len(looked) == 2


def test_of_large_photos_the_middle_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as two windows cover at the photos' own scale, at every factor, in windows that do not overlap."""
    seen: list[tuple[float, ...]] = []

    def look(network: Any, photo: Any, settings: Preprocessing) -> Any:
        seen.append((*photo.shape[:2], settings.scale, settings.overlap))
        return np.full((2, 8, 8), 0.5, np.float32)

    monkeypatch.setattr(photo_scale, "image_probabilities", look)
    preprocessing: Any = Preprocessing((0.5,) * 3, (0.2,) * 3, 0.5, 0, 0, (128, 64), 0.5)
    photos = Dataset([np.zeros((900, 200, 3), np.uint8)], None, SOURCE.classes)
    for scale in (0.5, 1.0):
        sureness_at(None, photos, preprocessing, scale, lambda: None)  # type: ignore[arg-type]
    assert seen == [(512, 200, 0.5, 0.0), (512, 200, 1.0, 0.0)]


def test_a_run_goes_on_at_the_size_that_it_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training crops, evaluations and the checkpoint alike, and after a resume too."""
    asked: list[float] = []

    def sure(network: Any, images: Dataset, preprocessing: Any, scale: float, watch: Any) -> Any:
        watch()
        asked.append(scale)
        return np.full(8, 0.8 - 0.1 * abs(scale - 2))

    scales: list[float] = []
    plain = TargetStream.__getitem__

    def watched(stream: TargetStream, index: int) -> Any:
        scales.append(stream.config.target_scale)
        return plain(stream, index)

    monkeypatch.setattr(photo_scale, "sureness_at", sure)
    monkeypatch.setattr(TargetStream, "__getitem__", watched)
    config, heard = rounds(1, photo_scales=list(PHOTO_SCALES)), list[Event]()
    run(tmp_path / "whole", config)
    assert asked == list(PHOTO_SCALES)
    assert scales == [1.0] * 4 + [2.0] * 16  # a warm-up of two iterations, and four more with twice as many photos

    def stop() -> bool:
        return bool(heard) and heard[-1].iteration == 4

    train(config, SOURCE, TARGET, VALIDATION, heard.append, directory=tmp_path / "parts", stop=stop)
    texts = [event.text for event in heard if isinstance(event, Notice)]
    assert any("photos are seen at 2 times their size from here on" in text for text in texts)
    run(tmp_path / "parts", config, resume=True)
    assert asked == list(PHOTO_SCALES) * 2
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))
    assert Predictor(tmp_path / "parts" / "checkpoints" / "last.pth", "cpu").preprocessing.scale == 2.0
    assert TrainConfig.load(tmp_path / "parts" / "config.yaml").data.target_scale == 1.0  # as it was asked for


@pytest.mark.parametrize("given", [-1.0, 0.01])
def test_thinner_structures_cover_less_of_the_photos(given: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At twice the size they are as wide as in the labelled images: half as many of the pixels should be theirs."""
    monkeypatch.setattr("hrda_core.training.run.scale_for", lambda *_: (2.0, None))
    run(tmp_path, rounds(1, photo_scales=[2.0], foreground_share=given, least_share=1.0))  # 1 is always looked at too
    used = load_checkpoint(tmp_path / "checkpoints" / "last.pth")["provenance"]["config"]["adaptation"]["foreground_share"]
    labels = np.stack([np.asarray(SOURCE.mask(i)) for i in range(len(SOURCE))])
    assert used == pytest.approx((labels == 1).mean() / 2 if given == -1 else given)


def test_a_stop_while_the_size_is_sought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, looked = rounds(1, photo_scales=[1.0, 2.0]), list[int]()
    run(tmp_path / "whole", config)
    plain = photo_scale.sureness

    def watched(*found: Any) -> Any:
        looked.append(1)
        return plain(*found)

    monkeypatch.setattr(photo_scale, "sureness", watched)
    heard: list[Event] = []
    options: dict[str, Any] = {"directory": tmp_path / "parts", "stop": lambda: len(looked) == 3}
    assert train(config, SOURCE, TARGET, VALIDATION, heard.append, **options).stopped == "stop requested"
    told = [(event.iteration, event.done, event.total) for event in heard if isinstance(event, Sizing)]
    assert told == [(2, done, 2 * len(TARGET)) for done in range(3)]
    run(tmp_path / "parts", config, resume=True)
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_when_the_size_is_sought() -> None:
    def scales(*changes: str, classes: int = 2, share: float = 0.03) -> tuple[float, ...]:
        return TrainConfig().changed(list(changes)).resolve(classes, True, share).adaptation.photo_scales

    assert scales() == PHOTO_SCALES
    assert scales("adaptation.photo_scales=[1.0]") == (1.0,)
    assert scales("adaptation.rounds=0") == (1.0,)
    assert scales("mode=source-only") == (1.0,)
    assert scales("data.fit_short=512", "data.fit_long=640") == (1.0,)  # whole photos are fitted, whatever the scale
    assert scales(classes=4) == (1.0,)
    assert scales(share=0.4) == (1.0,)  # no lines
    with pytest.raises(ValueError, match=r"adaptation\.photo_scales=\(1\.0, 2\.0\): is chosen as the first round begins"):
        scales("adaptation.photo_scales=[1.0, 2.0]", "adaptation.rounds=0")
    with pytest.raises(ValueError, match=r"adaptation\.photo_scales=\(2\.0,\): is chosen as the first round begins"):
        scales("adaptation.photo_scales=[2.0]", "adaptation.rounds=0")  # 1 is always looked at too
    with pytest.raises(ValueError, match=r"adaptation\.photo_scales=\(2\.0,\): photos are resized to one size anyway"):
        scales("adaptation.photo_scales=[2.0]", "data.fit_short=512", "data.fit_long=640")
    assert scales("adaptation.photo_scales=[1.0, 2.0]", "mode=source-only") == (1.0, 2.0)  # which has no use for them
    with pytest.raises(ValueError, match=r"adaptation\.photo_scales=.*needs a class named 'background'"):
        TrainConfig().changed(["adaptation.rounds=1", "adaptation.photo_scales=[1.0, 2.0]"]).resolve(19, False, 1.0)


def test_photos_are_not_enlarged_without_limit() -> None:
    """Known before the run, not after its warm-up."""
    large = tiny({"data": {"target_scale": 9.0}, "adaptation": {"rounds": 1}})
    said = (
        r"adaptation\.photo_scales=\(0\.5, .* 2\.0\): data\.target_scale=9 times each must not exceed 16; use factors up to 1\.7"
    )
    with pytest.raises(ValueError, match=said):
        large.resolve(2, True, 0.03)
    assert replace(large, mode="source-only").resolve(2, True, 0.03).data.target_scale == 9
