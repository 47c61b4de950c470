"""What prediction at the sizes that suit each photo changes (`inference.zooms`), for networks that are trained already.

    python -m benchmarks.sizes --pair synthetic-cracks --data cracks_real --runs runs/cracks --seeds 0 1 2

Reads the checkpoints and the synthesized images that benchmarks/cracks.py left; trains nothing. The output is plain argmax.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.arms import NETWORKS, folder_of
from benchmarks.intervals import argmax_iou, difference
from benchmarks.pairs import CRACK_PAIRS, Pair, crack_pair
from benchmarks.photo_counts import PhotoCounts, count_photos
from hrda_core import Dataset, Predictor
from hrda_core.config_auto import SEVERAL_ZOOMS
from hrda_core.data.pixel_index import class_pixels, most_foreground
from hrda_core.models.checkpoints import load_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", default=CRACK_PAIRS[0], choices=CRACK_PAIRS)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--runs", required=True, type=Path, help="the directory of benchmarks.cracks")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--arms", nargs="+", default=["source-only", "adapted", "oracle"])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--zooms", nargs="+", type=float, default=list(SEVERAL_ZOOMS))
    options = parser.parse_args()
    made = next(iter(sorted(options.runs.glob("synthetic_*"))), None)
    pair = crack_pair(options.pair, options.data, None if made is None else Dataset.from_folder(made))
    rows = []
    for arm in options.arms:
        for seed in options.seeds:
            run = options.runs / pair.name / folder_of(arm, seed)
            for network in options.networks if run.is_dir() else ():
                rows.append(row(pair, run, arm, seed, network, options.zooms))
                print(json.dumps(rows[-1]), flush=True)
                (options.runs / pair.name / "sizes.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def row(pair: Pair, run: Path, arm: str, seed: int, network: str, zooms: Sequence[float]) -> dict[str, Any]:
    """IoU at one size, as the benchmark counted it, and at several, with the interval of the difference."""
    content = load_checkpoint(run / "checkpoints" / "last.pth")
    content["preprocessing"]["most_foreground"] = most_foreground(class_pixels(pair.source))
    predictor = Predictor(content, network=network, zooms=zooms)
    several = count_photos(predictor.probabilities, pair.report, tolerance=2)
    several.save(run / f"{network}_sizes.npz")
    one = PhotoCounts.load(run / f"{network}.npz")
    _, low, high = difference([several], [one], pair.groups)
    found = {"arm": arm, "seed": seed, "network": network, "zooms": list(zooms)}
    figures = {"one": argmax_iou(one), "several": argmax_iou(several), "low": low, "high": high}
    return {**found, **{name: round(100 * float(value), 2) for name, value in figures.items()}}


if __name__ == "__main__":
    main()
