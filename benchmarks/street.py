"""Procedural street scenes to films of real streets, 11 classes: every arm, over seeds.

    python -m benchmarks.street --synthetic STREET_SYNTH --real STREET_REAL --weights ENCODER.pt

STREET_REAL holds unlabelled/ and val/. Masks of unlabelled/ serve the oracle and the labelled photos of the semi-supervised arm.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from benchmarks.adaptation import add_arguments, run
from benchmarks.pairs import street_pair
from hrda_core import TrainConfig, preset


def configuration(weights: str, iterations: int, seed: int) -> TrainConfig:
    """MobileNetV2 with ImageNet weights and a small head on frames of 480 x 360; the published rules."""
    evaluations = max(iterations // 4, 1)
    return preset("standard").updated(
        {
            "seed": seed,
            "model": {"encoder": "mobilenetv2_100", "pretrained_file": weights, "head_channels": 64},
            "data": {"crop_height": 256, "crop_width": 256, "workers": 0},
            "augmentation": {"preset": "light"},
            "adaptation": {"teacher_alpha": 0.99, "source_warmup": iterations // 4},
            "optimisation": {
                "iterations": iterations,
                "batch_size": 2,
                "learning_rate": 4e-4,
                "head_factor": 5.0,
                "warmup_iterations": iterations // 12,
            },
            "inference": {"window_height": 384, "window_width": 480, "overlap": 0.25},
            "schedule": {
                **{"validate_every": evaluations, "checkpoint_every": evaluations, "preview_every": iterations},
                **{"previews": 4, "log_every": 20, "label_free_photos": 8},
            },
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--synthetic", required=True, type=Path)
    parser.add_argument("--real", required=True, type=Path)
    parser.add_argument("--directory", default=Path("runs/street"), type=Path)
    add_arguments(parser)
    options = parser.parse_args()
    pair = street_pair(options.synthetic, options.real)
    run(pair, partial(configuration, options.weights, options.iterations), options, options.directory / pair.name)


if __name__ == "__main__":
    main()
