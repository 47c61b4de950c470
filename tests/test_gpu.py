"""What only a GPU can show: the published numbers there, and that recorded, compiled and joined passes change none of them.

Not part of `make test`: `make test-gpu` runs these where there is a GPU.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_formulas import golden, hrda_state, image, label
from test_predictor import checkpoint
from tiny_runs import cracks, tiny
from torch import Tensor, nn

from hrda_core import Predictor, train
from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.losses import multi_resolution_loss
from hrda_core.adaptation.step import Learner, SourceBatch, TargetBatch, step
from hrda_core.adaptation.teacher import Teacher
from hrda_core.config import TrainConfig
from hrda_core.inference.tiling import slide_logits
from hrda_core.models.build import build_model
from hrda_core.models.compiling import compile_networks, train_once
from hrda_core.models.daformer_head import resize, resize_by_products
from hrda_core.models.dilated import dilated_depthwise
from hrda_core.models.hrda import HRDA, Box
from hrda_core.models.published_order import use_published_order
from hrda_core.models.weights import load_reference_weights
from hrda_core.training.cuda_graphs import record
from hrda_core.training.events import Event, Metrics, Notice

pytestmark = pytest.mark.gpu

ENCODERS = ("mit_b0", "mobilenetv2_100")
BOXES = (Box(0, 64, 0, 64), Box(32, 96, 64, 128), Box(64, 128, 8, 72))


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Without TF32, which PyTorch allows in convolutions."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def network(encoder: str, **options: Any) -> HRDA:
    torch.manual_seed(0)
    model = build_model(encoder, 3, head_channels=64, detail_size=64, dropout=0.0, drop_path_rate=0.0, **options)
    model.encoder.freeze_norms()
    return model.cuda().train()


def config(changes: dict[str, Any] | None = None) -> TrainConfig:
    rules = {"source_warmup": 0, "pseudo_labels": "confident-fraction", "mixing": "class-mix", "pseudo_threshold": 0.3}
    sizes = {"crop_height": 128, "crop_width": 128}
    return TrainConfig().updated({"adaptation": rules, "data": sizes, **(changes or {})})


def learner(encoder: str, autocast: torch.dtype | None = None, **changes: Any) -> Learner:
    student = network(encoder)
    return Learner(student, Teacher(student, autocast=autocast), config(changes), autocast=autocast)


def batch(seed: int) -> tuple[SourceBatch, TargetBatch]:
    return (
        SourceBatch(image(2, 128, 128, seed).cuda(), label(2, 128, 128, 3, 32, seed).cuda()),
        TargetBatch(image(2, 128, 128, seed + 100).cuda(), torch.ones(2, 128, 128, device="cuda")),
    )


def iterations(learning: Learner, first: int, count: int) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Logs of steps of gradient descent, and the last gradients."""
    logs, gradients = [], {}
    for t in range(first, first + count):
        for parameter in learning.student.parameters():
            if learning.student_forward is None:
                parameter.grad = None
            elif parameter.grad is not None:
                parameter.grad.zero_()
        log = step(learning, t, *batch(10 + t), StepDraws(0, t, learning.config.adaptation))
        logs.append({name: value.item() for name, value in log.items()})
        gradients = {n: p.grad.clone() for n, p in learning.student.named_parameters() if p.grad is not None}
        with torch.no_grad():
            for parameter in learning.student.parameters():
                if parameter.grad is not None:
                    parameter -= 0.01 * parameter.grad
    return logs, gradients


def assert_same_runs(one: Learner, other: Learner, relative: float) -> None:
    """Gradients and statistics of the first iteration; losses of three, which atomic additions let drift apart by themselves."""
    (logs, gradients), (other_logs, other_gradients) = iterations(one, 0, 1), iterations(other, 0, 1)
    total = torch.stack([g.norm() for g in gradients.values()]).norm()
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        assert (gradient - other_gradients[name]).norm() < relative * total, name
    for (name, ours), theirs in zip(one.student.named_buffers(), other.student.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=relative, atol=relative, msg=name)
    logs, other_logs = logs + iterations(one, 1, 2)[0], other_logs + iterations(other, 1, 2)[0]
    for log, other_log in zip(logs, other_logs, strict=True):
        assert log == pytest.approx(other_log, rel=5 * relative, abs=5 * relative)


