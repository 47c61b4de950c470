"""What an experiment consists of: checkpoints, report, history and records, laid out for the upload."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import supervisely as sly

from hrda_core import TrainConfig
from hrda_core.training.run_directory import RunDirectory
from train_app.errors import UserError
from train_app.projects import Prepared

FIGURES = (  # of experiment_info.json, the most important first
    *("foreground_iou", "mean_iou", "pixel_accuracy"),
    *("foreground_precision", "foreground_recall", "foreground_tolerant_f1"),
)


class Staged(NamedTuple):
    """config: config.yaml of the run. files: everything else beside the checkpoints, files and folders."""

    checkpoints: list[Path]
    config: Path
    files: list[Path]


def stage_artifacts(run: RunDirectory, staging: Path, prepared: Prepared) -> Staged:
    """Copies, since the SDK moves and rewrites what it is given, and the run must stay whole until the upload has ended.

    Raises:
        UserError: the disk is too small for the copies.
    """
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    checkpoints = sorted(path for path in run.checkpoints.glob("*.pth") if path != run.warmup)
    baseline = RunDirectory(run.baseline).best
    needed = 2 * sum(path.stat().st_size for path in checkpoints)  # ours, and the SDK's while it rewrites one after another
    free = shutil.disk_usage(staging).free
    if free < needed:
        raise UserError(
            f"The disk is too small: {staging} has {free / 1e9:.1f} GB free, and the checkpoints need {needed / 1e9:.1f} GB. "
            f"Free space and start the task again: it goes on with the upload"
        )
    copies = [Path(shutil.copyfile(path, staging / path.name)) for path in checkpoints]
    if baseline.is_file():
        copies.append(Path(shutil.copyfile(baseline, staging / "baseline_best.pth")))
    config = staging / "config.yaml"
    config.write_text(without_paths(TrainConfig.load(run.config)).to_yaml(), encoding="utf-8")
    data = staging / "data.json"
    data.write_text(json.dumps(_data_record(prepared), indent=1), encoding="utf-8")
    files = [data]
    for path in (run.metrics, run.report, run.previews):
        if path.exists():
            files.append(path)
    return Staged(copies, config, files)


def without_paths(config: TrainConfig) -> TrainConfig:
    """The configuration without the places where this machine kept its files, which mean nothing elsewhere."""
    data = {"source": [], "target": [], "validation": [], "cache": ""}
    return config.updated({"data": data, "model": {"pretrained_file": "", "start_from": ""}})


def meta_of(classes: Sequence[Mapping[str, Any]]) -> sly.ProjectMeta:
    """The model's classes in index order, background included, all of them bitmaps."""
    return sly.ProjectMeta([sly.ObjClass(c["name"], sly.Bitmap, [int(part) for part in c["color"]]) for c in classes])


def figures_of(checkpoint: Mapping[str, Any], score: float | None) -> dict[str, float]:
    """The selected network's validation figures, the most important first; {} without a validation set.

    "score" is what the best checkpoint was chosen by: with the tuned thresholds, as the model predicts. The others: argmax.
    """
    metrics = checkpoint["metrics"].get(checkpoint["selected"])
    if not metrics or score is None:
        return {}
    return {"score": score} | {name: metrics[name] for name in FIGURES if metrics.get(name) is not None}


def base_checkpoint(link: str) -> str:
    """/experiments/x/y/checkpoints/best.pth -> /experiments/x/y"""
    return link.rsplit("/checkpoints/", 1)[0]


def _data_record(prepared: Prepared) -> dict[str, Any]:
    """What was trained on what: images by dataset and role, and what was left out."""
    return {
        "datasets": [dataclasses.asdict(count) for count in prepared.counts],
        "skipped_images": [{"role": role, "reason": why, "images": n} for (role, why), n in prepared.skipped_images.items()],
        "skipped_objects": [{"role": role, "geometry": why, "objects": n} for (role, why), n in prepared.skipped_objects.items()],
        "notices": list(prepared.notices),
    }
