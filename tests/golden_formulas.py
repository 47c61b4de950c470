"""The formulas of tests/golden/README.md: weights and inputs that both the reference and we were given."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, np.ndarray[Any, Any]]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def golden_json(name: str) -> Any:
    return json.loads((GOLDEN / f"{name}.json").read_text())


def parameter(key: str, shape: list[int]) -> Tensor:
    z = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF).standard_normal(size=shape)
    name = key.rsplit(".", 1)[-1]
    if name == "num_batches_tracked":
        return torch.tensor(0)
    if name == "running_mean":
        z = 0.1 * z
    elif name == "running_var":
        z = 1 + 0.5 * np.abs(z)
    elif name == "bias":
        z = 0.05 * z
    elif len(shape) == 1:
        z = 1 + 0.1 * z
    else:
        z = z / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(z, dtype=np.float32))


def reference_state(shapes: dict[str, list[int]], num_classes: int | None = None, prefix: str = "") -> dict[str, Tensor]:
    """A state dict under the reference's names; `num_classes` replaces the 19 of the key list."""
    state = {}
    for key, shape in shapes.items():
        if num_classes is not None and ".conv_seg." in key:
            shape = [num_classes, *shape[1:]]
        state[key] = parameter(prefix + key, shape)
    return state


def hrda_state(num_classes: int = 19) -> dict[str, Tensor]:
    return reference_state(golden_json("hrda_b0_keys"), num_classes)


def image(n: int, h: int, w: int, seed: int) -> Tensor:
    z = np.random.RandomState(seed).standard_normal((n, 3, h, w))
    b, c = np.arange(n)[:, None, None, None], np.arange(3)[None, :, None, None]
    i, j = np.arange(h)[None, None, :, None], np.arange(w)[None, None, None, :]
    x = np.sin(0.07 * (c + 1) * i + 0.5 * b) + np.cos(0.05 * (c + 1) * j - 0.3 * b) + 0.25 * z
    return torch.from_numpy(x.astype(np.float32))


def label(n: int, h: int, w: int, classes: int, block: int, seed: int, p: float = 0.05) -> Tensor:
    """(n, h, w) int64; the README's extra axis of size 1 is left out."""
    rs = np.random.RandomState(seed)
    hb, wb = -(-h // block), -(-w // block)
    cells = rs.randint(0, classes, (n, 1, hb, wb))
    cells[rs.random_sample((n, 1, hb, wb)) < p] = 255
    pixels = cells.repeat(block, axis=2).repeat(block, axis=3)[:, 0, :h, :w]
    return torch.from_numpy(pixels.astype(np.int64))


def weight(n: int, h: int, w: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(seed).random_sample((n, h, w)).astype(np.float32))
