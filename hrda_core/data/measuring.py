"""One look at every file of a role: sizes, digests and class pixels, and sentences about what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hrda_core.data.file_facts import ImageFacts, MaskFacts, facts_of_image, facts_of_mask, image_facts, mask_facts
from hrda_core.data.memory_of_files import DIGEST_BYTES, FileMemory
from hrda_core.data.parallel import Progress, Stop, in_order
from hrda_core.data.samples import Dataset, check_image

LISTED = 5  # sentences of each kind; the others are counted


@dataclass(frozen=True)
class Role:
    """What a data set is used for. masks: whether they are used; needs_masks: images without one are left out then."""

    name: str
    dataset: Dataset
    masks: bool
    needs_masks: bool
    trains: bool

    def image(self, index: int) -> str:
        return f"{self.name} {self.dataset.location(index)}"

    def mask(self, index: int) -> str:
        mask = None if self.dataset.masks is None else self.dataset.masks[index]
        return f"{self.name} mask {mask}" if isinstance(mask, Path) else f"{self.name} mask of {self.dataset.location(index)}"


@dataclass(frozen=True)
class Measured:
    """What is kept: a few bytes for each image. All zeros where an image cannot be read.

    content: (images, 16) uint8, digests of the pixels. sizes: (images, 2), upright height and width.
    labelled: (images,), which have a mask, good or not. pixels: (classes + 1,), over all good masks.
    """

    content: NDArray[np.uint8]
    sizes: NDArray[np.int32]
    labelled: NDArray[np.bool_]
    pixels: NDArray[np.int64]


class Findings:
    """Sentences by kind: the first few of each, and how many more there are."""

    def __init__(self) -> None:
        self._listed: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, kind: str, sentence: str) -> None:
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._counts[kind] <= LISTED:
            self._listed.setdefault(kind, []).append(sentence)

    def sentences(self) -> tuple[str, ...]:
        result: list[str] = []
        for kind, listed in self._listed.items():
            more = self._counts[kind] - len(listed)
            result += [*listed, f"{kind}: and {more} more"] if more else listed
        return tuple(result)


def measure(role: Role, memory: FileMemory, problems: Findings, progress: Progress | None, stop: Stop | None) -> Measured:
    """Reads all images of the role, and its masks if they are used; what is wrong with one file goes to `problems`."""
    dataset, count = role.dataset, len(role.dataset)
    measured = Measured(
        content=np.zeros((count, DIGEST_BYTES), dtype=np.uint8),
        sizes=np.zeros((count, 2), dtype=np.int32),
        labelled=np.zeros(count, dtype=bool),
        pixels=np.zeros(len(dataset.classes) + 1, dtype=np.int64),
    )

    def look(index: int) -> tuple[ImageFacts, MaskFacts | None]:
        return _image(dataset, index, memory), _mask(dataset, index, memory) if role.masks else None

    for index, (image, mask) in enumerate(in_order(look, range(count), count, None, progress, stop)):
        if image.problem:
            problems.add(f"{role.name} images that cannot be used", f"{role.image(index)}: {image.problem}")
        else:
            measured.content[index] = np.frombuffer(bytes.fromhex(image.content), dtype=np.uint8)
            measured.sizes[index] = image.height, image.width
        if mask is None:
            continue
        measured.labelled[index] = True
        if mask.problem:
            problems.add(f"{role.name} masks that cannot be used", f"{role.mask(index)}: {mask.problem}")
            continue
        measured.pixels[:] += mask.pixels
        if not image.problem and (mask.height, mask.width) != (image.height, image.width):
            problems.add(f"{role.name} masks of another size", f"{role.mask(index)}: {_sizes(image, mask)}")
    return measured


def _image(dataset: Dataset, index: int, memory: FileMemory) -> ImageFacts:
    image = dataset.images[index]
    if isinstance(image, Path):
        return image_facts(image, memory)
    try:
        check_image(image, dataset.name(index))
    except ValueError as error:
        return ImageFacts(problem=str(error).removeprefix(f"{dataset.name(index)}: "))
    return facts_of_image(image)


def _mask(dataset: Dataset, index: int, memory: FileMemory) -> MaskFacts | None:
    entry = None if dataset.masks is None else dataset.masks[index]
    if isinstance(entry, Path):
        return mask_facts(entry, dataset.classes, memory)
    try:
        mask = dataset.mask(index)
        return None if mask is None else facts_of_mask(mask, len(dataset.classes))
    except ValueError as error:
        return MaskFacts(problem=str(error).removeprefix(f"{dataset.name(index)}: "))


def _sizes(image: ImageFacts, mask: MaskFacts) -> str:
    sizes = f"it is {mask.width}x{mask.height}, the upright image {image.width}x{image.height}"
    if (mask.height, mask.width) == (image.width, image.height):
        return f"{sizes}: the photo has an EXIF rotation that the mask lacks; turn the mask by 90 degrees"
    return f"{sizes}; export both at the same size"
