"""What learns how fast: optimiser groups and schedule (DAFormer, section 4.1)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hrda_core.config import OptimisationConfig
from hrda_core.models.build import build_model
from hrda_core.models.hrda import HRDA
from hrda_core.training.optimisation import build_optimizer, learning_rate, set_learning_rate

CONFIG = OptimisationConfig(learning_rate=1e-4, head_factor=10.0, weight_decay=0.01, norm_weight_decay=0.001)


def network(encoder: str, freeze: bool = False) -> HRDA:
    model = build_model(encoder, 2, head_channels=16, detail_size=64)
    if freeze:
        model.encoder.freeze_norms()
    return model


def rates(model: HRDA, config: OptimisationConfig = CONFIG) -> dict[str, tuple[float, float]]:
    """Parameter name -> (learning rate, weight decay); every trained parameter must occur exactly once."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = build_optimizer(model, config).param_groups
    found = [(names[id(p)], (group["base_lr"], group["weight_decay"])) for group in groups for p in group["params"]]
    assert len(found) == len(dict(found)) == sum(p.requires_grad for p in model.parameters())
    return dict(found)


def parameters_of(model: HRDA, wanted: Callable[[nn.Module], bool]) -> set[str]:
    return {
        f"{m}.{p}" for m, module in model.named_modules() if wanted(module) for p, _ in module.named_parameters(recurse=False)
    }


ENCODER, NORM, HEAD = (1e-4, 0.01), (1e-4, 0.001), (1e-3, 0.01)


@pytest.mark.parametrize("encoder", ["mit_b0", "mobilenetv2_050", "convnext_atto", "pvt_v2_b0", "vit_tiny_patch16_224"])
def test_three_rates(encoder: str) -> None:
    model = network(encoder)
    found = rates(model)
    new = {f"{m}.{p}" for m, module in model.named_modules() for n in model.encoder.new_modules() if module is n
           for p, _ in n.named_parameters()}  # fmt: skip
    norms = parameters_of(model.encoder, lambda m: isinstance(m, (nn.LayerNorm, nn.BatchNorm2d)))  # type: ignore[arg-type]
    norms = {f"encoder.{name}" for name in norms} - new
    assert norms
    for name, rate in found.items():
        expected = NORM if name in norms else ENCODER if name.startswith("encoder.") and name not in new else HEAD
        assert rate == expected, name


@pytest.mark.parametrize(
    ("encoder", "part"), [("vit_tiny_patch16_224", "encoder.neck."), ("convnext_atto", "encoder.output_norms.")]
)
def test_new_parts_of_an_encoder_learn_as_fast_as_the_heads(encoder: str, part: str) -> None:
    found = rates(network(encoder))
    new = {rate for name, rate in found.items() if name.startswith(part)}
    assert new == {HEAD}
    assert {rate for name, rate in found.items() if name.startswith("encoder.backbone.")} == {ENCODER, NORM}


def test_frozen_norms_are_left_alone() -> None:
    found = rates(network("mobilenetv2_050", freeze=True))
    assert {rate for name, rate in found.items() if name.startswith("encoder.")} == {ENCODER}
    assert any(".bn" in name for name in rates(network("mobilenetv2_050")))
    assert not any(name.startswith("encoder.") and ".bn" in name for name in found)


def test_both_heads_are_heads() -> None:
    found = rates(network("mobilenetv2_050"))
    for part in ("head.", "scale_attention."):
        assert {rate for name, rate in found.items() if name.startswith(part)} == {HEAD}


def test_adamw_takes_its_settings() -> None:
    optimizer = build_optimizer(network("mobilenetv2_050"), OptimisationConfig(beta1=0.8, beta2=0.95))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)


def test_sgd_takes_its_settings_and_steps() -> None:
    model = network("mobilenetv2_050")
    config = OptimisationConfig(optimizer="sgd", momentum=0.7, learning_rate=0.1, head_factor=10.0, warmup_iterations=0)
    optimizer = build_optimizer(model, config)
    assert isinstance(optimizer, torch.optim.SGD)
    assert all(group["momentum"] == 0.7 for group in optimizer.param_groups)
    assert [group["base_lr"] for group in optimizer.param_groups] == [0.1, 0.1, 1.0]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0, 0.01]
    set_learning_rate(optimizer, 0, config)
    bias = list(model.head.parameters())[-1]
    before = bias.detach().clone()
    bias.grad = torch.ones_like(bias)
    optimizer.step()
    assert torch.allclose(bias, before - 1.0 * (1 + 0.01 * before))  # SGD's weight decay is part of the gradient


# -- schedule ---------------------------------------------------------------------------------------------------------


def test_warm_up_then_decay() -> None:
    config = OptimisationConfig(iterations=100, warmup_iterations=10, warmup_ratio=0.1, min_learning_rate=0.0)
    curve = [learning_rate(1.0, i, config) for i in range(100)]
    assert curve[0] == pytest.approx(0.1)
    assert curve[5] == pytest.approx(0.95 * 0.55)
    assert curve[10] == pytest.approx(0.9)
    assert curve[50] == pytest.approx(0.5)
    assert curve[99] == pytest.approx(0.01)
    assert max(curve) == curve[10]


def test_the_floor_and_the_power() -> None:
    config = OptimisationConfig(iterations=100, warmup_iterations=0, min_learning_rate=0.2, schedule_power=2.0)
    assert learning_rate(1.0, 0, config) == 1.0
    assert learning_rate(1.0, 50, config) == pytest.approx(0.2 + 0.8 * 0.25)
    assert learning_rate(1.0, 100, config) == pytest.approx(0.2)
    constant = OptimisationConfig(iterations=100, warmup_iterations=0, schedule_power=0.0)
    assert {learning_rate(1.0, i, constant) for i in range(100)} == {1.0}


@given(st.integers(1, 10_000), st.integers(0, 20_000), st.floats(0, 1), st.floats(0, 5), st.data())
def test_rates_stay_between_zero_and_the_full_rate(
    iterations: int, warmup: int, ratio: float, power: float, data: st.DataObject
) -> None:
    config = OptimisationConfig(iterations=iterations, warmup_iterations=warmup, warmup_ratio=ratio, schedule_power=power)
    rate = learning_rate(6e-5, data.draw(st.integers(0, iterations - 1)), config)
    assert 0 <= rate <= 6e-5 * (1 + 1e-9)


def test_every_group_follows_the_schedule() -> None:
    config = OptimisationConfig(iterations=10, warmup_iterations=0, learning_rate=1e-4, head_factor=10.0)
    optimizer = build_optimizer(network("mobilenetv2_050"), config)
    assert set_learning_rate(optimizer, 5, config) == pytest.approx(5e-5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-5, 5e-5, 5e-4])
