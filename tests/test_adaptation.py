"""The parts of self-training and one iteration in every mode."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_formulas import image, label
from timm.layers.drop import DropPath
from torch import Tensor, nn

from hrda_core.adaptation.class_mix import foreground_mask
from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.feature_distance import FeatureDistance
from hrda_core.adaptation.losses import cross_entropy, dice_loss, multi_resolution_loss
from hrda_core.adaptation.masking import hide_blocks, keep_mask, noise_shape
from hrda_core.adaptation.pseudo_labels import (
    ClassShares,
    ForegroundHistogram,
    PseudoLabels,
    balanced,
    confident_fraction,
    prior_band,
    uncertain_band,
    without_margins,
)
from hrda_core.adaptation.step import Learner, SourceBatch, TargetBatch, step
from hrda_core.adaptation.teacher import Teacher, ema_alpha
from hrda_core.config import AdaptationConfig, TrainConfig
from hrda_core.models.build import build_model
from hrda_core.models.hrda import HRDA, Box, HRDAOutput

CLASSES = 5


def network(encoder: str = "mit_b0", dropout: float = 0.0) -> HRDA:
    torch.manual_seed(0)
    model = build_model(encoder, CLASSES, head_channels=8, detail_size=64, dropout=dropout, drop_path_rate=dropout)
    nn.init.normal_(model.head.classifier.weight)
    return model.train()


def logits_of(shares: list[list[float]]) -> Tensor:
    """Rows of class probabilities -> logits (1, C, 1, pixels)."""
    return torch.tensor(shares).T[None, :, None].log()


# --- teacher


@pytest.mark.parametrize("norm", ["running", "batch"])
def test_teacher_norms(norm: str) -> None:
    student = network()
    teacher = Teacher(student, alpha=0.9, norm=norm)
    student(image(2, 64, 64, 1), Box(0, 32, 0, 32))  # moves the student's running statistics
    name = "head.fuse.bottleneck.bn.running_mean"
    before, theirs = teacher.model.get_buffer(name).clone(), student.get_buffer(name)
    assert not torch.equal(before, theirs)
    teacher.update(student, 1)
    if norm == "running":
        torch.testing.assert_close(teacher.model.get_buffer(name), 0.5 * before + 0.5 * theirs)  # alpha(1) = 1/2
    else:
        assert torch.equal(teacher.model.get_buffer(name), before)

    updated = teacher.model.get_buffer(name).clone()
    alone, beside = image(1, 64, 64, 2), torch.cat([image(1, 64, 64, 2), 5 * image(1, 64, 64, 3)])
    changes = not torch.allclose(teacher.logits(alone), teacher.logits(beside)[:1], atol=1e-4)
    moves = not torch.equal(teacher.model.get_buffer(name), updated)
    assert changes == moves == (norm == "batch")  # statistics of the batch, kept in the teacher's own buffers


@pytest.mark.parametrize("norm", ["running", "batch"])
def test_teacher_is_deterministic_without_gradient_and_returns_to_its_mode(norm: str) -> None:
    teacher = Teacher(network(dropout=0.5), norm=norm)
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    x = image(2, 64, 64, 1)
    first = teacher.logits(x)
    assert not first.requires_grad
    assert torch.equal(teacher.logits(x), first)  # no dropout, no stochastic depth

    modes = {name: module.training for name, module in teacher.model.named_modules()}
    for evaluated in (True, False):
        teacher.model.train(not evaluated)  # what an evaluation around it may do
        teacher.set_mode()
        assert {name: module.training for name, module in teacher.model.named_modules()} == modes
    norms = [m for m in teacher.model.modules() if isinstance(m, nn.BatchNorm2d)]
    drops = [m for m in teacher.model.modules() if isinstance(m, (nn.Dropout2d, DropPath))]
    assert norms and drops and all(m.training == (norm == "batch") for m in norms) and not any(m.training for m in drops)


def test_frozen_encoder_norms_stay_frozen_in_a_teacher_on_batch_statistics() -> None:
    student = network("mobilenetv3_small_050")
    student.encoder.freeze_norms()
    teacher = Teacher(student, norm="batch")
    assert not any(m.training for m in teacher.model.encoder.modules() if isinstance(m, nn.BatchNorm2d))
    assert teacher.model.head.fuse.bottleneck.bn.training


def test_teacher_copies_then_averages() -> None:
    student = network()
    teacher = Teacher(student, alpha=0.6)
    start = student.head.classifier.weight.detach().clone()
    with torch.no_grad():
        student.head.classifier.weight.add_(1)
    for iteration, expected in ((0, start + 1), (1, start + 1)):
        teacher.update(student, iteration)
        torch.testing.assert_close(teacher.model.head.classifier.weight, expected)
    with torch.no_grad():
        student.head.classifier.weight.add_(1)
    teacher.update(student, 100)
    torch.testing.assert_close(teacher.model.head.classifier.weight, start + 1.4)
    assert [ema_alpha(i, 0.6) for i in (0, 1, 2, 100)] == pytest.approx([0, 0.5, 0.6, 0.6])
    with pytest.raises(ValueError, match="norm='group': use 'batch' or 'running'"):
        Teacher(student, norm="group")


# --- pseudo-labels


def test_uncertain_band() -> None:
    pseudo = uncertain_band(logits_of([[0.95, 0.05], [0.85, 0.15], [0.55, 0.45], [0.45, 0.55], [0.01, 0.99]]), 0.5, 0.1)
    assert pseudo.labels[0, 0].tolist() == [0, 255, 255, 1, 1]
    assert pseudo.weight[0, 0].tolist() == [1, 0, 0, 1, 1]
    assert pseudo.confident.item() == pytest.approx(3 / 5)


def test_uncertain_pixels_beside_a_crack_are_its_edge_and_those_far_from_it_perhaps_another_one() -> None:
    probability = torch.full((1, 7, 9), 0.3)
    probability[0, 3, 2] = 0.9
    logits = torch.stack([torch.zeros_like(probability), torch.logit(probability)], dim=1)
    pseudo = uncertain_band(logits, 0.5, 0.1, edge=2)
    assert pseudo.labels[0].tolist() == [
        [255, 255, 255, 255, 255, 255, 255, 255, 255],
        [0, 0, 0, 0, 0, 255, 255, 255, 255],
        [0, 0, 0, 0, 0, 255, 255, 255, 255],
        [0, 0, 1, 0, 0, 255, 255, 255, 255],
        [0, 0, 0, 0, 0, 255, 255, 255, 255],
        [0, 0, 0, 0, 0, 255, 255, 255, 255],
        [255, 255, 255, 255, 255, 255, 255, 255, 255],
    ]
    torch.testing.assert_close(pseudo.weight, (pseudo.labels != 255).float())
    assert int((uncertain_band(logits, 0.5, 0.1).labels == 0).sum()) == 0


def foreground(probability: Tensor) -> Tensor:
    """Logits (1, 2, 1, W) of foreground probabilities (W,)."""
    return torch.stack([(1 - probability).log(), probability.log()])[None, :, None]


@pytest.mark.parametrize("shift", [-1.5, 0.0, 2.0], ids=["finds too little", "finds the share", "finds too much"])
def test_prior_band_labels_the_expected_share_whatever_the_network_is_sure_of(shift: float) -> None:
    probability = torch.sigmoid(torch.linspace(-8, 8, 1000) * 2 + shift)
    pseudo = prior_band(foreground(probability), torch.ones(1, 1, 1000), ForegroundHistogram(), share=0.4, ignored=0.1)
    assert (pseudo.labels == 1).float().mean().item() == pytest.approx(0.4, abs=0.06)
    assert (pseudo.labels == 255).float().mean().item() == pytest.approx(0.1, abs=0.06)
    assert pseudo.labels[0, 0].tolist() == sorted(pseudo.labels[0, 0].tolist(), key=[0, 255, 1].index)


def test_below_foreground_at_least_nothing_becomes_foreground() -> None:
    """A tenth of the pixels at 0.4: enough for the expected share only where the floor is lower."""
    probability = torch.full((1, 10, 10), 0.01)
    probability[0, 0] = 0.4
    logits, valid = torch.stack([torch.zeros_like(probability), torch.logit(probability)], dim=1), torch.ones(1, 10, 10)
    for lowest, expected in ((0.3, 10), (0.5, 0)):
        pseudo = prior_band(logits, valid, ForegroundHistogram(), 0.1, 0.0, lowest=lowest)
        assert int(((pseudo.labels == 1) & (pseudo.weight > 0)).sum()) == expected


def test_prior_band_stays_within_what_the_network_may_mean() -> None:
    """A share that would make foreground of what the network denies, or deny what it is sure of, does not count."""
    everywhere = torch.ones(1, 1, 100)
    denied = prior_band(foreground(torch.full((100,), 0.2)), everywhere, ForegroundHistogram(), share=0.9, ignored=0.0)
    assert not (denied.labels == 1).any()
    sure = prior_band(foreground(torch.full((100,), 0.995)), everywhere, ForegroundHistogram(), share=0.01, ignored=0.0)
    assert (sure.labels == 1).all()


def test_prior_band_looks_back_over_batches_and_past_margins() -> None:
    histogram, inside = ForegroundHistogram(), torch.ones(1, 1, 100)
    half = torch.cat([torch.full((50,), 0.1), torch.full((50,), 0.7)])
    for _ in range(20):
        prior_band(foreground(half), inside, histogram, share=0.5, ignored=0.0)
    clear = prior_band(foreground(torch.full((100,), 0.1)), inside, histogram, share=0.5, ignored=0.0)
    assert (clear.labels == 0).all()  # a batch without foreground gets none
    histogram.note(torch.full((1, 1, 100), torch.nan), inside)  # is not the histogram's to report
    margin = ForegroundHistogram()
    margin.note(torch.full((1, 1, 100), 0.9), torch.zeros(1, 1, 100))
    assert margin.counts.sum() == 0


def test_balance_raises_rare_classes_where_they_are_likely_but_not_likeliest() -> None:
    """Of 20 pixels 18 are surely road; one may be a pole, one is hardly one."""
    logits = logits_of([[0.98, 0.02]] * 18 + [[0.6, 0.4], [0.9, 0.1]])
    everywhere = torch.ones(1, 1, 20)
    for power, poles in ((0.0, 0), (0.5, 1), (1.0, 2)):
        shares = ClassShares(2)
        for _ in range(100):  # until the shares are those of these pixels: 0.957 and 0.043
            labels = balanced(logits, everywhere, shares, power).argmax(dim=1)
        assert shares.shares().tolist() == pytest.approx([0.957, 0.043], abs=0.01)
        assert int((labels == 1).sum()) == poles


def test_shares_of_classes_look_back_over_batches_and_past_margins() -> None:
    shares = ClassShares(2)
    road = logits_of([[0.999, 0.001]] * 10)
    assert shares.shares().tolist() == [0.5, 0.5]  # nothing is known yet, so that nothing is raised
    balanced(road, torch.zeros(1, 1, 10), shares, 0.5)
    assert shares.shares().tolist() == [0.5, 0.5]
    balanced(road, torch.ones(1, 1, 10), shares, 0.5)
    assert 0.55 < shares.shares()[0] < 0.65  # one batch of crops tells little
    unseen = ClassShares(2)
    unseen.totals = torch.tensor([1.0, 0.0], dtype=torch.float64)
    raised = balanced(road, torch.zeros(1, 1, 10), unseen, 1.0) - road
    assert raised[0, 1].max().item() == pytest.approx(math.log(1000), abs=1e-3)  # and no more than that
    shares.note(torch.full((1, 2, 1, 10), torch.nan), torch.ones(1, 1, 10))  # is not theirs to report
    assert shares.shares().isfinite().all()


def test_uncertain_band_of_several_classes() -> None:
    """Foreground is one minus background, so that an undecided pixel between two foreground classes still is one."""
    pseudo = uncertain_band(logits_of([[0.4, 0.25, 0.35], [0.2, 0.45, 0.35], [0.92, 0.07, 0.01], [0.6, 0.4, 1e-6]]), 0.5, 0.1)
    assert pseudo.labels[0, 0].tolist() == [2, 1, 0, 255]


def test_confident_fraction_counts_the_whole_batch() -> None:
    rows = [[0.98, 0.02], [0.6, 0.4], [0.03, 0.97], [0.5001, 0.4999]]
    logits = torch.cat([logits_of(rows), logits_of([[0.99, 0.01]] * 4)])
    pseudo = confident_fraction(logits, 0.968)
    assert pseudo.labels[:, 0].tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
    assert torch.equal(pseudo.weight, torch.full((2, 1, 4), 6 / 8))


def test_margins_and_padding_weigh_nothing() -> None:
    pseudo = PseudoLabels(torch.ones(1, 6, 2, dtype=torch.int64), torch.full((1, 6, 2), 0.5), torch.tensor(0.5))
    valid = torch.ones(1, 6, 2)
    valid[:, :, 1] = 0
    assert without_margins(pseudo, valid, ignore_top=1, ignore_bottom=2).weight[0, :, 0].tolist() == [0, 0.5, 0.5, 0.5, 0, 0]
    assert without_margins(pseudo, valid).weight[0, :, 1].tolist() == [0] * 6
    assert not without_margins(pseudo, None, ignore_bottom=7).weight.any()  # more rows than the crop has
    assert not without_margins(pseudo, None, ignore_top=7).weight.any()
    assert torch.equal(pseudo.weight, torch.full((1, 6, 2), 0.5))  # the argument is left alone


# --- mixing and masking


def test_foreground_brings_its_surroundings() -> None:
    truth = torch.zeros(1, 9, 9, dtype=torch.int64)
    truth[0, 4, 4], truth[0, 0, 0] = 3, 255
    assert foreground_mask(truth, 0).nonzero().tolist() == [[0, 4, 4]]
    expected = torch.zeros(1, 9, 9, dtype=torch.bool)
    expected[0, 2:7, 2:7] = True
    assert torch.equal(foreground_mask(truth, 2), expected)  # ignored pixels are no foreground
    assert not foreground_mask(torch.zeros(1, 9, 9, dtype=torch.int64), 2).any()


def test_hidden_blocks_are_zero_and_the_rest_is_kept() -> None:
    x, noise = torch.ones(1, 3, 70, 64), torch.tensor([[[[0.71, 0.7], [0.2, 0.99]]]])
    assert noise_shape(70, 64, 32) == (2, 2) and noise_shape(10, 200, 64) == (1, 3)
    hidden = hide_blocks(x, noise, 0.7)
    assert hidden[0, 0, ::35, ::32].tolist() == [[1, 0], [0, 1]]
    assert set(hidden.unique().tolist()) == {0, 1} and torch.equal(keep_mask(noise, 0.7, (70, 64))[:, 0], hidden[:, 0])


# --- draws


def all_draws(draws: StepDraws, order: list[str], samples: tuple[int, ...] = (0, 1)) -> dict[str, Any]:
    present = torch.tensor([0, 1, 2, 3, 255])
    makers: dict[str, Callable[[], Any]] = {
        "box": lambda: [draws.detail_box(s, 256, 192) for s in ("source", "mixed", "masked")],
        "classes": lambda: {i: draws.mixed_classes(present, i).tolist() for i in samples},
        "pastes": lambda: {i: draws.pastes(i) for i in samples},
        "jitter": lambda: {(s, i): draws.jitter(s, i) for s in ("mixed", "masked") for i in samples},
        "blur": lambda: {(s, i): draws.blur_sigma(s, i) for s in ("mixed", "masked") for i in samples},
        "noise": lambda: draws.mask_noise(2, 256, 192).tolist(),
    }
    return {name: makers[name]() for name in order}


def test_draws_depend_on_seed_and_iteration_and_on_nothing_else() -> None:
    config = AdaptationConfig(jitter_probability=1.0, blur_probability=1.0)
    names = ["box", "classes", "pastes", "jitter", "blur", "noise"]
    first = all_draws(StepDraws(1, 2, config), names)
    again = all_draws(StepDraws(1, 2, config), names[::-1], samples=(1, 0))
    assert first == again
    for seed, iteration in ((2, 1), (1, 3), (2, 2)):
        other = all_draws(StepDraws(seed, iteration, config), names)
        assert all(first[name] != other[name] for name in ("box", "jitter", "blur", "noise"))
    assert len(set(first["box"])) == 3  # each forward has a box of its own
    assert first["jitter"]["mixed", 0] != first["jitter"]["mixed", 1]
    assert first["jitter"]["mixed", 0] != first["jitter"]["masked", 0]


def test_boxes_are_half_the_sides_on_the_grid_and_reach_every_place() -> None:
    tops, lefts = set(), set()
    for iteration in range(300):
        box = StepDraws(0, iteration, AdaptationConfig()).detail_box("source", 128, 96)
        assert (box.bottom - box.top, box.right - box.left) == (64, 48)
        assert all(edge % 8 == 0 for edge in box) and 0 <= box.top <= 64 and 0 <= box.left <= 48
        tops.add(box.top)
        lefts.add(box.left)
    # the published range: every place of the grid but the last
    assert tops == set(range(0, 64, 8)) and lefts == set(range(0, 48, 8))
    assert StepDraws(0, 0, AdaptationConfig(), detail_crop="full").detail_box("source", 128, 96) == Box(0, 128, 0, 96)


def test_augmentation_is_decided_once_per_iteration() -> None:
    config = AdaptationConfig(jitter_probability=0.8, blur_probability=0.5)
    jittered, blurred = [], []
    for iteration in range(300):
        draws = StepDraws(0, iteration, config)
        for decisions, draw in ((jittered, draws.jitter), (blurred, draws.blur_sigma)):
            values = [draw("mixed", i) for i in range(3)]
            assert len({value is None for value in values}) == 1
            assert values[0] is None or len(set(values)) == 3  # strengths differ between samples
            decisions.append(values[0] is not None)
            assert draw is not draws.blur_sigma or all(v is None or 0.15 <= v <= 1.15 for v in values)
    assert np.mean(jittered) == pytest.approx(0.8, abs=0.07) and np.mean(blurred) == pytest.approx(0.5, abs=0.09)


def test_probabilities_of_none_and_all() -> None:
    never = AdaptationConfig(jitter_probability=0, blur_probability=0, foreground_paste_share=0)
    always = AdaptationConfig(jitter_probability=1, blur_probability=1, foreground_paste_share=1)
    for iteration in range(20):
        draws = StepDraws(0, iteration, never)
        assert (draws.jitter("mixed", 0), draws.blur_sigma("mixed", 0), draws.pastes(0)) == (None, None, False)
        draws = StepDraws(0, iteration, always)
        assert draws.jitter("mixed", 0) is not None and draws.blur_sigma("mixed", 0) is not None and draws.pastes(0)


# --- losses


def test_losses_of_a_batch_without_labels_are_zero() -> None:
    logits = torch.randn(2, CLASSES, 4, 4, requires_grad=True)
    nothing = torch.full((2, 16, 16), 255)
    for loss in (
        cross_entropy(logits, nothing, None),
        dice_loss(logits, nothing, None),
        dice_loss(logits, nothing, nothing.float()),
    ):
        loss.backward()
        assert loss.item() == 0 and not logits.grad.any()
    zero_weight = cross_entropy(logits, torch.ones(2, 16, 16, dtype=torch.int64), torch.zeros(2, 16, 16))
    assert zero_weight.item() == 0


def test_dice() -> None:
    truth = torch.tensor([[[0, 1, 1, 2], [0, 0, 1, 255]]])
    perfect = F.one_hot(truth.clamp(max=2), 3).permute(0, 3, 1, 2) * 50.0
    assert dice_loss(perfect, truth, None).item() == pytest.approx(0, abs=1e-5)
    assert dice_loss(-perfect, truth, None).item() > 0.5
    uniform = torch.zeros(1, 3, 2, 4, requires_grad=True)
    # 7 valid pixels at 1/3; class 1: 3 of them, class 2: 1; the mean over the classes that occur
    expected = np.mean([1 - 2 * (n / 3) / (7 / 3 + n) for n in (3, 1)])
    loss = dice_loss(uniform, truth, None)
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    loss.backward()
    assert uniform.grad.isfinite().all() and not uniform.grad[0, :, 1, 3].any()  # the ignored pixel
    weight = torch.ones(1, 2, 4)
    weight[0, :, 0] = 0
    expected = np.mean([1 - 2 * (n / 3) / (5 / 3 + n) for n in (3, 1)])
    assert dice_loss(uniform, truth, weight).item() == pytest.approx(expected, abs=1e-5)
    assert dice_loss(uniform, torch.zeros(1, 2, 4, dtype=torch.int64), None).item() == 0


def test_dice_comes_beside_the_cross_entropy() -> None:
    output = HRDAOutput(torch.randn(1, CLASSES, 4, 4), None, None, torch.zeros(1))
    truth = label(1, 16, 16, CLASSES, 4, 1)
    plain = multi_resolution_loss(output, truth, None, None)
    both = multi_resolution_loss(output, truth, None, None, dice_weight=0.5)
    assert (both.total - plain.total).item() == pytest.approx(0.5 * dice_loss(output.fused, truth, None).item(), abs=1e-6)


# --- feature distance


def test_feature_distance_counts_only_its_classes() -> None:
    encoder = network().encoder
    distance = FeatureDistance(encoder, classes=[2, 3], min_ratio=0.75, num_classes=CLASSES).train()
    assert not distance.training and not any(p.requires_grad for p in distance.parameters())
    x = image(1, 128, 128, 1)
    with torch.no_grad():
        frozen = distance.encoder(F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False))[-1]  # (1, C, 2, 2)
    features = (frozen + torch.randn_like(frozen)).requires_grad_()
    truth = torch.zeros(1, 128, 128, dtype=torch.int64)
    truth[:, :64, :64] = 2  # this cell counts
    truth[:, :64, 64:] = 1  # not a class that counts
    truth[:, 64:112, :64] = 3  # three quarters: just enough
    truth[:, 64:111, 64:] = 3  # not quite
    loss = distance(features, x, truth)
    norms = [(features - frozen)[0, :, i, 0].norm().item() for i in (0, 1)]
    assert loss.item() == pytest.approx(np.mean(norms), rel=1e-5)
    loss.backward()
    assert features.grad[0, :, :, 0].all() and not features.grad[0, :, :, 1].any()


def test_feature_distance_without_a_counting_pixel_or_a_difference_is_zero() -> None:
    encoder = network().encoder
    distance = FeatureDistance(encoder, classes=[2], min_ratio=0.75, num_classes=CLASSES, context=False)
    x = image(1, 64, 64, 1)
    with torch.no_grad():
        frozen = distance.encoder(x)[-1]
    for truth in (torch.full((1, 64, 64), 255), torch.zeros(1, 64, 64, dtype=torch.int64), torch.full((1, 64, 64), 2)):
        features = frozen.clone().requires_grad_()
        loss = distance(features, x, truth)
        loss.backward()
        assert loss.item() == 0 and features.grad.isfinite().all() and not features.grad.any()


# --- one iteration


class Scripted:
    """Draws that are known beforehand; remembers which forward passes asked for a box."""

    def __init__(self, noise: Tensor | None = None) -> None:
        self.noise = noise
        self.streams: list[str] = []

    def detail_box(self, stream: str, height: int, width: int) -> Box:
        self.streams.append(stream)
        return {"source": Box(0, 64, 0, 64), "mixed": Box(64, 128, 0, 64), "masked": Box(32, 96, 24, 88)}[stream]

    def mixed_classes(self, present: Tensor, sample: int) -> Tensor:
        return present[::2]

    def pastes(self, sample: int) -> bool:
        return sample == 0

    def jitter(self, stream: str, sample: int) -> None:
        return None

    def blur_sigma(self, stream: str, sample: int) -> None:
        return None

    def mask_noise(self, samples: int, height: int, width: int) -> Tensor:
        assert self.noise is not None, "this configuration does not mask"
        return self.noise


def learner(changes: dict[str, Any] | None = None, **top: Any) -> Learner:
    adaptation = {
        **{"source_warmup": 0, "pseudo_labels": "confident-fraction", "mixing": "class-mix", "pseudo_threshold": 0.4},
        **{"foreground_at_least": 0.3, "edge_width": 0, "round_crops": 1},
        **(changes or {}),
    }
    config = TrainConfig().updated({"adaptation": adaptation, **top})
    student = network()
    return Learner(student, Teacher(student, config.adaptation.teacher_alpha, config.adaptation.teacher_norm), config)


def batches(t: int = 0) -> tuple[SourceBatch, TargetBatch]:
    valid = torch.ones(2, 128, 128)
    valid[:, :10], valid[:, -20:] = 0, 0
    return SourceBatch(image(2, 128, 128, 300 + t), label(2, 128, 128, CLASSES, 32, 500 + t)), TargetBatch(
        image(2, 128, 128, 400 + t), valid
    )


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def changed(student: HRDA) -> None:
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01)


def naive_loss(model: HRDA, x: Tensor, box: Box, labels: Tensor, weight: Tensor) -> tuple[float, float]:
    """0.9 * CE(fused) and 0.1 * CE(detail), from the formulas of REFERENCE alone."""

    def cross_entropy_of(logits: Tensor, truth: Tensor, pixel_weight: Tensor) -> float:
        logits = F.interpolate(logits, size=truth.shape[1:], mode="bilinear", align_corners=False).double()
        chosen = logits.log_softmax(1).gather(1, truth.clamp(max=CLASSES - 1)[:, None])[:, 0]
        return float(-(chosen * pixel_weight * (truth != 255)).sum() / truth.numel())

    with torch.no_grad():
        output = model(x, box)
    inside = (slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
    return (
        0.9 * cross_entropy_of(output.fused, labels, weight),
        0.1 * cross_entropy_of(output.detail, labels[inside], weight[inside]),
    )


@pytest.mark.parametrize("teacher_norm", ["batch", "running"])
def test_masked_consistency_against_its_formulas(teacher_norm: str) -> None:
    changes = {"mask_weight": 1.0, "mask_block": 32, "mask_ratio": 0.7, "teacher_norm": teacher_norm}
    learning = learner(changes)
    source, target = batches()
    noise = np.random.RandomState(900).random_sample((2, 1, 4, 4)).astype(np.float32)

    with torch.no_grad():  # before the iteration: teacher and student are equal
        teacher = copy.deepcopy(learning.student).train(teacher_norm == "batch")
        shares = teacher.logits(target.image).softmax(1)
    probability, pseudo = shares.max(1)
    fraction = float((probability >= 0.4).float().mean())
    assert 0.05 < fraction < 0.95
    weight = fraction * target.valid
    masked = target.image * torch.from_numpy(np.kron(noise > 0.7, np.ones((32, 32))).astype(np.float32))
    chosen = source.label.unique()[::2]
    paste = torch.stack([torch.stack([lab == c for c in chosen]).any(0) for lab in source.label])
    mixed = torch.where(paste[:, None], source.image, target.image)
    mixed_labels, mixed_weight = torch.where(paste, source.label, pseudo), torch.where(paste, torch.ones_like(weight), weight)
    ones = torch.ones_like(weight)
    expected = {
        "source": naive_loss(copy.deepcopy(learning.student), source.image, Box(0, 64, 0, 64), source.label, ones),
        "mixed": naive_loss(copy.deepcopy(learning.student), mixed, Box(64, 128, 0, 64), mixed_labels, mixed_weight),
        "masked": naive_loss(copy.deepcopy(learning.student), masked, Box(32, 96, 24, 88), pseudo, weight),
    }

    draws = Scripted(torch.from_numpy(noise))
    log = step(learning, 0, source, target, draws)
    assert draws.streams == ["source", "mixed", "masked"]
    assert log["pseudo/confident"].item() == pytest.approx(fraction, abs=1e-6)
    for name, (fused, detail) in expected.items():
        assert log[f"loss/{name}"].item() == pytest.approx(fused, abs=2e-6), name
        assert log[f"loss/{name}_detail"].item() == pytest.approx(detail, abs=2e-6), name
    assert not any(value.requires_grad for value in log.values())


def test_mask_weight_scales_loss_and_gradient() -> None:
    noise = torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    logs, gradients = [], []
    for weight in (0.0, 0.5, 1.0):
        learning = learner({"mask_weight": weight})
        draws = Scripted(noise)
        logs.append(step(learning, 0, *batches(), draws))
        gradients.append(learning.student.head.classifier.weight.grad)
        assert draws.streams == ["source", "mixed", "masked"][: 3 if weight else 2]
    assert "loss/masked" not in logs[0]
    assert logs[1]["loss/masked"].item() == pytest.approx(logs[2]["loss/masked"].item() / 2, rel=1e-5)
    torch.testing.assert_close(gradients[1] - gradients[0], (gradients[2] - gradients[0]) / 2, atol=1e-6, rtol=1e-4)


def test_more_photos_than_labelled_images_pass_in_parts_as_large_as_a_batch() -> None:
    """Twice as many take no more memory."""
    rules = {"pseudo_labels": "prior-band", "mixing": "none", "foreground_share": 0.2, "mask_weight": 0.5}
    learning, source, halves = learner(rules), batches()[0], [batches(t)[1] for t in (0, 1)]
    target = TargetBatch(torch.cat([half.image for half in halves]), torch.cat([half.valid for half in halves]))
    seen: list[tuple[int, ...]] = []
    learning.student.register_forward_pre_hook(lambda module, arguments: seen.append(tuple(arguments[0].shape)))
    draws = Scripted(torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)))
    log = step(learning, 0, source, target, draws)
    assert draws.streams == ["source", "mixed", "masked"] and seen == 5 * [(2, 3, 128, 128)]
    assert {"loss/source", "loss/mixed", "loss/masked"} <= log.keys()
    assert learning.foreground.counts.sum() == (target.valid > 0).sum()  # all of them share their thresholds


def test_twice_the_same_photos_teach_what_once_does() -> None:
    """Parts are averaged, not added up: how many crops of photos there are does not change their weight."""
    gradients, rules = [], {"pseudo_labels": "prior-band", "mixing": "none", "foreground_share": 0.2, "mask_weight": 0.0}
    for times in (1, 2):
        learning, (source, photos) = learner(rules), batches()
        step(learning, 0, source, TargetBatch(photos.image.repeat(times, 1, 1, 1), photos.valid.repeat(times, 1, 1)), Scripted())
        gradients.append(torch.cat([p.grad.flatten() for p in learning.student.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


def test_gradients_are_those_of_the_sum_of_the_losses() -> None:
    learning = learner()
    source, target = batches()
    step(learning, 0, source, None, Scripted())
    alone = learning.student.head.classifier.weight.grad.clone()
    learning.student.zero_grad()
    step(learning, 0, source, target, Scripted())
    assert not torch.allclose(learning.student.head.classifier.weight.grad, alone)
    unreached = [n for n, p in learning.student.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unreached == []


def test_warm_up_leaves_the_target_alone_and_the_teacher_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    learning = learner({"source_warmup": 2})
    asked: list[int] = []
    teach = learning.teacher.logits
    monkeypatch.setattr(learning.teacher, "logits", lambda x: (asked.append(iteration), teach(x))[1])
    for iteration in range(4):
        draws = Scripted()
        log = step(learning, iteration, *batches(), draws)
        adapting = iteration >= 2
        assert draws.streams == (["source", "mixed"] if adapting else ["source"])
        assert ("loss/mixed" in log) == ("pseudo/confident" in log) == adapting
        assert same(learning.teacher.model, learning.student) == (iteration <= 2)  # 2: the copy that averaging starts from
        changed(learning.student)
    assert asked == [2, 3]


@pytest.mark.parametrize("mode", ["source-only", "supervised"])
def test_modes_without_adaptation(mode: str) -> None:
    learning = learner({"source_warmup": 100}, mode=mode)  # the warm-up is one of adapting modes
    source, _ = batches()
    for iteration in range(3):
        draws = Scripted()
        log = step(learning, iteration, source, None, draws)
        assert draws.streams == ["source"] and log.keys() == {"loss/source", "loss/source_detail"}
        assert same(learning.teacher.model, learning.student) == (iteration == 0)  # averages from the start
        changed(learning.student)


def test_labels_of_ignore_alone_give_zero_loss_in_every_part() -> None:
    learning = learner({"mask_weight": 1.0}, optimisation={"dice_weight": 1.0})
    learning.feature_distance = FeatureDistance(learning.student.encoder, [1, 2], 0.75, CLASSES)
    source, target = batches()
    source = source._replace(label=torch.full_like(source.label, 255))
    target = target._replace(valid=torch.zeros_like(target.valid))
    log = step(learning, 0, source, target, Scripted(torch.rand(2, 1, 2, 2)))
    losses = {name: value.item() for name, value in log.items() if name.startswith("loss/")}
    assert set(losses.values()) == {0.0} and "loss/feature_distance" in losses and "loss/masked" in losses
    assert log["pseudo/foreground"].item() == 0
    assert all(p.grad is None or (p.grad.isfinite().all() and not p.grad.any()) for p in learning.student.parameters())


def test_feature_distance_adds_to_the_gradient_while_adapting() -> None:
    for warmup, expected in ((0, True), (5, False)):
        learning = learner({"source_warmup": warmup, "feature_distance_weight": 0.5})
        learning.feature_distance = FeatureDistance(learning.student.encoder, [0, 1, 2, 3, 4], 0.5, CLASSES)
        changed(learning.student)
        log = step(learning, 0, *batches(), Scripted())
        assert ("loss/feature_distance" in log) == expected
        assert not expected or log["loss/feature_distance"].item() > 0


@pytest.mark.parametrize("mixing", ["class-mix", "foreground", "none"])
def test_what_the_mixed_forward_sees(mixing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = learner({"mixing": mixing, "foreground_paste_margin": 3})
    source, target = batches()
    seen: list[Tensor] = []
    learning.student.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    step(learning, 0, source, target, Scripted())
    mixed = seen[1]
    from_source = (mixed == source.image).all(1)
    assert torch.equal(torch.where(from_source[:, None], source.image, target.image), mixed)
    if mixing == "none":
        assert not from_source.any()
    elif mixing == "foreground":
        assert torch.equal(from_source[0], foreground_mask(source.label[:1], 3)[0]) and not from_source[1].any()
    else:
        assert torch.equal(from_source, torch.isin(source.label, source.label.unique()[::2]))


def test_prior_band_in_a_step_remembers_the_batch() -> None:
    learning = learner({"pseudo_labels": "prior-band", "mixing": "none", "foreground_share": 0.2})
    log = step(learning, 0, *batches(), Scripted())
    assert learning.foreground.counts.sum() == (batches()[1].valid > 0).sum()
    assert 0 <= log["pseudo/foreground"].item() <= 1 and log["loss/mixed"].item() > 0


def test_prior_band_in_a_step_has_the_settings_of_the_run() -> None:
    def labelled(**settings: Any) -> float:
        learning = learner({"pseudo_labels": "prior-band", "mixing": "none", "foreground_share": 0.2, **settings})
        return step(learning, 0, *batches(), Scripted())["pseudo/confident"].item()

    assert labelled(ignored_share=0.3, edge_width=3) > labelled(ignored_share=0.3)
    assert labelled(ignored_share=0.3, foreground_at_least=1.0) < labelled(ignored_share=0.3)


def test_balanced_labels_in_a_step_are_trusted_as_the_teacher_is_sure() -> None:
    learning = learner({"mixing": "none", "class_balance": 1.0, "pseudo_threshold": 0.3})
    source, target = batches()
    logits = Teacher(learning.student).logits(target.image)
    expected = balanced(logits, target.valid, ClassShares(CLASSES), 1.0).argmax(dim=1)
    assert not torch.equal(expected, logits.argmax(dim=1))
    weight = confident_fraction(logits, 0.3).weight * target.valid
    fused, _ = naive_loss(copy.deepcopy(learning.student), target.image, Box(64, 128, 0, 64), expected, weight)
    log = step(learning, 0, source, target, Scripted())
    assert log["loss/mixed"].item() == pytest.approx(fused, abs=2e-6)
    assert learning.shares.shares().tolist() != [1 / CLASSES] * CLASSES


def test_band_pseudo_labels_in_a_step() -> None:
    learning = learner({"pseudo_labels": "band", "mixing": "none", "pseudo_ignore_top": 16, "edge_width": 3})
    source, target = batches()
    logits = Teacher(learning.student).logits(target.image)
    expected = uncertain_band(logits, 0.5, 0.1, edge=3)
    assert not torch.equal(expected.labels, uncertain_band(logits, 0.5, 0.1).labels)
    weight = expected.weight * target.valid
    weight[:, :16] = 0
    fused, detail = naive_loss(copy.deepcopy(learning.student), target.image, Box(64, 128, 0, 64), expected.labels, weight)
    log = step(learning, 0, source, target, Scripted())
    assert log["loss/mixed"].item() == pytest.approx(fused, abs=2e-6)
    assert log["loss/mixed_detail"].item() == pytest.approx(detail, abs=2e-6)
    foreground = (weight > 0) & (expected.labels > 0)
    assert log["pseudo/foreground"].item() == pytest.approx(foreground.sum().item() / (weight > 0).sum().item(), abs=1e-6)


def test_bfloat16_step_is_close_to_float32() -> None:
    logs = []
    for autocast in (None, torch.bfloat16):
        learning = learner({"mask_weight": 1.0})
        learning.autocast = autocast
        logs.append(step(learning, 0, *batches(), StepDraws(0, 0, learning.config.adaptation)))
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in learning.student.parameters())
    for name, value in logs[0].items():
        assert logs[1][name].dtype == torch.float32 and logs[1][name].item() == pytest.approx(value.item(), rel=0.03, abs=0.01), (
            name
        )


def test_the_same_draws_give_the_same_step() -> None:
    values = []
    for _ in range(2):
        learning = learner({"mask_weight": 1.0})
        log = step(learning, 0, *batches(), StepDraws(3, 0, learning.config.adaptation))
        values.append([value.item() for value in log.values()])
    assert values[0] == values[1]
