"""What an image, a mask and a data set are, in memory and on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

IGNORE = 255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
BACKGROUND_NAMES = ("background", "bg", "__bg__", "_background_")

Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class ClassInfo:
    """One class. `value` is its number in mask files; in memory a mask holds the class's index."""

    name: str
    color: tuple[int, int, int]
    value: int


@dataclass(frozen=True)
class Dataset:
    """Images, perhaps masks, and classes: what sources, targets and validation sets are.

    images: paths, or arrays (H, W, 3) uint8 RGB. masks: one per image, a path, an array (H, W) uint8 of class indices
    (255 = ignore), or None for an image without labels; None for a set without any. classes: in index order.
    """

    images: tuple[Path | Image, ...]
    masks: tuple[Path | Mask | None, ...] | None
    classes: tuple[ClassInfo, ...]

    def __post_init__(self) -> None:
        if self.masks is not None and len(self.masks) != len(self.images):
            raise ValueError(f"masks: {len(self.masks)} for {len(self.images)} images; give one each, None where unlabelled")
        if len(self.classes) > 255:
            raise ValueError(f"classes: {len(self.classes)} are too many; masks are 8-bit, so use at most 255")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_background(self) -> bool:
        """Background is class 0 where that class is called so; then "foreground" means all the others."""
        return bool(self.classes) and self.classes[0].name.lower() in BACKGROUND_NAMES

    def name(self, index: int) -> str:
        image = self.images[index]
        return image.name if isinstance(image, Path) else f"image {index}"

    def image(self, index: int) -> Image:
        image = self.images[index]
        return read_image(image) if isinstance(image, Path) else image

    def mask(self, index: int) -> Mask | None:
        mask = None if self.masks is None else self.masks[index]
        return read_mask(mask, self.classes) if isinstance(mask, Path) else mask

    def labelled(self) -> Dataset:
        """The images that have a mask."""
        keep = [i for i in range(len(self)) if self.masks is not None and self.masks[i] is not None]
        return Dataset(tuple(self.images[i] for i in keep), tuple((self.masks or ())[i] for i in keep), self.classes)

    @staticmethod
    def from_folder(folder: str | Path, classes: Sequence[ClassInfo] | None = None) -> Dataset:
        """Reads `images/`, `masks/` (same stem, PNG; may be partial or absent) and `classes.json`.

        A folder without `images/` is taken as the images themselves. `classes` serves where there is no classes.json.

        Raises:
            ValueError: no such folder, no image in it, or a broken classes.json.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"data folder {folder} does not exist")
        image_folder = folder / "images" if (folder / "images").is_dir() else folder
        images = tuple(sorted(p for p in image_folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES))
        if not images:
            raise ValueError(f"data folder {folder} holds no image: put {', '.join(IMAGE_SUFFIXES)} files into {image_folder}")
        class_file = folder / "classes.json"
        if class_file.is_file():
            classes = read_classes(class_file)
        mask_folder = folder / "masks"
        masks: tuple[Path | None, ...] | None = None
        if mask_folder.is_dir() and classes:
            candidates = [mask_folder / f"{image.stem}.png" for image in images]
            masks = tuple(path if path.is_file() else None for path in candidates)
        return Dataset(images, masks, tuple(classes or ()))


def join(datasets: Sequence[Dataset]) -> Dataset:
    """One data set of several that have the same classes in the same order (by name)."""
    first = datasets[0]
    for other in datasets[1:]:
        if [c.name for c in other.classes] != [c.name for c in first.classes]:
            raise ValueError(
                f"classes {[c.name for c in other.classes]} and {[c.name for c in first.classes]} differ: "
                f"data sets that are used together need the same classes in the same order"
            )
    masks: list[Path | Mask | None] = []
    for dataset in datasets:
        masks.extend(dataset.masks if dataset.masks is not None else (None,) * len(dataset))
    images = tuple(image for dataset in datasets for image in dataset.images)
    return Dataset(images, tuple(masks) if any(mask is not None for mask in masks) else None, first.classes)


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return tuple(ClassInfo(e["name"], (*map(int, e["color"]),), int(e["value"])) for e in entries)  # type: ignore[arg-type]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: must be a list of {{"name", "color", "value"}} in index order ({error!r})') from error


def write_classes(path: Path, classes: Sequence[ClassInfo]) -> None:
    entries = [{"name": c.name, "color": list(c.color), "value": c.value} for c in classes]
    path.write_text(json.dumps(entries, indent=1), encoding="utf-8")


def read_image(path: Path) -> Image:
    """(H, W, 3) uint8 RGB, turned upright by its EXIF orientation."""
    image = cv2.imdecode(_bytes(path), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f"{path}: cannot be read as an image; remove or replace the file")
    return np.ascontiguousarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def read_mask(path: Path, classes: Sequence[ClassInfo]) -> Mask:
    """(H, W) uint8 class indices; file value 255 is ignore unless a class claims it.

    Raises:
        ValueError: unreadable, not one channel, or a value that no class has.
    """
    mask = cv2.imdecode(_bytes(path), cv2.IMREAD_UNCHANGED)
    if mask is None:
        raise ValueError(f"{path}: cannot be read as a mask; remove or replace the file")
    if mask.ndim == 3:
        if not (mask[..., :1] == mask[..., 1:3]).all():
            raise ValueError(f"{path}: the mask has colours; save class numbers in one channel")
        mask = mask[..., 0]
    table = np.full(256, -1, dtype=np.int16)
    table[IGNORE] = IGNORE
    for index, info in enumerate(classes):
        table[info.value] = index
    if mask.dtype != np.uint8 or (table[mask] < 0).any():
        strange = [int(v) for v in np.unique(mask) if v > 255 or table[v] < 0]
        known = ", ".join(f"{c.value} = {c.name}" for c in classes)
        raise ValueError(
            f"{path}: mask value {strange[0] if strange else mask.dtype} belongs to no class; classes.json has {known}"
        )
    return np.asarray(table[mask], dtype=np.uint8)


def class_pixels(dataset: Dataset, workers: int = 4) -> NDArray[np.int64]:
    """Pixel counts (images, classes + 1) over the masks of a labelled data set; the last column counts ignored pixels."""
    bins = [*range(len(dataset.classes)), IGNORE]

    def count(index: int) -> NDArray[np.int64]:
        mask = dataset.mask(index)
        if mask is None:
            return np.zeros(len(bins), dtype=np.int64)
        return np.bincount(mask.ravel(), minlength=256)[bins]

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        return np.stack(list(pool.map(count, range(len(dataset)))))


def _bytes(path: Path) -> NDArray[Any]:
    try:
        return np.frombuffer(path.read_bytes() or b"\0", dtype=np.uint8)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
