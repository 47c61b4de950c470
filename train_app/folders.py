"""Folders that `hrda_core.Dataset.from_folder` reads, made of links to the cache."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hrda_core.data.classes import ClassInfo, write_classes
from hrda_core.data.decoding import IMAGE_SUFFIXES
from hrda_core.data.parallel import Progress as Count
from hrda_core.data.parallel import Stop, Stopped, in_order
from train_app.cache import Cache
from train_app.errors import UserError
from train_app.listing import ListedImage

PREPARING = ".preparing-"
LONGEST_STEM = 120  # bytes
KINDS = ((b"\xff\xd8\xff", ".jpg"), (b"\x89PNG\r\n\x1a\n", ".png"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"II+\0", ".tif"))


def image_id_of(path: Path) -> int:
    """The platform's id of an image of a prepared folder."""
    return int(path.stem.rsplit("_", 1)[1])


def file_stem(image: ListedImage) -> str:
    """The user's name without suffixes and without what file systems dislike, and the id, so that no two are equal."""
    stem = image.name
    while Path(stem).suffix.lower() in IMAGE_SUFFIXES:
        stem = stem[: -len(Path(stem).suffix)]
    stem = re.sub(r"[^\w.-]+", "_", stem).strip("._") or "image"
    return f"{stem.encode()[:LONGEST_STEM].decode(errors='ignore')}_{image.id}"


def image_suffixes(cache: Cache, images: Sequence[ListedImage], progress: Count, stop: Stop | None) -> dict[int, str]:
    """By image id, from the first bytes of the files: names, and what the platform says of them, may be wrong.

    Raises:
        UserError: images of other kinds than `hrda_core` reads.
    """
    found = in_order(lambda image: _suffix(cache.image_path(image)), images, len(images), progress=progress, stop=stop)
    suffixes = {image.id: suffix for image, suffix in zip(images, found, strict=True)}
    strange = [image for image in images if not suffixes[image.id]]
    if strange:
        raise UserError(
            f"{len(strange)} of {len(images)} images are none of JPEG, PNG, TIFF, WebP and BMP, whatever they are called, among "
            f"them {'; '.join(image.place for image in strange[:3])}; convert them, or delete them from their datasets"
        )
    return suffixes


def write_folders(
    directory: Path,
    cache: Cache,
    images: Mapping[str, Sequence[ListedImage]],
    suffixes: Mapping[int, str],
    masks: Mapping[int, Path],
    classes: Sequence[ClassInfo],
    step: Callable[[str], Count],
    stop: Stop | None,
) -> dict[str, Path]:
    """One folder in `directory` for each role that has images, in place of what was there; all appear at the end.

    Args:
        suffixes, masks: by image id; images without a mask have no labels.
        step: gives the progress of a step by its name.
    """
    with tempfile.TemporaryDirectory(prefix=PREPARING, dir=directory) as temporary:
        for role, members in images.items():
            folder, report = Path(temporary) / role, step(f"Arranging the {role}")
            (folder / "images").mkdir(parents=True)
            write_classes(folder / "classes.json", classes)
            for number, image in enumerate(members):
                if stop is not None and stop():
                    raise Stopped("stopped while folders were written")
                report(number, len(members))
                stem = file_stem(image)
                _link(cache.image_path(image), folder / "images" / f"{stem}{suffixes[image.id]}")
                if image.id in masks:
                    (folder / "masks").mkdir(exist_ok=True)
                    _link(masks[image.id], folder / "masks" / f"{stem}.png")
            report(len(members), len(members))
        for role, members in images.items():
            if (directory / role).exists():
                shutil.rmtree(directory / role)
            if members:
                (Path(temporary) / role).rename(directory / role)
    return {role: directory / role for role, members in images.items() if members}


def remove_leftovers(directory: Path) -> None:
    """What a run that was killed had not finished."""
    for leftover in directory.glob(f"{PREPARING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _suffix(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(b"RIFF") and start[8:] == b"WEBP":
        return ".webp"
    return next((suffix for magic, suffix in KINDS if start.startswith(magic)), ".bmp" if start.startswith(b"BM") else "")


def _link(existing: Path, path: Path) -> None:
    """A hard link, else (another file system, or one without) a symbolic one, else a copy."""
    try:
        os.link(existing, path)
    except OSError:
        try:
            path.symlink_to(existing.resolve())
        except OSError:
            shutil.copyfile(existing, path)
