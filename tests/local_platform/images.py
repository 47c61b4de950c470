"""Images: upload by content, hash, id or link; lists; download; tags of images."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlparse

import httpx
from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse, Response

from .call import Call, Method, Refusal
from .multipart import multipart
from .paging import page
from .store import Row, Store, now

EXIF_ORIENTATION = 0x0112
TRANSPOSED = (5, 6, 7, 8)  # orientations that swap width and height


def image_url(call: Call, image: Row) -> str:
    return f"{call.platform.address}{image_path(image)}"


def image_path(image: Row) -> str:
    extension = image["mime"].split("/")[-1]
    return f"/image-storage/{image['id']}.{extension}"


def image_json(call: Call, image: Row) -> dict[str, Any]:
    return {
        **image,
        "size": str(image["size"]),
        "tags": image_tags(call.store, image),
        "labelsCount": call.store.figures.count(image["id"]),
        "pathOriginal": image_path(image),
        "fullStorageUrl": image_url(call, image),
    }


def image_tags(store: Store, image: Row) -> list[dict[str, Any]]:
    """Tags with the names that the project gives them now; tags that the project lost are gone."""
    names = {tag["id"]: tag["name"] for tag in store.projects.get(image["projectId"])["meta"]["tags"]}
    return [{**tag, "entityId": image["id"], "name": names[tag["tagId"]]} for tag in image["tags"] if tag["tagId"] in names]


def new_tag(store: Store, tag_id: int, value: Any) -> dict[str, Any]:
    moment = now()
    tag = {"id": store.next_id(), "tagId": tag_id, "labelerLogin": "admin", "createdAt": moment, "updatedAt": moment}
    return tag if value is None else {**tag, "value": value}


def list_images(call: Call) -> dict[str, Any]:
    store = call.store
    if call.get("datasetId") is not None:
        dataset = store.datasets.get(call["datasetId"])
        datasets = [dataset]
        if call.get("recursive"):
            datasets = _with_nested(store, dataset)
    else:
        datasets = store.datasets.of(store.projects.get(call["projectId"])["id"])
    rows = [image for dataset in datasets for image in store.images.of(dataset["id"])]
    for condition in call.get("filters") or []:
        rows = _matching(store, rows, condition["type"], condition["data"])
    return page(call, rows, lambda image: _only(image_json(call, image), call.get("fields")))


def _with_nested(store: Store, dataset: Row) -> list[Row]:
    children = [row for row in store.datasets.of(dataset["projectId"]) if row["parentId"] == dataset["id"]]
    return [dataset] + [row for child in children for row in _with_nested(store, child)]


def _only(shown: dict[str, Any], fields: list[str] | None) -> dict[str, Any]:
    return {key: value for key, value in shown.items() if key in ("id", *fields)} if fields else shown


def _matching(store: Store, images: list[Row], kind: str, data: dict[str, Any]) -> list[Row]:
    """The `filters` of images.list, which look inside images (`filter` compares columns)."""
    include = data.get("include", True)

    def found(image: Row) -> bool:
        if kind == "images_filename":
            return data["value"] in image["name"]
        if kind == "images_tag":
            tags = [tag for tag in image["tags"] if data.get("tagId") in (None, tag["tagId"])]
            return any(data.get("value") in (None, tag.get("value")) for tag in tags)
        if kind == "objects_class":
            wanted = data.get("classId")
            count = sum(wanted in (None, figure["classId"]) for figure in store.figures.of(image["id"]))
            return data.get("from", 1) <= count <= data.get("to", 9999)
        if kind == "entities_collection":
            return image["id"] in store.collections.get(data["collectionId"])["items"]
        raise Refusal(501, f"images.list: the filter {kind!r} is not implemented")

    return [image for image in images if found(image) == include]


def upload_images(call: Call) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = []
    for _, part in call.form:
        if not isinstance(part, UploadFile):
            continue
        try:
            Image.open(part.file).verify()
        except (UnidentifiedImageError, OSError, SyntaxError) as error:
            answers.append({"errors": [{"message": f"not an image: {error}"}]})
            continue
        part.file.seek(0)
        answers.append({"hash": call.store.save_blob(part.file)})
    return answers


def add_images(call: Call) -> list[dict[str, Any]]:
    store = call.store
    dataset = store.datasets.get(call["datasetId"])
    names = {image["name"]: image["id"] for image in store.images.of(dataset["id"])}
    taken = [{"name": item["title"], "id": names[item["title"]]} for item in call["images"] if item["title"] in names]
    if taken:
        raise Refusal(400, f"the names {[item['name'] for item in taken]} exist already", type="NONUNIQUE", errors=taken)
    return [image_json(call, _add_image(call, dataset, item)) for item in call["images"]]


def _add_image(call: Call, dataset: Row, item: dict[str, Any]) -> Row:
    store = call.store
    link, blob_hash = item.get("link"), item.get("hash")
    if item.get("imageId") is not None:
        source = store.images.get(item["imageId"])
        link, blob_hash = source["link"], source["hash"]
    elif link is not None:
        blob_hash = store.save_blob(io.BytesIO(_fetch(call, link)))
    if not blob_hash or not store.has_blob(blob_hash):
        raise Refusal(400, f"the content of {item['title']!r} was not uploaded (hash {blob_hash})")
    image = store.images.add(
        name=item["title"],
        link=link,
        hash=blob_hash,
        datasetId=dataset["id"],
        projectId=dataset["projectId"],
        parentId=item.get("parentId"),
        description=item.get("description", ""),
        meta=item.get("meta") or {},
        tags=[],
        createdBy=1,
        **_measure(store, blob_hash),
    )
    store.touch(image)
    return image


def _fetch(call: Call, link: str) -> bytes:
    """What a link points to; links to this platform are read without HTTP."""
    if urlparse(link).path.startswith("/image-storage/"):
        image = call.store.images.get(urlparse(link).path.rsplit("/", 1)[-1].split(".")[0])
        return call.store.blob_path(image["hash"]).read_bytes()
    answer = httpx.get(link, timeout=10)
    if answer.status_code != 200:
        raise Refusal(400, f"the link {link} answers {answer.status_code}")
    return answer.content


def _measure(store: Store, blob_hash: str) -> dict[str, Any]:
    """Size as shown: after the EXIF rotation, which the SDK applies too when it decodes."""
    path = store.blob_path(blob_hash)
    with Image.open(path) as image:
        width, height = image.size
        if image.getexif().get(EXIF_ORIENTATION) in TRANSPOSED:
            width, height = height, width
        mime = Image.MIME.get(image.format or "", "image/png")
    return {"width": width, "height": height, "mime": mime, "size": path.stat().st_size}


def edit_image(call: Call) -> dict[str, Any]:
    changes = {key: call.body[key] for key in ("name", "description", "meta") if key in call.body}
    return image_json(call, call.store.images.change(call.store.images.get(call["id"]), **changes))


def remove_images(store: Store, images: Iterable[Row]) -> None:
    images = list(images)
    for image in images:
        store.figures.remove(store.figures.of(image["id"]))
    store.images.remove(images)
    for dataset_id in {image["datasetId"] for image in images}:
        dataset = store.datasets.change(store.datasets.get(dataset_id))
        store.projects.change(store.projects.get(dataset["projectId"]))


def bulk_remove_images(call: Call) -> dict[str, Any]:
    remove_images(call.store, [call.store.images.get(image_id) for image_id in call["imageIds"]])
    return {"success": True}


def download_image(call: Call) -> Response:
    image = call.store.images.get(call["id"])
    path = call.store.blob_path(image["hash"])
    return FileResponse(path, media_type=image["mime"], headers={"x-content-checksum-sha256": image["hash"]})


def bulk_download_images(call: Call) -> Response:
    images = [call.store.images.get(image_id) for image_id in call["imageIds"]]
    return multipart((str(image["id"]), call.store.blob_path(image["hash"]).read_bytes()) for image in images)


def download_by_hash(call: Call) -> Response:
    known = [blob_hash for blob_hash in call["hashes"] if call.store.has_blob(blob_hash)]
    return multipart((blob_hash, call.store.blob_path(blob_hash).read_bytes()) for blob_hash in known)


def known_hashes(call: Call) -> list[str]:
    return [blob_hash for blob_hash in call.body if call.store.has_blob(blob_hash)]


def add_tag_to_images(call: Call) -> dict[str, Any]:
    for image_id in call["ids"]:
        _add_tag(call.store, call.store.images.get(image_id), call["tagId"], call.get("value"))
    return {"success": True}


def add_tags_to_entities(call: Call) -> list[dict[str, Any]]:
    store = call.store
    return [_add_tag(store, store.images.get(item["entityId"]), item["tagId"], item.get("value")) for item in call["tags"]]


def _add_tag(store: Store, image: Row, tag_id: int, value: Any) -> dict[str, Any]:
    if tag_id not in {tag["id"] for tag in store.projects.get(image["projectId"])["meta"]["tags"]}:
        raise Refusal(400, f"the tag {tag_id} is not one of project {image['projectId']}")
    tag = new_tag(store, tag_id, value)
    store.images.change(image, tags=[*image["tags"], tag])
    store.touch(image)
    return tag


def remove_tag_from_image(call: Call) -> dict[str, Any]:
    image = call.store.images.get(call["imageId"])
    call.store.images.change(image, tags=[tag for tag in image["tags"] if tag["id"] != call["id"]])
    call.store.touch(image)
    return {"success": True}


def remove_tags_from_images(call: Call) -> dict[str, Any]:
    for image in [call.store.images.get(image_id) for image_id in call["ids"]]:
        call.store.images.change(image, tags=[tag for tag in image["tags"] if tag["tagId"] not in call["tagIds"]])
        call.store.touch(image)
    return {"success": True}


METHODS: dict[str, Method] = {
    "images.list": list_images,
    "images.info": lambda call: image_json(call, call.store.images.get(call["id"])),
    "images.download": download_image,
    "images.bulk.download": bulk_download_images,
    "images.bulk.download-by-hash": download_by_hash,
    "images.internal.hashes.list": known_hashes,
    "images.bulk.upload": upload_images,
    "images.bulk.add": add_images,
    "images.bulk.remove": bulk_remove_images,
    "images.editInfo": edit_image,
    "image-tags.bulk.add-to-image": add_tag_to_images,
    "image-tags.bulk.remove-from-images": remove_tags_from_images,
    "image-tags.remove-from-image": remove_tag_from_image,
    "tags.entities.bulk.add": add_tags_to_entities,
}
