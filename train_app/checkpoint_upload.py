"""Checkpoints to Team Files as they appear, beside the training, so that a lost machine loses little."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import supervisely as sly

from train_app.team_files import upload_files


class CheckpointUpload:
    """Uploads the latest state of each offered file, one at a time, in a thread of its own.

    A failure only delays: it is told, and the next version of the file is tried again. At the end everything is uploaded once
    more by whoever finishes the experiment.
    """

    def __init__(self, api: sly.Api, team_id: int, remote: str, staging: Path, tell: Callable[[str], None]) -> None:
        self._api, self._team_id, self._remote, self._staging, self._tell = api, team_id, remote.rstrip("/"), staging, tell
        self._waiting: dict[str, Path] = {}  # name -> file, the latest only
        self._wake, self._closing = threading.Condition(), False
        staging.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._work, name="checkpoint upload", daemon=True)
        self._thread.start()

    def offer(self, path: Path) -> None:
        with self._wake:
            self._waiting[path.name] = path
            self._wake.notify()

    def close(self, wait: float = 60.0) -> None:
        """Ends after the upload at hand, or after `wait` seconds; what is missing is left to the final upload."""
        with self._wake:
            self._closing = True
            self._waiting.clear()
            self._wake.notify()
        self._thread.join(wait)
        shutil.rmtree(self._staging, ignore_errors=True)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._wake.wait()
                if self._closing:
                    return
                name, path = next(iter(self._waiting.items()))
                del self._waiting[name]
            try:
                self._upload(path)
            except Exception as error:  # the training must not care
                self._tell(
                    f"{name} could not be uploaded yet ({_short(error)}); it is on the agent, and goes up with the next one"
                )

    def _upload(self, path: Path) -> None:
        snapshot = self._staging / path.name
        snapshot.unlink(missing_ok=True)
        try:
            os.link(path, snapshot)  # the trainer replaces its files, so that a link keeps this version
        except OSError:
            shutil.copyfile(path, snapshot)
        upload_files(self._api, self._team_id, [str(snapshot)], [f"{self._remote}/{path.name}"])


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
