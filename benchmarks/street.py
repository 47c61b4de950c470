"""Procedural street scenes to CamVid, 11 classes: source-only, adapted and supervised.

    python -m benchmarks.street --synthetic STREET_SYNTH --real STREET_REAL --weights ENCODER.pt --directory runs/street

STREET_REAL holds unlabelled/ and val/. Masks of unlabelled/ serve the supervised arm alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.arms import ARMS, markdown, run_arm
from hrda_core import Dataset, TrainConfig, preset


def configuration(weights: str, iterations: int, seed: int) -> TrainConfig:
    """MobileNetV2 with ImageNet weights on whole CamVid frames (480 x 360, cut to 448 x 320 crops); the published rules."""
    return preset("standard").updated(
        {
            "seed": seed,
            "model": {"encoder": "mobilenetv2_100", "pretrained_file": weights, "head_channels": 128},
            "data": {"crop_height": 320, "crop_width": 448, "workers": 4},
            "augmentation": {"preset": "light"},
            "adaptation": {"teacher_alpha": 0.99, "source_warmup": iterations // 4},
            "optimisation": {
                "iterations": iterations,
                "batch_size": 4,
                "learning_rate": 2e-4,
                "head_factor": 5.0,
                "warmup_iterations": iterations // 15,
            },
            "schedule": {"validate_every": 100, "checkpoint_every": 100, "preview_every": 100, "log_every": 10},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--synthetic", required=True)
    parser.add_argument("--real", required=True)
    parser.add_argument("--weights", required=True, help="ImageNet weights of mobilenetv2_100")
    parser.add_argument("--directory", default="runs/street")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--iterations", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()

    root = Path(options.directory)
    config = configuration(options.weights, options.iterations, options.seed).changed(options.set)
    source = Dataset.from_folder(options.synthetic)
    target = Dataset.from_folder(Path(options.real) / "unlabelled")
    validation = Dataset.from_folder(Path(options.real) / "val")
    results = [run_arm(arm, config, source, target, validation, root / f"{arm}_seed{options.seed}") for arm in options.arms]
    (root / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(markdown(results, foreground=False))


if __name__ == "__main__":
    main()
