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
        if isinstance(image, Path):
            return read_image(image)
        check_image(image, self.name(index))
        return image

    def mask(self, index: int) -> Mask | None:
        mask = None if self.masks is None else self.masks[index]
        if isinstance(mask, Path):
            return read_mask(mask, self.classes)
        if mask is not None and (mask.ndim != 2 or mask.dtype != np.uint8):
            raise ValueError(f"{self.name(index)}: the mask is {mask.dtype} {mask.shape}; pass class indices, uint8 (H, W)")
        return mask

    def labelled(self) -> Dataset:
        """The images that have a mask."""
        keep = [i for i in range(len(self)) if self.masks is not None and self.masks[i] is not None]
        return Dataset(tuple(self.images[i] for i in keep), tuple((self.masks or ())[i] for i in keep), self.classes)

    @staticmethod
    def from_folder(folder: str | Path, classes: Sequence[ClassInfo] | None = None) -> Dataset:
        """Reads `images/`, `masks/` (same stem, PNG; may be partial or absent) and `classes.json`.

        A folder without `images/` is taken as the images themselves. `classes` serves where there is no classes.json.

        Raises:
            ValueError: no such folder, no image in it, a broken classes.json, or two images that claim one mask.
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
            check_stems(images)
            candidates = [mask_folder / f"{image.stem}.png" for image in images]
            masks = tuple(path if path.is_file() else None for path in candidates)
        return Dataset(images, masks, tuple(classes or ()))


def join(datasets: Sequence[Dataset]) -> Dataset:
    """One data set of several that have the same classes in the same order (by name, and by value where masks are files)."""
    first = datasets[0]
    for other in datasets[1:]:
        if [c.name for c in other.classes] != [c.name for c in first.classes]:
            raise ValueError(
                f"classes {[c.name for c in other.classes]} and {[c.name for c in first.classes]} differ: "
                f"data sets that are used together need the same classes in the same order"
            )
        if other.masks is not None and [c.value for c in other.classes] != [c.value for c in first.classes]:
            raise ValueError(
                f"classes.json: the values {[c.value for c in other.classes]} and {[c.value for c in first.classes]} differ: "
                f"data sets that are joined need the same numbers in their mask files"
            )
    masks: list[Path | Mask | None] = []
    for dataset in datasets:
        masks.extend(dataset.masks if dataset.masks is not None else (None,) * len(dataset))
    images = tuple(image for dataset in datasets for image in dataset.images)
    return Dataset(images, tuple(masks) if any(mask is not None for mask in masks) else None, first.classes)


def read_classes(path: Path) -> tuple[ClassInfo, ...]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        classes = [(str(e["name"]), [int(c) for c in e["color"]], int(e["value"])) for e in entries]
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f'{path}: must be a list of {{"name", "color", "value"}} in index order ({error!r})') from error
    if not classes:
        raise ValueError(f'{path}: the list of classes is empty; give at least one {{"name", "color", "value"}}')
    for name, color, value in classes:
        if len(color) != 3 or not all(0 <= part <= 255 for part in color):
            raise ValueError(f"{path}: class {name!r} has color {color}; give three numbers from 0 to 255")
        if not 0 <= value <= 255:
            raise ValueError(f"{path}: class {name!r} has value {value}; masks are 8-bit, so use 0 to 255")
    for what, given in (("names", [c[0] for c in classes]), ("values", [c[2] for c in classes])):
        if len(set(given)) < len(classes):
            raise ValueError(f"{path}: the {what} {given} are not all different; give every class its own")
    return tuple(ClassInfo(name, (color[0], color[1], color[2]), value) for name, color, value in classes)


def write_classes(path: Path, classes: Sequence[ClassInfo]) -> None:
    entries = [{"name": c.name, "color": list(c.color), "value": c.value} for c in classes]
    path.write_text(json.dumps(entries, indent=1), encoding="utf-8")


def check_image(image: Image, name: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"{name}: an array of {image.dtype} {image.shape} is no image; pass RGB uint8 (H, W, 3)")


def check_stems(images: Sequence[Path]) -> None:
    """Masks and predictions are named after the stem, so that two images must not share one."""
    seen: dict[str, Path] = {}
    for path in images:
        if path.stem in seen:
            raise ValueError(f"{path} and {seen[path.stem].name} differ only in their suffix: rename one, masks go by the stem")
        seen[path.stem] = path


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
    content = _bytes(path)
    if content[:4].tobytes() == b"\x89PNG" and content[25:26].tobytes() == b"\x03":  # OpenCV would give colours, not indices
        raise ValueError(f"{path}: the mask has a colour palette; save class numbers in one grey channel")
    mask = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
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
        counts = np.bincount(mask.ravel(), minlength=256)
        strange = np.setdiff1d(np.flatnonzero(counts), bins)
        if strange.size:
            raise ValueError(
                f"{dataset.name(index)}: mask value {strange[0]} is no class; use 0 to {len(bins) - 2}, or {IGNORE} to ignore"
            )
        return counts[bins]

    with ThreadPoolExecutor(max(workers, 1)) as pool:
        return np.stack(list(pool.map(count, range(len(dataset)))))


def _bytes(path: Path) -> NDArray[Any]:
    try:
        return np.frombuffer(path.read_bytes() or b"\0", dtype=np.uint8)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
