"""From the choice of projects to folders that `hrda_core` trains on."""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import supervisely as sly

from hrda_core.data.classes import ClassInfo
from hrda_core.data.parallel import Progress as Count
from hrda_core.data.parallel import Stop, in_order
from train_app.cache import Cache, key_of
from train_app.choice_checks import check_choice
from train_app.choices import ROLES, DataChoice
from train_app.connection import Connection
from train_app.download import fetch_annotations, fetch_images, missing_images
from train_app.errors import UserError
from train_app.folders import image_suffixes, remove_leftovers, write_folders
from train_app.labels import OUTSIDE, ClassChoice, draw
from train_app.listing import ListedImage, Listing, Progress, list_images
from train_app.roles import Roles

DRAWING = 1  # raise it when `labels.draw` draws otherwise, so that masks of former versions are not used
RESERVE = 500_000_000  # bytes that stay free, for checkpoints and logs
LABEL_SHARE, LABEL_BASE = 0.02, 4000  # bytes per pixel, and per image, that annotation and mask take in the cache
PAUSE = 0.2  # seconds between reports of one step


@dataclass(frozen=True)
class DatasetCount:
    """What a dataset gave to a role."""

    role: str
    project_id: int
    project_name: str
    dataset_id: int
    dataset_path: str
    images: int
    labelled: int


@dataclass(frozen=True)
class Prepared:
    """Folders in the format of `Dataset.from_folder`, and what the experiment's records need.

    image_ids: by role. skipped_images: (role, reason) -> images that are left out. skipped_objects: (role, reason) -> objects of
    chosen classes that could not be drawn, by the name of their geometry. downloaded: images that were not in the cache.
    """

    source: Path
    target: Path
    validation: Path | None
    classes: tuple[ClassInfo, ...]
    image_ids: dict[str, list[int]]
    counts: tuple[DatasetCount, ...]
    skipped_images: dict[tuple[str, str], int]
    skipped_objects: dict[tuple[str, str], int]
    downloaded: int
    notices: tuple[str, ...]


def prepare_datasets(
    api: sly.Api,
    choice: DataChoice,
    directory: Path,
    cache: Path,
    progress: Progress | None = None,
    stop: Stop | None = None,
    patience: float = 120.0,
) -> Prepared:
    """Lists, checks, downloads and converts what was chosen; `directory` gets the folders source, target and perhaps validation.

    Images are links to the cache, named `{name}_{image id}{suffix}`. Masks are there where labels are used. What the cache holds
    already is neither fetched nor drawn again. Folders appear at the end, all or none.

    Args:
        progress: called with (what is being done, done, total), also with notices such as that the platform does not answer.
        patience: seconds for which the platform may be away.

    Raises:
        UserError: the choice is wrong, the platform refuses or stays away, an image is gone or unreadable, the disk is full.
        Stopped: within about a second after `stop()` became true.
    """
    try:
        return _Preparation(api, choice, directory, cache, progress, stop, patience).run()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk is full: writing to {cache} or {directory} failed. Free space (old runs, other apps' caches), "
                f"and start again: what has arrived is kept"
            ) from error
        raise UserError(f"Files cannot be read or written: {error}; check that {cache} and {directory} can be used") from error


