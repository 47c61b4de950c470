"""What trades time for memory, or needs a compiler: the same numbers, and a way out where it fails."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from test_predictor import checkpoint, photo
from tiny_runs import cracks, tiny
from torch import Tensor

from hrda_core import train
from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.step import Learner, SourceBatch, TargetBatch, step
from hrda_core.adaptation.teacher import Teacher
from hrda_core.config import OptimisationConfig, TrainConfig
from hrda_core.inference.predictor import Predictor
from hrda_core.models.build import build_encoder, build_model
from hrda_core.models.compiling import compile_networks, train_once
from hrda_core.models.half_weights import HalfWeights
from hrda_core.models.hrda import HRDA
from hrda_core.training.cuda_graphs import add_gradients
from hrda_core.training.events import Event, Notice
from hrda_core.training.optimisation import build_optimizer

CONFIG: dict[str, Any] = {
    "adaptation": {"source_warmup": 0, "pseudo_labels": "confident-fraction", "pseudo_threshold": 0.3, "mixing": "class-mix"},
    "optimisation": {"batch_size": 4},
}


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(encoder: str = "mit_b0", **options: Any) -> HRDA:
    torch.manual_seed(0)
    rest = {"head_channels": 16, "detail_size": 32, "dropout": 0.0, "drop_path_rate": 0.0, **options}
    return build_model(encoder, 3, **rest)


def gradients(model: HRDA, config: TrainConfig) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The log and the student's gradients of one adapting iteration with norms on running statistics."""
    student = copy.deepcopy(model).eval()
    label = torch.randint(0, 3, (4, 64, 64), generator=torch.Generator().manual_seed(3))
    source = SourceBatch(noise(4, 3, 64, 64, seed=1), label)
    target = TargetBatch(noise(4, 3, 64, 64, seed=2), torch.ones(4, 64, 64))
    learner = Learner(student, Teacher(student), config)
    log = step(learner, 0, source, target, StepDraws(0, 0, config.adaptation))
    return log, {name: p.grad for name, p in student.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_equal_the_whole_batch_where_norms_are_frozen(parts: int) -> None:
    config = TrainConfig().updated(CONFIG)
    log, whole = gradients(network(), config)
    parts_log, in_parts = gradients(network(), config.updated({"optimisation": {"accumulation": parts}}))
    assert log.keys() == parts_log.keys()
    for name, value in log.items():
        torch.testing.assert_close(parts_log[name], value, rtol=1e-3, atol=1e-5, msg=name)
    for name, value in whole.items():
        torch.testing.assert_close(in_parts[name], value, rtol=1e-3, atol=1e-5, msg=name)


def test_parts_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match=r"optimisation.accumulation=3: use a divisor of optimisation.batch_size"):
        OptimisationConfig(batch_size=4, accumulation=3)


