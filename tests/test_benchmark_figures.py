"""The figures of the adaptation benchmark: halves by group, thresholds of the other half, intervals, gaps."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import cracks, tiny

from benchmarks.adaptation import run
from benchmarks.arms import Result, folder_of, suggested_photos
from benchmarks.corruptions import CORRUPTIONS, STRENGTHS
from benchmarks.intervals import (
    argmax_iou,
    best_threshold,
    difference,
    foreground_at,
    mean_iou,
    spearman,
    thresholds_of_the_other_half,
)
from benchmarks.pairs import Pair, in_first_half, with_labels, without_labels
from benchmarks.photo_counts import BINS, PhotoCounts, count_photos, threshold_of_share
from benchmarks.sheets import photo_iou
from benchmarks.tables import label_free_quality, markdown, summary
from hrda_core import ClassInfo, Dataset, TrainConfig

CLASSES = (ClassInfo("background", (0, 0, 0), 0), ClassInfo("crack", (0, 212, 255), 255))


def photos(count: int = 4, size: int = 20) -> Dataset:
    """Of each photo the left `i + 1` columns are crack; red tells the probability that `network` gives."""
    masks = [np.zeros((size, size), np.uint8) for _ in range(count)]
    for i, mask in enumerate(masks):
        mask[:, : i + 1] = 1
    return Dataset([np.full((size, size, 3), 10 * i, np.uint8) for i in range(count)], masks, CLASSES)


def network(shift: int, certainty: float):
    """Finds the crack, `shift` columns too wide, with the given probability."""

    def probabilities(image):
        crack = np.full(image.shape[:2], 0.05, np.float32)
        crack[:, : int(image[0, 0, 0]) // 10 + 1 + shift] = certainty
        return np.stack([1 - crack, crack])

    return probabilities


def test_halves_share_no_group_and_are_of_about_equal_size() -> None:
    groups = ["wall"] * 5 + ["road"] * 3 + ["a", "b", "c"]
    first = in_first_half(groups)
    assert sum(first) in (5, 6)
    for group in set(groups):
        assert len({here for here, name in zip(first, groups, strict=True) if name == group}) == 1
    assert first == in_first_half(groups)


def test_iou_at_argmax_and_at_a_threshold() -> None:
    data = photos()
    sure, unsure = (count_photos(network(1, p), data, tolerance=2) for p in (0.9, 0.3))
    hit, union = 20 * (1 + 2 + 3 + 4), 20 * (2 + 3 + 4 + 5)
    assert argmax_iou(sure) == pytest.approx(hit / union)
    assert argmax_iou(unsure) == 0
    found = foreground_at(unsure, [0.2] * 4)
    assert found.iou == pytest.approx(hit / union) and found.recall == 1 and found.precision == pytest.approx(hit / union)
    assert found.tolerant_f1 == 1  # one column too wide, two are forgiven
    np.testing.assert_allclose(photo_iou(sure), [1 / 2, 2 / 3, 3 / 4, 4 / 5])


def test_a_threshold_is_never_chosen_on_the_photo_that_it_is_used_on() -> None:
    """One half is found with 0.3, the other with 0.9: each gets the threshold that suits the other half."""
    data = photos()
    low, high = (count_photos(network(0, p), data, tolerance=2) for p in (0.3, 0.9))
    first = np.array([True, True, False, False])
    parts = {
        name: np.where(first.reshape(-1, *[1] * (low_part.ndim - 1)), low_part, vars(high)[name])
        for name, low_part in vars(low).items()
    }
    mixed = PhotoCounts(**parts)
    assert best_threshold(mixed, first) <= 0.3 < best_threshold(mixed, ~first)
    chosen = thresholds_of_the_other_half(mixed, first.tolist())
    assert chosen[0] > 0.3 and chosen[2] <= 0.3
    assert foreground_at(mixed, chosen).recall == pytest.approx((3 + 4) / 10)  # the first half is missed: no flattery


def test_a_share_of_foreground_gives_a_threshold() -> None:
    histogram = np.zeros(BINS, np.int64)
    histogram[10], histogram[100], histogram[200] = 90, 7, 3
    assert 100 / BINS < threshold_of_share(histogram, 0.03) <= 200 / BINS
    assert 10 / BINS < threshold_of_share(histogram, 0.10) <= 100 / BINS


def test_intervals_hold_the_difference_and_know_certainty() -> None:
    data = photos(6)
    exact, wide = (count_photos(network(shift, 0.9), data, tolerance=2) for shift in (0, 2))
    mean, low, high = difference([exact], [wide], list("aabbcc"))
    assert low <= mean <= high and low > 0
    assert mean == pytest.approx(argmax_iou(exact) - argmax_iou(wide))
    assert difference([exact], [exact], list("abcdef")) == (0, 0, 0)


def test_mean_iou_leaves_out_classes_that_do_not_occur() -> None:
    assert mean_iou(np.array([[6, 2, 0], [0, 4, 0], [0, 0, 0]])) == pytest.approx((6 / 8 + 4 / 6) / 2)


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 400]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 1, 2, 2], [1, 1, 2, 2]) == pytest.approx(1)
    with pytest.raises(ValueError, match="needs at least 3"):
        spearman([1, 2], [1, 2])


def test_how_a_score_without_labels_chooses() -> None:
    """Two runs of a seed: in the first the score chooses the best checkpoint, in the second one that is 3 points worse."""

    def run(arm: str, *points: tuple[float, float], seed: int = 0) -> Result:
        history = [{"label_free/teacher/score": score, "validation/teacher/mean_iou": iou} for score, iou in points]
        return Result(arm, seed, {}, {}, [*history, {"validation/teacher/mean_iou": 0.9}])

    runs = [run("source-only", (0.1, 0.20), (0.3, 0.30)), run("adapted", (0.2, 0.28), (0.4, 0.32), (0.5, 0.29))]
    runs += [run("adapted", (0.6, 0.27), seed=1)]
    quality = label_free_quality([*runs, run("oracle", (0.0, 0.99))], "teacher", "mean_iou")
    assert list(quality) == ["score"]  # the only figure that these runs have
    assert quality["score"] == pytest.approx({"spearman": 9 / 35, "lost": 0.05, "lost of a seed": 0.03, "lost in a run": 0.03})


def test_of_entropy_and_uncertain_pixels_the_least_is_chosen() -> None:
    points = ((0.05, 0.5), (0.1, 0.4), (0.3, 0.2))
    names = ("entropy", "uncertain")
    history = [{**{f"label_free/teacher/{name}": x for name in names}, "validation/teacher/iou": iou} for x, iou in points]
    quality = label_free_quality([Result("adapted", 0, {}, {}, history)], "teacher", "iou")
    assert {name: (quality[name]["spearman"], quality[name]["lost"]) for name in names} == {name: (1.0, 0.0) for name in names}


def test_only_named_photos_of_the_target_keep_their_labels() -> None:
    data = photos()
    some = with_labels(data, [2])
    assert [some.mask(i) is not None for i in range(4)] == [False, False, True, False]
    assert without_labels(data).masks is None


def test_the_table_compares_arms_seed_by_seed() -> None:
    data = photos(6)
    pair = Pair("toy", data, data, data, tuple("aabbcc"), ("road",) * 3 + ("wall",) * 3)
    results = []
    for arm, shift in (("source-only", 3), ("adapted", 1), ("oracle", 0)):
        counts = count_photos(network(shift, 0.9), data, tolerance=2)
        for seed in (0, 1):
            results.append(Result(arm, seed, {"teacher": counts}, {"teacher": np.ones(BINS, np.int64)}, []))
    report = summary(pair, results, "teacher", prior=0.1)
    iou = {arm: row["argmax IoU"][0] for arm, row in report["arms"].items()}
    assert report["recovered gap"] == pytest.approx((iou["adapted"] - iou["source-only"]) / (1 - iou["source-only"]))
    assert report["arms"]["adapted"]["over source-only"][1] > 0
    assert set(report["arms"]["adapted"]["by origin"]) == {"road", "wall"}
    text = markdown(report)
    assert text.count("\n| ") == 2 + 3 and "recovered gap" in text


def test_photos_get_worse_step_by_step_and_the_same_way_twice() -> None:
    photo = np.zeros((40, 40, 3), np.uint8)
    photo[:, 20:] = 200
    for name, worsen in CORRUPTIONS.items():
        distances = [np.abs(worsen(photo, strength, 7).astype(float) - photo).mean() for strength in STRENGTHS]
        assert distances == sorted(distances) and distances[0] > 0, name
        np.testing.assert_array_equal(worsen(photo, 2, 7), worsen(photo, 2, 7))


def test_suggested_photos_are_found_by_name(tmp_path: Path) -> None:
    data = photos()
    pair = Pair("toy", data, data, data, tuple("aabb"), ("road",) * 4)
    (tmp_path / "annotate_next.json").write_text('[{"image": "image 3"}, {"image": "image 1"}, {"image": "image 0"}]')
    assert suggested_photos(pair, 2, tmp_path) == [1, 3]
    with pytest.raises(ValueError, match="train arm 'adapted' of this seed first"):
        suggested_photos(pair, 2, tmp_path / "none")


def test_a_whole_benchmark_is_run_once_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target, report = cracks(6, 1), cracks(14, 2), cracks(4, 3)
    pair = Pair("toy", source, target, report, ("a", "b", "c", "d"), ("road", "road", "wall", "wall"))
    arms = ["source-only", "adapted", "adapted, 10 suggested labels", "oracle"]
    options = argparse.Namespace(arms=arms, variant=["gentle:adaptation.teacher_alpha=0.5"], seeds=[3], set=[], tables_only=False)

    def configure(seed: int) -> TrainConfig:
        return tiny({"seed": seed, "schedule": {"validate_every": 2, "label_free_photos": 2}})

    run(pair, configure, options, tmp_path)
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    (student, teacher) = content["results"]
    assert list(teacher["arms"]) == [*arms, "gentle"] and teacher["arms"]["oracle"]["seeds"] == [3]
    assert student["photos"] == 4 and len(content["label_free"]["teacher"]) == 7
    assert (tmp_path / "worst.jpg").is_file() and "| adapted |" in (tmp_path / "table.md").read_text(encoding="utf-8")
    longer = (tmp_path / folder_of("oracle", 3) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]
    assert json.loads(longer)["iteration"] == 12

    trained = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/checkpoints/last.pth")}
    run(pair, configure, options, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in trained} == trained  # nothing is done twice
    with pytest.raises(ValueError, match="write it as NAME:FIELD=VALUE"):
        run(pair, configure, argparse.Namespace(**{**vars(options), "variant": ["nonsense"]}), tmp_path)
