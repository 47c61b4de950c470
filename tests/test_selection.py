"""Choosing without labels: the checkpoint that is kept, the warning where adapting hurts, the photos to annotate next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import cracks, tiny

from hrda_core import Dataset, Predictor, load_checkpoint, train
from hrda_core.evaluation.annotate_next import annotate_next, uncertain_and_diverse, uncertainty_of
from hrda_core.evaluation.label_free import LabelFreeScores
from hrda_core.evaluation.selection import selection_score
from hrda_core.training.events import Event, Metrics, Notice
from hrda_core.training.harm import no_foreground_notice
from hrda_core.training.loop import _is_better
from hrda_core.training.run import End
from hrda_core.training.run_report import write_run_report


def scores(sure: float, foreground: float) -> LabelFreeScores:
    return LabelFreeScores(1.0, 1.0, 1.0, 1 - sure, 1 - sure, (1 - foreground, foreground))


def test_sure_networks_win_where_the_share_of_foreground_is_plausible() -> None:
    for foreground in (0.011, 0.03, 0.085):  # a third, and three times as much, still count fully
        assert selection_score(scores(0.8, foreground), 0.03) == pytest.approx(0.8)
    assert selection_score(scores(0.8, 0.18), 0.03) == pytest.approx(0.4)


def test_both_measures_of_sureness_count() -> None:
    few_but_wild, many_but_mild = (LabelFreeScores(1.0, 1.0, 1.0, *values, (0.97, 0.03)) for values in ((0.1, 0.3), (0.3, 0.1)))
    assert selection_score(few_but_wild, 0.03) == selection_score(many_but_mild, 0.03) == pytest.approx(0.8)


def test_what_is_expected_of_photos_is_plausible_too() -> None:
    """A run that holds predictions to 0.5 % does not lose by it, nor one whose photos are said to hold 20 %."""
    assert selection_score(scores(0.8, 0.005), 0.03, 0.005) == pytest.approx(0.8)
    assert selection_score(scores(0.8, 0.2), 0.03, 0.2) == pytest.approx(0.8)
    assert selection_score(scores(0.8, 0.03), 0.03, 0.005) == pytest.approx(0.8)
    assert selection_score(scores(0.8, 0.0005), 0.03, 0.005) == pytest.approx(0.8 * 0.3)


def test_networks_that_find_nothing_or_everything_do_not_win_by_being_sure() -> None:
    assert selection_score(scores(1.0, 0.0), 0.03) == 0
    assert selection_score(scores(0.99, 1.0), 0.03) < 0.1
    assert selection_score(scores(0.7, 0.5), None) == pytest.approx(0.7)  # no background: every pixel has a class


def falling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation scores lower than the one before."""
    calls: list[int] = []

    def score(*_: object) -> float:
        calls.append(1)
        return 1 / len(calls)

    monkeypatch.setattr("hrda_core.training.evaluator.selection_score", score)


def notices(told: list[Event]) -> list[str]:
    return [event.text for event in told if isinstance(event, Notice) and "hurt" in event.text]


def test_without_validation_the_checkpoint_of_the_best_score_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    falling(monkeypatch)
    told: list[Event] = []
    config = tiny({"adaptation": {"source_warmup": 0}})
    result = train(config, cracks(6, 1), cracks(4, 2, masks=False), listener=told.append, directory=tmp_path)
    assert load_checkpoint(result.best)["provenance"]["iteration"] == 3  # of 3 and 6
    assert load_checkpoint(result.last)["provenance"]["iteration"] == 6
    assert result.score is None  # which is the validation set's
    values = [event.values for event in told if isinstance(event, Metrics)]
    assert any("label_free/teacher/score" in line for line in values)
    assert not notices(told)


def test_adapting_that_only_makes_it_worse_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    falling(monkeypatch)
    told: list[Event] = []
    config = tiny({"adaptation": {"source_warmup": 3}})
    train(config, cracks(6, 1), cracks(4, 2, masks=False), listener=told.append, directory=tmp_path)
    (text,) = notices(told)
    assert "no checkpoint after iteration 3" in text and "adaptation.source_warmup" in text


