"""A small model that really finds things, pictures for it, and the serve app as a process; for the tests of the serve app."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests
import supervisely as sly
import torch
from app_process import PATIENCE, ROOT, AppProcess

from hrda_core import ClassInfo, Predictor, build_model
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.models.checkpoints import save_checkpoint
from tests.local_platform import LocalPlatform

CLASSES = (ClassInfo("background", (0, 0, 0), 0), ClassInfo("crack", (220, 20, 60), 1), ClassInfo("rust", (10, 200, 30), 2))
NAMES = [info.name for info in CLASSES]
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
Picture = np.ndarray[Any, Any]


def picture(seed: int, height: int = 96, width: int = 128) -> tuple[Picture, Picture]:
    """Grey noise, dark lines (class 1) and orange dots (class 2): (H, W, 3) uint8 and its mask."""
    rng = np.random.default_rng(seed)
    image = rng.integers(120, 200, (height, width, 3), dtype=np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(2):
        ends = [int(rng.integers(0, side)) for side in (width, height, width, height)]
        cv2.line(mask, (ends[0], ends[1]), (ends[2], ends[3]), 1, 5)
        cv2.circle(mask, (int(rng.integers(0, width)), int(rng.integers(0, height))), 8, 2, -1)
    image[mask == 1] //= 4
    image[mask == 2] = (210, 90, 20)
    return image, mask


def make_checkpoint(path: Path, classes: Sequence[ClassInfo] = CLASSES, steps: int = 60, **more: Any) -> Path:
    """A checkpoint as the trainer writes them, with tuned thresholds; `more` is what the platform adds."""
    torch.manual_seed(0)
    options = {"encoder": "test_efficientnet", "num_classes": len(classes), "head_channels": 16, "multi_resolution": False}
    model = build_model(**options)
    optimizer = torch.optim.Adam(model.parameters(), 4e-3)
    for step in range(steps):
        made = [picture(1000 + 4 * step + i, 64, 64) for i in range(4)]
        images = torch.from_numpy(np.stack([image for image, _ in made])).permute(0, 3, 1, 2) / 255
        masks = torch.from_numpy(np.stack([mask for _, mask in made]).astype(np.int64)).clamp(max=len(classes) - 1)
        logits = torch.nn.functional.interpolate(model.logits((images - 0.5) / 0.25), (64, 64), mode="bilinear")
        loss = torch.nn.functional.cross_entropy(logits, masks, torch.tensor([0.3, 1.0, 2.0])[: len(classes)])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    preprocessing = Preprocessing(MEAN, STD, 1.0, 0, 0, (64, 64), 0.5, "smooth")
    return save_checkpoint(
        path,
        {
            "model_config": options,
            "classes": [{"name": c.name, "color": list(c.color), "value": c.value} for c in classes],
            "preprocessing": {**preprocessing.as_plain(), "has_background": True},
            "student": state,
            "teacher": state,
            "selected": "teacher",
            "thresholds": {"teacher": [0.4] * (len(classes) - 1)},
            "metrics": {"teacher": {"foreground_iou": 0.5}},
            "provenance": {"iteration": steps},
            **more,
        },
    )


def expected(checkpoint: Path, image: Picture, **options: Any) -> Picture:
    """(H, W) uint8: what the core predicts."""
    return Predictor(checkpoint, "cpu", **options).predict([image])[0].labels


def as_map(annotation: sly.Annotation, names: Sequence[str] = NAMES) -> Picture:
    """Objects drawn as class indices (H, W) uint8; background where there is none."""
    result = np.zeros(annotation.img_size, np.uint8)
    for label in annotation.labels:
        label.geometry.draw(result, names.index(label.obj_class.name))
    return result


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServeProcess(AppProcess):
    """The serve app as a task of the local platform."""

    def __init__(self, platform: LocalPlatform, task_id: int | None = None, **variables: str) -> None:
        super().__init__(platform, "serve_app", "Serve HRDA", None, task_id)
        self.environment |= variables

    def _answers(self) -> bool:
        assert self.alive(), f"the app ended at once:\n{self.log()[-6000:]}"
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except requests.RequestException:
            return False


class Scene:
    """A project: outer (3 images) with inner (2) inside; experiments in Team Files; the app starts when a script asks."""

    def __init__(self, platform: LocalPlatform, folder: Path) -> None:
        self.platform, self.api, self.folder = platform, platform.api(), folder
        self.checkpoint = make_checkpoint(folder / "best.pth", **embedded(NAMES))
        self.best = self.experiment("synthetic", self.checkpoint, NAMES)
        self.project = int(self.api.project.create(platform.workspace_id, "photos").id)
        outer = int(self.api.dataset.create(self.project, "outer").id)
        inner = int(self.api.dataset.create(self.project, "inner", parent_id=outer).id)
        self.datasets = [outer, inner]
        self.pictures = [picture(seed)[0] for seed in range(5)]
        names = [f"{number}.png" for number in range(5)]
        infos = self.api.image.upload_nps(outer, names[:3], self.pictures[:3])
        infos += self.api.image.upload_nps(inner, names[3:], self.pictures[3:])
        self.images = [int(info.id) for info in infos]
        self.urls = [info.full_storage_url for info in infos]
        self.processes: list[ServeProcess] = []
        platform.launcher = self._launch

    def experiment(self, name: str, checkpoint: Path, classes: Sequence[str]) -> str:
        """As Train HRDA leaves one in Team Files -> the path of its checkpoint."""
        task_id = self.platform.start_task(app="Train HRDA")
        directory = f"/experiments/1_{name}/{task_id}_HRDA/"
        info = {
            **{"experiment_name": name, "framework_name": "HRDA", "model_name": "test_efficientnet", "task_id": task_id},
            **{"task_type": "semantic segmentation", "project_id": 1, "model_files": {"config": "config.yaml"}},
            **{"model_meta": "model_meta.json", "checkpoints": [f"checkpoints/{checkpoint.name}"], "artifacts_dir": directory},
            **{"best_checkpoint": checkpoint.name, "hyperparameters": "hyperparameters.yaml", "app_state": "app_state.json"},
            **{"datetime": "2026-01-01 00:00:00", "evaluation_metrics": {"score": 0.5}},
        }
        contents = {
            "experiment_info.json": json.dumps(info),
            "model_meta.json": json.dumps(embedded(classes)["model_meta"]),
            "config.yaml": "mode: adapt\n",
        }
        for file, content in contents.items():
            (self.folder / file).write_text(content)
            self.api.file.upload(self.platform.team_id, str(self.folder / file), directory + file)
        self.api.file.upload(self.platform.team_id, str(checkpoint), f"{directory}checkpoints/{checkpoint.name}")
        return f"{directory}checkpoints/{checkpoint.name}"

    def labels(self, image: int) -> list[sly.Label]:
        """What is in the project now."""
        return list(self.annotation(image).labels)

    def annotation(self, image: int) -> sly.Annotation:
        meta = sly.ProjectMeta.from_json(self.api.project.get_meta(self.project))
        return sly.Annotation.from_json(self.api.annotation.download(image).annotation, meta)

    def close(self) -> None:
        for process in self.processes:
            process.kill()

    def _launch(self, task: dict[str, Any]) -> str:
        process = ServeProcess(
            self.platform, task["id"], HRDA_ALLOW_PRIVATE_URLS="1", HRDA_PUBLISHED=str(self.folder / "published")
        )
        self.processes.append(process)
        return process.__enter__().url


def embedded(names: Sequence[str]) -> dict[str, Any]:
    """What the SDK adds to a checkpoint at the end of a training."""
    meta = sly.ProjectMeta([sly.ObjClass(name, sly.Bitmap) for name in names])
    return {
        "model_info": {"model_name": "test_efficientnet", "framework": "HRDA"},
        "model_meta": meta.to_json(),
        "model_files": {"config": {"name": "config.yaml", "content": "mode: adapt"}},
    }


@contextlib.contextmanager
def command_line_server(checkpoint: Path, log: Path, *more: str, **variables: str) -> Iterator[str]:
    """`python -m serve_app.main deploy`, without any platform -> its address."""
    port = free_port()
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*(sys.executable, "-m", "serve_app.main", "deploy", "--checkpoint", str(checkpoint)), "--port", str(port), *more],
            cwd=ROOT,
            env=plain_environment(log.parent, **variables),
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until(lambda: _ready(url), process, log)
            yield url
        finally:
            process.kill()
            process.wait(30)


def plain_environment(folder: Path, **variables: str) -> dict[str, str]:
    """Of a machine without a platform; nothing is kept outside `folder`."""
    kept = {key: value for key, value in os.environ.items() if key not in ("SERVER_ADDRESS", "API_TOKEN", "ENV")}
    own = {"HOME": str(folder), "SMART_CACHE_CONTAINER_DIR": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return {**kept, **own, "PYTHONUNBUFFERED": "1", **variables}


def wait_until(condition: Any, process: subprocess.Popen[bytes], log: Path, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        said = log.read_text(errors="replace")[-4000:]
        assert process.poll() is None, f"it ended at once:\n{said}"
        assert time.monotonic() < until, f"it does not answer:\n{said}"
        time.sleep(0.1)


def _ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/ready", timeout=5).ok
    except requests.RequestException:
        return False
