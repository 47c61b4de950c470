"""Very many paths in very little memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

NOTHING = -1


class FileList(Sequence["Path | None"]):
    """An immutable sequence of paths, with gaps (None), about 30 bytes each.

    A tuple of Path objects costs half a kilobyte per file. Worse, every loading process touches their reference counts, and
    so copies memory that it shared when it was forked. Here all names stand in one buffer, and a Path is made when asked for.
    """

    def __init__(self, paths: Iterable[Path | None]) -> None:
        folders: dict[str, int] = {}
        numbers, lengths, names = [], [], []
        for path in paths:
            if path is None:
                numbers.append(NOTHING)
                lengths.append(0)
                continue
            encoded = os.fsencode(path.name)
            numbers.append(folders.setdefault(str(path.parent), len(folders)))
            lengths.append(len(encoded))
            names.append(encoded)
        self._folders: tuple[str, ...] = tuple(folders)
        self._numbers: NDArray[np.int32] = np.array(numbers, dtype=np.int32)
        self._ends: NDArray[np.int64] = np.cumsum(lengths, dtype=np.int64)
        self._names: bytes = b"".join(names)

    @staticmethod
    def in_folder(folder: Path, names: Iterable[str | None]) -> FileList:
        """Files of one folder, without a Path object for each on the way."""
        encoded = [None if name is None else os.fsencode(name) for name in names]
        made = FileList(())
        made._folders = (str(folder),)
        made._numbers = np.array([NOTHING if name is None else 0 for name in encoded], dtype=np.int32)
        made._ends = np.cumsum([len(name or b"") for name in encoded], dtype=np.int64)
        made._names = b"".join(name for name in encoded if name is not None)
        return made

    @staticmethod
    def empty(length: int) -> FileList:
        """So many times None."""
        made = FileList(())
        made._numbers = np.full(length, NOTHING, dtype=np.int32)
        made._ends = np.zeros(length, dtype=np.int64)
        return made

    @staticmethod
    def joined(lists: Sequence[FileList]) -> FileList:
        folders: dict[str, int] = {}
        numbers, ends, length = [], [], 0
        for one in lists:
            renumbered = [folders.setdefault(folder, len(folders)) for folder in one._folders]
            table = np.array([*renumbered, NOTHING], dtype=np.int32)  # NOTHING = -1 finds the last
            numbers.append(table[one._numbers])
            ends.append(one._ends + length)
            length += len(one._names)
        made = FileList(())
        made._folders = tuple(folders)
        if lists:
            made._numbers, made._ends = np.concatenate(numbers), np.concatenate(ends)
        made._names = b"".join(one._names for one in lists)
        return made

    def take(self, positions: Iterable[int]) -> FileList:
        """The entries at these positions, in this order."""
        chosen = np.fromiter(positions, dtype=np.int64)
        starts = np.concatenate([[0], self._ends[:-1]])[chosen] if len(chosen) else np.zeros(0, dtype=np.int64)
        ends = self._ends[chosen]
        made = FileList(())
        made._folders, made._numbers = self._folders, self._numbers[chosen]
        made._names = b"".join(self._names[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=True))
        made._ends = np.cumsum(ends - starts, dtype=np.int64)
        return made

    def present(self) -> NDArray[np.int64]:
        """Positions that hold a path."""
        return np.flatnonzero(self._numbers != NOTHING)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Path | None: ...
    @overload
    def __getitem__(self, index: slice) -> FileList: ...
    def __getitem__(self, index: int | slice) -> Path | FileList | None:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        position = range(len(self))[index]  # negative ones too, and IndexError beyond the end
        number = int(self._numbers[position])
        if number == NOTHING:
            return None
        start = int(self._ends[position - 1]) if position else 0
        return Path(self._folders[number], os.fsdecode(self._names[start : int(self._ends[position])]))

    def __iter__(self) -> Iterator[Path | None]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FileList):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash((len(self), self._names))

    def __repr__(self) -> str:
        return f"FileList of {len(self)} paths"

    @property
    def nbytes(self) -> int:
        """Memory of the buffers."""
        return self._numbers.nbytes + self._ends.nbytes + len(self._names)