@pytest.mark.parametrize("fallback", [True, False])
def test_a_baseline_that_scores_better_is_kept_as_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fallback: bool
) -> None:
    falling(monkeypatch)
    told: list[Event] = []
    config = tiny({"baseline": True, "fallback": fallback})
    source, target = cracks(6, 1), cracks(4, 2, masks=False)
    result = train(config, source, target, listener=told.append, directory=tmp_path)
    best, baseline = (load_checkpoint(path) for path in (result.best, tmp_path / "baseline" / "checkpoints" / "best.pth"))
    same = all((best["teacher"][name] == value).all() for name, value in baseline["teacher"].items())
    assert same is fallback and best["provenance"].get("source_only", False) is fallback
    assert len(notices(told)) == fallback
    if fallback:
        assert "by the score that needs no labels the source-only network has 0.500" in notices(told)[0]
        assert "source-only, which scored better" in write_run_report(tmp_path, source, target).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("before", "after", "validated", "kept"),
    [(0.925, 0.920, False, False), (0.93, 0.91, False, True), (0.42, 0.41, True, True), (0.41, 0.42, True, False)],
)
def test_scores_without_labels_decide_by_a_clear_margin(before: float, after: float, validated: bool, kept: bool) -> None:
    """Measured on cracks: a network that gained 9 points of IoU scored 0.002 less than its baseline."""
    ends = [End(6, score if validated else None, "", score) for score in (before, after)]
    assert _is_better(*ends) is kept


def test_pseudo_labels_without_foreground_are_told_once(tmp_path: Path) -> None:
    """An untrained network is nowhere sure of a crack."""
    told: list[Event] = []
    config = tiny({"adaptation": {"source_warmup": 0, "pseudo_labels": "band", "band_foreground": 1.0, "band_background": 0.9}})
    train(config, cracks(6, 1), cracks(4, 2, masks=False), listener=told.append, directory=tmp_path)
    (text,) = [event.text for event in told if isinstance(event, Notice) and "pseudo-labels" in event.text]
    assert "the pseudo-labels hold 0.000 % foreground" in text and "adaptation.source_warmup" in text


def test_a_plausible_share_of_foreground_is_no_cause_for_alarm() -> None:
    assert no_foreground_notice({"pseudo/foreground": 0.01}, 0.03) is None
    assert no_foreground_notice({"loss/source": 1.0}, 0.03) is None  # not adapting
    assert "0.100 %" in str(no_foreground_notice({"pseudo/foreground": 0.001}, 0.03))
    assert no_foreground_notice({"pseudo/foreground": 0.001}, 0.03, 0.002) is None  # more is not expected of photos


# -- what to annotate next ---------------------------------------------------------------------------------------------


def test_uncertain_photos_that_differ_come_first() -> None:
    uncertainty = [0.9, 0.89, 0.5, 0.1]
    features = np.array([[1, 0], [1, 0.01], [0, 1], [-1, 0]], np.float32)  # the first two show the same
    assert uncertain_and_diverse(uncertainty, features, 3) == [0, 2, 3]
    assert uncertain_and_diverse(uncertainty, features, 9) == [0, 2, 3, 1]
    assert uncertain_and_diverse([], np.zeros((0, 2), np.float32), 3) == []


def test_uncertainty_is_the_mean_entropy() -> None:
    assert uncertainty_of(np.full((4, 2, 2), 0.25, np.float32)) == pytest.approx(1)
    assert uncertainty_of(np.stack([np.ones((2, 2)), np.zeros((2, 2))]).astype(np.float32)) == pytest.approx(0, abs=1e-6)


def test_photos_are_proposed_by_index() -> None:
    photos = Dataset(tuple(np.full((4, 4, 3), value, np.uint8) for value in (0, 100, 200)), None, cracks(1, 1).classes)

    def probabilities(image: np.ndarray) -> np.ndarray:
        crack = np.full((4, 4), image[0, 0, 0] / 400, np.float32)
        return np.stack([1 - crack, crack])

    ranked = annotate_next(probabilities, lambda image: image[0, 0].astype(np.float32) - 150, photos, [0, 2], count=2)
    assert [index for index, _ in ranked] == [2, 0]
    assert ranked[0][1] == pytest.approx(1) and ranked[1][1] == pytest.approx(0, abs=1e-6)


def test_the_report_proposes_photos_without_labels(tmp_path: Path) -> None:
    labelled, unlabelled = cracks(2, 3), cracks(3, 4, masks=False)
    target = Dataset((*labelled.images, *unlabelled.images), (*labelled.masks, None, None, None), labelled.classes)
    result = train(tiny(mode="semi-supervised"), cracks(4, 1), target, cracks(2, 5), directory=tmp_path)
    page = write_run_report(tmp_path, cracks(4, 1), target, cracks(2, 5)).read_text(encoding="utf-8")
    assert "Photos to annotate next" in page
    proposed = json.loads((tmp_path / "annotate_next.json").read_text(encoding="utf-8"))
    assert {entry["image"] for entry in proposed} == {"image 2", "image 3", "image 4"}
    features = Predictor(result.best, "cpu").features(unlabelled.image(0))
    assert features.ndim == 1 and np.isfinite(features).all()
