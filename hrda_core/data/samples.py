"""What a data set is, in memory and on disk: images, perhaps masks, and classes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from hrda_core.data.classes import BACKGROUND_NAMES, IGNORE, ClassInfo, read_classes, write_classes
from hrda_core.data.decoding import IMAGE_SUFFIXES, Image, Mask, read_image, read_mask, read_shrunk
from hrda_core.data.file_list import FileList
from hrda_core.data.pixel_index import class_pixels

__all__ = [
    "IGNORE",
    "IMAGE_SUFFIXES",
    "ClassInfo",
    "Dataset",
    "Image",
    "Mask",
    "check_image",
    "check_stems",
    "class_pixels",
    "join",
    "read_classes",
    "read_image",
    "read_mask",
    "spread",
    "write_classes",
]


@dataclass(frozen=True)
class Dataset:
    """Images, perhaps masks, and classes: what sources, targets and validation sets are.

    images: paths, or arrays (H, W, 3) uint8 RGB. masks: one per image, a path, an array (H, W) uint8 of class indices
    (255 = ignore), or None for an image without labels; None for a set without any. classes: in index order.
    Sequences of nothing but paths are kept as a `FileList`, so that many files take little memory.
    """

    images: Sequence[Path | Image]
    masks: Sequence[Path | Mask | None] | None
    classes: tuple[ClassInfo, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", _compact(self.images))
        if self.masks is not None:
            object.__setattr__(self, "masks", _compact(self.masks))
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

    def location(self, index: int) -> str:
        """The image's path, for messages."""
        image = self.images[index]
        return str(image) if isinstance(image, Path) else f"image {index}"

    def version(self, index: int) -> str:
        """Differs where another image lies under the same path."""
        image = self.images[index]
        if isinstance(image, Path):
            facts = image.stat()
            return f"{image.resolve()} {facts.st_size} {facts.st_mtime_ns}"
        return f"image {index} {zlib.crc32(image.tobytes())}"

    def image(self, index: int) -> Image:
        image = self.images[index]
        if isinstance(image, Path):
            return read_image(image)
        check_image(image, self.name(index))
        return image

    def shrunk_image(self, index: int, factor: Callable[[int, int], int]) -> tuple[Image, int]:
        """The image, perhaps with sides shorter already by a part of `factor(height, width)`; see `read_shrunk`."""
        image = self.images[index]
        return read_shrunk(image, factor) if isinstance(image, Path) else (self.image(index), 1)

    def mask(self, index: int) -> Mask | None:
        mask = None if self.masks is None else self.masks[index]
        if isinstance(mask, Path):
            return read_mask(mask, self.classes)
        if mask is not None and (mask.ndim != 2 or mask.dtype != np.uint8):
            raise ValueError(f"{self.name(index)}: the mask is {mask.dtype} {mask.shape}; pass class indices, uint8 (H, W)")
        return mask

    def labelled(self) -> Dataset:
        """The images that have a mask."""
        masks: Sequence[Path | Mask | None] = () if self.masks is None else self.masks
        keep = masks.present().tolist() if isinstance(masks, FileList) else [i for i, m in enumerate(masks) if m is not None]
        if self.masks is not None and len(keep) == len(self):
            return self
        return Dataset(_taken(self.images, keep), _taken(masks, keep), self.classes)

    @staticmethod
    def from_folder(folder: str | Path, classes: Sequence[ClassInfo] | None = None) -> Dataset:
        """Reads `images/`, `masks/` (same stem, PNG; may be partial or absent) and `classes.json`.

        A folder without `images/` is taken as the images themselves. `classes` serves where there is no classes.json.

        Raises:
            ValueError: no such folder, no image in it, a broken classes.json, or two images that claim one mask.
        """
        folder = Path(folder)
        if not folder.is_dir():
            there = f"is a file: give the folder that holds it, {folder.parent}" if folder.is_file() else "does not exist"
            raise ValueError(f"data folder {folder} {there}")
        image_folder = folder / "images" if (folder / "images").is_dir() else folder
        names = sorted(path.name for path in image_folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        if not names:
            raise ValueError(f"data folder {folder} holds no image: put {', '.join(IMAGE_SUFFIXES)} files into {image_folder}")
        class_file = folder / "classes.json"
        if class_file.is_file():
            classes = read_classes(class_file)
        images = FileList.in_folder(image_folder, names)
        mask_folder = folder / "masks"
        masks: FileList | None = None
        if mask_folder.is_dir() and classes:
            check_stems(cast("Sequence[Path]", images))
            existing = {path.name for path in mask_folder.iterdir()}  # one look at the folder, not one at each mask
            wanted = (f"{Path(name).stem}.png" for name in names)
            masks = FileList.in_folder(mask_folder, (name if name in existing else None for name in wanted))
        return Dataset(cast("Sequence[Path]", images), masks, tuple(classes or ()))


def join(datasets: Sequence[Dataset]) -> Dataset:
    """One data set of several that have the same classes in the same order (by name, and by value where masks are files)."""
    first = datasets[0]
    for other in datasets[1:]:
        if [c.name for c in other.classes] != [c.name for c in first.classes]:
            raise ValueError(
                f"classes {[c.name for c in other.classes]} ({other.location(0)}) and {[c.name for c in first.classes]} "
                f"({first.location(0)}) differ: "
                f"data sets that are used together need the same classes in the same order"
            )
        if other.masks is not None and [c.value for c in other.classes] != [c.value for c in first.classes]:
            raise ValueError(
                f"classes.json: the values {[c.value for c in other.classes]} and {[c.value for c in first.classes]} differ: "
                f"data sets that are joined need the same numbers in their mask files"
            )
    images = _chained([dataset.images for dataset in datasets])
    masks = _chained([FileList.empty(len(dataset)) if dataset.masks is None else dataset.masks for dataset in datasets])
    unlabelled = isinstance(masks, FileList) and not len(masks.present())
    return Dataset(cast("Sequence[Path | Image]", images), None if unlabelled else masks, first.classes)


def check_image(image: Image, name: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"{name}: an array of {image.dtype} {image.shape} is no image; pass RGB uint8 (H, W, 3)")


def check_stems(images: Sequence[Path]) -> None:
    """Masks and predictions are named after the stem, so that two images must not share one."""
    seen: dict[str, str] = {}
    for path in images:
        if path.stem in seen:
            raise ValueError(f"{path} and {seen[path.stem]} differ only in their suffix: rename one, masks go by the stem")
        seen[path.stem] = path.name


def spread(length: int, count: int) -> list[int]:
    """Up to `count` different positions from the first to the last."""
    return sorted(set(np.linspace(0, length - 1, min(count, length)).round().astype(int).tolist()))


Entries = Sequence["Path | Image | None"]


def _compact(entries: Entries) -> Entries:
    if isinstance(entries, FileList) or not all(entry is None or isinstance(entry, Path) for entry in entries):
        return entries
    return FileList(cast("Sequence[Path | None]", entries))


def _taken(entries: Entries, positions: Sequence[int]) -> Sequence[Path | Image]:
    chosen = entries.take(positions) if isinstance(entries, FileList) else tuple(entries[i] for i in positions)
    return cast("Sequence[Path | Image]", chosen)


def _chained(parts: Sequence[Entries]) -> Entries:
    lists = [part for part in parts if isinstance(part, FileList)]
    if len(lists) == len(parts):
        return FileList.joined(lists)
    return tuple(entry for part in parts for entry in part)
