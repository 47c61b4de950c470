"""Listeners of a command-line run: progress bar, metrics.jsonl, TensorBoard, preview pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from hrda_core.data.samples import ClassInfo
from hrda_core.evaluation.pictures import confidence_map, overlay, shrink
from hrda_core.training.events import Event, Failed, Finished, Metrics, Preview, Progress

PREVIEW_SIDE = 512


class ProgressBar:
    """Iterations done, speed and time left, with the loss and the latest validation score."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.bar: tqdm[Any] | None = None
        self.shown: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Progress):
            if self.bar is None:
                self.bar = tqdm(total=event.total, desc=self.label, unit="it", file=sys.stderr, mininterval=0.5)
            self.bar.update(event.iteration - self.bar.n)
        elif isinstance(event, Metrics) and self.bar is not None:
            for key, short in (("loss/source", "loss"), ("pseudo/confident", "confident"), ("validation/score", "score")):
                if key in event.values:
                    self.shown[short] = f"{event.values[key]:.3f}"
            self.bar.set_postfix(self.shown, refresh=False)
        elif isinstance(event, (Finished, Failed)) and self.bar is not None:
            self.bar.close()


class JsonLines:
    """One line of metrics.jsonl per Metrics event."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, event: Event) -> None:
        if isinstance(event, Metrics):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"iteration": event.iteration, **event.values}) + "\n")


class TensorBoard:
    """Scalars and preview overlays as TensorBoard events."""

    def __init__(self, directory: Path, classes: tuple[ClassInfo, ...], has_background: bool) -> None:
        self.directory = directory
        self.colours = [c.color for c in classes]
        self.has_background = has_background
        self.writer: SummaryWriter | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, (Finished, Failed)):
            if self.writer is not None:
                self.writer.close()
            return
        if not isinstance(event, (Metrics, Preview)):
            return
        if self.writer is None:
            self.writer = SummaryWriter(str(self.directory))
        if isinstance(event, Metrics):
            for name, value in event.values.items():
                self.writer.add_scalar(name, value, event.iteration)
        else:
            for name, photo, labels, _ in event.pictures:
                picture = overlay(photo, labels, self.colours, has_background=self.has_background)
                self.writer.add_image(f"preview/{name}", shrink(picture, PREVIEW_SIDE), event.iteration, dataformats="HWC")


class PreviewFiles:
    """previews/{name}_{iteration}.jpg: photo, overlay and confidence side by side."""

    def __init__(self, directory: Path, classes: tuple[ClassInfo, ...], has_background: bool) -> None:
        self.directory = directory
        self.colours = [c.color for c in classes]
        self.has_background = has_background

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Preview):
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for name, photo, labels, confidence in event.pictures:
            pictures = (
                photo,
                overlay(photo, labels, self.colours, has_background=self.has_background),
                confidence_map(confidence),
            )
            row = cv2.hconcat([shrink(picture, PREVIEW_SIDE) for picture in pictures])
            path = self.directory / f"{Path(name).stem}_{event.iteration:06d}.jpg"
            cv2.imwrite(str(path), cv2.cvtColor(row, cv2.COLOR_RGB2BGR))
