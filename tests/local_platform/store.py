"""What the platform knows: tables of JSON rows and content-addressed blobs, kept in a directory when one is given."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import sqlite3
import tempfile
import threading
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from .call import Refusal

Row = dict[str, Any]


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Table:
    """Rows by id, and by the column that names their parent. `store.lock` is held by whoever reads or writes."""

    def __init__(self, store: Store, name: str, parent: str) -> None:
        self.name = name
        self._store = store
        self._parent = parent
        self._rows: dict[int, Row] = {}
        self._children: dict[Any, dict[int, None]] = defaultdict(dict)

    def add(self, **values: Any) -> Row:
        row = {"id": self._store.next_id(), **values}
        row.setdefault("createdAt", now())
        row.setdefault("updatedAt", row["createdAt"])
        self.put(row)
        self._store.changed(self.name, row["id"], row)
        return row

    def put(self, row: Row) -> None:
        self._rows[row["id"]] = row
        self._children[row.get(self._parent)][row["id"]] = None

    def find(self, row_id: Any) -> Row | None:
        return self._rows.get(int(row_id)) if row_id is not None else None

    def get(self, row_id: Any) -> Row:
        row = self.find(row_id)
        if row is None:
            raise Refusal(404, f"{self.name}: {row_id} does not exist")
        return row

    def all(self) -> list[Row]:
        return list(self._rows.values())

    def of(self, parent: Any) -> list[Row]:
        return [self._rows[row_id] for row_id in self._children.get(parent, ())]

    def count(self, parent: Any) -> int:
        return len(self._children.get(parent, ()))

    def change(self, row: Row, **values: Any) -> Row:
        self._children[row.get(self._parent)].pop(row["id"], None)
        row.update({"updatedAt": now(), **values})
        self.put(row)
        self._store.changed(self.name, row["id"], row)
        return row

    def remove(self, rows: Iterable[Row]) -> None:
        for row in list(rows):
            self._rows.pop(row["id"], None)
            self._children[row.get(self._parent)].pop(row["id"], None)
            self._store.changed(self.name, row["id"], None)


class Store:
    """All tables under one lock. Ids never repeat, not even between tables, so that a mixed-up id is a 404."""

    def __init__(self, directory: Path | None, quota: int | None = None) -> None:
        self.lock = threading.RLock()
        self.quota = quota
        self._temporary = None if directory else tempfile.TemporaryDirectory(prefix="local_platform_")
        self.directory = Path(directory or self._temporary.name)  # type: ignore[union-attr]
        self._blobs = self.directory / "blobs"
        self._blobs.mkdir(parents=True, exist_ok=True)
        self._used = sum(path.stat().st_size for path in self._blobs.iterdir())
        self._ids = itertools.count(1)
        self._pending: dict[tuple[str, int], Row | None] = {}

        self.teams = Table(self, "teams", parent="none")
        self.workspaces = Table(self, "workspaces", parent="teamId")
        self.projects = Table(self, "projects", parent="workspaceId")
        self.versions = Table(self, "versions", parent="projectId")
        self.datasets = Table(self, "datasets", parent="projectId")
        self.images = Table(self, "images", parent="datasetId")
        self.figures = Table(self, "figures", parent="imageId")
        self.collections = Table(self, "collections", parent="projectId")
        self.files = Table(self, "files", parent="teamId")
        self.tasks = Table(self, "tasks", parent="workspaceId")
        self.modules = Table(self, "modules", parent="none")
        self._tables = {table.name: table for table in vars(self).values() if isinstance(table, Table)}

        self._database = sqlite3.connect(self.directory / "state.sqlite", check_same_thread=False)
        self._database.execute("PRAGMA synchronous = OFF")  # a killed process loses nothing, a power cut may
        self._database.execute("CREATE TABLE IF NOT EXISTS rows (name TEXT, id INTEGER, json TEXT, PRIMARY KEY (name, id))")
        self._load()

    @property
    def empty(self) -> bool:
        return not self.teams.all()

    def _load(self) -> None:
        largest = 0
        for name, row_id, text in self._database.execute("SELECT name, id, json FROM rows ORDER BY id"):
            self._tables[name].put(json.loads(text))
            largest = max(largest, row_id)
        self._ids = itertools.count(largest + 1)

    def next_id(self) -> int:
        return next(self._ids)

    def touch(self, image: Row) -> None:
        """Note that an image's labels changed, up to its project; the SDK's caches compare these times."""
        self.images.change(image)
        self.datasets.change(self.datasets.get(image["datasetId"]))
        self.projects.change(self.projects.get(image["projectId"]))

    def changed(self, name: str, row_id: int, row: Row | None) -> None:
        self._pending[name, row_id] = row

    def commit(self) -> None:
        """Write what changed since the last call; every API call ends with it."""
        with self.lock:
            if not self._pending:
                return
            with self._database:
                for (name, row_id), row in self._pending.items():
                    if row is None:
                        self._database.execute("DELETE FROM rows WHERE name = ? AND id = ?", (name, row_id))
                    else:
                        self._database.execute("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", (name, row_id, json.dumps(row)))
            self._pending.clear()

    def close(self) -> None:
        self.commit()
        self._database.close()
        if self._temporary:
            self._temporary.cleanup()

    def save_blob(self, source: IO[bytes]) -> str:
        """Copy a stream under its hash (base64 of SHA-256, as the SDK computes it) and return the hash."""
        digest = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=self._blobs, delete=False) as target:
            while chunk := source.read(1 << 20):
                digest.update(chunk)
                target.write(chunk)
            size = target.tell()
        path = self._blobs / digest.hexdigest()
        added = 0 if path.exists() else size
        if self.quota is not None and self._used + added > self.quota:
            Path(target.name).unlink()
            raise Refusal(403, f"the storage quota of {self.quota} bytes is used up", type="QUOTA_EXCEEDED")
        self._used += added
        Path(target.name).rename(path)
        return base64.b64encode(digest.digest()).decode()

    def blob_path(self, blob_hash: str) -> Path:
        return self._blobs / base64.b64decode(blob_hash).hex()

    def has_blob(self, blob_hash: str) -> bool:
        return self.blob_path(blob_hash).is_file()
