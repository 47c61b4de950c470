"""Images and annotations from the platform into the cache. Nothing is skipped: all arrives, or a sentence says what does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import supervisely as sly

from hrda_core.data.parallel import Progress as Count
from hrda_core.data.parallel import Stop, Stopped, in_order
from train_app.cache import Cache, key_of
from train_app.connection import Connection, Gone, Incomplete, StillIncomplete
from train_app.errors import UserError
from train_app.listing import ListedImage, ListedObject

Item = TypeVar("Item")
WORKERS = 4
BATCH_IMAGES, BATCH_BYTES = 32, 16_000_000
UNKNOWN_SIZE = 4_000_000  # bytes, for images by link
# The SDK fetches the pixels of alpha masks only if the project has a class of that shape, and so forgets those that belong to
# classes of any shape. This stands in for the project's classes and makes it always look.
WITH_ALPHA_MASKS = sly.ProjectMeta([sly.ObjClass("alpha masks", sly.AlphaMask)])


def missing_images(
    cache: Cache, images: Sequence[ListedImage], progress: Count | None = None, stop: Stop | None = None
) -> list[ListedImage]:
    """The images that the cache lacks, each content once. Reads what is there, about a gigabyte in a second."""
    distinct = list({image.content: image for image in images}.values())
    present = in_order(lambda image: cache.image(image) is not None, distinct, len(distinct), progress=progress, stop=stop)
    return [image for image, there in zip(distinct, present, strict=True) if not there]


def fetch_images(
    connection: Connection,
    cache: Cache,
    images: Sequence[ListedImage],
    progress: Count | None = None,
    stop: Stop | None = None,
) -> None:
    """Downloads the images into the cache, a few batches at a time.

    Raises:
        UserError: an image is gone, arrives damaged time after time, or the platform stays away. Stopped.
        OSError: the disk is full.
    """
    batches = list(_batches(images, lambda image: BATCH_BYTES // 2 if image.size is None else image.size))
    _side_by_side(connection, lambda batch: _fetch_batch(connection, cache, batch), batches, progress, stop)
    for image in images:
        if not cache.has_image(image):
            raise UserError(f"{image.place} was fetched but is not in the cache {cache.root}; does another program clean it up?")


def _fetch_batch(connection: Connection, cache: Cache, batch: Sequence[ListedImage]) -> None:
    left = {image.id: image for image in batch}

    def download(api: sly.Api) -> None:
        flaws = []
        contents = api.image.download_bytes(batch[0].dataset_id, list(left))
        for image, content in zip(list(left.values()), contents, strict=True):
            with cache.part() as part:
                part.write_bytes(content)
                try:
                    cache.add_image(image, part)
                    left.pop(image.id, None)
                except Incomplete as error:
                    flaws.append(str(error))
        if flaws:
            raise Incomplete("; ".join(flaws[:3]))

    if len(batch) > 1:
        try:
            connection.ask(f"{len(batch)} images of dataset {batch[0].dataset_path!r}", download, _bytes(batch))
            return
        except (Gone, StillIncomplete):
            pass  # one of them is the reason; it is found by asking for each
    for image in list(left.values()):
        _fetch_one(connection, cache, image)


def _fetch_one(connection: Connection, cache: Cache, image: ListedImage) -> None:
    def download(api: sly.Api) -> Path:
        with cache.part() as part:
            api.image.download_path(image.id, str(part))
            return cache.add_image(image, part)

    try:
        connection.ask(image.place, download, _bytes([image]))
    except Gone as error:
        raise _gone(image) from error


def _gone(image: ListedImage) -> UserError:
    return UserError(
        f"{image.place} is not on the platform any more; upload it again, or delete it from the dataset, and start again"
    )


def _bytes(images: Iterable[ListedImage]) -> int:
    return sum(UNKNOWN_SIZE if image.size is None else image.size for image in images)


def annotation_key(image: ListedImage, objects: Iterable[ListedObject]) -> str:
    """Changes when an object is added, edited, removed, or its class is renamed, and whenever the platform says that the image
    has changed."""
    versions = sorted((item.id, item.class_name, item.geometry, item.version) for item in objects)
    return key_of(image.id, image.width, image.height, image.updated_at, versions)


def fetch_annotations(
    connection: Connection,
    cache: Cache,
    wanted: Sequence[tuple[ListedImage, Sequence[ListedObject]]],
    progress: Count | None = None,
    stop: Stop | None = None,
) -> dict[int, str]:
    """Downloads into the cache what it lacks of the annotations of these images with these objects.

    Returns:
        The key in the cache, by image id.

    Raises:
        As `fetch_images`.
    """
    keys = {image.id: annotation_key(image, objects) for image, objects in wanted}
    there = in_order(lambda key: cache.annotation(key) is not None, keys.values(), len(keys), stop=stop)
    lacking = {image_id for image_id, present in zip(keys, there, strict=True) if not present}
    batches = list(_batches([pair[0] for pair in wanted if pair[0].id in lacking], lambda _: 0))
    objects_of = {image.id: objects for image, objects in wanted}

    def fetch(batch: Sequence[ListedImage]) -> dict[int, str]:
        arrived = _annotations(connection, batch)
        return {image.id: _store(cache, image, objects_of[image.id], arrived[image.id]) for image in batch}

    for found in _side_by_side(connection, fetch, batches, progress, stop):
        keys |= found
    return keys


def _store(cache: Cache, image: ListedImage, listed: Sequence[ListedObject], annotation: dict[str, Any]) -> str:
    """Labels may change between list and download; what arrived is used, but not kept under the key of what was listed."""
    same = {item.id for item in listed} == {item.get("id") for item in annotation["objects"]}
    key = annotation_key(image, listed) if same else key_of(image.id, annotation)
    cache.add_annotation(key, annotation)
    return key


def _annotations(connection: Connection, batch: Sequence[ListedImage]) -> dict[int, dict[str, Any]]:
    project_id, dataset_id = batch[0].project_id, batch[0].dataset_id

    def download(api: sly.Api) -> dict[int, dict[str, Any]]:
        with sly.ApiContext(api, project_id=project_id, dataset_id=dataset_id, project_meta=WITH_ALPHA_MASKS):
            infos = api.annotation.download_batch(dataset_id, [image.id for image in batch])
        return {info.image_id: info.annotation for info in infos}

    what = (
        f"the labels of {batch[0].place}"
        if len(batch) == 1
        else f"the labels of {len(batch)} images of {batch[0].dataset_path!r}"
    )
    try:
        return connection.ask(what, download)
    except (Gone, StillIncomplete) as error:
        if len(batch) > 1:  # one of them is the reason
            return {image.id: _annotations(connection, [image])[image.id] for image in batch}
        if isinstance(error, Gone):
            raise _gone(batch[0]) from error
        raise


def _batches(images: Iterable[ListedImage], size: Callable[[ListedImage], int]) -> Iterator[list[ListedImage]]:
    """Images of one dataset that together are not too many and not too large."""
    by_dataset: dict[int, list[ListedImage]] = defaultdict(list)
    for image in images:
        by_dataset[image.dataset_id].append(image)
    for group in by_dataset.values():
        batch: list[ListedImage] = []
        for image in group:
            if batch and (len(batch) == BATCH_IMAGES or sum(map(size, batch)) + size(image) > BATCH_BYTES):
                yield batch
                batch = []
            batch.append(image)
        yield batch


def _side_by_side(
    connection: Connection,
    function: Callable[[list[ListedImage]], Item],
    batches: Sequence[list[ListedImage]],
    progress: Count | None,
    stop: Stop | None,
) -> list[Item]:
    """The results in order; progress counts images. After an error no batch is begun any more, and none is waited for long."""
    total, done, results = sum(map(len, batches)), 0, []
    errors: list[Exception] = []

    def guarded(batch: list[ListedImage]) -> Item:
        try:
            return function(batch)
        except Exception as error:
            errors.append(error)
            connection.give_up()  # so that the others do not go on trying
            raise

    if progress is not None:
        progress(0, total)
    try:
        for batch, result in zip(batches, in_order(guarded, batches, len(batches), WORKERS, stop=stop), strict=True):
            results.append(result)
            done += len(batch)
            if progress is not None:
                progress(done, total)
    except Stopped:
        cause = next((error for error in errors if not isinstance(error, Stopped)), None)
        if cause is not None:
            raise cause from None
        raise
    return results