@pytest.mark.parametrize("encoder", ["mit_b0", "convnext_atto"])
def test_recomputed_blocks_give_the_same_gradients(encoder: str) -> None:
    model, config = network(encoder), TrainConfig().updated(CONFIG)
    again = copy.deepcopy(model)
    again.encoder.recompute_blocks()
    _, kept = gradients(model, config)
    _, recomputed = gradients(again, config)
    for name, value in kept.items():
        torch.testing.assert_close(recomputed[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_an_encoder_without_blocks_to_recompute_says_so() -> None:
    class Plain(torch.nn.Module):
        pass

    encoder = build_encoder("test_efficientnet")
    encoder.backbone = Plain()
    with pytest.raises(ValueError, match=r"optimisation.recompute=True: this encoder has no blocks"):
        encoder.recompute_blocks()


def test_fused_adamw_takes_the_same_steps() -> None:
    one = network()
    two = copy.deepcopy(one)
    optimizers = [build_optimizer(m, OptimisationConfig(), fused) for m, fused in ((one, False), (two, True))]
    for i in range(3):
        for model, optimizer in zip((one, two), optimizers, strict=True):
            optimizer.zero_grad()
            output = model.eval()(noise(1, 3, 64, 64, seed=i))
            output.fused.square().mean().backward()
            optimizer.step()
    for ours, theirs in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


# --- weights in half precision


def bf16() -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("encoder", ["mit_b0", "mobilenetv3_small_050"])
def test_half_weights_are_what_autocast_makes_of_them(encoder: str) -> None:
    model, x = network(encoder, head_channels=64, detail_size=64).eval(), noise(1, 3, 128, 128, seed=1)
    half = HalfWeights(model, torch.bfloat16)
    assert half.network.head.classifier.weight.dtype == torch.bfloat16
    for _ in range(2):
        with torch.no_grad():
            full = model.logits(x)
            with bf16():
                ours, plain = half.network.logits(x), model.logits(x)
        if encoder == "mit_b0":  # whose norms are converted too: no further from full precision
            assert (ours - full).norm() < 1.5 * (plain - full).norm() < 0.05 * full.norm()
        else:
            assert torch.equal(ours, plain)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        half.refresh()


@pytest.mark.parametrize("encoder", ["mit_b0", "mobilenetv3_small_050"])
def test_gradients_of_half_weights_are_those_of_autocast(encoder: str) -> None:
    model, crops = (
        network(encoder, head_channels=64, detail_size=64).eval(),
        (noise(2, 3, 64, 64, seed=1), noise(2, 3, 64, 64, seed=2)),
    )
    half = HalfWeights(model, torch.bfloat16, learns=True)
    with bf16():
        plain, ours = model.both_resolutions(*crops), half.network.both_resolutions(*crops)
    gradients = [noise(*output.shape, seed=i).to(output.dtype) for i, output in enumerate(plain)]
    torch.autograd.backward(plain, gradients)
    expected = {name: p.grad for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None if parameter.grad is None else torch.ones_like(parameter)
    add_gradients(ours, gradients, list(zip(half.network.parameters(), model.parameters(), strict=True)))
    for name, parameter in model.named_parameters():
        if expected[name] is not None:
            assert (parameter.grad - 1 - expected[name]).norm() <= 0.01 * expected[name].norm() + 1e-5, name


# --- torch.compile


def test_where_compiling_fails_the_run_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler was found")

    monkeypatch.setattr("hrda_core.models.compiling._compile", broken)
    heard: list[Event] = []
    result = train(tiny({"compile": True}), cracks(3, 0), cracks(3, 1, masks=False), None, heard.append, directory=tmp_path)
    assert result.last.is_file()
    notices = [event.text for event in heard if isinstance(event, Notice)]
    assert any("torch.compile failed (no C++ compiler was found), so the networks run without it" in text for text in notices)


def test_compiled_networks_keep_their_names_and_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler's front end alone, which needs no C++ compiler."""
    monkeypatch.setattr("hrda_core.models.compiling.BACKEND", "aot_eager")
    student = network()
    teacher = Teacher(student)
    names, image = list(student.state_dict()), noise(1, 3, 64, 64, seed=1)
    before = teacher.logits(image)
    assert compile_networks((student, teacher.network), lambda: train_once(student, image, None), pytest.fail)
    torch.testing.assert_close(teacher.logits(image), before)
    assert list(student.state_dict()) == names


def test_a_compiled_predictor_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrda_core.models.compiling.BACKEND", "aot_eager")
    content, image = checkpoint(), photo(150, 200)
    plain, compiled = (Predictor(content, "cpu", compile=on).probabilities(image) for on in (False, True))
    np.testing.assert_allclose(compiled, plain, atol=1e-5)


def test_where_compiling_fails_the_predictor_warns_and_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrda_core.models.compiling.BACKEND", "no such backend")
    with pytest.warns(UserWarning, match=r"compile=true: torch\.compile failed \(.*\), so the networks run without it"):
        predictor = Predictor(checkpoint(), "cpu", compile=True)
    assert predictor.predict([photo(64, 64)])[0].labels.shape == (64, 64)
