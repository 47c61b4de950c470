"""Training as a child process: started, followed through its events, stopped, and its end in words."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hrda_core import TrainConfig
from hrda_core.training.run_directory import RunDirectory

TRAINER = "HRDA_TRAINER"  # environment variable: another module than hrda_core that trains (tests, profilers)
POLL = 0.2  # seconds
LOCK_PATIENCE = 300.0  # seconds to wait for the training of a killed app, which saves and ends by itself
Event = Mapping[str, Any]


class TrainingFailed(RuntimeError):
    """A sentence for the user on why training ended, and what is left of it."""


@dataclass(frozen=True)
class Outcome:
    """How training ended. iteration: the last one that is done. stopped: why early, "" where it was not."""

    iteration: int
    score: float | None
    stopped: str


class Runner:
    """Trains in `directory`, and hands every event of the child process to `hear`.

    Event lines are those of `hrda_core.training.listeners.EventFile`.
    """

    def __init__(self, directory: Path, hear: Callable[[Event], None]) -> None:
        self.here = RunDirectory(directory)
        self.events = directory / "events.jsonl"
        self.log = directory / "train.log"
        self._hear = hear
        self._process: subprocess.Popen[bytes] | None = None
        self._stop = False
        self._several = False  # processes, under a launcher
        self._output = b""

    def run(
        self,
        config: TrainConfig,
        folders: Mapping[str, Sequence[Path]],
        resume: bool = False,
        gpus: Sequence[str] = (),
    ) -> Outcome:
        """Trains.

        Args:
            folders: of the roles "source", "target" and "validation".
            resume: go on with the run in the directory, with `config` but the run's own model; else such a run is overwritten.
            gpus: several, such as "cuda:0" and "cuda:2", for a process each; `config.device` is then "cuda".

        Raises:
            TrainingFailed: it ended with an error, or was killed.
        """
        self.here.path.mkdir(parents=True, exist_ok=True)
        self._wait_for_another()
        position = self.events.stat().st_size if self.events.is_file() else 0
        trainer = os.environ.get(TRAINER, "hrda_core")
        self._several = len(gpus) > 1
        torchrun, environment = launcher(gpus) if self._several else ([], dict(os.environ))
        options = self._options(config, folders, resume)
        command = [sys.executable, *torchrun, "-m", trainer, "train", str(self.here.path), *options]
        # the child ends by itself, saving, when its standard input closes: also when this process is killed
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as self._process:
            output = threading.Thread(target=self._keep_output, args=(self._process,), daemon=True)
            output.start()
            if self._stop:
                self.stop()
            try:
                return self._follow(self._process, position, output)
            finally:
                self._process.terminate()  # where following failed; else it has ended

    def stop(self) -> None:
        """Asks the child to save and end; it does so after the iteration, or the image of an evaluation, at hand."""
        self._stop = True
        if self._process is None or self._process.poll() is not None:
            return
        if self._several:  # the launcher would kill trainers that take more than 30 seconds to end
            assert self._process.stdin is not None
            self._process.stdin.close()
        else:
            self._process.send_signal(signal.SIGTERM)  # which the trainer takes any number of times

    def _options(self, config: TrainConfig, folders: Mapping[str, Sequence[Path]], resume: bool) -> list[str]:
        options = ["--events", str(self.events), "--stop-when-stdin-closes"]
        for role, paths in folders.items():
            options += [f"--{role}={path}" for path in paths]
        if resume and self.here.config.is_file():
            return [*options, "--resume", *_changes(TrainConfig.load(self.here.config), config)]
        wanted = self.here.path / "wanted.yaml"
        wanted.write_text(config.to_yaml(), encoding="utf-8")
        return [*options, "--config", str(wanted), "--overwrite"]

    def _wait_for_another(self) -> None:
        until = time.monotonic() + LOCK_PATIENCE
        while True:
            try:
                with self.here:
                    return
            except ValueError as error:
                if time.monotonic() > until or self._stop:
                    raise TrainingFailed(str(error)) from error
                time.sleep(POLL)

    def _keep_output(self, process: subprocess.Popen[bytes]) -> None:
        """The child's output in train.log, and its end in memory, since the disk may be what it complains of."""
        assert process.stdout is not None
        while part := process.stdout.read1(65536):  # type: ignore[attr-defined]
            self._output = (self._output + part)[-4000:]
            with contextlib.suppress(OSError), self.log.open("ab") as log:
                log.write(part)

    def _follow(self, process: subprocess.Popen[bytes], position: int, output: threading.Thread) -> Outcome:
        iteration, end, failure = 0, None, ""
        rest = b""
        while True:
            ended = process.poll() is not None  # before reading, so that nothing written meanwhile is missed
            if self.events.is_file():
                with self.events.open("rb") as file:
                    file.seek(position)
                    content = file.read()
                position += len(content)
                *lines, rest = (rest + content).split(b"\n")
                for line in lines:
                    try:
                        event = json.loads(line)
                    except ValueError:  # a full disk, or the end of a killed process, cut it short
                        continue
                    iteration = max(iteration, event["iteration"])
                    if event["event"] == "Finished":
                        end = Outcome(event["iteration"], event["score"], event["stopped"])
                    elif event["event"] == "Failed":
                        failure = event["reason"]
                    self._hear(event)
            if ended:
                break
            time.sleep(POLL)
        output.join(10)  # the loading processes of a killed trainer hold its output a little longer
        if process.returncode == 0 and end is not None:
            return end
        raise TrainingFailed(self._sentence(process.returncode, failure, iteration))

    def _sentence(self, code: int, failure: str, iteration: int) -> str:
        if not failure and code < 0:
            name = signal.Signals(-code).name
            reason = ", most likely because the machine ran out of memory" if -code == signal.SIGKILL else ""
            failure = f"The training process was ended by the system ({name}){reason}"
        if not failure:
            failure = self._last_line() or f"The training process ended with code {code}"
        failure = failure[0].upper() + failure[1:]
        return failure if failure.endswith((".", "!", "?")) else f"{failure}."

    def _last_line(self) -> str:
        lines = self._output.replace(b"\r", b"\n").decode("utf-8", "replace").splitlines()
        told = [line for line in lines if line.strip() and "it/s" not in line and "s/it" not in line and "image/s" not in line]
        errors = [line for line in told if line.startswith("error: ")]  # the launcher has last words of its own
        return (errors or told)[-1].removeprefix("error: ") if told else ""


def launcher(gpus: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Options of Python, and the environment, for a trainer on each of the GPUs, which are numbered from 0 there."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else None
    numbers = [int(gpu.removeprefix("cuda:")) for gpu in gpus]
    chosen = [names[number] if names is not None else str(number) for number in numbers]
    module = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(gpus)}"]
    return module, {**os.environ, "CUDA_VISIBLE_DEVICES": ",".join(chosen)}


def _changes(stored: TrainConfig, wanted: TrainConfig) -> list[str]:
    """--set for what differs, except the model, which the stored weights fix, and the folders, which have their own options."""
    before, now = _leaves(stored.as_dict()), _leaves(wanted.as_dict())
    fixed = ("model.", "data.source", "data.target", "data.validation", "mode")
    differing = [name for name, value in now.items() if before.get(name) != value and not name.startswith(fixed)]
    return [part for name in differing for part in ("--set", f"{name}={json.dumps(now[name])}")]


def _leaves(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in content.items():
        leaves |= _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return leaves
