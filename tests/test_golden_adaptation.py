"""The parts of an iteration, and three whole ones, give the published implementation's numbers (tests/golden/README.md)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_formulas import golden, golden_json, hrda_state, image, label, reference_state
from torch import Tensor, nn

from hrda_core.adaptation.class_mix import Mixed, class_mask, mix
from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.feature_distance import FeatureDistance, downscale_label
from hrda_core.adaptation.masking import keep_mask, noise_shape
from hrda_core.adaptation.pseudo_labels import confident_fraction, without_margins
from hrda_core.adaptation.step import Learner, SourceBatch, TargetBatch, step
from hrda_core.adaptation.teacher import Teacher, ema_alpha
from hrda_core.config import OptimisationConfig, TrainConfig
from hrda_core.data import photometric
from hrda_core.models.build import build_encoder, build_model
from hrda_core.models.hrda import Box
from hrda_core.models.published_order import use_published_order
from hrda_core.models.weights import load_reference_weights, our_name
from hrda_core.presets import preset
from hrda_core.training.optimisation import build_optimizer, learning_rate

CITYSCAPES_THINGS = [6, 7, 11, 12, 13, 14, 15, 16, 17, 18]


class TwoTensors(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        rs = np.random.RandomState(seed)
        self.w = nn.Parameter(torch.from_numpy(rs.standard_normal((3, 4)).astype(np.float32)))
        self.b = nn.Parameter(torch.from_numpy(rs.standard_normal(3).astype(np.float32)))


@pytest.mark.parametrize("alpha", [0.999, 0.5])
def test_teacher_is_a_moving_average(alpha: float) -> None:
    expected = golden("ema")
    teacher = Teacher(TwoTensors(200), alpha, norm="batch")
    for iteration in range(4):
        teacher.update(TwoTensors(100 + iteration), iteration)
        name = f"a{alpha}_iter{iteration}" if iteration else f"a{alpha}_init"
        torch.testing.assert_close(teacher.model.w.detach(), torch.from_numpy(expected[f"{name}_w"]), atol=5e-7, rtol=0)
    alphas = [ema_alpha(i, 0.999) for i in (0, 1, 2, 3, 10, 998, 999, 1000)]
    assert np.allclose(alphas, expected["alphas_iter_0_1_2_3_10_998_999_1000"])


def test_class_mix() -> None:
    expected = golden("classmix")
    labels, pseudo = label(2, 16, 24, 5, 4, 51, p=0.1), label(2, 16, 24, 5, 4, 52, p=0)
    weight = torch.full((2, 16, 24), 0.37)
    weight[:, :3] = 0
    present = labels.unique()
    assert present.tolist() == expected["unique_over_batch"].tolist()
    masks = torch.stack(
        [class_mask(labels[i], present[torch.from_numpy(np.sort(expected["class_choice_idx"][i]))]) for i in range(2)]
    )
    source = Mixed(image(2, 16, 24, 53), labels, torch.ones(2, 16, 24))
    mixed = mix(masks, source, Mixed(image(2, 16, 24, 54), pseudo, weight))
    for i in range(2):
        assert (masks[i].numpy() == expected[f"mask{i}"][0, 0]).all()
        assert (mixed.image[i].numpy() == expected[f"mixed_img{i}"][0]).all()
        assert (mixed.labels[i].numpy() == expected[f"mixed_lbl{i}"][0, 0]).all()
        assert (mixed.weight[i].numpy() == expected[f"mixed_weight{i}"][0, 0]).all()


def test_class_mix_takes_half_of_the_classes_rounded_up() -> None:
    present = torch.tensor([0, 1, 2, 3, 255])
    draws = StepDraws(seed=0, iteration=7, config=TrainConfig().adaptation)
    first, second = draws.mixed_classes(present, 0), draws.mixed_classes(present, 1)
    assert len(first) == len(second) == 3 and set(first.tolist()) <= set(present.tolist())
    assert first.tolist() == draws.mixed_classes(present, 0).tolist()


def test_pseudo_labels() -> None:
    expected = golden("pseudo_label")
    pseudo = confident_fraction(torch.from_numpy(expected["logits"]), 0.968)
    assert (pseudo.labels.numpy() == expected["pseudo_label"]).all()
    assert pseudo.confident.item() == pytest.approx(float(expected["pseudo_weight"]), abs=1e-7)
    weight = without_margins(pseudo, None, ignore_top=2, ignore_bottom=3).weight
    assert np.allclose(weight.numpy(), expected["weight_map_top2_bottom3"], atol=1e-7)


@pytest.mark.parametrize(("scale", "ratio"), [(8, 0.75), (16, 0.5)])
def test_label_downscale(scale: int, ratio: float) -> None:
    expected = golden("downscale_label")
    truth = torch.from_numpy(expected["gt"][:, 0].astype(np.int64))
    classes = int(truth[truth != 255].max()) + 1
    small = downscale_label(truth, (64 // scale, 96 // scale), ratio, classes)
    assert (small.numpy() == expected[f"scale{scale}_ratio{ratio}"][:, 0]).all()


def test_photometric_operations() -> None:
    expected = golden("photometric")
    x = torch.from_numpy(np.random.RandomState(81).random_sample((1, 3, 32, 40)).astype(np.float32))

    def check(result: Tensor, name: str) -> None:
        torch.testing.assert_close(result, torch.from_numpy(expected[name]), atol=2e-6, rtol=0)

    check(photometric.adjust_brightness(x, 1.15), "brightness_1.15")
    check(photometric.adjust_contrast(x, 0.85), "contrast_0.85")
    check(photometric.adjust_saturation(x, 1.2), "saturation_1.2")
    check(photometric.adjust_hue(x, 0.1), "hue_0.1")
    composed = photometric.ColourJitter(0.9, 1.1, 0.85, -0.12, order=(3, 0, 2, 1))
    check(photometric.jitter(x, composed), "jitter_b0.9_c1.1_s0.85_h-0.12_order3021")
    check(photometric.gaussian_blur(x, float(expected["blur_sigma"])), "blur")
    for side, size in expected["blur_kernel_sizes"].tolist():
        assert photometric.blur_kernel_size(side) == size


@pytest.mark.parametrize(("height", "width", "block", "ratio"), [(256, 256, 64, 0.7), (200, 328, 64, 0.5), (160, 96, 64, 0.7)])
def test_mask_blocks(height: int, width: int, block: int, ratio: float) -> None:
    expected = golden("mic_mask")
    name = f"{height}x{width}_b{block}_r{ratio}"
    noise = torch.from_numpy(expected[f"{name}_rand"])
    assert noise_shape(height, width, block) == tuple(noise.shape[2:])
    assert (keep_mask(noise, ratio, (height, width)).numpy() == expected[f"{name}_mask"]).all()


def test_learning_rate_schedules() -> None:
    expected = golden_json("lr_schedule")
    published = preset("published-hrda").optimisation
    tutorial = replace(preset("crack-tutorial").optimisation, iterations=25_000)
    for name, config, iterations, base in (
        ("hrda_backbone", published, "iters", 6e-5),
        ("hrda_head", published, "iters", 6e-4),
        ("sly_ui_default_backbone_warm200", replace(tutorial, warmup_iterations=200), "sly_iters", 1e-4),
        ("sly_ui_default_head_warm200", replace(tutorial, warmup_iterations=200), "sly_iters", 1e-3),
        ("sly_base_cfg_backbone_warm500", tutorial, "sly_iters", 1e-4),
    ):
        rates = [learning_rate(base, i, config) for i in expected[iterations]]
        assert rates == pytest.approx(expected[name], rel=1e-9), name


def test_optimizer_groups() -> None:
    model = build_model("mit_b0", 19)
    optimizer = build_optimizer(model, OptimisationConfig())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = {names[id(p)]: (g["base_lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    theirs = {our_name(key): tuple(value) for key, value in golden_json("optimizer_groups_hrda_b0").items()}
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value), name


class ScriptedDraws:
    """The golden's random decisions: boxes in order of use, every second class, no colour augmentation."""

    boxes = (
        (64, 192, 96, 224),
        (0, 128, 128, 256),
        (128, 256, 8, 136),
        (32, 160, 32, 160),
        (120, 248, 64, 192),
        (16, 144, 112, 240),
    )

    def __init__(self) -> None:
        self.used = 0

    def detail_box(self, stream: str, height: int, width: int) -> Box:
        self.used += 1
        return Box(*self.boxes[self.used - 1])

    def mixed_classes(self, present: Tensor, sample: int) -> Tensor:
        return present[::2]

    def pastes(self, sample: int) -> bool:
        return False

    def jitter(self, stream: str, sample: int) -> None:
        return None

    def blur_sigma(self, stream: str, sample: int) -> None:
        return None

    def mask_noise(self, samples: int, height: int, width: int) -> Tensor:
        raise AssertionError("no masking in this golden")


