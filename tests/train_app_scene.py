"""Projects for the train app's tests: 60 images in three projects, nested datasets, five geometries."""

from __future__ import annotations

from typing import Any

import numpy as np
import supervisely as sly
import yaml
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

    def _project(self, name: str) -> int:
        project = self.api.project.create(self.platform.workspace_id, name)
        self.api.project.update_meta(project.id, META)
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
