"""Projects for the train app's tests: 60 images in three projects, nested datasets, five geometries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import requests
import supervisely as sly
import yaml
from app_process import AppProcess
from tiny_runs import TINY, pictures

from tests.local_platform import LocalPlatform

SHAPES = {
    "crack": sly.Bitmap,
    "joint": sly.Polygon,
    "patch": sly.Rectangle,
    "stain": sly.AlphaMask,
    "rust": sly.AnyGeometry,
}
CLASSES = list(SHAPES)
META = sly.ProjectMeta([sly.ObjClass(name, shape, [10 * i, 200, 30]) for i, (name, shape) in enumerate(SHAPES.items())])
Size = tuple[int, int]


class Scene:
    """source: synthetic/roads (20) with roads/wet (14) inside; target: photos (16); validation: measured (6) with inner (4)."""

    def __init__(self, platform: LocalPlatform) -> None:
        self.platform, self.api = platform, platform.api()
        self.image_ids: dict[str, list[int]] = {}
        self.source = self._project("synthetic")
        roads = self._dataset(self.source, "roads", 20, seed=1)
        self._dataset(self.source, "wet", 14, seed=2, parent=roads)
        self.target = self._project("photos")
        self._dataset(self.target, "photos", 16, seed=3, labelled=False)
        self.validation = self._project("measured")
        measured = self._dataset(self.validation, "measured", 6, seed=4)
        self._dataset(self.validation, "inner", 4, seed=5, parent=measured)

    def state(self, iterations: int = 6, **changes: Any) -> dict[str, Any]:
        """What a script posts to /train_from_api; `changes` of the hyperparameters, by section."""
        settings = {key: value for key, value in TINY.items() if key != "device"}
        settings = {name: {**value, **changes.pop(name, {})} for name, value in settings.items()}
        settings["optimisation"]["iterations"] = iterations
        settings |= changes
        return {
            "input": {
                "target": [self.target],
                "validation": {"method": "project", "projects": [{"project_id": self.validation, "dataset_ids": []}]},
            },
            "model": {"source": "Pretrained models", "model_name": "own encoder"},
            "classes": CLASSES,
            "hyperparameters": yaml.safe_dump(settings),
            "options": {"model_benchmark": {"enable": False, "speed_test": False}, "cache_project": True},
        }

    def add_source(self, name: str, class_name: str) -> int:
        """Another labelled project, of four images with one object of a class of its own."""
        meta = sly.ProjectMeta([sly.ObjClass(class_name, sly.Polygon, [0, 90, 0])])
        project = self._project(name, meta)
        dataset = int(self.api.dataset.create(project, name).id)
        images = [image for image, _ in pictures(4, 9)]
        infos = self.api.image.upload_nps(dataset, [f"{i}.png" for i in range(4)], images)
        label = sly.Label(sly.Polygon([[4, 4], [4, 40], [40, 40]]), meta.get_obj_class(class_name))
        self.api.annotation.upload_anns([info.id for info in infos], [sly.Annotation(images[0].shape[:2], [label])] * 4)
        return project

    def add_bitmaps(self, name: str) -> int:
        """Another validation project: four images with cracks as bitmaps, and no other class."""
        meta = sly.ProjectMeta([sly.ObjClass("crack", sly.Bitmap, [255, 0, 0])])
        project = self._project(name, meta)
        dataset = int(self.api.dataset.create(project, name).id)
        made = pictures(4, 11)
        infos = self.api.image.upload_nps(dataset, [f"{i}.png" for i in range(4)], [image for image, _ in made])
        labels = [sly.Label(sly.Bitmap(mask.astype(bool)), meta.get_obj_class("crack")) for _, mask in made]
        annotations = [sly.Annotation(mask.shape, [label]) for (_, mask), label in zip(made, labels, strict=True)]
        self.api.annotation.upload_anns([info.id for info in infos], annotations)
        return project

    def _project(self, name: str, meta: sly.ProjectMeta = META) -> int:
        project = self.api.project.create(self.platform.workspace_id, name, change_name_if_conflict=True)
        self.api.project.update_meta(project.id, meta)
        return int(project.id)

    def _dataset(self, project: int, name: str, count: int, seed: int, labelled: bool = True, parent: int | None = None) -> int:
        dataset = int(self.api.dataset.create(project, name, parent_id=parent).id)
        made = pictures(count, seed)
        infos = self.api.image.upload_nps(dataset, [f"{name} {i}.png" for i in range(count)], [image for image, _ in made])
        self.image_ids[name] = [info.id for info in infos]
        if labelled:
            self.api.annotation.upload_anns(self.image_ids[name], [annotation(mask) for _, mask in made])
        return dataset


def annotation(mask: np.ndarray[Any, Any]) -> sly.Annotation:
    """The crack as a bitmap over a polygon with a hole, a rectangle, an alpha mask, and a polygon of a class of any shape."""
    opacity = np.full((6, 8), 200, np.uint8)
    labels = [
        ("joint", sly.Polygon([[2, 2], [2, 20], [15, 20], [15, 2]], [[[5, 5], [5, 9], [8, 9], [8, 5]]])),
        ("patch", sly.Rectangle(60, 70, 79, 95)),
        ("stain", sly.AlphaMask(opacity, sly.PointLocation(40, 10))),
        ("rust", sly.Polygon([[30, 50], [30, 60], [38, 60], [38, 50]])),
        ("crack", sly.Bitmap(mask.astype(bool))),
    ]
    return sly.Annotation(mask.shape, [sly.Label(shape, META.get_obj_class(name)) for name, shape in labels])


def start(platform: LocalPlatform, scene: Scene, task_id: int | None = None) -> AppProcess:
    return AppProcess(platform, "train_app", "Train HRDA", scene.source, task_id)


def train(app: AppProcess, state: dict[str, Any], wait: bool = True) -> requests.Response:
    return app.post("train_from_api", {"app_state": state, "wait": wait})


def refusal(app: AppProcess, state: dict[str, Any]) -> str:
    answer = train(app, state)
    assert answer.status_code in (400, 409), answer.text  # never 5xx, which the SDK's client sends again and again
    return str(answer.json()["error"])


class Experiment:
    """What a task left in Team Files."""

    def __init__(self, scene: Scene, task_id: int) -> None:
        self.api, self.team = scene.api, scene.platform.team_id
        name = self.api.project.get_info_by_id(scene.source).name
        self.directory = f"/experiments/{scene.source}_{name}/{task_id}_HRDA/"
        infos = self.api.file.list(self.team, self.directory, recursive=True, return_type="fileinfo")
        self.files = {info.path.removeprefix(self.directory) for info in infos}

    def fetch(self, name: str, folder: Path) -> Path:
        path = folder / Path(name).name
        self.api.file.download(self.team, self.directory + name, str(path))
        return path

    def json(self, name: str, folder: Path) -> Any:
        return json.loads(self.fetch(name, folder).read_text())


def iterations(app: AppProcess) -> int:
    """How far the training of a task is."""
    events = app.data / "runs" / str(app.task_id) / "events.jsonl"
    lines = events.read_text().splitlines() if events.is_file() else []
    return max((json.loads(line)["iteration"] for line in lines if line.endswith("}")), default=0)
