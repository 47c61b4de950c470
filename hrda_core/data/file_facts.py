"""What there is to know about one image or mask file without keeping its pixels; remembered by content."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

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
    pixels: Sequence[int] = ()
    problem: str = ""


Facts = TypeVar("Facts", ImageFacts, MaskFacts)


def image_facts(path: Path, memory: FileMemory) -> ImageFacts:
    """Decodes the image, or recalls what came of it. Problems do not name the file."""
    try:
        return _recalled(path, memory, b"image", lambda content: facts_of_image(decode_image(content)), ImageFacts)
    except ValueError as error:
        return ImageFacts(problem=str(error).removeprefix(f"{path}: "))


def mask_facts(path: Path, classes: Sequence[ClassInfo], memory: FileMemory) -> MaskFacts:
    """Decodes and counts the mask, or recalls what came of it. Problems do not name the file."""
    purpose = b"mask" + bytes(c.value for c in classes)
    try:
        return _recalled(
            path, memory, purpose, lambda content: facts_of_mask(decode_mask(content, classes), len(classes)), MaskFacts
        )
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


def _recalled(path: Path, memory: FileMemory, purpose: bytes, find: Callable[[bytes], Facts], kind: type[Facts]) -> Facts:
    """What `find` makes of the file's content, or what is wrong with it; read and decoded only where that is not known."""
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
    text = memory.recall(key)
    if text is not None:
        with contextlib.suppress(json.JSONDecodeError, TypeError):  # a damaged row counts as none
            return kind(**json.loads(text))
    try:
        facts = find(read_bytes(path) if content is None else content)
    except ValueError as error:
        facts = kind(problem=str(error))
    memory.remember(key, json.dumps(asdict(facts)))
    return facts
