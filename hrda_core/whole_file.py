"""Files that are whole under their name, whatever ends the process that writes them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write into that replaces `path` in one step once it is complete; its folder is created.

    A reader sees the old file or the new one, never a part, and the old one stays where writing fails.

    durable: on the disk before it gets its name, so that a loss of power leaves no empty file either. Files that are many,
    small and easily made again go without.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{os.getpid()}")  # not mkstemp: other users may read what is written
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """`content` as the file `path`, see `whole_file`."""
    with whole_file(path, durable=durable) as file:
        file.write(content)
