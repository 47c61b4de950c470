"""Optimiser groups and learning-rate schedule (DAFormer, arXiv 2111.14887, section 4.1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from hrda_core.config import OptimisationConfig
from hrda_core.models.hrda import HRDA

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)


def build_optimizer(model: HRDA, config: OptimisationConfig, fused: bool = False) -> torch.optim.Optimizer:
    """Three groups: encoder, encoder norms (own weight decay), heads (learning rate times `head_factor`).

    New parts of an encoder, which no pretrained weights fill, belong to the heads.

    `fused`: AdamW in one kernel instead of several passes over the weights; the same but for rounding.

    Each group remembers its full learning rate as `base_lr`, which `set_learning_rate` scales.
    """
    new = {id(p) for module in model.encoder.new_modules() for p in module.parameters()}
    in_norm = {id(p) for m in model.encoder.modules() if isinstance(m, _NORMS) for p in m.parameters()}
    pretrained = {id(p) for p in model.encoder.parameters()} - new
    trained = [p for p in model.parameters() if p.requires_grad]
    encoder = [p for p in trained if id(p) in pretrained - in_norm]
    norms = [p for p in trained if id(p) in pretrained & in_norm]
    heads = [p for p in trained if id(p) not in pretrained]
    head_lr = config.learning_rate * config.head_factor
    groups = [
        {"params": encoder, "base_lr": config.learning_rate, "weight_decay": config.weight_decay},
        {"params": norms, "base_lr": config.learning_rate, "weight_decay": config.norm_weight_decay},
        {"params": heads, "base_lr": head_lr, "weight_decay": config.weight_decay},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=fused or None)


def restore_averages(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads what `optimizer.state_dict()` holds of the weights; rates and decays stay those that `optimizer` was built with."""
    ours, theirs = optimizer.state_dict()["param_groups"], state["param_groups"]
    groups = [{**mine, "params": other["params"]} for mine, other in zip(ours, theirs, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})


def learning_rate(base: float, iteration: int, config: OptimisationConfig) -> float:
    """Polynomial decay to `min_learning_rate`, under a linear warm-up from `warmup_ratio`."""
    decay = (1 - iteration / config.iterations) ** config.schedule_power
    rate = (base - config.min_learning_rate) * decay + config.min_learning_rate
    if iteration < config.warmup_iterations:
        rate *= 1 - (1 - iteration / config.warmup_iterations) * (1 - config.warmup_ratio)
    return float(rate)


def set_learning_rate(optimizer: torch.optim.Optimizer, iteration: int, config: OptimisationConfig) -> float:
    """Sets the rate of every group for the step of `iteration`; returns the encoder's."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(group["base_lr"], iteration, config)
    return float(optimizer.param_groups[0]["lr"])