# --- the published numbers


def reference_model(num_classes: int = 19, **options: object) -> HRDA:
    model = build_model("mit_b0", num_classes, detail_size=(128, 128), drop_path_rate=0.0, dropout=0.0, **options)
    load_reference_weights(model, hrda_state(num_classes))
    return model.eval().cuda()


@pytest.mark.parametrize("published", [True, False])
def test_training_forward_of_the_reference(published: bool) -> None:
    expected = golden("hrda_b0_trainfwd_eval")
    y1, y2, x1, x2 = expected["crop_box"].tolist()
    model = use_published_order(reference_model(), published)
    with torch.no_grad():
        output = model(image(1, 256, 256, 21).cuda(), Box(y1, y2, x1, x2))
    for ours, name in ((output.fused, "fused"), (output.detail, "hr_logits"), (output.context, "lr_logits_weighted")):
        torch.testing.assert_close(ours.cpu(), torch.from_numpy(expected[name]), atol=2e-5, rtol=0)


def test_sliding_inference_of_the_reference() -> None:
    expected = golden("hrda_b0_inference")
    with torch.no_grad():
        logits = slide_logits(reference_model(5), image(1, 256, 384, 41).cuda(), window=(256, 256), overlap=0.5).cpu()
    torch.testing.assert_close(logits[:, :, ::4, ::4], torch.from_numpy(expected["slide_sub4"]), atol=2e-5, rtol=0)
    assert (logits.argmax(1).numpy() == expected["slide_argmax"]).mean() > 0.9999


# --- one pass for context and detail, recordings, compilation


@pytest.mark.parametrize("encoder", ENCODERS)
def test_context_and_detail_in_one_pass_are_those_of_two(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network(encoder)
    x = image(2, 128, 128, 1).cuda()
    joined = copy.deepcopy(model)(x, BOXES[1])
    monkeypatch.setattr(type(model.encoder), "norms_see_the_batch", True)
    apart = model(x, BOXES[1])
    for ours, theirs in zip(joined, apart, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("accumulation", [1, 2])
def test_recorded_passes_are_the_plain_ones(encoder: str, accumulation: int) -> None:
    changes = {"optimisation": {"accumulation": accumulation}}
    plain, recorded = learner(encoder, **changes), learner(encoder, **changes)
    record(recorded)
    assert_same_runs(plain, recorded, 1e-3)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_recorded_passes_under_autocast(encoder: str) -> None:
    plain, recorded = learner(encoder, torch.bfloat16), learner(encoder, torch.bfloat16)
    record(recorded)
    assert_same_runs(plain, recorded, 0.05)


def test_half_weights_predict_what_autocast_does() -> None:
    student = network("mit_b0")
    x = image(2, 128, 128, 1).cuda()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        plain, half = Teacher(student).logits(x), Teacher(student, autocast=torch.bfloat16).logits(x)
    torch.testing.assert_close(half, plain, rtol=0.02, atol=0.02)


def test_recording_leaves_statistics_and_gradients_alone() -> None:
    learning = learner("mit_b0")
    before = copy.deepcopy(learning.student.state_dict())
    record(learning)
    for name, value in learning.student.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(p.grad is None or not p.grad.any() for p in learning.student.parameters())


def test_dropout_draws_anew_in_every_replay() -> None:
    learning = learner("mit_b0")
    for module in learning.student.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.5
    record(learning)
    x = image(2, 128, 128, 1).cuda()
    assert learning.student_forward is not None
    torch.manual_seed(1)
    first, second = (learning.student_forward(x, BOXES[0]).fused.clone() for _ in range(2))
    torch.manual_seed(1)
    again = learning.student_forward(x, BOXES[0]).fused.clone()
    assert not torch.equal(first, second) and torch.equal(first, again)


def test_compiled_networks_give_the_same_numbers() -> None:
    model = network("mit_b0")
    plain = copy.deepcopy(model)
    x = image(2, 128, 128, 1).cuda()
    assert compile_networks([model], lambda: train_once(model, x, None), pytest.fail)
    for box in BOXES:
        torch.testing.assert_close(model(x, box).fused, plain(x, box).fused, rtol=1e-3, atol=1e-4)
    loss = [multi_resolution_loss(m(x, BOXES[0]), label(2, 128, 128, 3, 32, 1).cuda(), None, BOXES[0]) for m in (model, plain)]
    torch.testing.assert_close(loss[0].total, loss[1].total, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("dilation", "height", "width"), [(6, 128, 100), (12, 30, 64), (18, 128, 128)])
def test_dilated_depthwise_is_the_dilated_convolution(dtype: torch.dtype, dilation: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 64, height, width, device="cuda").to(dtype, memory_format=torch.channels_last).requires_grad_()
    w = torch.randn(64, 1, 3, 3, device="cuda", requires_grad=True)
    gradient = torch.randn_like(x)
    ours = dilated_depthwise(x, w, dilation)
    plain = F.conv2d(x.float(), w, None, 1, dilation, dilation, 64)
    tolerance = 1e-4 if dtype == torch.float32 else 0.02
    found = (ours, *torch.autograd.grad(ours, (x, w), gradient))
    expected = (plain, *torch.autograd.grad(plain, (x, w), gradient.float()))
    for one, other in zip(found, expected, strict=True):
        assert (one.float() - other.float()).norm() < tolerance * other.float().norm()


def test_half_precision_is_resized_by_products() -> None:
    feature = torch.randn(2, 32, 17, 16, device="cuda").to(torch.bfloat16, memory_format=torch.channels_last)
    torch.testing.assert_close(resize_by_products(feature, (68, 128)), resize(feature, (68, 128)), rtol=0.02, atol=0.02)


def test_prediction_in_parts_and_recorded_is_that_of_whole_windows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 300, 3), dtype=np.uint8)
    content = checkpoint()
    whole = Predictor(content, "cuda", "reference").probabilities(pixels)
    predictor = Predictor(content, "cuda", "fp32")
    for _ in range(4):  # recorded at the third
        np.testing.assert_allclose(predictor.probabilities(pixels), whole, atol=1e-4)
    assert predictor.network._recordings


