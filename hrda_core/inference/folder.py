"""Predictions of a photo or a folder of photos, written to disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from cv2.typing import MatLike

from hrda_core.data.samples import IGNORE, IMAGE_SUFFIXES, check_stems, read_image, write_classes
from hrda_core.evaluation.pictures import overlay
from hrda_core.inference.predictor import Predictor


def predict_folder(predictor: Predictor, source: Path, output: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Writes masks/{stem}.png (class values as in classes.json, 255 = no class), overlays/{stem}.jpg and classes.json.

    Returns how many photos were predicted.

    Raises:
        ValueError: no such file or folder, no photo in it, a photo that cannot be read, or two that share a stem.
    """
    if not source.exists():
        raise ValueError(f"input {source} does not exist: give a photo or a folder of photos")
    folder = source / "images" if (source / "images").is_dir() else source
    photos = [source] if source.is_file() else sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not photos:
        raise ValueError(f"input {source} holds no photo: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    check_stems(photos)
    for name in ("masks", "overlays"):
        (output / name).mkdir(parents=True, exist_ok=True)
    write_classes(output / "classes.json", predictor.classes)
    values = np.full(256, IGNORE, dtype=np.uint8)
    values[: len(predictor.classes)] = [c.value for c in predictor.classes]
    colours = [c.color for c in predictor.classes]
    for done, path in enumerate(photos, start=1):
        photo = read_image(path)
        labels = predictor.predict([photo])[0].labels
        painted = overlay(photo, labels, colours, has_background=predictor.has_background)
        _write(output / "masks" / f"{path.stem}.png", values[labels])
        _write(output / "overlays" / f"{path.stem}.jpg", cv2.cvtColor(painted, cv2.COLOR_RGB2BGR))
        if progress is not None:
            progress(done, len(photos))
    return len(photos)


def _write(path: Path, picture: MatLike) -> None:
    success, content = cv2.imencode(path.suffix, picture)
    if not success:
        raise ValueError(f"{path}: the picture could not be encoded")
    path.write_bytes(content.tobytes())
