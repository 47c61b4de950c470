"""Runs from data to checkpoints on a micro network: modes, files, events, reproducibility, resuming, errors."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_runs import BACKGROUND, CRACK, CRACKS, cracks, tiny

from hrda_core.config import MODES, TrainConfig
from hrda_core.data.crops import SourceStream
from hrda_core.data.samples import ClassInfo, Dataset
from hrda_core.inference.predictor import Predictor
from hrda_core.models.checkpoints import KEYS, load_checkpoint
from hrda_core.training import networks
from hrda_core.training.events import (
    CheckpointSaved,
    Comparison,
    Event,
    Failed,
    Finished,
    Metrics,
    Notice,
    Preparation,
    Preview,
    Progress,
    Stage,
)
from hrda_core.training.loop import TrainResult, train
from hrda_core.training.validation import Evaluation

SOURCE, TARGET, VALIDATION = cracks(4, 1), cracks(3, 2), cracks(2, 3)
PHOTOS = replace(TARGET, masks=None)


def run(directory: Path, config: TrainConfig, **changes: Any) -> TrainResult:
    given = {"source": SOURCE, "target": PHOTOS if config.mode == "adapt" else TARGET, "validation": VALIDATION, **changes}
    return train(config, **given, directory=directory)


def lines(directory: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def weights(path: Path, network: str = "student") -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path)[network])


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder, TrainResult]:
    """One undisturbed adaptation: directory, events, result."""
    directory, recorder = tmp_path_factory.mktemp("adapted"), Recorder()
    return directory, recorder, run(directory, tiny(), listener=recorder)


# -- modes ------------------------------------------------------------------------------------------------------------

ADAPTING = {"loss/mixed", "pseudo/confident", "pseudo/foreground"}


@pytest.mark.parametrize(("mode", "expected"), [("source-only", set()), ("supervised", set()), ("semi-supervised", ADAPTING)])
def test_every_mode_trains(mode: str, expected: set[str], tmp_path: Path) -> None:
    result = run(tmp_path, tiny(mode=mode))
    assert result.score is not None
    assert 0 <= result.score <= 1
    names = {name for line in lines(tmp_path) for name in line}
    assert names & ADAPTING == expected
    assert load_checkpoint(result.last)["provenance"]["labelled_images"] == (3 if mode == "supervised" else 4)


@pytest.mark.parametrize(("white", "given", "expected"), [(0.5, -1.0, 0.5), (0.02, -1.0, None), (0.5, 0.02, 0.02)])
def test_labelled_photos_say_what_photos_hold_at_least(
    white: float, given: float, expected: float | None, tmp_path: Path
) -> None:
    """Or predictions would be held to the synthetic images' share, although real masks tell another one."""
    photo, mask = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8)
    mask[:, : round(64 * white)] = 1
    target = Dataset([photo, photo], [mask, None], SOURCE.classes)
    result = run(tmp_path, tiny({"adaptation": {"foreground_share": given}}, mode="semi-supervised"), target=target)
    masks = np.stack([np.asarray(SOURCE.mask(i)) for i in range(len(SOURCE))])
    used = load_checkpoint(result.last)["provenance"]["config"]["adaptation"]["foreground_share"]
    assert used == pytest.approx((masks == 1).mean() if expected is None else expected)


def test_the_multi_resolution_network_with_everything_on(tmp_path: Path) -> None:
    config = tiny(
        {
            "model": {"multi_resolution": True, "context_loss_weight": 0.1},
            "data": {"crop_height": 128, "crop_width": 128, "rotate": 0.5},
            "augmentation": {"preset": "hard"},
            "adaptation": {"mask_weight": 1.0, "mixing": "class-mix", "teacher_norm": "batch", "source_warmup": 0},
            "optimisation": {"iterations": 2, "clip_gradient_norm": 1.0, "dice_weight": 0.5, "optimizer": "sgd"},
        }
    )
    run(tmp_path, config)
    wanted = {"loss/source", "loss/source_detail", "loss/source_context", "loss/mixed", "loss/mixed_detail", "loss/masked"}
    assert wanted <= lines(tmp_path)[0].keys()


