"""The same work on very many items, side by side, in order, with progress and a way to stop."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]
Stop = Callable[[], bool]


class Stopped(RuntimeError):
    """Somebody asked to stop, and the work is not done."""


def in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    total: int,
    workers: int | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> Generator[Result, None, None]:
    """Yields function(item) for every item, in order, computed by `workers` threads (None: one for each core).

    Threads, since decoding and hashing run outside the interpreter's lock. At most a few items are under way at a time,
    whatever their number. `progress(done, total)` is called as results are taken.

    Raises:
        Stopped: `stop()` became true.
    """
    count = workers or available_cores()
    waiting: deque[Future[Result]] = deque()
    done = 0
    if progress is not None:
        progress(0, total)
    with ThreadPoolExecutor(count) as pool:
        try:
            source, more = iter(items), True
            while more or waiting:
                while more and len(waiting) < 4 * count:
                    try:
                        waiting.append(pool.submit(function, next(source)))
                    except StopIteration:
                        more = False
                if not waiting:
                    break
                if stop is not None and stop():
                    raise Stopped(f"stopped after {done} of {total} files")
                result = waiting.popleft().result()
                done += 1
                if progress is not None:
                    progress(done, total)
                yield result
        finally:
            for future in waiting:  # after an error or a stop only what has begun is finished
                future.cancel()


def available_cores() -> int:
    """Cores that this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
