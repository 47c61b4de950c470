"""What there is to know about one image or mask file without keeping its pixels; remembered by content."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from hrda_core.data.classes import IGNORE, ClassInfo
from hrda_core.data.decoding import Image, Mask, decode_image, decode_mask, read_bytes
from hrda_core.data.memory_of_files import FileMemory, digest


@dataclass(frozen=True)
class ImageFacts:
    """Upright size in pixels, the digest of the decoded pixels (hexadecimal), or what is wrong with the file."""

    height: int = 0
    width: int = 0
    content: str = ""
    problem: str = ""


@dataclass(frozen=True)
class MaskFacts:
    """Size in pixels, pixels of each class and, last, the ignored ones; or what is wrong with the file."""

    height: int = 0
    width: int = 0
    pixels: tuple[int, ...] = ()
    problem: str = ""


def image_facts(path: Path, memory: FileMemory) -> ImageFacts:
    """Decodes the image, or recalls what came of it. Problems do not name the file."""

    def find(content: bytes) -> str:
        try:
            return json.dumps(asdict(facts_of_image(decode_image(content))))
        except ValueError as error:
            return json.dumps({"problem": str(error)})

    try:
        return ImageFacts(**json.loads(_recalled(path, memory, b"image", find)))
    except ValueError as error:
        return ImageFacts(problem=str(error).removeprefix(f"{path}: "))


def mask_facts(path: Path, classes: Sequence[ClassInfo], memory: FileMemory) -> MaskFacts:
    """Decodes and counts the mask, or recalls what came of it. Problems do not name the file."""
    values = bytes(c.value for c in classes)

    def find(content: bytes) -> str:
        try:
            return json.dumps(asdict(facts_of_mask(decode_mask(content, classes), len(classes))))
        except ValueError as error:
            return json.dumps({"problem": str(error)})

    try:
        found = json.loads(_recalled(path, memory, b"mask" + values, find))
        return MaskFacts(**{**found, "pixels": tuple(found.get("pixels", ()))})
    except ValueError as error:
        return MaskFacts(problem=str(error).removeprefix(f"{path}: "))


def facts_of_image(image: Image) -> ImageFacts:
    height, width = image.shape[:2]
    return ImageFacts(height, width, digest(f"{height} {width} ".encode(), np.ascontiguousarray(image).data).hex())


def facts_of_mask(mask: Mask, classes: int) -> MaskFacts:
    """Raises ValueError as `count_classes`."""
    height, width = mask.shape
    return MaskFacts(height, width, tuple(count_classes(mask, classes).tolist()))


def count_classes(mask: Mask, classes: int) -> NDArray[np.int64]:
    """Class indices (H, W) -> pixels of each class and of the ignored (classes + 1,).

    Raises:
        ValueError: an index that no class has.
    """
    counts = cv2.calcHist([np.ascontiguousarray(mask)], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    bins = [*range(classes), IGNORE]
    strange = np.setdiff1d(np.flatnonzero(counts), bins)
    if strange.size:
        raise ValueError(f"mask value {strange[0]} is no class; use 0 to {classes - 1}, or {IGNORE} to ignore")
    return counts[bins]


def _recalled(path: Path, memory: FileMemory, purpose: bytes, find: Callable[[bytes], str]) -> str:
    """What `find` makes of the file's content; the file is only read, or only looked at, where that is known."""
    if not memory.active:
        return find(read_bytes(path))
    content, known = None, memory.known_digest(path)
    if known is None:
        status = path.stat() if path.exists() else None
        content = read_bytes(path)
        known = digest(content)
        if status is not None:
            memory.remember_digest(path, status, known)
    key = digest(purpose, b"\0", known)
    fact = memory.recall(key)
    if fact is None:
        fact = find(read_bytes(path) if content is None else content)
        memory.remember(key, fact)
    return fact
