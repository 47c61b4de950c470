"""Three projects to try the apps on: labelled synthetic cracks, photos of another look without labels, and a few with."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import supervisely as sly

from hrda_core.data.synthetic_cracks import CrackSynthesis, synthesize
from tests.local_platform import LocalPlatform

CRACK = sly.ObjClass("crack", sly.Bitmap, [220, 20, 60])
META = sly.ProjectMeta([CRACK])


class DemoProjects(NamedTuple):
    """Their ids."""

    synthetic: int
    photos: int
    measured: int


def add_demo_projects(platform: LocalPlatform, folder: Path, count: int = 96, size: int = 192) -> DemoProjects:
    """Makes `count` images of `size` pixels for the source and for the target, and a quarter of it for validation."""
    looks = (
        ("Synthetic cracks", CrackSynthesis(count=count, size=size, look="asphalt", seed=0), True),
        ("Photos without labels", CrackSynthesis(count=count, size=size, look="rusty", seed=1), False),
        ("Labelled photos", CrackSynthesis(count=max(count // 4, 2), size=size, look="rusty", seed=2), True),
    )
    return DemoProjects(*(_add(platform, folder / f"{i}", *look) for i, look in enumerate(looks)))


def _add(platform: LocalPlatform, folder: Path, name: str, settings: CrackSynthesis, labelled: bool) -> int:
    synthesize(folder, settings, workers=1)  # other processes would load the whole program again
    api = platform.api()
    project = api.project.create(platform.workspace_id, name)
    dataset = api.dataset.create(project.id, "all images")
    paths = sorted((folder / "images").iterdir())
    infos = api.image.upload_paths(dataset.id, [path.name for path in paths], [str(path) for path in paths])
    if labelled:
        api.project.update_meta(project.id, META)
        masks = [cv2.imread(str(folder / "masks" / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE) > 0 for path in paths]
        api.annotation.upload_anns([info.id for info in infos], [_annotation(mask) for mask in masks])
    return int(project.id)


def _annotation(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> sly.Annotation:
    labels = [sly.Label(sly.Bitmap(mask), CRACK)] if mask.any() else []
    return sly.Annotation((mask.shape[0], mask.shape[1]), labels)
