"""Metrics against the reference's golden values, a naive implementation and hand-counted pictures."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hrda_core.evaluation.metrics import SegmentationMetrics
from hrda_core.evaluation.thresholds import ThresholdSweep, apply_thresholds

GOLDEN = Path(__file__).parent / "golden" / "metrics.npz"


def measure(prediction, label, classes=2, **options):
    metrics = SegmentationMetrics(classes, **options)
    metrics.update(np.asarray(prediction, np.uint8), np.asarray(label, np.uint8))
    return metrics.compute()


def test_reproduces_the_reference():
    golden = np.load(GOLDEN)
    metrics = SegmentationMetrics(5)
    for prediction, label in zip(golden["pred"], golden["gt"], strict=True):
        metrics.update(prediction, label)
    result = metrics.compute()
    np.testing.assert_allclose(result.iou, golden["IoU"], rtol=1e-12)
    np.testing.assert_allclose(result.recall, golden["Acc"], rtol=1e-12)
    np.testing.assert_allclose(result.recall, golden["Recall"], rtol=1e-12)
    np.testing.assert_allclose(result.precision, golden["Precision"], rtol=1e-12)
    np.testing.assert_allclose(result.dice, golden["Dice"], rtol=1e-12)
    np.testing.assert_allclose(result.dice, golden["Fscore"], rtol=1e-12)
    assert result.mean_iou == pytest.approx(float(golden["mIoU_nanmean"]), rel=1e-12)
    assert result.pixel_accuracy == pytest.approx(float(golden["aAcc"]), rel=1e-12)
    assert result.images == 3
    assert result.pixels == np.count_nonzero(golden["gt"] != 255)


def naive(prediction, label, classes, first, tolerance):
    """Pixel by pixel, straight from the definitions."""
    pixels = [(y, x) for y, x in np.ndindex(*label.shape) if label[y, x] != 255]

    def figures(is_class):
        true = {p for p in pixels if is_class(label[p])}
        predicted = {p for p in pixels if is_class(prediction[p])}

        def near(these, those):
            return sum(any((a - c) ** 2 + (b - d) ** 2 <= tolerance**2 for c, d in those) for a, b in these)

        def ratio(part, whole):
            return part / whole if whole else math.nan

        p, r = ratio(near(predicted, true), len(predicted)), ratio(near(true, predicted), len(true))
        f1 = math.nan if not true | predicted else 2 * p * r / (p + r) if p > 0 and r > 0 else 0.0
        hit = len(true & predicted)
        return [
            ratio(hit, len(true | predicted)),
            ratio(hit, len(true)),
            ratio(hit, len(predicted)),
            ratio(2 * hit, len(true) + len(predicted)),
            p,
            r,
            f1,
        ]

    per_class = [figures(lambda value, c=c: value == c) for c in range(classes)]
    return per_class, figures(lambda value: first <= value < 255)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), has_background=st.booleans(), tolerance=st.integers(0, 3))
def test_agrees_with_a_naive_implementation(data, has_background, tolerance):
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    maps = hnp.arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 2, 255]))
    prediction, label = data.draw(maps), data.draw(maps)
    per_class, foreground = naive(prediction, label, 3, int(has_background), tolerance)
    result = measure(prediction, label, 3, has_background=has_background, tolerance=tolerance)

    names = ["iou", "recall", "precision", "dice", "tolerant_precision", "tolerant_recall", "tolerant_f1"]
    for position, name in enumerate(names):
        np.testing.assert_allclose(getattr(result, name), [row[position] for row in per_class], err_msg=name)
        np.testing.assert_allclose(getattr(result, f"foreground_{name}"), foreground[position], err_msg=name)
    known = [row[0] for row in per_class if not math.isnan(row[0])]
    np.testing.assert_allclose(result.mean_iou, np.mean(known) if known else math.nan)


def test_a_shifted_line_is_wrong_exactly_but_right_within_the_tolerance():
    label, prediction = np.zeros((40, 40)), np.zeros((40, 40))
    label[:, 10] = 1
    prediction[:, 12] = 1
    shifted = measure(prediction, label, tolerance=2)
    assert shifted.foreground_iou == 0
    assert shifted.foreground_tolerant_f1 == 1
    assert measure(prediction, label, tolerance=1).foreground_tolerant_f1 == 0


def test_tolerance_counts_separate_precision_from_recall():
    label, prediction = np.zeros((1, 100)), np.zeros((1, 100))
    label[0, 0:10] = 1
    prediction[0, 0:5] = 1
    prediction[0, 80:95] = 1
    result = measure(prediction, label, tolerance=2)
    assert result.tolerant_precision[1] == 5 / 20
    assert result.tolerant_recall[1] == 7 / 10  # the five hits and two pixels beyond them


def test_ignored_pixels_neither_count_nor_support_a_match():
    label = np.array([[255, 1, 0, 0, 0, 0]])
    prediction = np.array([[1, 0, 0, 0, 0, 0]])  # the only predicted pixel lies on an ignored one
    result = measure(prediction, label, tolerance=2)
    assert result.recall[1] == 0
    assert result.tolerant_recall[1] == 0
    assert math.isnan(result.precision[1])
    assert result.pixels == 5


def test_no_class_is_a_miss_and_no_false_positive():
    result = measure([[255, 0, 1, 1]], [[0, 0, 1, 1]], has_background=False)
    assert result.recall == (0.5, 1.0)
    assert result.precision == (1.0, 1.0)
    assert result.pixel_accuracy == 0.75
    assert result.foreground_recall == 0.75


def test_an_image_without_cracks_is_right_and_leaves_the_crack_undefined():
    result = measure(np.zeros((8, 8)), np.zeros((8, 8)))
    assert result.iou[0] == 1.0
    assert result.mean_iou == 1.0
    assert result.pixel_accuracy == 1.0
    assert math.isnan(result.foreground_iou)
    assert math.isnan(result.mean_iou_foreground)
    assert math.isnan(result.foreground_tolerant_f1)


def test_a_false_alarm_on_an_image_without_cracks_counts():
    result = measure([[0, 1]], [[0, 0]])
    assert result.foreground_iou == 0
    assert result.foreground_tolerant_f1 == 0
    assert math.isnan(result.foreground_recall)


def test_nothing_seen_gives_none_everywhere_and_valid_json():
    figures = SegmentationMetrics(2).compute().as_dict()
    text = json.dumps(figures, allow_nan=False)
    assert json.loads(text)["iou"] == [None, None]
    assert figures["mean_iou"] is None
    assert figures["tolerance"] == 2
    assert figures["images"] == 0


def test_figures_are_plain_floats():
    for value in measure([[0, 1]], [[0, 1]]).as_dict().values():
        assert all(type(item) in (float, int, type(None)) for item in (value if isinstance(value, list) else [value]))


def test_foreground_classes_count_as_one_against_background():
    result = measure([[0, 1, 2, 0]], [[0, 2, 1, 1]], classes=3)
    assert result.mean_iou_foreground == 0
    assert result.foreground_iou == 2 / 3
    assert result.foreground_precision == 1


def test_merging_two_halves_equals_seeing_all():
    random = np.random.default_rng(0)
    maps = random.integers(0, 3, (4, 2, 20, 20)).astype(np.uint8)
    whole, left, right = SegmentationMetrics(3), SegmentationMetrics(3), SegmentationMetrics(3)
    for position, (prediction, label) in enumerate(maps):
        whole.update(prediction, label)
        (left if position % 2 else right).update(prediction, label)
    left.merge(right)
    assert left.compute() == whole.compute()
    with pytest.raises(ValueError, match="must agree"):
        left.merge(SegmentationMetrics(3, tolerance=5))


def test_images_of_any_size_mix():
    metrics = SegmentationMetrics(2)
    for shape in [(1, 1), (5, 300), (64, 64)]:
        metrics.update(np.ones(shape, np.uint8), np.ones(shape, np.uint8))
    assert metrics.compute().iou[1] == 1


@pytest.mark.parametrize(
    ("prediction", "label", "message"),
    [
        (np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), "prediction: shape"),
        (np.zeros((4, 4), np.int64), np.zeros((4, 4), np.uint8), "prediction: int64"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 1), np.uint8), "label: uint8"),
        (np.full((4, 4), 2, np.uint8), np.zeros((4, 4), np.uint8), r"prediction: values \[2\]"),
        (np.zeros((4, 4), np.uint8), np.full((4, 4), 254, np.uint8), r"label: values \[254\]"),
    ],
)
def test_wrong_input_is_named_and_changes_nothing(prediction, label, message):
    metrics = SegmentationMetrics(2)
    with pytest.raises(ValueError, match=message):
        metrics.update(prediction, label)
    assert metrics.compute().images == 0


@pytest.mark.parametrize(("classes", "has_background"), [(0, False), (1, True), (256, True)])
def test_impossible_class_counts_are_refused(classes, has_background):
    with pytest.raises(ValueError, match="classes:"):
        SegmentationMetrics(classes, has_background)


def test_negative_tolerance_is_refused():
    with pytest.raises(ValueError, match="tolerance: -1"):
        SegmentationMetrics(2, tolerance=-1)


def test_needs_no_torchmetrics():
    code = (
        "import sys; sys.modules['torchmetrics'] = None\n"
        "from hrda_core.evaluation import metrics, thresholds, report, pictures, charts"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# Thresholds


def binary(crack):
    crack = np.asarray(crack, np.float32)
    return np.stack([1 - crack, crack])


def crack_photo(seed=0):
    """A binary probability map and its label: cracks score 0.1 to 0.5, the rest 0 to 0.3."""
    random = np.random.default_rng(seed)
    label = (random.random((60, 80)) < 0.1).astype(np.uint8)
    crack = np.where(label == 1, random.uniform(0.1, 0.5, label.shape), random.uniform(0, 0.3, label.shape))
    label[:5] = 255
    return binary(crack), label


def test_best_threshold_is_the_best_of_all_by_trying_each():
    probabilities, label = crack_photo()
    sweep = ThresholdSweep(2)
    sweep.update(probabilities, label)

    def iou(threshold):
        return measure(apply_thresholds(probabilities, [threshold])[0], label).iou[1]

    by_hand = [iou(k / 256) for k in range(256)]
    [best] = sweep.best()
    assert iou(best) == max(by_hand)
    assert [sweep.iou_at(k / 256)[0] for k in range(256)] == by_hand
    assert iou(best) > iou(0.5) + 0.3


def test_best_threshold_of_separated_classes_lies_in_the_middle_of_the_gap():
    sweep = ThresholdSweep(2)
    sweep.update(binary([[0.1, 0.1, 0.7]]), np.array([[0, 0, 1]], np.uint8))
    assert sweep.best()[0] == pytest.approx(0.4, abs=0.01)


def test_a_class_without_labels_keeps_one_half_and_knows_no_iou():
    probabilities = np.array([[[0.2, 0.9]], [[0.8, 0.1]], [[0.0, 0.0]]], np.float32)
    sweep = ThresholdSweep(3)
    sweep.update(probabilities, np.array([[1, 0]], np.uint8))
    assert sweep.best()[1] == 0.5
    assert sweep.iou_at(0.5)[0] == 1.0
    assert math.isnan(sweep.iou_at(0.5)[1])
    assert math.isnan(ThresholdSweep(2).iou_at(0.5)[0])


@pytest.mark.parametrize("fraction", [0.01, 0.03, 0.2])
def test_threshold_for_a_prior_covers_that_fraction_without_labels(fraction):
    sweep = ThresholdSweep(2)
    maps = [binary(np.random.default_rng(seed).beta(0.4, 4, (200, 200))) for seed in range(3)]
    for probabilities in maps:
        sweep.update(probabilities, None)
    thresholds = sweep.threshold_for_fraction(fraction)
    covered = np.mean([apply_thresholds(probabilities, thresholds)[0] for probabilities in maps])
    assert covered == pytest.approx(fraction, rel=0.03)


def test_threshold_for_a_prior_sits_in_the_middle_of_an_empty_range():
    crack = np.full((10, 10), 0.1)
    crack[0, :3] = 0.9
    sweep = ThresholdSweep(2)
    sweep.update(binary(crack), None)
    assert sweep.threshold_for_fraction(0.03) == [pytest.approx(0.5, abs=0.01)]


def test_a_prior_per_class_and_ignored_pixels_do_not_count():
    random = np.random.default_rng(1)
    probabilities = random.dirichlet([4, 1, 1], (100, 100)).transpose(2, 0, 1).astype(np.float32)
    label = np.zeros((100, 100), np.uint8)
    label[50:] = 255
    probabilities[:, 50:] = np.array([0, 0.5, 0.5])[:, None, None]
    sweep = ThresholdSweep(3)
    sweep.update(probabilities, label)
    one, two = sweep.threshold_for_fraction([0.05, 0.1])
    assert np.mean(probabilities[1, :50] >= one) == pytest.approx(0.05, rel=0.1)
    assert np.mean(probabilities[2, :50] >= two) == pytest.approx(0.1, rel=0.1)


def test_certain_probabilities_are_counted():
    sweep = ThresholdSweep(2)
    sweep.update(binary([[1.0, 0.0]]), np.array([[1, 0]], np.uint8))
    assert sweep.iou_at(1.0) == [1.0]
    assert sweep.iou_at(0.0) == [0.5]


def test_without_thresholds_the_most_probable_class_wins():
    probabilities = np.array([[[0.6, 0.3]], [[0.3, 0.6]], [[0.1, 0.1]]], np.float32)
    labels, confidence = apply_thresholds(probabilities, None)
    assert labels.tolist() == [[0, 1]] and labels.dtype == np.uint8
    np.testing.assert_allclose(confidence, [[0.6, 0.6]])
    assert confidence.dtype == np.float32


def test_the_likeliest_foreground_class_above_its_threshold_wins_else_background():
    #                            nobody  class 1  only class 2  both
    probabilities = np.array([[[0.8, 0.7, 0.3, 0.1]], [[0.1, 0.25, 0.6, 0.5]], [[0.1, 0.05, 0.1, 0.4]]], np.float32)
    labels, confidence = apply_thresholds(probabilities, [0.2, 0.3])
    assert labels.tolist() == [[0, 1, 1, 1]]
    np.testing.assert_allclose(confidence, [[0.8, 0.25, 0.6, 0.5]])
    labels, confidence = apply_thresholds(probabilities, [0.7, 0.1])
    assert labels.tolist() == [[2, 0, 2, 2]]
    np.testing.assert_allclose(confidence, [[0.1, 0.7, 0.1, 0.4]])


def test_without_background_a_pixel_that_reaches_no_threshold_is_255():
    probabilities = np.array([[[0.9, 0.4]], [[0.1, 0.6]]], np.float32)
    labels, confidence = apply_thresholds(probabilities, [0.5, 0.7], has_background=False)
    assert labels.tolist() == [[0, 255]]
    np.testing.assert_allclose(confidence, [[0.9, 0.4]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: apply_thresholds(binary([[0.5]]), [0.5, 0.5]), "thresholds: 2 values for 1"),
        (lambda: apply_thresholds(np.array([[[3.0]], [[-2.0]]], np.float32), None), "not logits"),
        (lambda: apply_thresholds(binary([[math.nan]]), None), "not logits"),
        (lambda: apply_thresholds(np.zeros((4, 4), np.float32), None), "probabilities: shape"),
        (lambda: ThresholdSweep(3).update(binary([[0.5]]), None), "2 channels for 3 classes"),
        (lambda: ThresholdSweep(2).update(binary([[0.5]]), np.zeros((2, 2), np.uint8)), "label: shape"),
        (lambda: ThresholdSweep(2).update(binary([[0.5]]), np.full((1, 1), 7, np.uint8)), r"label: values \[7\]"),
        (lambda: ThresholdSweep(2).threshold_for_fraction(0.03), "no pixel seen"),
        (lambda: seen().threshold_for_fraction(3), "3 % of the pixels is 0.03"),
        (lambda: seen().threshold_for_fraction([0.1, 0.2]), "fraction: 2 values"),
        (lambda: ThresholdSweep(2).iou_at(1.5), "threshold: 1.5"),
    ],
)
def test_wrong_thresholds_and_probabilities_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def seen():
    sweep = ThresholdSweep(2)
    sweep.update(binary([[0.5]]), None)
    return sweep
