"""Loss curves of the published order and of the default, beside those of two seeds."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hrda_core import Dataset, preset, train
from hrda_core.data.synthetic_cracks import CrackSynthesis, synthesize
from hrda_core.training.events import Event, Metrics


def compare(iterations: int, threads: int) -> dict[str, Any]:
    """Mean absolute difference of the source losses, logged every 10 iterations: between orders, and between seeds."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for role, look, seed in (("source", "asphalt", 1), ("target", "any", 2)):
            synthesize(folder / role, CrackSynthesis(count=40, size=160, seed=seed, look=look))
        runs = {"reference": ("reference", 0), "default": ("fp32", 0), "reference, another seed": ("reference", 1)}
        curves = {
            title: curve(folder, folder / title.replace(", ", "-").replace(" ", "-"), iterations, *how)
            for title, how in runs.items()
        }
    reference = np.array(curves["reference"])
    between = {title: float(np.abs(np.array(curves[title]) - reference).mean()) for title in list(curves)[1:]}
    last = {title: float(np.mean(values[-5:])) for title, values in curves.items()}
    return {"iterations": iterations, "difference_from_reference": between, "mean_of_the_last_five": last, "curves": curves}


def curve(data: Path, directory: Path, iterations: int, precision: str, seed: int) -> list[float]:
    """loss/source, averaged over each 10 iterations, of an adapting run with a small MiT network."""
    config = preset("quick").updated(
        {
            "precision": precision,
            "seed": seed,
            "device": "cpu",
            "model": {"encoder": "mit_b0", "pretrained": False, "head_channels": 64},
            "data": {"crop_height": 96, "crop_width": 96, "check": False},
            "optimisation": {"iterations": iterations, "batch_size": 2},
            "schedule": {"validate_every": 10_000, "checkpoint_every": 10_000, "preview_every": 10_000, "log_every": 10},
        }
    )
    losses: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Metrics) and "loss/source" in event.values:
            losses.append(event.values["loss/source"])

    train(config, Dataset.from_folder(data / "source"), Dataset.from_folder(data / "target"), None, listen, directory=directory)
    return losses
