"""PyTorch's memory on a CPU: pages of 2 MB, and no way to the system and back for every tensor.

Networks allocate and free tensors of many megabytes all the time. With pages of 4 KB, and with memory that goes back to the
system whenever a tensor ends, the system's work on them takes several times longer than a ReLU.

PyTorch looks at the variable of the large pages at its first tensor; whoever has set it keeps their choice. What `held_memory`
does is glibc's (man 3 mallopt); with another C library, it does nothing.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

VARIABLE = "THP_MEM_ALLOC_ENABLE"
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -3, -4, -8  # mallopt's parameters
NEVER = 2**31 - 1
USUAL = {MMAP_MAX: 65536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}  # where glibc's own adjusting ends

os.environ.setdefault(VARIABLE, "1")


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        return library if hasattr(library, "gnu_get_libc_version") else None
    except (OSError, TypeError):  # no way to the process's own symbols on this system
        return None


class _Holding:
    """Counts who holds memory, since threads may overlap."""

    def __init__(self, library: ctypes.CDLL | None) -> None:
        self.mallopt: Callable[[int, int], int] | None = getattr(library, "mallopt", None)
        self.trim: Callable[[int], int] | None = getattr(library, "malloc_trim", None)
        self.lock = threading.Lock()
        self.holders = 0
        if self.mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
            self.mallopt(ARENA_MAX, 1)  # arenas of further threads hold 64 MB at most, and return that at once

    def change(self, by: int) -> None:
        with self.lock:
            self.holders += by
            if self.mallopt is None or self.trim is None:
                return
            if by > 0 and self.holders == 1:
                self.mallopt(MMAP_MAX, 0)
                self.mallopt(TRIM_THRESHOLD, NEVER)
            elif self.holders == 0:
                for parameter, value in USUAL.items():
                    self.mallopt(parameter, value)
                self.trim(0)


_holding = _Holding(_glibc())


@contextmanager
def held_memory(device_type: str = "cpu") -> Iterator[None]:
    """Within, memory that tensors on a CPU leave is kept for the next ones; at the end, all that is free goes back at once.

    For a training, where the same tensors come again and again; it takes a few percent more memory. Of the prediction of single
    images no gain was measured. A no-op on other devices. May be nested, and entered by several threads.
    """
    if device_type != "cpu":
        yield
        return
    _holding.change(1)
    try:
        yield
    finally:
        _holding.change(-1)
