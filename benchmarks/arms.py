"""The arms of an adaptation benchmark: same network, initialisation and iterations, other data and mode."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import Pair, watched, with_labels, without_labels
from benchmarks.photo_counts import PhotoCounts, count_photos, foreground_histogram
from hrda_core import Predictor, TrainConfig, train
from hrda_core.data.samples import spread
from hrda_core.training.listeners import ProgressBar
from hrda_core.training.run_directory import RunDirectory
from hrda_core.training.run_report import write_run_report

LABELLED = 20  # target photos with labels in the semi-supervised arm
TARGET_PHOTOS = 32  # of the target, on which the share of foreground is predicted
NETWORKS = ("student", "teacher")


@dataclass(frozen=True)
class Arm:
    """changes: to the benchmark's configuration. longer: how many times its iterations.

    labelled: target photos with labels; random ones, or those that the report of arm "adapted" suggests.
    """

    mode: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    labelled: int = 0
    suggested: bool = False
    longer: int = 1


ARMS = {
    "source-only": Arm("source-only"),
    "source-only strong": Arm("source-only", {"augmentation": {"preset": "hard"}}),
    "adapted": Arm("adapt"),
    "adapted strong": Arm("adapt", {"augmentation": {"preset": "hard"}}),
    "adapted, no detail": Arm("adapt", {"model": {"multi_resolution": False}}),
    "adapted, 20 labels": Arm("semi-supervised", labelled=LABELLED),
    "adapted, 10 random labels": Arm("semi-supervised", labelled=10),
    "adapted, 10 suggested labels": Arm("semi-supervised", labelled=10, suggested=True),
    "oracle": Arm("supervised", longer=2),
}


@dataclass(frozen=True)
class Result:
    """counts, target: of each network, see photo_counts.py. target is the foreground histogram of unlabelled photos.

    history: of each evaluation on the way, {"iteration", metric: value}.
    """

    arm: str
    seed: int
    counts: dict[str, PhotoCounts]
    target: dict[str, Any]
    history: list[dict[str, float]]


def run_arm(name: str, arm: Arm, config: TrainConfig, pair: Pair, directory: Path) -> Result:
    """Trains an arm, or goes on with it, and counts with its last checkpoint; what is there already is not done again.

    The last checkpoint, not the best, so that choosing on the report's photos flatters no arm.
    """
    config = config.updated({"mode": arm.mode}).updated(arm.changes)
    config = config.updated({"optimisation": {"iterations": config.optimisation.iterations * arm.longer}})
    target = pair.target if arm.mode == "supervised" else without_labels(pair.target)
    if arm.suggested:
        target = with_labels(
            pair.target, suggested_photos(pair, arm.labelled, directory.parent / folder_of("adapted", config.seed))
        )
    elif arm.labelled:
        target = with_labels(pair.target, labelled_photos(pair, arm.labelled, config.seed))
    run = RunDirectory(directory)
    if not (directory / "teacher.npz").is_file():
        bar = ProgressBar(f"{name}, seed {config.seed}")
        train(config, pair.source, target, watched(pair), bar, directory=directory, resume=True)
        _count(run, config, pair)
        write_run_report(directory, pair.source, target, watched(pair))
    return read_result(name, config.seed, directory)


def labelled_photos(pair: Pair, count: int, seed: int) -> list[int]:
    """Which target photos have labels in the semi-supervised arm: random ones, the same for all arms of a seed."""
    return sorted(np.random.default_rng((seed, count)).choice(len(pair.target), count, replace=False).tolist())


def suggested_photos(pair: Pair, count: int, adapted: Path) -> list[int]:
    """Those that the report of a finished run proposes to annotate next."""
    proposals = adapted / "annotate_next.json"
    if not proposals.is_file():
        raise ValueError(f"{proposals} does not exist: train arm 'adapted' of this seed first")
    names = [entry["image"] for entry in json.loads(proposals.read_text(encoding="utf-8"))[:count]]
    return [i for i in range(len(pair.target)) if pair.target.name(i) in names]


def folder_of(arm: str, seed: int) -> str:
    return f"{arm.replace(', ', '_').replace(' ', '_')}_seed{seed}"


def read_result(name: str, seed: int, directory: Path) -> Result:
    counts = {network: PhotoCounts.load(directory / f"{network}.npz") for network in NETWORKS}
    target = {network: np.load(directory / f"{network}_target.npy") for network in NETWORKS}
    lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    history = [entry for entry in entries if any(key.startswith("validation/") for key in entry)]
    return Result(name, seed, counts, target, history)


def _count(run: RunDirectory, config: TrainConfig, pair: Pair) -> None:
    photos: Sequence[int] = spread(len(pair.target), TARGET_PHOTOS)
    for network in NETWORKS:
        predictor = Predictor(run.last, config.device, config.precision, network)
        counts = count_photos(predictor.probabilities, pair.report, config.inference.tolerance)
        np.save(run.path / f"{network}_target.npy", foreground_histogram(predictor.probabilities, pair.target, photos))
        counts.save(run.path / f"{network}.npz")  # the teacher's comes last and marks the arm as done
