"""Mix Transformer encoders MiT-B0 to B5 (Xie et al., SegFormer, arXiv 2105.15203, section 3.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrda_core.models.encoder import Encoder

HEADS = (1, 2, 5, 8)
REDUCTIONS = (
    8,
    4,
    2,
    1,
)  # keys and values are pooled by this factor, so that every stage attends over equally few tokens
MLP_RATIO = 4


@dataclass(frozen=True)
class MiTVariant:
    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]


_WIDE = (64, 128, 320, 512)
MIT_VARIANTS = {
    "mit_b0": MiTVariant((32, 64, 160, 256), (2, 2, 2, 2)),
    "mit_b1": MiTVariant(_WIDE, (2, 2, 2, 2)),
    "mit_b2": MiTVariant(_WIDE, (3, 4, 6, 3)),
    "mit_b3": MiTVariant(_WIDE, (3, 4, 18, 3)),
    "mit_b4": MiTVariant(_WIDE, (3, 8, 27, 3)),
    "mit_b5": MiTVariant(_WIDE, (3, 6, 40, 3)),
}


def tokens_of(feature: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H*W, C)."""
    return feature.flatten(2).transpose(1, 2)


def feature_of(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, H*W, C) -> (N, C, H, W)."""
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], height, width)


class TokenNorm(nn.LayerNorm):
    """LayerNorm of the channels. Where its weights are in half precision (models/half_weights.py), so is its output.

    Autocast would make it float32, which the linear map that follows converts, at twice the memory traffic.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        if self.weight.dtype not in (torch.bfloat16, torch.float16):
            return super().forward(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            return super().forward(tokens.to(self.weight.dtype))


def as_linear_maps_want(tokens: Tensor) -> Tensor:
    """Converted once for all linear maps that follow, where autocast would convert it for each."""
    device = tokens.device.type
    return tokens.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else tokens


class PatchEmbedding(nn.Module):
    """Overlapping patches: a strided convolution whose kernel is wider than its stride, then LayerNorm."""

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(channels, eps=1e-5)

    def forward(self, image: Tensor) -> tuple[Tensor, int, int]:
        feature = self.proj(image)
        return self.norm(tokens_of(feature)), feature.shape[2], feature.shape[3]


def attend(query: Tensor, key: Tensor, value: Tensor, published_order: bool = False) -> Tensor:
    """Scaled dot-product attention of (N, heads, length, channels), fused or step by step as published."""
    if not published_order:
        return F.scaled_dot_product_attention(query, key, value)
    scores = (query @ key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    attended: Tensor = scores.softmax(dim=-1) @ value
    return attended


class EfficientAttention(nn.Module):
    """Self-attention whose keys and values come from tokens pooled by `reduction` in each direction."""

    published_order = False  # see models/published_order.py

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)  # rows [0, C) are the keys, [C, 2C) the values
        self.proj = nn.Linear(channels, channels)
        self.sr: nn.Conv2d | None = None
        self.norm: nn.LayerNorm | None = None
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, reduction)
            self.norm = TokenNorm(channels, eps=1e-5)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        n, length, c = tokens.shape
        tokens = pooled = as_linear_maps_want(tokens)
        if self.sr is not None and self.norm is not None:
            pooled = self.norm(tokens_of(self.sr(feature_of(tokens, height, width))))
        query = self.q(tokens).reshape(n, length, self.heads, c // self.heads).transpose(1, 2)
        key, value = self.kv(pooled).reshape(n, -1, 2, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attended = attend(query, key, value, self.published_order)
        return self.proj(attended.transpose(1, 2).reshape(n, length, c))  # type: ignore[no-any-return]


class MixFFN(nn.Module):
    """Linear, depthwise 3x3 convolution (the only source of position), GELU, linear."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        hidden = self.dwconv(feature_of(self.fc1(tokens), height, width))
        return self.fc2(F.gelu(tokens_of(hidden)))  # type: ignore[no-any-return]


class StochasticDepth(DropPath):
    """Stays outside of compiled code: every block has another rate, for each of which the block would be compiled anew."""

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def forward(self, branch: Tensor) -> Tensor:
        return super().forward(branch)  # type: ignore[no-any-return, no-untyped-call]


class Block(nn.Module):
    """Pre-norm transformer block with stochastic depth."""

    def __init__(self, channels: int, heads: int, reduction: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = TokenNorm(channels, eps=1e-6)
        self.attn = EfficientAttention(channels, heads, reduction)
        self.norm2 = TokenNorm(channels, eps=1e-6)
        self.mlp = MixFFN(channels)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        tokens = tokens + self._dropped(self.attn(self.norm1(tokens), height, width))
        return tokens + self._dropped(self.mlp(self.norm2(tokens), height, width))

    def _dropped(self, branch: Tensor) -> Tensor:
        return self.drop_path(branch) if self.drop_path.training else branch


class Stage(nn.Module):
    """Patch embedding, blocks, final norm: (N, C_in, H, W) -> (N, C_out, H/stride, W/stride)."""

    recompute = False

    def __init__(self, patch_embed: PatchEmbedding, blocks: list[Block], channels: int) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, feature: Tensor) -> Tensor:
        tokens, height, width = self.patch_embed(feature)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, height, width, use_reentrant=False)
            else:
                tokens = block(tokens, height, width)
        return feature_of(self.norm(tokens), height, width)


class MixTransformer(Encoder):
    """MiT encoder.

    Args:
        variant: `mit_b0` to `mit_b5`.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 over the blocks.
    """

    size_multiple = 4
    min_size = 32  # the first stage pools 8x8 tokens of 4x4 pixels

    def __init__(self, variant: str, drop_path_rate: float = 0.1) -> None:
        super().__init__()
        if variant not in MIT_VARIANTS:
            raise ValueError(f"encoder {variant!r} is not a Mix Transformer: use one of {', '.join(MIT_VARIANTS)}")
        shape = MIT_VARIANTS[variant]
        self.channels = shape.channels
        rates = np.linspace(0, drop_path_rate, sum(shape.depths)).tolist()
        self.stages = nn.ModuleList()
        in_channels = 3
        for i, (channels, depth) in enumerate(zip(shape.channels, shape.depths, strict=True)):
            embedding = PatchEmbedding(in_channels, channels, kernel=7 if i == 0 else 3, stride=4 if i == 0 else 2)
            blocks = [Block(channels, HEADS[i], REDUCTIONS[i], rates.pop(0)) for _ in range(depth)]
            self.stages.append(Stage(embedding, blocks, channels))
            in_channels = channels
        self.apply(_initialise)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four features at strides 4, 8, 16, 32."""
        features = []
        feature = image
        for stage in self.stages:
            feature = stage(feature)
            features.append(feature)
        return features

    def parts_to_compile(self) -> list[nn.Module]:
        """Blocks: those of a stage share their code, so that a deep encoder is compiled as quickly as a shallow one."""
        return [block for stage in self.stages for block in stage.blocks]  # type: ignore[union-attr]

    def recompute_blocks(self) -> None:
        for stage in self.stages:
            stage.recompute = True  # type: ignore[assignment]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
