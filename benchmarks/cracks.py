"""Synthetic cracks to real crack photos: source-only, adapted and supervised.

    python -m benchmarks.cracks --data DATA --textures TEXTURES --weights ENCODER.pt --directory runs/cracks

DATA holds unlabelled/ and val/ (images/, masks/, classes.json). Masks of unlabelled/ serve the supervised arm alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.arms import ARMS, markdown, run_arm
from hrda_core import Dataset, TrainConfig, preset
from hrda_core.data.synthetic_cracks import CrackSynthesis, synthesize


def configuration(weights: str, iterations: int, seed: int) -> TrainConfig:
    """MobileNetV2 with ImageNet weights; the photos are small (224 to 640 px), so they are enlarged twofold: the detail
    crop then sees thin cracks at twice their size and the context crop at their own."""
    return preset("standard").updated(
        {
            "seed": seed,
            "model": {"encoder": "mobilenetv2_100", "pretrained_file": weights, "head_channels": 128},
            "data": {
                "crop_height": 512,
                "crop_width": 512,
                "source_scale": 2.0,
                "target_scale": 2.0,
                "flip_vertical": 0.5,
                "rotate": 0.5,
                "workers": 4,
            },
            "augmentation": {"preset": "light"},
            "adaptation": {"source_warmup": iterations // 4, "feature_distance_weight": 0.0},
            "optimisation": {
                "iterations": iterations,
                "batch_size": 4,
                "learning_rate": 2e-4,
                "head_factor": 5.0,
                "warmup_iterations": 100,
            },
            "schedule": {"validate_every": 500, "checkpoint_every": 500, "preview_every": 500, "previews": 8, "log_every": 20},
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--textures", default="")
    parser.add_argument("--weights", required=True, help="ImageNet weights of mobilenetv2_100")
    parser.add_argument("--directory", default="runs/cracks")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--synthetic", type=int, default=1500, help="synthesized images")
    parser.add_argument("--label-width", type=float, default=1.6)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()

    root = Path(options.directory)
    settings = CrackSynthesis(count=options.synthetic, textures=options.textures, label_width=options.label_width, seed=1)
    synthesize(root / "synthetic", settings)
    config = configuration(options.weights, options.iterations, options.seed)
    config = config.changed(options.set)
    source = Dataset.from_folder(root / "synthetic")
    target = Dataset.from_folder(Path(options.data) / "unlabelled")
    validation = Dataset.from_folder(Path(options.data) / "val")
    results = [run_arm(arm, config, source, target, validation, root / f"{arm}_seed{options.seed}") for arm in options.arms]
    (root / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    print(markdown(results, foreground=True))


if __name__ == "__main__":
    main()
