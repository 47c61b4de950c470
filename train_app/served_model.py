"""A trained checkpoint served by Serve HRDA in a process of its own, for the platform's evaluation to ask."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import requests
from supervisely.nn.utils import ModelSource, RuntimeType

from train_app.errors import UserError

ROOT = Path(__file__).parents[1]
PATIENCE = 180.0  # seconds until it must answer
# with the session's own identity it would publish its page over the one of the training
IDENTITY = ("TASK_ID", "SUPERVISELY_TASK_ID", "ENV", "PROJECT_ID", "modal.state.slyProjectId", "modal.state.guiState")


class ServedModel:
    """`with ServedModel(checkpoint, device, folder) as served: ... served.url`; the process ends with the block.

    info: what experiment_info.json will say of the model.

    Raises:
        UserError: it does not start, or does not take the checkpoint.
    """

    def __init__(self, checkpoint: Path, device: str, info: Mapping[str, Any], folder: Path) -> None:
        self.checkpoint, self.device, self.info, self.folder = checkpoint, device, dict(info), folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ServedModel:
        self.folder.mkdir(parents=True, exist_ok=True)
        variables = {name: value for name, value in os.environ.items() if name not in IDENTITY}
        variables |= {"SLY_APP_DATA_DIR": str(self.folder), "ENV": "development"}
        command = [sys.executable, "-m", "uvicorn", "serve_app.main:model.app", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait()
            self._deploy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        if self._process is not None:
            self._process.kill()  # it has nothing to save
            self._process.wait()

    def _deploy(self) -> None:
        params = {
            "model_files": {"checkpoint": str(self.checkpoint)},
            "model_source": ModelSource.CUSTOM,
            "model_info": self.info,
            "device": self.device,
            "runtime": RuntimeType.PYTORCH,
        }
        state = {"deploy_params": params, "model_name": str(self.checkpoint)}
        answer = requests.post(f"{self.url}/deploy_from_api", json={"state": state}, timeout=PATIENCE)
        if not answer.ok:
            raise UserError(f"the model could not be served for the evaluation: {answer.text[:500]}")

    def _wait(self) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and self._process is not None and self._process.poll() is None:
            try:
                if requests.get(f"{self.url}/health", timeout=5).ok:
                    return
            except requests.RequestException:
                time.sleep(0.2)
        raise UserError(f"the model could not be served for the evaluation; see {self.folder / 'serve.log'}")
