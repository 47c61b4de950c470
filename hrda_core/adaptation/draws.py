"""Every random decision of one training iteration, apart from dropout: what `step` asks for, in one place.

Tests replace this class by scripted values, which makes the step deterministic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hrda_core.adaptation.class_mix import choose_classes
from hrda_core.adaptation.masking import noise_shape
from hrda_core.config import AdaptationConfig
from hrda_core.data.draws import generator
from hrda_core.data.photometric import ColourJitter, draw_jitter
from hrda_core.models.hrda import BOX_STEP, Box


@dataclass(frozen=True)
class StepDraws:
    """`stream` names the forward pass: "source", "mixed" or "masked"; `sample` counts from this process's first one."""

    seed: int
    iteration: int
    config: AdaptationConfig
    detail_crop: str = "half"
    box_step: int = BOX_STEP
    samples: Sequence[int] = ()  # positions in the whole batch of those that this process holds; empty: it holds all

    def detail_box(self, stream: str, height: int, width: int) -> Box:
        """Half of each side, anywhere on the grid of `box_step`; one box for the batch (HRDA, section 3.2)."""
        if self.detail_crop == "full":
            return Box(0, height, 0, width)
        rng = generator(self.seed, self.iteration, f"{stream}-box")
        top = _start(rng, height, height // 2, self.box_step)
        left = _start(rng, width, width // 2, self.box_step)
        return Box(top, top + height // 2, left, left + width // 2)

    def mixed_classes(self, present: Tensor, sample: int) -> Tensor:
        return choose_classes(present, generator(self.seed, self.iteration, "class-mix", self._position(sample)))

    def pastes(self, sample: int) -> bool:
        rng = generator(self.seed, self.iteration, "paste", self._position(sample))
        return bool(rng.random() < self.config.foreground_paste_share)

    def jitter(self, stream: str, sample: int) -> ColourJitter | None:
        """Whether is decided once per iteration, how strongly for each sample."""
        rng = generator(self.seed, self.iteration, f"{stream}-jitter")
        if rng.random() >= self.config.jitter_probability:
            return None
        rng = generator(self.seed, self.iteration, f"{stream}-jitter", self._position(sample) + 1)
        return draw_jitter(rng, self.config.jitter_strength)

    def blur_sigma(self, stream: str, sample: int) -> float | None:
        rng = generator(self.seed, self.iteration, f"{stream}-blur")
        if rng.random() >= self.config.blur_probability:
            return None
        rng = generator(self.seed, self.iteration, f"{stream}-blur", self._position(sample) + 1)
        return float(rng.uniform(self.config.blur_sigma_min, self.config.blur_sigma_max))

    def mask_noise(self, samples: int, height: int, width: int) -> Tensor:
        """(N, 1, rows, columns) uniform noise, one value per block."""
        rows, columns = noise_shape(height, width, self.config.mask_block)
        seeds = [generator(self.seed, self.iteration, "mask", self._position(sample)) for sample in range(samples)]
        noise = [rng.random((1, rows, columns)) for rng in seeds]
        return torch.from_numpy(np.stack(noise).astype(np.float32))

    def _position(self, sample: int) -> int:
        return self.samples[sample] if self.samples else sample


def _start(rng: np.random.Generator, length: int, crop: int, step: int) -> int:
    return int(rng.integers(0, max((length - crop + 1) // step, 1))) * step  # the published range: never the last position