class _Preparation:
    def __init__(
        self,
        api: sly.Api,
        choice: DataChoice,
        directory: Path,
        cache: Path,
        progress: Progress | None,
        stop: Stop | None,
        patience: float,
    ) -> None:
        self.api, self.choice, self.directory, self.stop = api, choice, directory, stop
        self._report, self._one_report = progress, threading.Lock()
        self.cache = Cache(cache)
        self.state = (0, 0)  # done and total of the step, for notices in between
        self.connection = Connection(api, lambda text: self.progress(text, *self.state), stop, patience)

    def run(self) -> Prepared:
        listing = list_images(self.api, self.choice, self.progress, self.stop, self.connection)
        roles = check_choice(listing, self.choice)
        used = [image for role in ROLES for image in roles.images[role]]
        masked = [image for image in used if image.id in roles.masked]
        missing = missing_images(self.cache, used, self.step("Checking what is there already"), self.stop)
        self.check_space(missing, masked)
        labelled = [(image, listing.objects[image.id]) for image in masked if image.id in listing.objects]
        keys = fetch_annotations(self.connection, self.cache, labelled, self.step("Downloading labels"), self.stop)
        fetch_images(self.connection, self.cache, missing, self.step("Downloading images"), self.stop)
        suffixes = image_suffixes(self.cache, used, self.step("Checking kinds of images"), self.stop)
        drawn = self.draw(masked, keys)
        classes = self.choice.classes.class_infos(self.metas(listing))
        masks = {image_id: path for image_id, (path, _) in drawn.items()}
        folders = write_folders(self.directory, self.cache, roles.images, suffixes, masks, classes, self.step, self.stop)
        skipped_objects = _skipped_objects(roles, drawn)
        return Prepared(
            source=folders["source"],
            target=folders["target"],
            validation=folders.get("validation"),
            classes=classes,
            image_ids={role: [image.id for image in roles.images[role]] for role in ROLES},
            counts=_counts(roles),
            skipped_images={(role, reason): n for role in ROLES for reason, n in roles.skipped[role].items()},
            skipped_objects=dict(skipped_objects),
            downloaded=len(missing),
            notices=(*roles.notices, *_object_notices(skipped_objects)),
        )

    def progress(self, text: str, done: int, total: int) -> None:
        """One report at a time, also from the threads that fetch."""
        if self._report is not None:
            with self._one_report:
                self._report(text, done, total)

    def step(self, text: str) -> Count:
        last = -PAUSE

        def report(done: int, total: int) -> None:
            nonlocal last
            self.state = done, total
            if done == total or time.monotonic() - last >= PAUSE:
                last = time.monotonic()
                self.progress(text, done, total)

        return report

    def metas(self, listing: Listing) -> list[sly.ProjectMeta]:
        """In the order in which they give colours: source, then validation, then target."""
        chosen = [*self.choice.source, *self.choice.projects("validation"), *self.choice.target]
        return listing.metas_of(chosen)

    def check_space(self, missing: Sequence[ListedImage], masked: Sequence[ListedImage]) -> None:
        images = sum(image.size or 0 for image in missing)
        labels = int(sum(LABEL_BASE + LABEL_SHARE * image.width * image.height for image in masked))
        self.directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.directory)
        for place, needed in ((self.cache.root, images + labels + RESERVE), (self.directory, RESERVE)):
            free = shutil.disk_usage(place).free
            if free < needed:
                parts = f"{_gigabytes(images)} of images, {_gigabytes(labels)} of labels, {_gigabytes(RESERVE)} in reserve"
                raise UserError(
                    f"The disk is too small: {place} has {_gigabytes(free)} free, and {_gigabytes(needed)} are needed ({parts}). "
                    f"Free space (old runs, other apps' caches), use an agent with a larger disk, or choose fewer datasets"
                )

    def draw(self, images: Sequence[ListedImage], keys: dict[int, str]) -> dict[int, tuple[Path, dict[str, Any]]]:
        """Mask and facts about it, by image id."""
        fingerprint = self.choice.classes.fingerprint()

        def mask(image: ListedImage) -> tuple[Path, dict[str, Any]]:
            blank = {"size": {"width": image.width, "height": image.height}, "objects": []}
            annotation_key = keys.get(image.id)
            key = key_of(DRAWING, fingerprint, annotation_key or blank)
            known = self.cache.mask(key)
            if known is not None:
                return known
            annotation = blank if annotation_key is None else self.cache.annotation(annotation_key)
            if annotation is None:
                raise UserError(f"The labels of {image.place} vanished from the cache {self.cache.root}; start again")
            return _drawn(self.cache, key, image, annotation, self.choice.classes)

        report = self.step("Drawing masks")
        found = in_order(mask, images, len(images), progress=report, stop=self.stop)
        return {image.id: result for image, result in zip(images, found, strict=True)}


def _drawn(
    cache: Cache, key: str, image: ListedImage, annotation: dict[str, Any], classes: ClassChoice
) -> tuple[Path, dict[str, Any]]:
    drawing = draw(annotation, (image.height, image.width), classes, image.place)
    facts = {"drawn": dict(drawing.drawn), "skipped": dict(drawing.skipped)}
    return cache.add_mask(key, drawing.mask, facts), facts


def _counts(roles: Roles) -> tuple[DatasetCount, ...]:
    counts = []
    for role in ROLES:
        first: dict[int, ListedImage] = {}
        for image in roles.images[role]:
            first.setdefault(image.dataset_id, image)
        for dataset_id, image in first.items():
            ids = [other.id for other in roles.images[role] if other.dataset_id == dataset_id]
            labelled = sum(image_id in roles.masked for image_id in ids)
            counts.append(
                DatasetCount(role, image.project_id, image.project_name, dataset_id, image.dataset_path, len(ids), labelled)
            )
    return tuple(counts)


def _skipped_objects(roles: Roles, drawn: dict[int, tuple[Path, dict[str, Any]]]) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    for role in ROLES:
        for image in roles.images[role]:
            if image.id in drawn:
                for reason, count in drawn[image.id][1]["skipped"].items():
                    counts[role, reason] += count
    return counts


def _object_notices(skipped: Counter[tuple[str, str]]) -> list[str]:
    notices = []
    for (role, reason), count in sorted(skipped.items()):
        why = f"of shape {reason!r}, which covers no pixels; convert them to polygons or bitmaps if they should count"
        why = reason if reason == OUTSIDE else why
        notices.append(f"{role}: objects of the chosen classes that are not drawn: {count} {why}")
    return notices


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
