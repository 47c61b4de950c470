"""The arms of an adaptation benchmark: same network, initialisation and iterations, other data and mode."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from hrda_core import Dataset, Predictor, TrainConfig, train
from hrda_core.training.listeners import ProgressBar
from hrda_core.training.run_report import write_run_report
from hrda_core.training.validation import evaluate

ARMS = {"source-only": "source-only", "adapted": "adapt", "supervised": "supervised"}  # name -> mode


def run_arm(
    name: str, config: TrainConfig, source: Dataset, target: Dataset, validation: Dataset, directory: Path
) -> dict[str, Any]:
    """Trains one arm (or goes on with it) and evaluates its last checkpoint; writes result.json and report.html there.

    The last checkpoint, not the best, so that choosing on the validation set flatters no arm.
    """
    config = config.updated({"mode": ARMS[name]})
    result = train(config, source, target, validation, ProgressBar(name), directory=directory, resume=True)
    figures: dict[str, Any] = {"arm": name, "iterations": config.optimisation.iterations, "seed": config.seed}
    for network in ("student", "teacher"):
        predictor = Predictor(result.last, config.device, config.precision, network)
        outcome = evaluate(predictor.probabilities, validation, tolerance=config.inference.tolerance)
        figures[network] = {
            **outcome.argmax.as_dict(),
            "iou_at_best_threshold": list(outcome.tuned_iou),
            "best_threshold": list(outcome.tuned),
        }
    seen = target if name == "supervised" else replace(target, masks=None)
    write_run_report(directory, source, seen, validation)
    (directory / "result.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return figures


def markdown(results: list[dict[str, Any]], foreground: bool) -> str:
    """One row per arm and network, percentages."""
    columns = {"mIoU": "mean_iou", "pixel accuracy": "pixel_accuracy"}
    if foreground:
        columns = {
            "IoU": "foreground_iou",
            "precision": "foreground_precision",
            "recall": "foreground_recall",
            "F1 at 2 px": "foreground_tolerant_f1",
        }
    header = ["arm", "network", *columns, *(["IoU at best threshold"] if foreground else [])]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for result in results:
        for network in ("student", "teacher"):
            figures = result[network]
            cells = [_percent(figures[key]) for key in columns.values()]
            if foreground:
                cells.append(f"{_percent(figures['iou_at_best_threshold'][0])} ({figures['best_threshold'][0]:.2f})")
            lines.append("| " + " | ".join([result["arm"], network, *cells]) + " |")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}"
