"""report.html of one run: what was trained on what, curves, figures, pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hrda_core.config import TrainConfig
from hrda_core.data.samples import Dataset
from hrda_core.evaluation.pictures import ERROR_COLOURS, confidence_map, error_map, overlay
from hrda_core.evaluation.report import Item, Legend, PictureRow, Section, Table, write_report
from hrda_core.inference.predictor import Predictor
from hrda_core.models.checkpoints import load_checkpoint, weights_version
from hrda_core.training.history import loss_charts, read_history, validation_chart

PHOTOS = 8


def write_run_report(directory: Path, photos: Dataset | None) -> Path:
    """Writes `report.html` into the run directory from its files and the best checkpoint; `photos` are shown predicted."""
    config = TrainConfig.load(directory / "config.yaml")
    checkpoint = load_checkpoint(directory / "checkpoints" / "best.pth")
    predictor = Predictor(checkpoint, config.device, config.precision)
    provenance, classes = checkpoint["provenance"], [c.name for c in predictor.classes]
    history = read_history(directory)
    facts = {
        "Mode": config.mode,
        "Iterations": str(config.optimisation.iterations),
        "Best at": str(provenance["iteration"]),
        "Labelled images": str(provenance["labelled_images"]),
        "Target photos": str(provenance["target_images"]),
        "Encoder": config.model.encoder,
        "Classes": ", ".join(classes),
        "Checkpoint": f"{checkpoint['selected']}, version {weights_version(checkpoint)[:12]}",
        "Thresholds": ", ".join(f"{t:.2f}" for t in predictor.thresholds) if predictor.thresholds else "argmax",
    }
    metric = "foreground_iou" if predictor.has_background else "mean_iou"
    score = validation_chart({"": history}, metric, "Foreground IoU" if predictor.has_background else "mIoU")
    sections = []
    if checkpoint["metrics"]:
        sections.append(Section("Validation", "", [_table(checkpoint, classes), *([score] if score else [])]))
    sections.append(Section("Training", "", loss_charts(history)))
    if photos is not None:
        sections.append(Section("Photos", "Predictions of the best checkpoint.", _pictures(predictor, photos)))
    lead = f"A {config.mode} run on {provenance['labelled_images']} labelled images, {provenance['target_images']} target photos."
    return write_report(directory / "report.html", "Training report", lead, facts, sections)


def _table(checkpoint: dict, classes: list[str]) -> Table:  # type: ignore[type-arg]
    rows = []
    for index, name in enumerate(classes):
        row: list[str | float | None] = [name]
        for network in ("student", "teacher"):
            figures = checkpoint["metrics"][network]
            row += [_percent(figures[key][index]) for key in ("iou", "precision", "recall")]
        rows.append(row)
    header = ["", *(f"{network} {key}" for network in ("student", "teacher") for key in ("IoU", "precision", "recall"))]
    return Table("Best checkpoint on the validation set, %, plain argmax", header, rows)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _pictures(predictor: Predictor, photos: Dataset) -> list[Item]:
    colours, background = [c.color for c in predictor.classes], predictor.has_background
    rows: list[Item] = []
    for index in np.linspace(0, len(photos) - 1, min(PHOTOS, len(photos))).round().astype(int).tolist():
        photo, mask = photos.image(index), photos.mask(index)
        prediction = predictor.predict([photo])[0]
        pictures = [("photo", photo), ("prediction", overlay(photo, prediction.labels, colours, has_background=background))]
        if mask is not None:
            pictures.insert(1, ("ground truth", overlay(photo, mask, colours, has_background=background)))
            pictures.append(("errors", error_map(prediction.labels, mask, background)))
        pictures.append(("confidence", confidence_map(prediction.confidence)))
        rows.append(PictureRow(photos.name(index), pictures))
    if photos.masks is not None:
        rows.append(Legend(ERROR_COLOURS))
    return rows
