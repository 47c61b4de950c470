"""Layers that see the whole batch, although each process computes only its part of it.

Batch norms take their statistics over all parts, and dropout and stochastic depth draw for all samples and use their own:
the network of several processes is the one that a single process trains.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn


def share_layers(model: nn.Module) -> None:
    """Changes the layers in place; parameters, buffers and their names stay. Frozen batch norms stay as they are.

    Works on CPU and GPU, with any backend, where `nn.SyncBatchNorm` needs a GPU.
    """
    for module in model.modules():
        shared = _SHARED.get(type(module))
        if shared is None or (isinstance(module, nn.BatchNorm2d) and not module.training):
            continue
        module.__class__ = shared  # another forward for the same layer; a copy of the model keeps it


class SharedBatchNorm2d(nn.BatchNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return _shared_norm(self, input) if self.training else super().forward(input)


class SharedBatchNormAct2d(BatchNormAct2d):
    """timm's norm with an activation behind it."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)  # type: ignore[no-any-return, no-untyped-call]
        return self.act(self.drop(_shared_norm(self, x)))  # type: ignore[no-any-return]


class SharedDropout2d(nn.Dropout2d):
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        return input * _own_noise(input, (*input.shape[:2], 1, 1), 1 - self.p, scaled=True)


class SharedDropPath(DropPath):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        shape = (x.shape[0], *(1 for _ in x.shape[1:]))
        return x * _own_noise(x, shape, 1 - self.drop_prob, scaled=self.scale_by_keep)


_SHARED: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: SharedBatchNorm2d,
    BatchNormAct2d: SharedBatchNormAct2d,
    nn.Dropout2d: SharedDropout2d,
    DropPath: SharedDropPath,
}


def _own_noise(feature: Tensor, shape: tuple[int, ...], keep: float, scaled: bool) -> Tensor:
    """1 with probability `keep`, else 0, for this process's samples, out of one draw for the samples of all."""
    samples = shape[0]
    noise = feature.new_empty((dist.get_world_size() * samples, *shape[1:])).bernoulli_(keep)
    if scaled and keep > 0:
        noise = noise.div_(keep)
    return noise[dist.get_rank() * samples :][:samples]


def _shared_norm(norm: nn.BatchNorm2d, feature: Tensor) -> Tensor:
    output, mean, var = _SharedNorm.apply(feature, norm.weight, norm.bias, norm.eps)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        count = dist.get_world_size() * feature.numel() // feature.shape[1]
        momentum = norm.momentum if norm.momentum is not None else 0.1
        with torch.no_grad():
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), momentum)
            norm.running_var.lerp_((var * count / (count - 1)).to(norm.running_var.dtype), momentum)
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
    return output  # type: ignore[no-any-return]


class _SharedNorm(torch.autograd.Function):
    """Normalisation (N, C, H, W) by mean and variance over the equal parts of all processes; also yields those two (C,)."""

    @staticmethod
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, feature: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        full = _at_least_single(feature)
        var, mean = torch.var_mean(full, dim=(0, 2, 3), correction=0)
        own = torch.stack([mean, var])
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        means, variances = torch.stack(parts).unbind(dim=1)
        mean = means.mean(dim=0)
        var = (variances + (means - mean).square()).mean(dim=0)
        output = F.batch_norm(feature, mean, var, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(feature, weight, mean, (var + eps).rsqrt())
        ctx.mark_non_differentiable(mean, var)
        return output, mean, var

    @staticmethod
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        feature, weight, mean, inverse = ctx.saved_tensors
        column = (1, -1, 1, 1)
        full = _at_least_single(gradient)
        normal = (_at_least_single(feature) - mean.view(column)) * inverse.view(column)
        own = torch.stack([full.sum(dim=(0, 2, 3)), (full * normal).sum(dim=(0, 2, 3))])
        total = own.clone()
        dist.all_reduce(total)
        total /= dist.get_world_size() * feature.numel() // feature.shape[1]
        scale = inverse if weight is None else inverse * weight
        inner = (full - total[0].view(column) - normal * total[1].view(column)) * scale.view(column)
        affine = (own[1], own[0]) if weight is not None else (None, None)
        return inner.to(feature.dtype), *affine, None


def _at_least_single(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
