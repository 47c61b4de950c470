"""The directory of one run: what lies where, who may write there, and what a new start may replace."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hrda_core.config import TrainConfig
from hrda_core.config_yaml import dump_yaml, parse_yaml
from hrda_core.models.checkpoints import load_checkpoint
from hrda_core.whole_file import write_whole

STARTS = ("model.pretrained", "model.pretrained_file", "model.start_from")  # a resumed run has weights of its own


class RunDirectory:
    """Paths of a run. `with` holds its lock, which the system releases even when the process is killed."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.chosen = self.path / "chosen.yaml"  # the part of config.yaml that was "auto" and that the run chose
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.pth"
        self.last = self.checkpoints / "last.pth"
        self.warmup = self.checkpoints / "warmup.pth"  # a baseline's state at the end of the warm-up, where adapting sets in
        self.previews = self.path / "previews"
        self.photo_labels = self.path / "photo_labels"  # what the teacher said of whole photos, while a round learns from it
        self.tensorboard = self.path / "tensorboard"
        self.report = self.path / "report.html"
        self.baseline = self.path / "baseline"
        self.demo = self.path / ".demo"  # where the run is a demo's: the folders that it is of
        self._lock = FileLock(self.path / ".lock")

    def __enter__(self) -> RunDirectory:
        self.path.mkdir(parents=True, exist_ok=True)
        owner = self.path / ".lock-owner"
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            process = owner.read_text(encoding="utf-8") if owner.is_file() else "unknown"
            raise ValueError(
                f"run directory {self.path} is in use by another training (process {process}): "
                f"stop that one, wait for its end, or choose another directory"
            ) from None
        owner.write_text(str(os.getpid()), encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        (self.path / ".lock-owner").unlink(missing_ok=True)
        self._lock.release()

    def iteration(self) -> int | None:
        """Of last.pth, or of best.pth where there is only that; None where there is neither."""
        for path in (self.last, self.best):
            if path.is_file():
                return int(load_checkpoint(path)["provenance"]["iteration"])
        return None

    def holds_a_run(self) -> bool:
        return self.metrics.is_file() or any(self.checkpoints.glob("*.pth")) or self.holds_a_baseline()

    def holds_a_baseline(self) -> bool:
        return (self.baseline / self.metrics.name).is_file() or any((self.baseline / self.checkpoints.name).glob("*.pth"))

    def prepare(self, config: TrainConfig, given: TrainConfig, resume: bool, overwrite: bool) -> None:
        """Makes the directory ready for a first start, a resume, or, with `overwrite`, for a start anew.

        What a resumed run was started with stays recorded until the run goes on: then `record` is called.

        Args:
            config: `given` with every "auto" settled.

        Raises:
            ValueError: an earlier run lies here and neither was asked for, or it cannot go on with this configuration.
        """
        if resume and (self.last.is_file() or self.holds_a_baseline()):  # with nothing but that, adapting had not begun
            self._check_same_model(config)
            return
        if self.holds_a_run():
            if not (overwrite or resume):
                raise ValueError(
                    f"run directory {self.path} already holds a run: resume it, overwrite it (--resume, --overwrite), "
                    f"or choose another directory"
                )
            self.clear()
        write_whole(self.chosen, dump_yaml(_changed(given.as_dict(), config.as_dict())).encode())
        self.record(config)

    def record(self, config: TrainConfig) -> None:
        write_whole(self.config, config.to_yaml().encode())

    def to_start_anew(self) -> TrainConfig:
        """config.yaml with "auto" again wherever the run chose and nobody has changed that: what suits other data or iterations
        may differ.
        """
        config = TrainConfig.load(self.config)
        if not self.chosen.is_file():
            return config
        auto, now = TrainConfig().as_dict(), config.as_dict()
        chosen = parse_yaml(self.chosen.read_text(encoding="utf-8"))
        return config.updated(
            {
                section: {name: auto[section][name] for name, value in values.items() if now[section][name] == value}
                for section, values in chosen.items()
            }
        )

    def clear(self) -> None:
        """Removes what a run wrote, and nothing else."""
        for file in (self.metrics, self.report, self.chosen, self.demo, *self.checkpoints.glob("*.pth")):
            file.unlink(missing_ok=True)
        for folder in (self.previews, self.photo_labels, self.tensorboard, self.baseline):
            shutil.rmtree(folder, ignore_errors=True)

    def truncate_metrics(self, iteration: int) -> None:
        """Drops the lines after `iteration`, and one that a kill cut short, so that a resumed run writes them again."""
        if not self.metrics.is_file():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                if line.endswith("\n") and json.loads(line)["iteration"] <= iteration:
                    kept.append(line)
            except json.JSONDecodeError:
                continue
        write_whole(self.metrics, "".join(kept).encode("utf-8"))

    def _check_same_model(self, config: TrainConfig) -> None:
        if not self.config.is_file():
            return
        before, now = TrainConfig.load(self.config).as_dict(), config.as_dict()
        fixed = {"mode": (before["mode"], now["mode"])}
        fixed["optimisation.optimizer"] = (before["optimisation"]["optimizer"], now["optimisation"]["optimizer"])
        fixed |= {f"model.{name}": (value, now["model"][name]) for name, value in before["model"].items()}
        for name, (old, new) in fixed.items():
            if old != new and name not in STARTS:
                raise ValueError(
                    f"{name}={new!r}: the run in {self.path} was started with {old!r}; resume with that, "
                    f"or start anew in another directory"
                )


def _changed(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The values of `after` that differ, by section."""
    sections = {name: inner for name, inner in after.items() if isinstance(inner, dict)}
    differing = {
        section: {name: value for name, value in inner.items() if before[section][name] != value}
        for section, inner in sections.items()
    }
    return {section: values for section, values in differing.items() if values}
