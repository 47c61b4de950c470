"""Predictions of a photo or a folder of photos, written to disk; an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hrda_core.data.parallel import in_order
from hrda_core.data.samples import IGNORE, IMAGE_SUFFIXES, Image, check_stems, read_image, write_classes
from hrda_core.inference.photo_writers import NpzWriter, OverlayWriter, Several
from hrda_core.inference.predictor import Predictor
from hrda_core.inference.tile_queue import RequestNetwork, TileQueue
from hrda_core.inference.writers import PngWriter, Writer
from hrda_core.whole_file import write_whole

FOLDERS = {"masks": ".png", "overlays": ".jpg", "confidence": ".png", "probabilities": ".npz"}
RECORD = "predict.json"  # in the output folder: by which weights and settings it was written
CPU_PHOTOS = 2  # at a time: one is read or written while the network has the other


@dataclass
class FolderResult:
    """written: photos predicted. skipped: those whose outputs were there already. failed: (photo, why it was not read)."""

    written: int = 0
    skipped: int = 0
    failed: list[tuple[Path, str]] = field(default_factory=list)

    def note(self, photo: Path, reason: str | None) -> None:
        """reason: None where the photo was predicted, "" where its outputs were there, else why it was not read."""
        if reason:
            self.failed.append((photo, reason))
        elif reason is None:
            self.written += 1
        else:
            self.skipped += 1


def predict_folder(
    predictor: Predictor,
    source: str | Path,
    output: str | Path,
    progress: Callable[[int, int], None] | None = None,
    confidence: bool = False,
    probabilities: bool = False,
    overwrite: bool = False,
    photos_at_once: int | None = None,
) -> FolderResult:
    """Writes masks/ (PNG, class values as in classes.json, 255 = no class), overlays/ (JPEG), classes.json, predict.json.

    On request also confidence/ (PNG, 0..255 for 0..1) and probabilities/ (npz, (C, H, W) float16). Photos of sub-folders keep
    their relative path. A photo whose outputs exist is skipped; one that cannot be read is listed in the result, and the
    others go on. `overwrite` makes all outputs anew.

    Photos are read, predicted and written side by side, `photos_at_once` of them (None: two on a CPU; on a GPU as many as fill a
    batch of windows, which they share), so that memory holds as many. `progress` hears of them in order. A shared batch adds
    up in another order, which may change the label of a pixel where two classes tie.

    Raises:
        ValueError: no such file or folder, no photo in it, two photos that differ only in their suffix, or outputs that other
            weights or settings have written.
    """
    source, output = Path(source), Path(output)
    root, photos = _photos(source, output)
    names = ["masks", "overlays"] + ["confidence"] * confidence + ["probabilities"] * probabilities
    wanted = {photo: _outputs(output, names, photo.relative_to(root)) for photo in photos}
    _claim(predictor, output, overwrite)
    if overwrite:  # all at once: should this run stop halfway, the next must not take old outputs for new ones
        for photo in photos:
            for path in _outputs(output, list(FOLDERS), photo.relative_to(root)).values():
                path.unlink(missing_ok=True)
    result = FolderResult()
    shared = predictor.device.type == "cuda"  # a GPU takes the windows of several photos at once, which a CPU gains nothing from
    queue, stopped = TileQueue(predictor.network, shared), threading.Event()

    def predict(photo: Path) -> str | None:
        """Why the photo was not read; "" where its outputs were there already, None where they are now."""
        if all(path.is_file() for path in wanted[photo].values()):
            return ""
        try:
            image = read_image(photo)
        except (ValueError, OSError, MemoryError) as error:
            return str(error) or "not enough memory to read it"
        writer = Several(list(_writers(predictor, image, wanted[photo])))
        predictor.predict_to(image, writer, probabilities, RequestNetwork(queue, None, stopped.is_set))
        return None

    at_once = photos_at_once or (CPU_PHOTOS + (predictor.preprocessing.tile_batch if shared else 0))
    try:
        with closing(in_order(predict, photos, len(photos), at_once)) as outcomes:
            try:
                for done, (photo, reason) in enumerate(zip(photos, outcomes, strict=True), start=1):
                    result.note(photo, reason)
                    if progress is not None:
                        progress(done, len(photos))
            except BaseException:
                stopped.set()  # else photos under way would go on to their end, which may be minutes
                raise
    finally:
        queue.close()
    return result


def _photos(source: Path, output: Path) -> tuple[Path, list[Path]]:
    """The folder that outputs are named relative to, and the photos in it and below, in order."""
    if not source.exists():
        raise ValueError(f"input {source} does not exist: give a photo or a folder of photos")
    if source.is_file():
        return source.parent, [source]
    root = source / "images" if (source / "images").is_dir() else source
    ours = {(output / name).resolve() for name in FOLDERS}
    photos = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
        and not ours.intersection(path.resolve().parents)
    )
    if not photos:
        raise ValueError(f"input {source} holds no photo: expected files ending in {', '.join(IMAGE_SUFFIXES)}")
    for folder in sorted({photo.parent for photo in photos}):
        check_stems([photo for photo in photos if photo.parent == folder])
    return root, photos


def _outputs(output: Path, names: list[str], relative: Path) -> dict[str, Path]:
    return {name: output / name / relative.parent / f"{relative.stem}{FOLDERS[name]}" for name in names}


def _writers(predictor: Predictor, image: Image, outputs: dict[str, Path]) -> Iterator[Writer]:
    values = np.full(256, IGNORE, dtype=np.uint8)
    values[: len(predictor.classes)] = [c.value for c in predictor.classes]
    colours = [c.color for c in predictor.classes]
    yield PngWriter(outputs["masks"], outputs.get("confidence"), values)
    yield OverlayWriter(outputs["overlays"], image, colours, predictor.has_background)
    if "probabilities" in outputs:
        yield NpzWriter(outputs["probabilities"])


def _claim(predictor: Predictor, output: Path, overwrite: bool) -> None:
    """Records by what the output folder is written; refuses one that something else has written."""
    record, path = _record(predictor), output / RECORD
    if not overwrite:
        fix = "give another output folder, or overwrite what is there (overwrite=True, --overwrite)"
        if path.is_file():
            _compare(record, path, fix)
        elif any((output / name).is_dir() and any((output / name).iterdir()) for name in FOLDERS):
            raise ValueError(f"{output} holds masks or overlays that are not known to be predictions (no {RECORD}): {fix}")
    output.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record, indent=1).encode())
    write_classes(output / "classes.json", predictor.classes)


def _record(predictor: Predictor) -> dict[str, Any]:
    settings = predictor.preprocessing.as_plain()
    del settings["tile_batch"]  # changes nothing but speed
    settings["thresholds"] = predictor.thresholds
    settings["precision"] = "fp32" if predictor.autocast is None else str(predictor.autocast).removeprefix("torch.")
    return {"weights_version": predictor.weights_version, "settings": settings}


def _compare(record: dict[str, Any], path: Path, fix: str) -> None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        version, settings = stored["weights_version"], dict(stored["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}): {fix}") from error
    if version != record["weights_version"]:
        raise ValueError(
            f"{path.parent} was written with other weights ({version[:12]}, now {record['weights_version'][:12]}): {fix}"
        )
    for name, value in record["settings"].items():
        if settings.get(name) != value:
            raise ValueError(f"{path.parent} was written with {name}={settings.get(name)}, now {value}: {fix}")
