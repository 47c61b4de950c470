"""The report that compares arms: a table, curves, and the same photos before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrda_core.data.samples import Dataset
from hrda_core.evaluation.metrics import Metrics
from hrda_core.evaluation.pictures import confidence_map, overlay
from hrda_core.evaluation.report import Item, PictureRow, Section, Table, write_report
from hrda_core.inference.predictor import Predictor
from hrda_core.training.history import loss_charts, read_history, validation_chart
from hrda_core.training.validation import Evaluation

PHOTOS = 8


@dataclass(frozen=True)
class Arm:
    name: str
    directory: Path
    predictor: Predictor
    evaluation: Evaluation | None


def write_comparison(
    path: Path, arms: Sequence[Arm], photos: Dataset, source_images: int, target_images: int, seconds: float
) -> Path:
    """Writes the report and returns its path. `photos` are labelled where the arms have an evaluation."""
    first, last = arms[0], arms[-1]
    background = last.predictor.has_background
    histories = {arm.name: read_history(arm.directory) for arm in arms}
    facts = {"Source images": str(source_images), "Target photos": str(target_images), "Time": f"{seconds / 60:.1f} min"}
    sections = []
    if first.evaluation is not None and last.evaluation is not None:
        before, after = _headline(first.evaluation.argmax, background), _headline(last.evaluation.argmax, background)
        name = "IoU" if background else "mIoU"
        facts = {f"{name} {first.name}": _percent(before), f"{name} {last.name}": _percent(after)} | facts
        facts["Gain"] = f"{100 * (after - before):+.1f}"
        lead = (
            f"Trained on {source_images} labelled synthetic images and {target_images} photos without labels. Measured on "
            f"{len(photos)} held-out labelled photos: {name} {_percent(before)} without and {_percent(after)} with adaptation."
        )
        sections.append(Section("Figures", "", [_table(arms, background), *_curves(histories, background)]))
    else:
        lead = (
            f"Trained on {source_images} labelled synthetic images and {target_images} photos without labels. "
            f"There is no labelled validation set, so judge by the pictures; a few labelled photos would give figures."
        )
    rows = _pictures(arms, photos, background)
    text = f"The same photos, {first.name} and {last.name}. Confidence is that of the {last.name} network."
    sections.append(Section("Before and after", text, rows))
    sections.extend(Section(f"Training: {arm.name}", "", loss_charts(histories[arm.name])) for arm in arms)
    return write_report(path, f"{first.name} against {last.name}".capitalize(), lead, facts, sections)


def _table(arms: Sequence[Arm], background: bool) -> Table:
    rows: list[list[str | float | None]] = []
    for arm in arms:
        assert arm.evaluation is not None
        m = arm.evaluation.argmax
        if background:
            tuned = float(np.nanmean(arm.evaluation.tuned_iou))
            figures = [m.foreground_iou, tuned, m.foreground_precision, m.foreground_recall, m.foreground_tolerant_f1, m.mean_iou]
        else:
            figures = [m.mean_iou, m.pixel_accuracy]
        rows.append([arm.name, *(100 * figure for figure in figures)])
    if background:
        header = ["", "IoU", "IoU at best threshold", "Precision", "Recall", "F1 at 2 px", "mIoU with background"]
        note = "The best threshold is chosen on these very photos, so that column is optimistic; the others use the plain argmax."
    else:
        header, note = ["", "mIoU", "Pixel accuracy"], ""
    return Table("On the held-out photos, %", header, rows, note)


def _curves(histories: dict[str, dict[str, list[tuple[float, float]]]], background: bool) -> list[Item]:
    metric, title = (
        ("foreground_iou", "Foreground IoU on the held-out photos") if background else ("mean_iou", "mIoU on the held-out photos")
    )
    chart = validation_chart(histories, metric, title)
    return [chart] if chart is not None else []


def _pictures(arms: Sequence[Arm], photos: Dataset, background: bool) -> list[PictureRow]:
    colours = [c.color for c in arms[0].predictor.classes]
    rows = []
    for index in np.linspace(0, len(photos) - 1, min(PHOTOS, len(photos))).round().astype(int).tolist():
        photo, mask = photos.image(index), photos.mask(index)
        pictures = [("photo", photo)]
        if mask is not None:
            pictures.append(("ground truth", overlay(photo, mask, colours, has_background=background)))
        for arm in arms:
            prediction = arm.predictor.predict([photo])[0]
            pictures.append((arm.name, overlay(photo, prediction.labels, colours, has_background=background)))
        pictures.append(("confidence", confidence_map(prediction.confidence)))
        rows.append(PictureRow(photos.name(index), pictures))
    return rows


def _headline(metrics: Metrics, background: bool) -> float:
    return metrics.foreground_iou if background else metrics.mean_iou


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