def test_many_classes_without_background(tmp_path: Path) -> None:
    classes = tuple(ClassInfo(name, (i, i, i), i) for i, name in enumerate(("road", "car", "sky")))
    sets = [cracks(3, seed, classes=classes) for seed in (1, 2, 3)]
    config = tiny({"optimisation": {"iterations": 3}})
    result = train(config, *sets, directory=tmp_path)
    assert result.score is not None
    stored = TrainConfig.load(tmp_path / "config.yaml").adaptation
    assert (stored.pseudo_labels, stored.mixing) == ("confident-fraction", "class-mix")
    assert Predictor(result.best, "cpu").predict([PHOTOS.image(0)])[0].labels.max() <= 2


def test_source_only_needs_no_target_and_no_validation(tmp_path: Path) -> None:
    recorder = Recorder()
    config = tiny({"optimisation": {"iterations": 2}}, mode="source-only")
    result = run(tmp_path, config, target=None, validation=None, listener=recorder)
    assert result.score is None
    assert result.best.is_file()  # the latest
    assert not recorder.of(Preview)
    assert Predictor(result.best, "cpu").thresholds is None


def test_the_warm_up_is_source_alone(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    first, *later = [line for line in lines(adapted[0]) if "loss/source" in line]
    assert not first.keys() & ADAPTING
    assert all(line.keys() >= ADAPTING for line in later)


def test_adaptation_never_reads_the_targets_masks(adapted: tuple[Path, Recorder, TrainResult], tmp_path: Path) -> None:
    poisoned = replace(TARGET, masks=(Path("/nowhere/a.png"), Path("/nowhere/b.png"), None))
    result = run(tmp_path, tiny(), target=poisoned)
    assert same(weights(result.last), weights(adapted[2].last))


def test_supervised_training_never_reads_the_source(tmp_path: Path) -> None:
    poisoned = Dataset((Path("/nowhere/a.jpg"),), (Path("/nowhere/a.png"),), (BACKGROUND,))
    config = tiny({"optimisation": {"iterations": 2}}, mode="supervised")
    with_source = run(tmp_path / "a", config, source=poisoned)
    without = run(tmp_path / "b", config, source=None)
    assert same(weights(with_source.last), weights(without.last))


def test_supervised_training_uses_the_labelled_targets_only(tmp_path: Path) -> None:
    partial = Dataset(TARGET.images, (*(TARGET.masks or ())[:2], None), CRACKS)
    config = tiny({"optimisation": {"iterations": 2}}, mode="supervised")
    result = run(tmp_path, config, target=partial)
    assert load_checkpoint(result.last)["provenance"]["labelled_images"] == 2


@pytest.mark.parametrize(
    ("mode", "scale", "target_scale"), [("adapt", 0.5, None), ("supervised", 2.0, None), ("semi-supervised", 0.5, 2.0)]
)
def test_labelled_images_are_seen_at_the_scale_of_their_side(
    mode: str, scale: float, target_scale: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = []

    def spy(*arguments: Any) -> SourceStream:
        streams.append(SourceStream(*arguments))
        return streams[-1]

    monkeypatch.setattr("hrda_core.training.loading.SourceStream", spy)
    config = tiny({"data": {"source_scale": 0.5, "target_scale": 2.0}, "optimisation": {"iterations": 3}}, mode=mode)
    run(tmp_path, config, validation=None)
    stream, *_ = streams  # of the warm-up, or the whole run
    labelled = stream.labelled_target
    assert (stream.scale, None if labelled is None else labelled[2]) == (scale, target_scale)


def test_clipping_bounds_the_step(tmp_path: Path) -> None:
    """With plain SGD at rate 1 (0.1 times 10 in the heads) a step is as long as the clipped gradient."""
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "learning_rate": 0.1, "iterations": 1}
    config = tiny({"optimisation": plain, "model": {"class_prior": "equal"}}, mode="source-only")
    torch.manual_seed(config.seed)
    start = {name: p.detach().clone() for name, p in networks.build_student(config, ("background", "crack")).named_parameters()}
    steps = []
    for clip in (0.0, 0.01):
        clipped = config.updated({"optimisation": {"clip_gradient_norm": clip}})
        after = weights(run(tmp_path / str(clip), clipped, validation=None).last)
        steps.append(math.sqrt(sum(float((after[name] - value).square().sum()) for name, value in start.items())))
    assert steps[0] > 0.02
    assert 0.001 < steps[1] < 0.0101


@pytest.mark.parametrize("prior", ["equal", "labelled"])
def test_the_classifier_begins_at_the_shares_of_the_labels(prior: str, tmp_path: Path) -> None:
    standing = {"optimizer": "sgd", "learning_rate": 1e-9, "iterations": 1}
    result = run(tmp_path, tiny({"model": {"class_prior": prior}, "optimisation": standing}, mode="source-only"))
    share = float(np.mean([SOURCE.mask(i) == 1 for i in range(len(SOURCE))]))
    begun = torch.softmax(weights(result.last)["head.classifier.bias"], dim=0)
    assert 0 < share < 0.4
    assert float(begun[1]) == pytest.approx(share if prior == "labelled" else 0.5, rel=1e-4)


@pytest.mark.parametrize("mode", ["source-only", "supervised"])
def test_a_teacher_that_sees_no_target_has_the_students_norms(mode: str, tmp_path: Path) -> None:
    """Batch statistics come from target batches; where there are none they would stay as initialised."""
    result = run(tmp_path, tiny({"adaptation": {"teacher_norm": "batch"}}, mode=mode))
    means = {key: value for key, value in weights(result.last, "teacher").items() if key.endswith("running_mean")}
    assert means and all(value.abs().sum() > 0 for value in means.values())


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_run_directory(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    directory, _, result = adapted
    assert result.directory == directory
    assert (result.best, result.last) == (directory / "checkpoints" / "best.pth", directory / "checkpoints" / "last.pth")
    assert result.best.is_file()
    assert result.last.is_file()
    for folder in (directory / "previews", directory / "previews" / "validation"):
        assert sorted(p.name for p in folder.glob("*.jpg")) == ["image 0_000003.jpg", "image 0_000006.jpg"]
    assert len(list((directory / "tensorboard").iterdir())) == 1
    names = {"checkpoints", "chosen.yaml", "config.yaml", "metrics.jsonl", "previews", "tensorboard"}
    assert {p.name for p in directory.iterdir() if not p.name.startswith(".")} == names
    assert {p.name for p in (directory / "checkpoints").iterdir()} == {"best.pth", "last.pth"}  # no temporary file is left


def test_the_stored_configuration_is_settled(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    stored = TrainConfig.load(adapted[0] / "config.yaml")
    share = stored.adaptation.foreground_share
    assert stored == tiny().resolve(2, True, share) and 0 < share < 0.2  # as much as the labels of the source hold
    assert (stored.adaptation.pseudo_labels, stored.adaptation.mixing) == ("prior-band", "none")


def test_metrics_by_name(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    training = [line for line in lines(adapted[0]) if "loss/source" in line]
    validation = [line for line in lines(adapted[0]) if "validation/score" in line]
    assert [line["iteration"] for line in training] == [2, 4, 6]  # every second, wherever checkpoints are
    assert [line["iteration"] for line in validation] == [3, 6]
    assert training[-1].keys() == {"iteration", "learning_rate", "loss/source", "loss/source_detail", "loss/mixed",
                                   "loss/mixed_detail", "pseudo/confident", "pseudo/foreground"}  # fmt: skip
    for network in ("student", "teacher"):
        names = {name.removeprefix(f"validation/{network}/") for name in validation[-1] if network in name}
        assert names >= {"mean_iou", "pixel_accuracy", "iou/background", "iou/crack", "foreground_iou", "tuned_iou"}
    assert all(math.isfinite(value) for line in lines(adapted[0]) for value in line.values())


def test_the_checkpoint(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    best, last = load_checkpoint(adapted[2].best), load_checkpoint(adapted[2].last)
    assert {"format_version", *KEYS} == best.keys() == last.keys() - {"resume"}
    assert best["classes"] == [{"name": c.name, "color": list(c.color), "value": c.value} for c in CRACKS]
    assert best["selected"] == "teacher"
    assert {network: len(values) for network, values in best["thresholds"].items()} == {"student": 1, "teacher": 1}
    assert best["metrics"]["teacher"]["images"] == 2
    assert (last["provenance"]["iteration"], last["provenance"]["target_images"]) == (6, 3)
    assert not same(best["student"], best["teacher"])


def test_the_stored_score_is_reached_again(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    """The best checkpoint's teacher, thresholded as stored, has on the validation set the IoU that the run reported."""
    predictor = Predictor(adapted[2].best, "cpu")
    hits = unions = 0
    for i in range(len(VALIDATION)):
        predicted, true = predictor.predict([VALIDATION.image(i)])[0].labels == 1, VALIDATION.mask(i) == 1
        hits, unions = hits + int((predicted & true).sum()), unions + int((predicted | true).sum())
    assert hits / unions == pytest.approx(adapted[2].score, abs=1e-6)


def test_no_tuning_stores_no_thresholds(tmp_path: Path) -> None:
    config = tiny({"inference": {"tune_thresholds": False, "network": "student"}, "optimisation": {"iterations": 3}})
    best = load_checkpoint(run(tmp_path, config).best)
    assert (best["thresholds"], best["selected"]) == ({}, "student")


def test_a_new_run_starts_a_new_log(tmp_path: Path) -> None:
    config = tiny({"optimisation": {"iterations": 1}}, mode="source-only")
    run(tmp_path, config, validation=None)
    with pytest.raises(ValueError, match=r"already holds a run: resume it, overwrite it"):
        run(tmp_path, config, validation=None)
    run(tmp_path, config, validation=None, overwrite=True)
    assert [line["iteration"] for line in lines(tmp_path) if "loss/source" in line] == [1]


# -- events -----------------------------------------------------------------------------------------------------------


def test_events_come_in_order(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    events = adapted[1].events
    assert [event.iteration for event in events] == sorted(event.iteration for event in events)
    assert [stage.name for stage in adapted[1].of(Stage)] == ["checking data", "adapt"]
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert [event.iteration for event in adapted[1].of(Progress)] == [1, 2, 3, 4, 5, 6]
    assert {event.total for event in adapted[1].of(Progress)} == {6}
    assert [event.iteration for event in adapted[1].of(Preview)] == [3, 6]
    saved = adapted[1].of(CheckpointSaved)
    assert [event.iteration for event in saved if not event.best] == [3, 6]
    assert next(event.path for event in saved if event.best) == adapted[2].best
    assert isinstance(events[-1], Finished)
    assert events[-1].score == adapted[2].score
    assert len(adapted[1].of(Finished)) == 1
    assert not adapted[1].of(Failed)


def test_previews_show_the_targets_photos(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    [(name, photo, labels, confidence)] = adapted[1].of(Preview)[0].pictures
    assert name == "image 0"
    assert (photo == PHOTOS.image(0)).all()
    assert (labels.shape, labels.dtype) == ((80, 96), np.uint8)
    assert (confidence.shape, confidence.dtype) == ((80, 96), np.float32)


def test_predictions_stand_beside_the_labels_of_validation_images(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    [(name, photo, truth, labels)] = adapted[1].of(Comparison)[0].pictures
    assert name == "image 0"
    assert (photo == VALIDATION.image(0)).all() and (truth == VALIDATION.mask(0)).all()
    assert (labels.shape, labels.dtype) == ((80, 96), np.uint8)
    assert cv2.imread(str(adapted[0] / "previews" / "validation" / "image 0_000006.jpg")).shape == (80, 3 * 96, 3)


def test_the_log_is_what_the_listener_hears(adapted: tuple[Path, Recorder, TrainResult]) -> None:
    heard = [{"iteration": event.iteration, **event.values} for event in adapted[1].of(Metrics)]
    assert heard == lines(adapted[0])


def test_a_failure_is_told_and_raised(tmp_path: Path) -> None:
    recorder = Recorder()
    broken = replace(PHOTOS, images=(Path("/nowhere/photo.jpg"),))
    with pytest.raises(ValueError, match=r"photo\.jpg"):
        run(tmp_path, tiny(), target=broken, listener=recorder)
    [failed] = recorder.of(Failed)
    assert recorder.events[-1] is failed
    assert "photo.jpg" in failed.reason
    assert not recorder.of(Finished)


def test_an_exploding_loss_stops_the_run_before_a_checkpoint(tmp_path: Path) -> None:
    """Neither a checkpoint nor the evaluation comes between the loss and its error, whatever the intervals."""
    schedule = {"log_every": 1000, "validate_every": 1, "checkpoint_every": 1}
    change = {"optimisation": {"learning_rate": 1e30, "iterations": 20}, "schedule": schedule}
    recorder = Recorder()
    with pytest.raises(FloatingPointError, match=r"loss/source.* became .* lower optimisation\.learning_rate \(now 1e\+30\)"):
        run(tmp_path, tiny(change, mode="source-only"), validation=None, listener=recorder)
    assert isinstance(recorder.events[-1], Failed)
    saved = weights(tmp_path / "checkpoints" / "last.pth")
    assert recorder.events[-1].iteration == 1  # the last good one
    assert all(not torch.isnan(value).any() for key, value in saved.items() if "running" not in key)


# -- the same again ---------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights(adapted: tuple[Path, Recorder, TrainResult], tmp_path: Path) -> None:
    again = run(tmp_path / "again", tiny())
    other = run(tmp_path / "other", tiny({"seed": 1}))
    for network in ("student", "teacher"):
        expected = weights(adapted[2].last, network)
        assert same(weights(again.last, network), expected)
        assert not same(weights(other.last, network), expected)
    assert lines(tmp_path / "again") == lines(adapted[0])


def test_every_iteration_has_its_own_random_state(tmp_path: Path) -> None:
    """Dropout and stochastic depth follow torch's seed: never the same twice, and another with another seed of the run."""
    seeds: list[int] = []
    for seed in (0, 1):
        config = tiny({"seed": seed, "optimisation": {"iterations": 3}}, mode="source-only")
        run(tmp_path / str(seed), config, validation=None, listener=lambda event: seeds.append(torch.initial_seed())
            if isinstance(event, Progress) else None)  # fmt: skip
    assert len(set(seeds)) == len(seeds) == 6


def test_workers_do_not_matter(adapted: tuple[Path, Recorder, TrainResult], tmp_path: Path) -> None:
    result = run(tmp_path, tiny({"data": {"workers": 2}}))
    assert same(weights(result.last), weights(adapted[2].last))


def test_watching_does_not_change_the_training(adapted: tuple[Path, Recorder, TrainResult], tmp_path: Path) -> None:
    """Neither validation nor previews nor logging touch the weights."""
    schedule = {"validate_every": 1, "preview_every": 2, "log_every": 1, "checkpoint_every": 100}
    result = run(tmp_path, tiny({"schedule": schedule}))
    assert same(weights(result.last), weights(adapted[2].last))


class Stop(Exception):
    pass


def stop_at(iteration: int) -> Any:
    def listener(event: Event) -> None:
        if isinstance(event, Progress) and event.iteration == iteration:
            raise Stop

    return listener


@pytest.mark.parametrize(
    ("stopped", "change"),
    [
        (3, {}),  # right after a checkpoint
        (
            5,
            {"schedule": {"checkpoint_every": 2, "log_every": 5, "validate_every": 6}},
        ),  # between two lines of the log, one iteration to repeat
        (4, {"adaptation": {"teacher_norm": "batch"}, "optimisation": {"optimizer": "sgd"}}),
        (5, {"data": {"workers": 2}, "adaptation": {"mixing": "class-mix", "mask_weight": 1.0}}),
    ],
)
def test_a_resumed_run_equals_an_undisturbed_one(stopped: int, change: dict[str, Any], tmp_path: Path) -> None:
    config = tiny({"optimisation": {"iterations": 7}}, change)
    whole = run(tmp_path / "whole", config)
    with pytest.raises(Stop):
        run(tmp_path / "parts", config, listener=stop_at(stopped))
    recorder = Recorder()
    parts = run(tmp_path / "parts", config, listener=recorder, resume=True)
    checkpoint = config.schedule.checkpoint_every * (stopped // config.schedule.checkpoint_every)
    assert recorder.of(Progress)[0].iteration == checkpoint + 1
    for name in ("last", "best"):
        for network in ("student", "teacher"):
            assert same(weights(getattr(parts, name), network), weights(getattr(whole, name), network))
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    assert parts.score == whole.score


def test_resuming_without_a_checkpoint_starts(adapted: tuple[Path, Recorder, TrainResult], tmp_path: Path) -> None:
    result = run(tmp_path, tiny(), resume=True)
    assert same(weights(result.last), weights(adapted[2].last))


def test_resuming_a_finished_run_changes_nothing(tmp_path: Path) -> None:
    config = tiny({"optimisation": {"iterations": 3}})
    first = run(tmp_path, config)
    before, log = first.last.read_bytes(), lines(tmp_path)
    recorder = Recorder()
    second = run(tmp_path, config, resume=True, listener=recorder)
    assert (first.last.read_bytes(), lines(tmp_path), second.score) == (before, log, first.score)
    assert {type(event) for event in recorder.events} <= {Stage, Preparation, Finished}
    assert recorder.events[-1].iteration == 3


# -- scores -----------------------------------------------------------------------------------------------------------


def test_an_undefined_score_is_never_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN (neither labels nor predictions have foreground) must not freeze the first checkpoint, nor break the log's JSON."""
    scores = iter([math.nan, 0.3, math.nan, 0.2])
    monkeypatch.setattr(Evaluation, "score", lambda _, tuned, has_background: 0.0 if tuned else next(scores))
    config = tiny({"optimisation": {"iterations": 4}, "schedule": {"validate_every": 1}}, mode="source-only")
    result = run(tmp_path, config.updated({"inference": {"tune_thresholds": False}}))
    assert result.score == 0.3
    assert load_checkpoint(result.best)["provenance"]["iteration"] == 2
    assert [line["iteration"] for line in lines(tmp_path) if "validation/score" in line] == [2, 4]
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_validation_set_without_foreground_is_allowed(tmp_path: Path) -> None:
    empty = Dataset(VALIDATION.images, tuple(np.zeros((80, 96), np.uint8) for _ in range(2)), CRACKS)
    run(tmp_path, tiny({"optimisation": {"iterations": 3}, "data": {"check": False}}), validation=empty)
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


# -- errors -----------------------------------------------------------------------------------------------------------

OTHER = (BACKGROUND, ClassInfo("rust", (1, 2, 3), 1))


@pytest.mark.parametrize(
    ("mode", "changes", "said"),
    [
        ("adapt", {"source": None}, "mode='adapt' needs a labelled source"),
        ("adapt", {"source": replace(SOURCE, masks=None)}, "mode='adapt' needs a labelled source"),
        ("adapt", {"target": None}, "mode='adapt' needs a target"),
        ("source-only", {"source": None}, "mode='source-only' needs a labelled source"),
        ("semi-supervised", {"source": None}, "mode='semi-supervised' needs a labelled source"),
        ("semi-supervised", {"target": None}, "mode='semi-supervised' needs a target"),
        ("semi-supervised", {"target": PHOTOS}, "mode='semi-supervised' needs masks"),
        ("semi-supervised", {"target": replace(TARGET, classes=OTHER)}, "['background', 'rust']"),
        ("supervised", {"target": None}, "mode='supervised' needs masks of the target"),
        ("supervised", {"target": PHOTOS}, "mode='supervised' needs masks of the target"),
        ("adapt", {"validation": replace(VALIDATION, classes=OTHER)}, "['background', 'rust']"),
        ("adapt", {"validation": replace(VALIDATION, classes=(CRACK, BACKGROUND))}, "same order"),
        ("adapt", {"validation": replace(VALIDATION, masks=None)}, "validation set has no labelled image"),
        ("adapt", {"validation": replace(VALIDATION, masks=(Path("/nowhere/m.png"), None))}, "m.png"),
    ],
)
def test_data_that_do_not_suit_the_mode(mode: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        run(tmp_path / "run", tiny(mode=mode), **changes)
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()  # found out before anything is written


def test_background_alone_is_nothing_to_find(tmp_path: Path) -> None:
    lonely = Dataset(SOURCE.images, tuple(np.zeros((80, 96), np.uint8) for _ in range(4)), (BACKGROUND,))
    with pytest.raises(ValueError, match=r"classes: 'background' alone leaves nothing to find"):
        run(tmp_path / "run", tiny(mode="source-only"), source=lonely, target=None, validation=None)


def test_targets_need_no_classes(tmp_path: Path) -> None:
    result = run(tmp_path, tiny({"optimisation": {"iterations": 3}}), target=replace(PHOTOS, classes=()))
    assert result.last.is_file()


@pytest.mark.parametrize(
    ("model", "crop", "multiple", "smallest"),
    [
        ({"multi_resolution": False}, 80, 32, 64),
        ({"multi_resolution": True}, 96, 64, 128),
        ({"multi_resolution": True}, 64, 64, 128),
    ],
)
def test_a_crop_that_does_not_suit_the_encoder(
    model: dict[str, Any], crop: int, multiple: int, smallest: int, tmp_path: Path
) -> None:
    config = tiny({"model": model, "data": {"crop_height": crop, "crop_width": crop}})
    expected = f"data.crop_height={crop}: encoder test_efficientnet needs a multiple of {multiple}, at least {smallest}"
    with pytest.raises(ValueError, match=expected):
        run(tmp_path, config)


@pytest.mark.parametrize(
    ("device", "said"), [("cuda:99", "device='cuda:99'"), ("tpu9", "device='tpu9'"), ("meta", "device='meta'")]
)
def test_a_device_that_is_not_there(device: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        run(tmp_path, tiny({"device": device}))


def test_a_validation_mask_of_another_size_is_named(tmp_path: Path) -> None:
    wrong = Dataset(VALIDATION.images, (np.zeros((80, 96), np.uint8), np.zeros((96, 80), np.uint8)), CRACKS)
    with pytest.raises(ValueError, match=r"validation mask of image 1: it is 80x96, the upright image 96x80"):
        run(tmp_path, tiny({"optimisation": {"iterations": 3}}), validation=wrong)


def test_all_problems_of_the_data_are_told_at_once_before_anything_is_written(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"")
    target = replace(PHOTOS, images=(broken, VALIDATION.image(0)))
    with pytest.raises(ValueError) as caught:
        run(tmp_path / "run", tiny(), target=target)
    assert "broken.jpg" in str(caught.value) and "show the same picture" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_warnings_of_the_data_are_told(tmp_path: Path) -> None:
    recorder = Recorder()
    partly = Dataset(SOURCE.images, (*(SOURCE.masks or ())[:3], None), CRACKS)
    run(tmp_path, tiny(mode="source-only"), source=partly, listener=recorder)
    assert any("has no mask" in notice.text for notice in recorder.of(Notice))
    assert recorder.of(Preparation)[-1].done == recorder.of(Preparation)[-1].total == 4 + 3 + 2


def test_the_modes_here_are_all_modes() -> None:
    assert set(MODES) == {"source-only", "adapt", "supervised", "semi-supervised"}
