"""Cracks on real photos: every arm, over seeds, on one pair of domains.

    python -m benchmarks.cracks --pair synthetic-cracks --data DATA --textures TEXTURES --weights ENCODER.pt

DATA holds unlabelled/ and val/ (images/, masks/, classes.json) and manifest.csv. Masks of unlabelled/ serve the oracle, the
labelled photos of the semi-supervised arm, and, where they are the source (crack500), as labels; adapted arms see no others.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from benchmarks.adaptation import add_arguments, run
from benchmarks.pairs import CRACK_PAIRS, crack_pair, synthetic_cracks
from hrda_core import TrainConfig, preset


def configuration(weights: str, iterations: int, seed: int) -> TrainConfig:
    """The preset, at other iterations.

    Its learning rate and Dice are those of preset "quick": without Dice, no crack had a probability above 0.5 after 600
    iterations of 2e-4, and where the source network finds nothing there is nothing to adapt with.
    """
    evaluations = max(iterations // 4, 1)
    return preset("cracks").updated(
        {
            "seed": seed,
            "model": {"pretrained_file": weights},
            "data": {"workers": 0},
            "adaptation": {"round_photos": iterations // 4},
            "optimisation": {"iterations": iterations, "warmup_iterations": iterations // 12},
            # at one size, so that arms differ by what they learned; benchmarks/sizes.py measures several
            "inference": {"zooms": [1.0]},
            "schedule": {
                **{"validate_every": evaluations, "checkpoint_every": evaluations, "preview_every": iterations},
                **{"previews": 4, "log_every": 20, "label_free_photos": 8},
            },
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default=CRACK_PAIRS[0], choices=CRACK_PAIRS)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--textures", default="", help="crack-free photos for the generator; without, it makes its own")
    parser.add_argument("--without", default="", metavar="SOURCE", help="a crack source that is reported on but not adapted to")
    parser.add_argument("--directory", default=Path("runs/cracks"), type=Path)
    parser.add_argument("--synthetic", type=int, default=1500, help="synthesized images")
    parser.add_argument("--label-width", type=float, default=1.0, help="how much wider than the crack labels are drawn")
    parser.add_argument("--label-margin", type=float, default=1.5, help="pixels that labels reach beyond the crack")
    add_arguments(parser)
    options = parser.parse_args()
    synthetic = None
    if options.pair != "crack500-uav":
        width, margin = options.label_width, options.label_margin
        folder = options.directory / f"synthetic_{options.synthetic}_{width:g}_{margin:g}"
        synthetic = synthetic_cracks(folder, options.textures, options.synthetic, width, margin)
    pair = crack_pair(options.pair, options.data, synthetic, options.without)
    run(pair, partial(configuration, options.weights, options.iterations), options, options.directory / pair.name)


if __name__ == "__main__":
    main()
