"""What the app does as a training tells of itself: it is shown, written to the task's log, and checkpoints are uploaded."""

from __future__ import annotations

from pathlib import Path

import supervisely as sly

from hrda_core.training.run_directory import RunDirectory
from train_app.checkpoint_upload import CheckpointUpload
from train_app.runner import Event
from train_app.training_view import TrainingView

PROGRESS_EVERY = 5.0  # seconds between entries in the task's log


class Hearing:
    """Called with each event of the training in `run`."""

    def __init__(self, view: TrainingView, run: RunDirectory, upload: CheckpointUpload) -> None:
        self._view, self._run, self._upload = view, run, upload
        self._last = -PROGRESS_EVERY

    def __call__(self, event: Event) -> None:
        self._view.hear(event)
        if event["event"] == "Progress" and event["time"] - self._last >= PROGRESS_EVERY:
            self._last = event["time"]
            shown = {"subtask": "Training", "current": event["iteration"], "total": event["total"]}
            sly.logger.info("progress", extra={"event_type": sly.EventType.PROGRESS, **shown})  # the bar in the list of tasks
        # neither the baseline's, nor those that are only kept for a while: all of them follow at the end
        if event["event"] == "CheckpointSaved" and Path(event["path"]) in (self._run.best, self._run.last):
            self._upload.offer(Path(event["path"]))
        elif event["event"] in ("Notice", "Stage"):
            sly.logger.info(event.get("text") or event.get("name"))
        elif event["event"] == "Metrics" and "validation/score" in event["values"]:
            sly.logger.info("iteration %s: validation score %.4f", event["iteration"], event["values"]["validation/score"])
