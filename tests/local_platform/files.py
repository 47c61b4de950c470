"""Team Files: one flat space of paths per team, where folders exist as long as something is in them."""

from __future__ import annotations

import mimetypes
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from starlette.background import BackgroundTask
from starlette.datastructures import UploadFile
from starlette.responses import FileResponse

from .call import Call, Method, Refusal
from .store import Row


def file_json(call: Call, row: Row) -> dict[str, Any]:
    url = f"/file-storage/{row['id']}/{row['name']}"
    return {**row, "type": "file", "isDir": False, "storagePath": url, "fullStorageUrl": f"{call.platform.address}{url}"}


def folder_json(team_id: int, path: str) -> dict[str, Any]:
    return {
        "id": None,
        "teamId": team_id,
        "type": "folder",
        "isDir": True,
        "name": PurePosixPath(path).name,
        "path": path,
        "meta": {},
    }


def list_files(call: Call) -> list[dict[str, Any]]:
    """Everything below the path, or with `recursive: false` what lies directly in it, folders included."""
    return _listed(call, folders=not call.get("recursive", True))


def list_files_v2(call: Call) -> dict[str, Any]:
    entries = _listed(call, folders=call.get("folders", True))
    if call.get("files") is False:
        entries = [entry for entry in entries if entry["isDir"]]
    size = min(int(call.get("limit") or call.platform.per_page), call.platform.per_page)
    start = int(call.get("continuationToken") or 0)
    more = start + size < len(entries)
    return {"entities": entries[start : start + size], "continuationToken": str(start + size) if more else None}


def _listed(call: Call, folders: bool) -> list[dict[str, Any]]:
    team_id = int(call["teamId"])
    top = "/" + call["path"].strip("/")
    prefix = top.rstrip("/") + "/"
    rows = [row for row in call.store.files.of(team_id) if row["path"] == top or row["path"].startswith(prefix)]
    inside = {row["path"]: row["path"].removeprefix(prefix) for row in rows}
    below = sorted({prefix + "/".join(parts) + "/" for path in inside.values() for parts in _parents(path)})
    if not call.get("recursive", True):
        rows = [row for row in rows if "/" not in inside[row["path"]].lstrip("/")]
        below = [path for path in below if path.removeprefix(prefix).count("/") == 1]
    files = [file_json(call, row) for row in sorted(rows, key=lambda row: row["path"])]
    return [folder_json(team_id, path) for path in below] + files if folders else files


def _parents(path: str) -> list[list[str]]:
    parts = path.strip("/").split("/")[:-1]
    return [parts[: depth + 1] for depth in range(len(parts))]


def save_file(call: Call, team_id: int, path: str, source: Any) -> dict[str, Any]:
    path = "/" + path.strip("/")
    blob_hash = call.store.save_blob(source)
    mime = mimetypes.guess_type(path)[0] or "application/octet-stream"
    size = call.store.blob_path(blob_hash).stat().st_size
    values = {"hash": blob_hash, "meta": {"size": size, "mime": mime, "ext": PurePosixPath(path).suffix.removeprefix(".")}}
    old = [row for row in call.store.files.of(team_id) if row["path"] == path]
    if old:
        return file_json(call, call.store.files.change(old[0], **values))
    name = PurePosixPath(path).name
    return file_json(call, call.store.files.add(teamId=team_id, userId=1, name=name, path=path, **values))


def upload(call: Call) -> dict[str, Any] | list[dict[str, Any]]:
    """One file as a raw body, or (as old SDKs do) as a form."""
    if call.upload is None:
        return bulk_upload(call)
    return save_file(call, int(call["teamId"]), call["path"], call.upload)


def bulk_upload(call: Call) -> list[dict[str, Any]]:
    """A form of triples: `name`, `path` (the folder), `file`."""
    saved, name, folder = [], "", ""
    for field, part in call.form:
        if field == "name":
            name = str(part)
        elif field == "path":
            folder = str(part)
        elif isinstance(part, UploadFile):
            saved.append(save_file(call, int(call["teamId"]), f"{folder}/{name}".replace("//", "/"), part.file))
    return saved


def download(call: Call) -> FileResponse:
    """A file, or a folder (a path that ends with a slash) as a tar."""
    team_id, path = int(call["teamId"]), call["path"]
    if path.endswith("/"):
        return _tar(call, team_id, path)
    for row in call.store.files.of(team_id):
        if row["path"] == "/" + path.strip("/"):
            headers = {"x-content-checksum-sha256": row["hash"]}
            return FileResponse(call.store.blob_path(row["hash"]), media_type=row["meta"]["mime"], headers=headers)
    raise Refusal(404, f"Team Files: {path} does not exist")


def _tar(call: Call, team_id: int, path: str) -> FileResponse:
    prefix = "/" + path.strip("/") + "/"
    rows = [row for row in call.store.files.of(team_id) if row["path"].startswith(prefix)]
    if not rows:
        raise Refusal(404, f"Team Files: {path} does not exist")
    with tempfile.NamedTemporaryFile(suffix=".tar", delete=False) as file, tarfile.open(fileobj=file, mode="w") as archive:
        for row in rows:
            name = f"{PurePosixPath(prefix).name}/{row['path'].removeprefix(prefix)}"
            archive.add(call.store.blob_path(row["hash"]), arcname=name)
    return FileResponse(file.name, media_type="application/x-tar", background=BackgroundTask(Path(file.name).unlink))


def remove(call: Call) -> dict[str, Any]:
    _remove(call, [call["path"]])
    return {"success": True}


def bulk_remove(call: Call) -> dict[str, Any]:
    _remove(call, call["paths"])
    return {"success": True}


def _remove(call: Call, paths: list[str]) -> None:
    rows = call.store.files.of(int(call["teamId"]))
    for path in ("/" + path.strip("/") for path in paths):
        call.store.files.remove(row for row in rows if row["path"] == path or row["path"].startswith(path.rstrip("/") + "/"))


METHODS: dict[str, Method] = {
    "file-storage.list": list_files,
    "file-storage.v2.list": list_files_v2,
    "file-storage.info": lambda call: file_json(call, call.store.files.get(call["id"])),
    "file-storage.upload": upload,
    "file-storage.bulk.upload": bulk_upload,
    "file-storage.download": download,
    "file-storage.remove": remove,
    "file-storage.bulk.remove": bulk_remove,
}
