"""What benchmarks/cracks.py and benchmarks/street.py share: arms over seeds, tables, sheets. It goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.arms import ARMS, NETWORKS, Arm, Result, folder_of, run_arm
from benchmarks.pairs import Pair
from benchmarks.sheets import photo_iou, write_sheet
from benchmarks.tables import label_free_quality, markdown, summary
from hrda_core import Dataset, Predictor, TrainConfig
from hrda_core.data.samples import class_pixels

SHEET = 20  # photos


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", required=True, help="ImageNet weights of mobilenetv2_100")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=1200)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="of every arm")
    parser.add_argument(
        "--variant", action="append", default=[], metavar="NAME:FIELD=VALUE,...", help="an arm more: adapted, with changes"
    )
    parser.add_argument("--tables-only", action="store_true", help="of what has been trained; train nothing")


def run(pair: Pair, configure: Callable[[int], TrainConfig], options: argparse.Namespace, directory: Path) -> None:
    """`configure`: the configuration of a seed. Seed by seed, so that a run that is stopped early has whole comparisons."""
    directory.mkdir(parents=True, exist_ok=True)
    arms = [(name, ARMS[name], list[str]()) for name in options.arms] + [_variant(text) for text in options.variant]
    results: list[Result] = []
    for seed in options.seeds:
        for name, arm, changes in arms:
            config = configure(seed).changed(options.set).changed(changes)
            if options.tables_only and not (directory / folder_of(name, seed) / "teacher.npz").is_file():
                continue
            results.append(run_arm(name, arm, config, pair, directory / folder_of(name, seed)))
            write_report(pair, results, configure(seed).changed(options.set), directory)
    write_sheets(pair, results, directory)


def write_report(pair: Pair, results: Sequence[Result], config: TrainConfig, directory: Path) -> None:
    prior = foreground_share(pair.source)
    figure = "foreground_iou" if pair.report.has_background and len(pair.report.classes) == 2 else "mean_iou"
    reports = [summary(pair, results, network, prior) for network in NETWORKS]
    facts = {
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }
    content = {
        "facts": facts,
        "config": config.as_dict(),
        "results": reports,
        "label_free": {network: label_free_quality(results, network, figure) for network in NETWORKS},
    }
    (directory / "results.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    text = "\n\n".join(markdown(report) for report in reports)
    (directory / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text, flush=True)


def write_sheets(pair: Pair, results: Sequence[Result], directory: Path) -> None:
    """The teacher's best and worst photos of the first seed that has both arms, adapted beside source-only."""
    adapted = {result.seed: result for result in results if result.arm == "adapted"}
    seed = next((r.seed for r in results if r.arm == "source-only" and r.seed in adapted), None)
    if seed is None:
        return
    scores = photo_iou(adapted[seed].counts["teacher"])
    arms = {
        name: Predictor(directory / folder_of(name, seed) / "checkpoints" / "last.pth", network="teacher")
        for name in ("source-only", "adapted")
    }
    order = np.argsort(scores, kind="stable").tolist()
    write_sheet(directory / "worst.jpg", pair, order[:SHEET], arms, scores)
    write_sheet(directory / "best.jpg", pair, order[::-1][:SHEET], arms, scores)


def foreground_share(source: Dataset) -> float:
    pixels = class_pixels(source)[:, :-1].sum(axis=0)
    return float(pixels[1:].sum() / max(pixels.sum(), 1))


def _variant(text: str) -> tuple[str, Arm, list[str]]:
    name, colon, changes = text.partition(":")
    if not colon or not name:
        raise ValueError(f"--variant {text!r}: write it as NAME:FIELD=VALUE,FIELD=VALUE")
    return name, ARMS["adapted"], changes.split(",")
