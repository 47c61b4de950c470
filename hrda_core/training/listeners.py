"""Listeners of a command-line run: progress bar, metrics.jsonl, TensorBoard, preview pictures."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from hrda_core.data.samples import ClassInfo
from hrda_core.evaluation.pictures import confidence_map, error_map, overlay, shrink
from hrda_core.training.events import (
    BASELINE,
    CheckpointSaved,
    Comparison,
    Counting,
    Event,
    Failed,
    Finished,
    Labelling,
    Metrics,
    Notice,
    Preparation,
    Preview,
    Progress,
    Sizing,
    Stage,
)
from hrda_core.training.run_directory import RunDirectory

PREVIEW_SIDE = 512
ASIDE = {
    Labelling: "labelling photos",
    Sizing: "choosing the size of photos",
    Counting: "counting foreground in photos",
}
COMPARED = "validation"  # folder of the previews beside their labels


class ProgressBar:
    """Iterations done, speed and time left, with the loss and the latest validation score; one bar per stage of the run."""

    def __init__(self, label: str = "") -> None:
        self.label = label
        self.bar: tqdm[Any] | None = None
        self.began: tuple[float, float] | None = None  # the stage's first iteration here: its time and number
        self.stage = ""
        self.shown: dict[str, str] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stage):
            self._close()
            self.stage, self.shown, self.began = event.name, {}, None
        elif isinstance(event, Preparation):
            self._advance(event.done, event.total, "image")
        elif isinstance(event, Progress):
            self._advance(event.iteration, event.total, "it")
        elif isinstance(event, (Labelling, Sizing, Counting)):
            self._aside(event)
        elif isinstance(event, Metrics) and self.bar is not None:
            for key, short in (("loss/source", "loss"), ("pseudo/confident", "confident"), ("validation/score", "score")):
                if key in event.values:
                    self.shown[short] = f"{event.values[key]:.3f}"
            self.bar.set_postfix(self.shown, refresh=False)
        elif isinstance(event, Notice):
            tqdm.write(f"note: {event.text}", file=sys.stderr)
        elif isinstance(event, (Finished, Failed)):
            self._close()
            if isinstance(event, Finished) and event.stopped:
                print(f"{event.stopped}: saved at iteration {event.iteration}", file=sys.stderr)

    def _aside(self, event: Labelling | Sizing | Counting) -> None:
        """A bar of its own, after which the iterations' goes on."""
        if event.done == 0:
            self._close()
        if event.total:
            self._advance(event.done, event.total, "photo", ASIDE[type(event)])
        if event.done == event.total:
            self._close()

    def _advance(self, done: int, total: int, unit: str, label: str = "") -> None:
        if self.bar is None:
            label = label or self.label or self.stage
            # a resumed stage starts where it was, so that speed and time left are those of this process
            self.bar = tqdm(
                total=total,
                initial=max(done - 1, 0),
                desc=label,
                unit=unit,
                file=sys.stderr,
                mininterval=0.5,
                smoothing=0,  # the mean speed: the latest would take an evaluation for what is to come
            )
            if unit == "it":
                self._go_on(self.bar)
        self.bar.update(done - self.bar.n)

    def _go_on(self, bar: tqdm[Any]) -> None:
        """Time and speed of the iterations' bar are of the whole stage, labelling and evaluations in between included."""
        if self.began is None:
            self.began = (bar.start_t, bar.n)
        bar.start_t, bar.initial = self.began

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class JsonLines:
    """One line of metrics.jsonl per Metrics event."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, event: Event) -> None:
        if isinstance(event, Metrics):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"iteration": event.iteration, **event.values}) + "\n")


class EventFile:
    """Every event as one line of JSON, for another process that follows the run; Progress at most twice a second.

    A line is {"event": kind, "iteration", "time", and the event's own fields}; a Preview and a Comparison hold the names of
    their pictures and, by name, the files that PreviewFiles made of them.
    """

    def __init__(self, path: Path, here: RunDirectory) -> None:
        self.path, self.here = path, here
        self.previews = here.previews
        self.told = -math.inf

    def __call__(self, event: Event) -> None:
        if isinstance(event, (Progress, Preparation, Labelling, Sizing, Counting)):
            # the last one always, since nothing would tell the end otherwise
            last = event.total == (event.iteration if isinstance(event, Progress) else event.done)
            if event.time - self.told < 0.5 and not last:
                return
            self.told = event.time
        if isinstance(event, Stage):
            run = RunDirectory(self.here.baseline) if event.name == BASELINE else self.here
            self.previews = run.previews
        fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
        if isinstance(event, (Preview, Comparison)):
            names = [name for name, *_ in event.pictures]
            folder = self.previews if isinstance(event, Preview) else self.previews / COMPARED
            fields["pictures"] = {name: str(preview_path(folder, name, event.iteration)) for name in names}
        elif isinstance(event, CheckpointSaved):
            fields["path"] = str(event.path)
        elif isinstance(event, Metrics):
            fields["values"] = dict(event.values)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"event": type(event).__name__, **fields}) + "\n")


class TensorBoard:
    """Scalars and preview overlays as TensorBoard events; what an earlier part of the run told after `since` is dropped."""

    def __init__(self, directory: Path, classes: tuple[ClassInfo, ...], has_background: bool, since: int = 0) -> None:
        self.directory = directory
        self.since = since
        self.colours = [c.color for c in classes]
        self.has_background = has_background
        self.writer: SummaryWriter | None = None

    def __call__(self, event: Event) -> None:
        if not isinstance(event, (Metrics, Preview)):
            return
        if self.writer is None:
            self.writer = SummaryWriter(str(self.directory), purge_step=self.since + 1 if self.since else None)
        if isinstance(event, Metrics):
            for name, value in event.values.items():
                self.writer.add_scalar(name, value, event.iteration)
        else:
            for name, photo, labels, _ in event.pictures:
                picture = overlay(photo, labels, self.colours, has_background=self.has_background)
                self.writer.add_image(f"preview/{name}", shrink(picture, PREVIEW_SIDE), event.iteration, dataformats="HWC")

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class PreviewFiles:
    """previews/{name}_{iteration}.jpg: photo, overlay and confidence side by side.

    previews/validation/{name}_{iteration}.jpg: labels, prediction and errors of a labelled image.
    """

    def __init__(self, directory: Path, classes: tuple[ClassInfo, ...], has_background: bool) -> None:
        self.directory = directory
        self.colours = [c.color for c in classes]
        self.has_background = has_background

    def __call__(self, event: Event) -> None:
        if isinstance(event, Preview):
            for name, photo, labels, confidence in event.pictures:
                pictures = (photo, self._overlay(photo, labels), confidence_map(confidence))
                self._write(preview_path(self.directory, name, event.iteration), pictures)
        elif isinstance(event, Comparison):
            for name, photo, truth, labels in event.pictures:
                errors = error_map(labels, truth, self.has_background)
                pictures = (self._overlay(photo, truth), self._overlay(photo, labels), errors)
                self._write(preview_path(self.directory / COMPARED, name, event.iteration), pictures)

    def _overlay(self, photo: NDArray[np.uint8], labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return overlay(photo, labels, self.colours, has_background=self.has_background)

    def _write(self, path: Path, pictures: tuple[NDArray[np.uint8], ...]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        row = cv2.hconcat([shrink(picture, PREVIEW_SIDE) for picture in pictures])
        cv2.imwrite(str(path), cv2.cvtColor(row, cv2.COLOR_RGB2BGR))


def preview_path(directory: Path, name: str, iteration: int) -> Path:
    return directory / f"{Path(name).stem}_{iteration:06d}.jpg"
