"""report.html of one run: what was trained on what, figures, curves, previews over time, the photos to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hrda_core.config import TrainConfig
from hrda_core.data.samples import Dataset, read_image, spread
from hrda_core.evaluation.annotate_next import annotate_next
from hrda_core.evaluation.pictures import ERROR_COLOURS, confidence_map, error_map, overlay
from hrda_core.evaluation.ranking import worst_photos
from hrda_core.evaluation.report import Cell, Item, Legend, PictureRow, Section, Table, write_report
from hrda_core.inference.predictor import Predictor
from hrda_core.models.checkpoints import load_checkpoint, weights_version
from hrda_core.training.history import label_free_charts, loss_charts, read_history, validation_chart
from hrda_core.training.run_directory import RunDirectory
from hrda_core.whole_file import write_whole

SHOWN = 6  # photos per section
MOMENTS = 5  # pictures of one photo over time
RANKED = 64  # photos that are looked through for the worst and for those to annotate next
WORTHWHILE = 10  # of the latter


def write_run_report(
    directory: str | Path,
    source: Dataset | None = None,
    target: Dataset | None = None,
    validation: Dataset | None = None,
) -> Path:
    """Writes `report.html` into the run directory, from its files, the best checkpoint, and the data sets given.

    Masks of `target` are shown where it has some: hand over the target without them unless the mode learns from them.
    """
    here = RunDirectory(directory)
    config = TrainConfig.load(here.config)
    checkpoint = load_checkpoint(here.best)
    predictor = Predictor(checkpoint, config.device, config.precision)
    runs = {"": here} | (
        {"baseline": RunDirectory(here.baseline)} if (here.baseline / "checkpoints" / "best.pth").is_file() else {}
    )
    histories = {name: read_history(run.path) for name, run in runs.items()}
    figures = {name: load_checkpoint(run.best)["metrics"] for name, run in runs.items()}
    metric, title = ("foreground_iou", "Foreground IoU") if predictor.has_background else ("mean_iou", "mIoU")

    sections = [Section("What was trained on what", "", [_data_table(checkpoint, config), *_domains(predictor, source, target)])]
    if checkpoint["metrics"]:
        curve = validation_chart(histories, metric, f"{title} on the validation set")
        tables = [_figures_table(figures, predictor), *_class_tables(figures[""], predictor)]
        sections.append(Section("Validation", "", [*tables, *([curve] if curve else [])]))
    charts = label_free_charts(histories[""])
    if charts:
        text = (
            "Measured on target photos without labels. Agreement of the network with itself under scaling and mirroring, and "
            "with the other network, rises as it learns the target; a predicted share far from the source's is a warning."
        )
        sections.append(Section("Without labels", text, charts))
    sections.append(Section("Training", "", loss_charts(histories[""])))
    sections += [s for s in (_over_time(here), _worst(predictor, validation), _annotate_next(predictor, target, here)) if s.items]
    lead = (
        f"Mode {config.mode}: learned from {checkpoint['provenance']['labelled_images']} labelled images and "
        f"{checkpoint['provenance']['target_images']} target photos."
    )
    return write_report(here.report, "Training report", lead, _facts(checkpoint, config, predictor), sections)


def _facts(checkpoint: Mapping[str, Any], config: TrainConfig, predictor: Predictor) -> dict[str, str]:
    provenance = checkpoint["provenance"]
    return {
        "Mode": config.mode,
        "Iterations": str(config.optimisation.iterations),
        "Best at": str(provenance["iteration"]),
        "Network": checkpoint["selected"] + (" (source-only, which scored better)" if provenance.get("source_only") else ""),
        "Version": weights_version(checkpoint)[:12],
        "Thresholds": ", ".join(f"{t:.2f}" for t in predictor.thresholds) if predictor.thresholds else "argmax",
        "Encoder": config.model.encoder,
        "Seed": str(config.seed),
        "Classes": ", ".join(c.name for c in predictor.classes),
    }


# -- what was trained on what ------------------------------------------------------------------------------------------


def _data_table(checkpoint: Mapping[str, Any], config: TrainConfig) -> Table:
    provenance = checkpoint["provenance"]
    uses = {
        "source": "labels",
        "target": "photos only" if config.mode in ("adapt", "source-only") else "photos and labels",
        "validation": "figures and choice of checkpoint",
    }
    counts = {"source": "labelled_images", "target": "target_images", "validation": "validation_images"}
    rows: list[list[Cell]] = []
    for role, use in uses.items():
        folders = ", ".join(getattr(config.data, role)) or "given by the program"
        count = provenance[counts[role]]
        rows.append([role, str(count), use if count else "none", folders if count else ""])
    return Table("Data", ["", "images", "used for", "folders"], rows)


def _domains(predictor: Predictor, source: Dataset | None, target: Dataset | None) -> list[Item]:
    """Labelled images and target photos, one row each: the gap that adaptation has to bridge."""
    colours = [c.color for c in predictor.classes]
    rows: list[Item] = []
    for title, dataset in (("Labelled images", source), ("Target photos", target)):
        pictures = []
        for index in spread(len(dataset), 4) if dataset is not None else []:
            assert dataset is not None
            image, mask = dataset.image(index), dataset.mask(index)
            if mask is not None:
                image = overlay(image, mask, colours, has_background=predictor.has_background)
            pictures.append((dataset.name(index), image))
        if pictures:
            rows.append(PictureRow(title, pictures))
    return rows


# -- figures -----------------------------------------------------------------------------------------------------------


def _figures_table(figures: Mapping[str, Mapping[str, Any]], predictor: Predictor) -> Table:
    names = {"foreground_iou": "IoU", "foreground_precision": "Precision", "foreground_recall": "Recall"}
    names |= {"foreground_tolerant_f1": "Tolerant F1", "mean_iou": "mIoU"}
    if not predictor.has_background:
        names = {"mean_iou": "mIoU", "pixel_accuracy": "Pixel accuracy"}
    rows: list[list[Cell]] = []
    for run, networks in figures.items():
        for network, metrics in networks.items():
            rows.append([f"{run} {network}".strip(), *(_percent(metrics[key]) for key in names)])
    note = "Plain argmax of the best checkpoint. IoU, precision and recall are those of the foreground as a whole."
    return Table("On the validation set, %", ["", *names.values()], rows, note if predictor.has_background else "")


def _class_tables(figures: Mapping[str, Any], predictor: Predictor) -> list[Item]:
    if len(predictor.classes) <= 2:
        return []
    keys = ("iou", "precision", "recall")
    rows: list[list[Cell]] = []
    for index, info in enumerate(predictor.classes):
        rows.append([info.name, *(_percent(metrics[key][index]) for metrics in figures.values() for key in keys)])
    header = ["", *(f"{network} {key}" for network in figures for key in ("IoU", "precision", "recall"))]
    return [Table("By class, %", header, rows)]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


# -- photos ------------------------------------------------------------------------------------------------------------


def _over_time(here: RunDirectory) -> Section:
    """The overlays of the run's fixed photos, from the files that it wrote while it trained."""
    moments: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(here.previews.glob("*_*.jpg")):
        name, _, iteration = path.stem.rpartition("_")
        moments.setdefault(name, []).append((int(iteration), path))
    rows: list[Item] = []
    for name, entries in list(moments.items())[:SHOWN]:
        entries.sort()
        parts = [(iteration, _thirds(path)) for iteration, path in (entries[i] for i in spread(len(entries), MOMENTS))]
        pictures = [("photo", parts[0][1][0]), *((f"iteration {iteration}", three[1]) for iteration, three in parts)]
        rows.append(PictureRow(name, [*pictures, ("confidence at the end", parts[-1][1][2])]))
    return Section("Previews over time", "The same target photos while the network learned.", rows)


