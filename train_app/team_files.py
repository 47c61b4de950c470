"""Files of Team Files on the agent's disk: checkpoints to start from, and the state of a run to go on with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import supervisely as sly

from hrda_core.data.parallel import Stop, Stopped
from hrda_core.training.run_directory import RunDirectory
from hrda_core.whole_file import write_whole
from train_app.errors import UserError

Show = Callable[[str], None]


def fetch_file(api: sly.Api, team_id: int, remote: str, folder: Path, show: Show, stop: Stop) -> Path:
    """Downloads a file, unless it is there already.

    Raises:
        UserError: there is no such file, or what arrived is not the whole of it. Stopped: `stop()` became true.
    """
    info = api.file.get_info_by_path(team_id, remote)
    if info is None:
        raise UserError(f"{remote} is neither on the agent nor in Team Files; choose a file that exists")
    local = folder / f"{info.id}" / Path(remote).name
    if local.is_file() and local.stat().st_size == info.sizeb:
        return local
    show(f"Downloading {Path(remote).name}")
    local.parent.mkdir(parents=True, exist_ok=True)
    temporary = local.with_name(f".{local.name}-{os.getpid()}")

    def go_on(_: int) -> None:
        if stop():
            raise Stopped(f"stopped while {remote} was downloaded")

    try:
        api.file.download(team_id, remote, str(temporary), progress_cb=go_on)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if temporary.stat().st_size != info.sizeb:
        raise UserError(f"{remote}: {temporary.stat().st_size} of {info.sizeb} bytes arrived; start again")
    temporary.replace(local)
    return local


def upload_files(api: sly.Api, team_id: int, local: Sequence[str], remote: Sequence[str]) -> None:
    """Uploads files, over those that are there. The SDK's plain upload cannot be repeated after an error, and hangs then."""
    api.file.upload_bulk_fast(team_id, list(local), list(remote), enable_fallback=False)


def fetch_run(api: sly.Api, team_id: int, experiment: str, run: RunDirectory, show: Show, stop: Stop) -> None:
    """Makes `run` the continuation of an experiment: its last.pth, best.pth, config.yaml and metrics.jsonl.

    Raises:
        UserError: the experiment lacks one of them.
    """
    wanted = {
        f"{experiment}/checkpoints/last.pth": run.last,
        f"{experiment}/checkpoints/best.pth": run.best,
        f"{experiment}/config.yaml": run.config,
        f"{experiment}/metrics.jsonl": run.metrics,
    }
    fetched = {place: fetch_file(api, team_id, remote, run.path / "start", show, stop) for remote, place in wanted.items()}
    run.clear()
    for place, file in fetched.items():
        write_whole(place, file.read_bytes())