def golden_learner(double: bool = False) -> tuple[Learner, torch.optim.Optimizer]:
    config = preset("published-hrda").updated({"adaptation": {"pseudo_threshold": 0.13}})
    student = use_published_order(build_model("mit_b0", 19, detail_size=(128, 128), drop_path_rate=0.0, dropout=0.0))
    load_reference_weights(student, hrda_state())
    imagenet = use_published_order(build_encoder("mit_b0"))
    load_reference_weights(imagenet, reference_state(golden_json("hrda_b0_keys"), prefix="imnet."))
    distance = FeatureDistance(imagenet, CITYSCAPES_THINGS, config.adaptation.feature_distance_min_ratio, 19)
    if double:
        student, distance = student.double(), distance.double()
    teacher = Teacher(student, config.adaptation.teacher_alpha, config.adaptation.teacher_norm)
    optimizer = build_optimizer(student, config.optimisation)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"]
    return Learner(student.train(), teacher, config, distance), optimizer


def test_three_whole_iterations() -> None:
    """In double precision: AdamW's first steps are signs, so that in single precision the order of additions, which differs from
    processor to processor, moves the third loss by up to 9e-5. What is left here is the reference's own float noise."""
    expected, arrays = golden_json("dacs_steps"), golden("dacs_steps")
    learner, optimizer = golden_learner(double=True)
    draws = ScriptedDraws()
    valid = torch.ones(2, 256, 256)
    valid[:, :10], valid[:, -20:] = 0, 0
    names = {
        "decode.loss_seg": "loss/source",
        "decode.hr.loss_seg": "loss/source_detail",
        "src.loss_imnet_feat_dist": "loss/feature_distance",
        "mix.decode.loss_seg": "loss/mixed",
        "mix.decode.hr.loss_seg": "loss/mixed_detail",
    }
    for t, tolerance in enumerate((1e-6, 3e-5, 6e-5)):
        source = SourceBatch(image(2, 256, 256, 300 + t).double(), label(2, 256, 256, 19, 64, 500 + t))
        target = TargetBatch(image(2, 256, 256, 400 + t).double(), valid)
        optimizer.zero_grad()
        log = step(learner, t, source, target, draws)
        optimizer.step()
        for theirs, ours in names.items():
            assert log[ours].item() == pytest.approx(expected["log"][t][theirs], abs=tolerance), (t, ours)
        assert log["pseudo/confident"].item() == pytest.approx(expected["pseudo_weight"][t], abs=5e-5)
    assert draws.used == expected["crop_boxes_used"]

    for network, model in (("student", learner.student), ("teacher", learner.teacher.model)):
        ours_state = model.state_dict()
        for key, value in arrays.items():
            kind, _, name = key.partition(":")
            if kind in (network, f"{network}_buf"):
                difference = (ours_state[our_name(name)] - torch.from_numpy(value)).abs().double()
                # AdamW's first steps are signs: where a gradient is near zero, float noise decides single weights
                assert difference.max() < 3e-3 and difference.mean() < 1e-4, key
    for key, norm in expected["student_param_l2"].items():
        ours_norm = learner.student.get_parameter(our_name(key)).norm().item()
        assert ours_norm == pytest.approx(norm, rel=1e-4, abs=2e-4), key
