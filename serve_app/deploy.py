"""From a file to an engine in service: checked, read, put on a device that this machine has, and warmed up."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from hrda_core import load_checkpoint
from serve_app.engine import Engine
from serve_app.errors import RequestError
from serve_app.published import published_content
from serve_app.safe_checkpoints import check_checkpoint
from serve_app.settings import ModelFacts

PRECISIONS = ("auto", "fp32", "bf16")
PUBLISHED_FOLDER = "/HRDA/published"  # in Team Files


class Deployed(NamedTuple):
    """notices: sentences for the user, say, that the GPU could not be used."""

    engine: Engine
    facts: ModelFacts
    notices: tuple[str, ...]


def deploy(
    path: Path,
    device: str | None = None,
    precision: str | None = None,
    class_names: Sequence[str] | None = None,
    make_room: Callable[[], bool] = lambda: False,
) -> Deployed:
    """An engine for the checkpoint at `path`: one of Train HRDA, or a published one.

    `device`: "auto" or None, "cpu", "cuda", "cuda:1"; where that cannot be used the CPU takes its place, with a notice.
    `make_room`: frees the GPU, where the model does not fit beside what is there; False where there is nothing to free.

    Raises:
        RequestError: a file that is not safe or no checkpoint, or an argument that does not fit.
    """
    precision = (precision or "auto").lower()
    if precision not in PRECISIONS:
        raise RequestError(f"precision={precision!r}: use {', '.join(PRECISIONS)}")
    try:
        content = read_content(path, class_names)
        engine, notices = _on_device(content, device or "auto", precision, make_room)
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(str(error)) from error
    tuned = content["thresholds"].get(content["selected"])
    facts = ModelFacts(engine.classes, engine.has_background, None if tuned is None else tuple(tuned))
    return Deployed(engine, facts, tuple(notices))


def read_content(path: Path, class_names: Sequence[str] | None = None) -> dict[str, Any]:
    """The checkpoint's content; nothing in the file is executed.

    Raises:
        ValueError: see `deploy`.
    """
    check_checkpoint(path)
    try:
        return load_checkpoint(path)
    except ValueError as error:
        if "public weights" not in str(error):
            raise
    return published_content(path, class_names)


def published_file(name: str, folders: Sequence[Path], fetch: Callable[[str, Path], bool] | None) -> Path:
    """Where a published checkpoint lies: $HRDA_PUBLISHED, one of `folders`, or Team Files, whence `fetch` brings it.

    The authors give them away on file-sharing sites that no program can download from.

    Raises:
        RequestError: nowhere; the message tells where to put it.
    """
    own = os.environ.get("HRDA_PUBLISHED")
    places = [*([Path(own)] if own else []), *folders]
    for folder in places:
        if (folder / name).is_file():
            return folder / name
    if fetch is not None and fetch(f"{PUBLISHED_FOLDER}/{name}", folders[0] / name):
        return folders[0] / name
    raise RequestError(
        f"{name} is not here: download the checkpoint from its authors (serve_app/README.md tells where), and put it under this "
        f"name into Team Files, {PUBLISHED_FOLDER}/, or into a folder that the variable HRDA_PUBLISHED names"
    )


def _on_device(content: dict[str, Any], device: str, precision: str, make_room: Callable[[], bool]) -> tuple[Engine, list[str]]:
    notices = []
    if device != "auto" and device.startswith("cuda") and not _has(device):
        there = torch.cuda.device_count()
        notices.append(f"{device} was asked for, and this machine has {there or 'no'} GPU(s): the model runs on the CPU, slowly.")
        device = "cpu"
    for is_last in (False, True):
        try:
            return _warm(Engine(content, device, precision)), notices
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if device == "cpu" or not torch.cuda.is_available():
                raise
            reason = str(error).splitlines()[0]
        torch.cuda.empty_cache()
        if is_last or not make_room():
            break
    notices.append(f"The GPU could not be used ({reason}): the model runs on the CPU, slowly.")
    return _warm(Engine(content, "cpu", precision)), notices


def _warm(engine: Engine) -> Engine:
    """A GPU loads its kernels now, not in the first request. A CPU has none: there a small image shows that it works."""
    if engine.device.type == "cuda":
        engine.warm_up()
    else:
        engine.predict(np.zeros((64, 64, 3), dtype=np.uint8))
    return engine


def _has(device: str) -> bool:
    index = device.partition(":")[2]
    return int(index or 0) < torch.cuda.device_count() if index.isdigit() or not index else True