def _thirds(path: Path) -> list[NDArray[np.uint8]]:
    """A preview file holds photo, overlay and confidence side by side."""
    picture = read_image(path)
    width = picture.shape[1] // 3
    return [np.ascontiguousarray(picture[:, i * width : (i + 1) * width], dtype=np.uint8) for i in range(3)]


def _worst(predictor: Predictor, validation: Dataset | None) -> Section:
    if validation is None:
        return Section("", "", [])
    labelled = validation.labelled()
    ranked = worst_photos(lambda image: predictor.predict([image])[0].labels, labelled, spread(len(labelled), RANKED))
    rows: list[Item] = [_photo(predictor, labelled, i, f"IoU {100 * iou:.0f} %") for i, iou in ranked[:SHOWN]]
    text = f"Of {len(ranked)} labelled photos, those with the lowest foreground IoU."
    return Section("Worst photos", text, [*rows, Legend(ERROR_COLOURS)] if rows else [])


def _annotate_next(predictor: Predictor, target: Dataset | None, here: RunDirectory) -> Section:
    """Also as annotate_next.json, for programs."""
    if target is None:
        return Section("", "", [])
    looked_at = [i for i in spread(len(target), RANKED) if target.masks is None or target.masks[i] is None]
    ranked = annotate_next(predictor.probabilities, predictor.features, target, looked_at, WORTHWHILE)
    entries = [{"image": target.name(index), "uncertainty": round(uncertainty, 4)} for index, uncertainty in ranked]
    write_whole(here.path / "annotate_next.json", json.dumps(entries, indent=1).encode())
    rows: list[Item] = [_photo(predictor, target, i, f"uncertainty {100 * value:.1f} %") for i, value in ranked]
    text = (
        f"Of {len(looked_at)} target photos without labels, those where labels would teach most: the network is unsure of them, "
        f"and they differ from each other. Labelled, they can go into a semi-supervised run."
    )
    return Section("Photos to annotate next", text, rows)


def _photo(predictor: Predictor, photos: Dataset, index: int, note: str) -> PictureRow:
    colours, background = [c.color for c in predictor.classes], predictor.has_background
    photo, mask = photos.image(index), photos.mask(index)
    prediction = predictor.predict([photo])[0]
    pictures = [("photo", photo), ("prediction", overlay(photo, prediction.labels, colours, has_background=background))]
    if mask is not None:
        pictures.insert(1, ("ground truth", overlay(photo, mask, colours, has_background=background)))
        pictures.append(("errors", error_map(prediction.labels, mask, background)))
    pictures.append(("confidence", confidence_map(prediction.confidence)))
    return PictureRow(f"{photos.name(index)}: {note}", pictures)
