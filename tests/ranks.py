"""Several processes that train together, for tests: forked from one that has imported everything, so that they start at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "timm", "hrda_core.training.loop"])


def on_ranks(size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The result of `work(*arguments)` on each of `size` ranks, None where the rank ended its process.

    `work` is a function of a module.
    """
    folder.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [_context.Process(target=_rank, args=(rank, size, port, folder, work, arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        process.kill()
    files = [folder / str(rank) for rank in range(size)]
    results = [pickle.loads(file.read_bytes()) if file.is_file() else (True, None) for file in files]
    wrong = [result for done, result in results if not done]
    assert not wrong, "\n".join(wrong)
    return [result for _, result in results]


def _rank(rank: int, size: int, port: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        outcome: tuple[bool, Any] = (True, work(*arguments))
    except BaseException:
        outcome = (False, traceback.format_exc())
    (folder / str(rank)).write_bytes(pickle.dumps(outcome))
