"""Figures of the encoders in the model table, as benchmarks/memory.py counted them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

FIGURES = Path(__file__).parent / "model_figures.json"


class Figures(NamedTuple):
    """parameters: of the network with the standard head, and of its encoder alone. kept, kept_bf16: bytes that a backward pass
    needs, per pixel of the training crops. multiply_adds: of a forward pass, per pixel of the crop."""

    parameters: int
    encoder_parameters: int
    kept: int
    kept_bf16: int
    multiply_adds: int


def figures_of_encoder(name: str) -> Figures | None:
    """None for encoders that are not in the table."""
    row = json.loads(FIGURES.read_text(encoding="utf-8")).get(name)
    return None if row is None else Figures(**row)
