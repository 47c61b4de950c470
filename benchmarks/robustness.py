"""Adapted against trained on real labels, on photos that are noisy, blurred, compressed or dark.

    python -m benchmarks.robustness --data DATA --runs runs/cracks/synthetic-cracks --seeds 0 1 2

Reads the checkpoints that benchmarks/cracks.py left; trains nothing. The network is the teacher, the output plain argmax.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.arms import folder_of
from benchmarks.corruptions import CORRUPTIONS, STRENGTHS
from benchmarks.intervals import argmax_iou
from benchmarks.photo_counts import count_photos
from hrda_core import Dataset, Predictor

ARMS = ("source-only", "adapted", "oracle")


def corrupted(photos: Dataset, kind: str, strength: int) -> Dataset:
    """The same noise for every arm."""
    worse = [CORRUPTIONS[kind](photos.image(i), strength, i) for i in range(len(photos))]
    return replace(photos, images=worse, masks=[photos.masks[i] for i in range(len(photos))] if photos.masks else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="holds val/")
    parser.add_argument("--runs", required=True, type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    options = parser.parse_args()
    photos = Dataset.from_folder(options.data / "val")
    rows: dict[str, dict[str, float]] = {}
    for kind, strength in [("clean", 0), *((kind, strength) for kind in CORRUPTIONS for strength in STRENGTHS)]:
        these = photos if kind == "clean" else corrupted(photos, kind, strength)
        rows[f"{kind} {strength}".removesuffix(" 0")] = {arm: _mean_iou(options, arm, these) for arm in options.arms}
        print(kind, strength, rows[f"{kind} {strength}".removesuffix(" 0")], flush=True)
    (options.runs / "robustness.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(_table(rows, options.arms))


def _mean_iou(options: argparse.Namespace, arm: str, photos: Dataset) -> float:
    """Over the seeds."""
    values = []
    for seed in options.seeds:
        predictor = Predictor(options.runs / folder_of(arm, seed) / "checkpoints" / "last.pth", network="teacher")
        values.append(argmax_iou(count_photos(predictor.probabilities, photos, tolerance=2)))
    return float(np.mean(values))


def _table(rows: dict[str, dict[str, float]], arms: list[str]) -> str:
    """IoU, and in brackets the share of the clean one that is left."""
    lines = ["| photos | " + " | ".join(arms) + " |", "|" + " --- |" * (len(arms) + 1)]
    for name, row in rows.items():
        cells = [f"{100 * row[arm]:.1f} ({100 * row[arm] / max(rows['clean'][arm], 1e-9):.0f} %)" for arm in arms]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