# --- whole runs

RUN = {
    "device": "cuda",
    "precision": "fp32",
    "model": {"multi_resolution": True, "head_channels": 64, "encoder": "mobilenetv2_100"},
    "data": {"crop_height": 128, "crop_width": 128},
    "optimisation": {"dice_weight": 1.0},
}


def losses(directory: Path, *changes: dict[str, Any], stop_at: int = 0) -> tuple[list[float], list[str]]:
    heard: list[Event] = []
    done = [0]

    def listen(event: Event) -> None:
        heard.append(event)
        done[0] = event.iteration

    settings = tiny(RUN, *changes)
    source, target = cracks(6, 0), cracks(6, 1, masks=False)
    stop = (lambda: done[0] >= stop_at) if stop_at else (lambda: False)
    train(settings, source, target, cracks(2, 2), listen, directory=directory, resume=True, stop=stop)
    totals = [sum(v for k, v in e.values.items() if k.startswith("loss/")) for e in heard if isinstance(e, Metrics)]
    return [t for t in totals if t], [e.text for e in heard if isinstance(e, Notice)]


def test_a_recorded_run_is_the_plain_run(tmp_path: Path) -> None:
    recorded, notices = losses(tmp_path / "recorded")
    plain, _ = losses(tmp_path / "plain", {"cuda_graphs": False})
    assert not any("recording failed" in text for text in notices)
    assert recorded == pytest.approx(plain, rel=0.02)


def test_a_recorded_run_that_was_stopped_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    whole, _ = losses(tmp_path / "whole")
    before, _ = losses(tmp_path / "parts", stop_at=4)
    after, _ = losses(tmp_path / "parts")
    assert [*before, *after][: len(whole)] == pytest.approx(whole, rel=0.02)


@pytest.mark.parametrize("encoder", ["mit_b0", "convnext_atto", "pvt_v2_b0", "swin_tiny_patch4_window7_224"])
def test_encoders_train_and_predict_in_half_precision(encoder: str, tmp_path: Path) -> None:
    changes = {"precision": "auto", "model": {"encoder": encoder}}
    found, notices = losses(tmp_path, changes)
    assert np.isfinite(found).all() and not any("recording failed" in text for text in notices), notices
    pixels = cracks(1, 3).image(0)
    half, full = (Predictor(tmp_path / "checkpoints" / "last.pth", "cuda", p).probabilities(pixels) for p in ("auto", "fp32"))
    assert np.abs(half - full).mean() < 0.02
