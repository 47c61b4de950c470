"""Labelled folders of users: what is missing in one is said by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hrda_core.data.classes import ClassInfo
from hrda_core.data.samples import Dataset

SHOWN = 3  # names of files in a message
CLASSES = '[{"name": "background", "color": [0, 0, 0], "value": 0}, {"name": "crack", "color": [220, 20, 60], "value": 255}]'


def labelled_folder(folder: str | Path, role: str, classes: Sequence[ClassInfo] | None = None) -> Dataset:
    """`Dataset.from_folder` of a folder in which at least one image has a mask.

    Args:
        role: what the folder serves as, for messages: "source", "validation".

    Raises:
        ValueError: no image has one; the message says what is missing. And as `Dataset.from_folder`.
    """
    dataset = Dataset.from_folder(folder, classes)
    if len(dataset.labelled()) == 0:
        raise ValueError(f"{role} {folder} has no labelled image: {_what_is_missing(Path(folder), dataset)}")
    return dataset


def _what_is_missing(folder: Path, dataset: Dataset) -> str:
    if not dataset.classes:
        return f"classes.json is missing in it; write a list in index order, such as {CLASSES}"
    masks, image = folder / "masks", Path(dataset.location(0))
    if not masks.is_dir():
        there = sorted(path.name for path in folder.iterdir() if path.is_dir())
        found = f" (it has {', '.join(there[:SHOWN])})" if there else ""
        return f"the folder masks/ is missing in it{found}; it holds a PNG for each image, with the classes' values as pixels"
    there = sorted(path.name for path in masks.iterdir())
    found = f"it holds {', '.join(there[:SHOWN])}{', ...' if len(there) > SHOWN else ''}" if there else "it is empty"
    return f"masks/ has no {image.stem}.png for {image.name} ({found}); name masks like their images, ending in .png"
