"""What was found out about files, remembered by their content across runs, in one sqlite file.

Reading 40,000 images takes minutes, and a second run asks for the same answers. A file is known by the digest of its bytes,
so that it may be moved, copied or touched; (path, size, time of change) lead to the digest without reading it again.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
import time
import warnings
from pathlib import Path
from types import TracebackType

FILE_NAME = "files-1.sqlite3"  # the number changes when what is stored does
DIGEST_BYTES = 16
FLUSH_SECONDS, FLUSH_ROWS = 2.0, 500  # a killed run loses no more than that

TABLES = """
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, size INTEGER, mtime INTEGER, digest BLOB) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (key BLOB PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


def digest(*parts: bytes | memoryview) -> bytes:
    """16 bytes that stand for a content."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(part)
    return state.digest()


def default_folder() -> Path:
    """$XDG_CACHE_HOME/hrda_core, by default ~/.cache/hrda_core."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hrda_core"


class FileMemory:
    """Texts by key, and digests of files by (path, size, time), for any number of threads and processes at once.

    A folder that cannot be written to, a damaged or a locked file cost the memory and a warning, never the run.
    """

    def __init__(self, folder: str | None) -> None:
        """folder: where the sqlite file lies; "" is the user's cache folder; None remembers nothing."""
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._path = Path()
        self._new_files: list[tuple[bytes, int, int, bytes]] = []
        self._new_facts: list[tuple[bytes, str]] = []
        self._written = time.monotonic()
        if folder is None:
            return
        try:
            self._path = (Path(folder) if folder else default_folder()) / FILE_NAME
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, timeout=10, check_same_thread=False)
            self._connection.execute("PRAGMA synchronous = OFF")  # what a power cut takes is computed again
            self._connection.executescript(TABLES)
        except (sqlite3.Error, OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
            self._give_up(error)

    def __enter__(self) -> FileMemory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._flush()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @property
    def active(self) -> bool:
        return self._connection is not None

    def known_digest(self, path: Path) -> bytes | None:
        """The digest of a file that has the size and time of change with which it was last read."""
        row = self._one("SELECT size, mtime, digest FROM files WHERE path = ?", _path_key(path))
        if row is None:
            return None
        try:
            status = path.stat()
        except OSError:
            return None
        size, changed, found = row
        unchanged = (size, changed) == (status.st_size, status.st_mtime_ns)
        return found if unchanged and isinstance(found, bytes) and len(found) == DIGEST_BYTES else None

    def remember_digest(self, path: Path, status: os.stat_result, value: bytes) -> None:
        """`status` is from before the file was read: where it changes meanwhile, it will not be taken for known."""
        with self._lock:
            self._new_files.append((_path_key(path), status.st_size, status.st_mtime_ns, value))
            self._flush_now_and_then()

    def recall(self, key: bytes) -> str | None:
        row = self._one("SELECT value FROM facts WHERE key = ?", key)
        return row[0] if row is not None and isinstance(row[0], str) else None

    def remember(self, key: bytes, value: str) -> None:
        with self._lock:
            self._new_facts.append((key, value))
            self._flush_now_and_then()

    def _one(self, query: str, key: bytes) -> tuple[object, ...] | None:
        with self._lock:
            if self._connection is None:
                return None
            try:
                row = self._connection.execute(query, (key,)).fetchone()
            except sqlite3.Error as error:
                self._give_up(error)
                return None
        return None if row is None else tuple(row)

    def _flush_now_and_then(self) -> None:
        if time.monotonic() - self._written > FLUSH_SECONDS or len(self._new_files) + len(self._new_facts) > FLUSH_ROWS:
            self._flush()

    def _flush(self) -> None:
        """Writes what is new in one short transaction, since an open one keeps other processes waiting."""
        if self._connection is not None:
            try:
                with self._connection:
                    self._connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", self._new_files)
                    self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", self._new_facts)
            except (sqlite3.Error, OverflowError) as error:
                self._give_up(error)
        self._new_files, self._new_facts = [], []
        self._written = time.monotonic()

    def _give_up(self, error: Exception) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        warnings.warn(
            f"data.cache: {self._path} cannot be used ({error}), so all files are read anew; "
            "delete it, or set data.cache to a folder that can be written to",
            stacklevel=4,
        )


def _path_key(path: Path) -> bytes:
    return digest(os.fsencode(path.absolute()))
