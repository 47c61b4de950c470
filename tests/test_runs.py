"""A run in real life: killed, stopped, out of memory, out of disk, out of time; and the baseline beside it."""

from __future__ import annotations

import errno
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import BACKGROUND, CRACK, TINY, cracks, tiny, write_folder

from hrda_core.config import TrainConfig
from hrda_core.models.checkpoints import load_checkpoint
from hrda_core.training import run as run_module
from hrda_core.training import run_state
from hrda_core.training.events import Event, Failed, Finished, Metrics, Progress, Stage
from hrda_core.training.loop import TrainResult, train
from hrda_core.training.run_directory import RunDirectory
from hrda_core.training.stopping import TimeBudget
from hrda_core.training.validation import Evaluation

SOURCE, TARGET, VALIDATION = cracks(4, 1), replace(cracks(3, 2), masks=None), cracks(2, 3)
ITERATIONS = 60


def run(directory: Path, config: TrainConfig, **options: Any) -> TrainResult:
    given = {"source": SOURCE, "target": TARGET, "validation": VALIDATION, **options}
    return train(config, **given, directory=directory)


def state(directory: Path) -> dict[str, Any]:
    """What must be equal to the last bit: the log, and the tensors of both checkpoints by name."""
    log = (directory / "metrics.jsonl").read_bytes()
    weights = {}
    for name in ("last", "best"):
        checkpoint = load_checkpoint(directory / "checkpoints" / f"{name}.pth")
        weights |= {(name, net, key): value for net in ("student", "teacher") for key, value in checkpoint[net].items()}
    rates = [json.loads(line).get("learning_rate") for line in log.decode().splitlines()]
    return {"log": log, "weights": weights, "rates": rates}


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert one["log"] == two["log"]
    assert one["rates"] == two["rates"]
    assert one["weights"].keys() == two["weights"].keys()
    different = [key for key, value in one["weights"].items() if not torch.equal(value, two["weights"][key])]
    assert not different


# -- killed and stopped, as a process -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_folder(root / "source", 4, seed=1)
    write_folder(root / "target", 3, seed=2, masks=False)
    write_folder(root / "validation", 2, seed=3)
    schedule = {"validate_every": 20, "checkpoint_every": 7, "preview_every": 30, "log_every": 5}
    config = TrainConfig().updated(TINY).updated(
        {
            "data": {"workers": 2, "cache": str(root / "cache")},
            "adaptation": {"source_warmup": 20},
            "optimisation": {"iterations": ITERATIONS},
            "schedule": {**schedule, "label_free_photos": 1},
        }
    )  # fmt: skip
    (root / "config.yaml").write_text(config.to_yaml())
    return root


def command(folders: Path, directory: Path, *more: str) -> list[str]:
    roles = [f"--{role}={folders / role}" for role in ("source", "target", "validation")]
    return [sys.executable, "-m", "hrda_core", "train", str(directory), *roles, *more]


def start(folders: Path, directory: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(folders, directory, *more), env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(folders: Path, directory: Path, *more: str) -> str:
    process = start(folders, directory, *more)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def reached(directory: Path) -> int:
    """The last iteration in the log."""
    log = directory / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    return int(json.loads(lines[-1])["iteration"]) if lines and lines[-1].endswith("}") else 0


def wait_for(directory: Path, iteration: int, process: subprocess.Popen[str]) -> None:
    while reached(directory) < iteration and process.poll() is None:
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("whole") / "run"
    finish(folders, directory, f"--config={folders / 'config.yaml'}")
    return state(directory)


def test_killed_ten_times_at_random_moments(folders: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    """`kill -9` while it trains, evaluates or saves, and a resume each time: equal to the last bit."""
    draws, directory = random.Random(0), tmp_path / "run"
    options = [f"--config={folders / 'config.yaml'}"]
    for kill in range(10):
        process = start(folders, directory, *options)
        wait_for(directory, min(5 * (kill + 1), ITERATIONS - 5), process)
        time.sleep(draws.uniform(0, 0.3))
        process.kill()
        process.wait()
        # a kill may come before there is anything to go on from; then the first command is given again
        options = ["--resume"] if (directory / "checkpoints" / "last.pth").is_file() else [*options[:1], "--overwrite"]
    finish(folders, directory, "--resume")
    assert_same(state(directory), undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal_and_resumed_with_other_workers(
    number: signal.Signals, folders: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    process = start(folders, directory, f"--config={folders / 'config.yaml'}")
    wait_for(directory, 15, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "stop requested" in output and "--resume goes on" in output and "Traceback" not in output
    stopped_at = load_checkpoint(directory / "checkpoints" / "last.pth")["resume"]["iteration"]
    assert 15 <= stopped_at < ITERATIONS
    assert (directory / "checkpoints" / "best.pth").is_file()  # something to use, wherever it was stopped
    finish(folders, directory, "--resume", "--set=data.workers=0")
    assert_same(state(directory), undisturbed)


def test_two_runs_on_one_directory(folders: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    first = start(folders, directory, f"--config={folders / 'config.yaml'}", "--set=optimisation.iterations=100000")
    wait_for(directory, 5, first)
    second = start(folders, directory, "--resume")
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 1
    assert f"run directory {directory} is in use by another training (process {first.pid}): stop that one" in output
    first.kill()
    first.wait()
    with RunDirectory(directory):  # the system released the lock of the killed process
        pass


# -- stopped from inside --------------------------------------------------------------------------------------------------


class StopAt:
    """Requests a stop once `event` was told at `iteration`; as listener and as `stop`."""

    def __init__(self, iteration: int, kind: type[Event] = Progress) -> None:
        self.iteration, self.kind, self.now = iteration, kind, False

    def __call__(self, event: Event) -> None:
        self.now = self.now or (isinstance(event, self.kind) and event.iteration >= self.iteration)


@pytest.mark.parametrize("iteration", [1, 3, 5])
@pytest.mark.parametrize("kind", [Progress, Metrics])
def test_a_requested_stop_saves_and_resumes_exactly(iteration: int, kind: type[Event], tmp_path: Path) -> None:
    """Also right before or within an evaluation, which is then made up for."""
    config = tiny({"optimisation": {"iterations": 7}, "schedule": {"log_every": 1, "checkpoint_every": 100}})
    run(tmp_path / "whole", config)
    stop = StopAt(iteration, kind)
    result = run(tmp_path / "parts", config, listener=stop, stop=lambda: stop.now)
    assert result.stopped == "stop requested"
    assert result.last.is_file() and result.best.is_file()
    assert run(tmp_path / "parts", config, resume=True).stopped == ""
    assert_same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_the_time_budget_ends_a_run_and_counts_over_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100_000, 30))  # each look at the clock finds half a minute gone
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    config = tiny({"schedule": {"time_budget": 1.0, "log_every": 1}})
    finished: list[Event] = []
    result = run(tmp_path, config, listener=finished.append)
    assert result.stopped == "time budget of 1 minutes is spent"
    assert isinstance(finished[-1], Finished) and finished[-1].stopped == result.stopped
    again = run(tmp_path, config, resume=True)
    assert again.stopped == result.stopped  # nothing is left of it
    assert run(tmp_path, config.updated({"schedule": {"time_budget": 0.0}}), resume=True).stopped == ""


def test_early_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts from the warm-up's end on, which is iteration 2, since adapting is what is to bring better scores."""
    scores = iter([0.5, 0.4, 0.3, 0.4, 0.6, 0.7])
    monkeypatch.setattr(Evaluation, "score", lambda _, tuned, has_background: 0.0 if tuned else next(scores))
    config = tiny({"schedule": {"early_stop": 2, "validate_every": 1}, "inference": {"tune_thresholds": False}})
    result = run(tmp_path, config)
    assert (result.stopped, result.score) == ("no better score in 2 evaluations", 0.5)
    assert load_checkpoint(result.last)["resume"]["iteration"] == 4


def test_a_baseline_that_no_longer_gains_is_no_reason_not_to_adapt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where adapting stops for the same reason, the better of the two is still the best checkpoint."""
    falling = iter(range(100, 0, -1))
    monkeypatch.setattr(Evaluation, "score", lambda _, tuned, has_background: 0.0 if tuned else next(falling) / 100)
    changes = {"schedule": {"early_stop": 1, "validate_every": 1}, "inference": {"tune_thresholds": False}}
    result = run(tmp_path, tiny(changes, {"baseline": True}))
    assert load_checkpoint(RunDirectory(tmp_path / "baseline").last)["resume"]["iteration"] == 6  # the whole of it
    assert load_checkpoint(result.last)["resume"]["iteration"] == 4  # adapting stops: 3 counts as the first score, 4 is worse
    kept = load_checkpoint(result.best)["provenance"]  # the best of the baseline's scores, which is its first
    assert (kept["source_only"], kept["iteration"], result.score) == (True, 1, 1.0)


def test_time_that_ends_before_adapting_is_looked_at_leaves_the_baseline_as_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not the network that it branched off, of the middle of the baseline."""
    used = [0.0]
    monkeypatch.setattr(TimeBudget, "used", lambda self: used[0])
    told: list[Event] = []

    def hear(event: Event) -> None:
        told.append(event)
        if isinstance(event, Stage) and event.name == "adapt":
            used[0] = 61.0

    config = tiny({"baseline": True, "schedule": {"time_budget": 1.0}})
    result = run(tmp_path, config, listener=hear)
    assert result.stopped == "time budget of 1 minutes is spent"
    kept = load_checkpoint(result.best)["provenance"]
    assert kept["source_only"] and kept["iteration"] == 6 and result.score is not None
    assert any("ended before an adapted network was evaluated" in getattr(event, "text", "") for event in told)
    used[0] = 0.0
    assert run(tmp_path, config, resume=True).stopped == ""
    assert load_checkpoint(result.last)["resume"]["iteration"] == 6


def test_the_time_of_a_baseline_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    result = run(tmp_path, tiny({"baseline": True, "schedule": {"time_budget": 1e6}}))
    spent = {name: load_checkpoint(RunDirectory(place).last)["resume"]["seconds"]
             for name, place in (("baseline", tmp_path / "baseline"), ("all", result.directory))}  # fmt: skip
    assert spent["all"] > spent["baseline"] + 4  # looks at the clock, one or more an iteration


# -- checkpoints ----------------------------------------------------------------------------------------------------------


def test_the_latest_checkpoints_are_kept_and_never_the_best_lost(tmp_path: Path) -> None:
    config = tiny({"schedule": {"checkpoint_every": 1, "keep_checkpoints": 2}})
    result = run(tmp_path, config)
    names = sorted(path.name for path in result.last.parent.iterdir())
    assert names == ["best.pth", "iteration_000005.pth", "iteration_000006.pth", "last.pth"]
    assert "resume" not in load_checkpoint(result.last.parent / "iteration_000005.pth")


def test_without_the_optimiser_the_file_is_smaller_and_a_resume_says_so(tmp_path: Path) -> None:
    config = tiny({"schedule": {"checkpoint_every": 3}})
    sizes = {}
    for keep in (True, False):
        stop = StopAt(3)
        changed = config.updated({"schedule": {"save_optimizer": keep}})
        sizes[keep] = run(tmp_path / str(keep), changed, listener=stop, stop=lambda stop=stop: stop.now).last.stat().st_size
    assert sizes[False] < 0.7 * sizes[True]
    told: list[Event] = []
    run(tmp_path / "False", config.updated({"schedule": {"save_optimizer": False}}), resume=True, listener=told.append)
    assert any("save_optimizer=false" in getattr(event, "text", "") for event in told)


def test_a_resume_learns_at_the_rate_that_it_is_given(tmp_path: Path) -> None:
    stop = StopAt(3)
    run(tmp_path, tiny(), listener=stop, stop=lambda: stop.now)
    gentle = {"learning_rate": 1e-6, "head_factor": 2.0, "weight_decay": 0.5, "beta1": 0.5}
    last = run(tmp_path, tiny({"optimisation": gentle}), resume=True).last
    groups = load_checkpoint(last)["resume"]["optimizer"]["param_groups"]
    assert [group["base_lr"] for group in groups] == [1e-6, 1e-6, 2e-6]
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0, 0.5]
    assert {tuple(group["betas"]) for group in groups} == {(0.5, 0.999)}


def test_what_a_run_was_started_with_stays_recorded_until_it_goes_on(tmp_path: Path) -> None:
    """Here the resume is asked for another network, then for a crop that the encoder does not take, then finds no space."""
    stop = StopAt(3)
    run(tmp_path, tiny(), listener=stop, stop=lambda: stop.now)
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(ValueError, match="head_channels"):
        run(tmp_path, tiny({"model": {"head_channels": 32}}), resume=True)
    assert (tmp_path / "config.yaml").read_text() == before
    with pytest.raises(ValueError, match="crop_height=80"):
        run(tmp_path, tiny({"data": {"crop_height": 80}}), resume=True)
    assert (tmp_path / "config.yaml").read_text() == before

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match=r"the disk of run directory .* is full"):
        patch.setattr(os, "fsync", full)
        run(tmp_path, tiny({"seed": 1}), resume=True)
    assert (tmp_path / "config.yaml").read_text() == before
    run(tmp_path, tiny({"schedule": {"log_every": 1}}), resume=True)
    assert TrainConfig.load(tmp_path / "config.yaml").schedule.log_every == 1


def test_a_start_anew_chooses_anew(tmp_path: Path) -> None:
    """What was "auto" is settled by the iterations and classes of the new start; what the user set, or has edited, stays."""
    run(tmp_path, tiny({"adaptation": {"source_warmup": -1, "edge_width": 3}}))
    here = RunDirectory(tmp_path)
    stored = TrainConfig.load(here.config).adaptation
    assert (stored.source_warmup, stored.rounds, stored.mixing, stored.edge_width) == (3, 0, "none", 3)
    anew = here.to_start_anew()
    assert (anew.adaptation.source_warmup, anew.adaptation.rounds, anew.adaptation.mixing) == (-1, -1, "auto")
    assert anew == tiny({"adaptation": {"source_warmup": -1, "edge_width": 3}})
    here.config.write_text(here.config.read_text().replace("mixing: none", "mixing: foreground"))
    assert here.to_start_anew().adaptation.mixing == "foreground"


def test_another_model_cannot_go_on(tmp_path: Path) -> None:
    run(tmp_path, tiny())
    with pytest.raises(ValueError, match=r"optimisation\.optimizer='sgd': the run in .* was started with 'adamw'"):
        run(tmp_path, tiny({"optimisation": {"optimizer": "sgd"}}), resume=True)
    with pytest.raises(ValueError, match=r"model\.head_channels=32: the run in .* was started with 16"):
        run(tmp_path, tiny({"model": {"head_channels": 32}}), resume=True)


def test_data_of_other_classes_cannot_go_on(tmp_path: Path) -> None:
    stop = StopAt(3)
    run(tmp_path, tiny(), listener=stop, stop=lambda: stop.now)
    rust = (BACKGROUND, replace(CRACK, name="rust"))
    others = {"source": replace(SOURCE, classes=rust), "validation": replace(VALIDATION, classes=rust)}
    with pytest.raises(ValueError, match=r"last\.pth has the classes \['background', 'crack'\], the data .*'rust'"):
        run(tmp_path, tiny(), resume=True, **others)


def test_a_log_line_that_a_kill_cut_short_is_dropped(tmp_path: Path) -> None:
    here = RunDirectory(tmp_path)
    here.metrics.write_text('{"iteration": 1, "a": 1}\n{"iteration": 2, "a": 1}\n{"iteration": 3, "a": 1}\n{"iterat')
    here.truncate_metrics(2)
    assert here.metrics.read_text() == '{"iteration": 1, "a": 1}\n{"iteration": 2, "a": 1}\n'


# -- baseline -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [0.0, 1.0])
def test_a_baseline_shares_the_warm_up_and_changes_nothing_else(colours: float, tmp_path: Path) -> None:
    told: list[Event] = []
    crop_by_crop = {"adaptation": {"rounds": 0, "colour_transfer": colours}}
    alone = run(tmp_path / "alone", tiny(crop_by_crop))
    result = run(tmp_path / "both", tiny(crop_by_crop, {"baseline": True}), listener=told.append)
    for network in ("student", "teacher"):
        one, two = (load_checkpoint(path)[network] for path in (alone.last, result.last))
        assert all(torch.equal(one[key], two[key]) for key in one), network
    stages = ["checking data", *(["reading the colours of photos"] if colours else []), "source-only baseline", "adapt"]
    assert [event.name for event in told if isinstance(event, Stage)] == stages
    progress = [event.iteration for event in told if isinstance(event, Progress)]
    assert progress == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]  # the warm-up of 2 is trained once
    assert result.baseline == tmp_path / "both" / "baseline"
    source_only = run(tmp_path / "source", tiny(mode="source-only"))
    one, two = (load_checkpoint(path)["student"] for path in (source_only.last, result.baseline / "checkpoints" / "last.pth"))
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_stopped_in_the_baseline_and_resumed(tmp_path: Path) -> None:
    config = tiny({"baseline": True})
    whole = run(tmp_path / "whole", config)
    for iteration in (1, 4):
        directory, stop = tmp_path / str(iteration), StopAt(iteration)
        first = run(directory, config, listener=stop, stop=lambda stop=stop: stop.now)
        assert first.stopped and first.best == directory / "baseline" / "checkpoints" / "best.pth" and first.best.is_file()
        second = run(directory, config, resume=True)
        one, two = (load_checkpoint(path)["student"] for path in (whole.last, second.last))
        assert all(torch.equal(one[key], two[key]) for key in one)


# -- what goes wrong --------------------------------------------------------------------------------------------------------


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight may break although the loss still looks right."""
    real = run_module.set_learning_rate

    def poison(optimizer: torch.optim.Optimizer, iteration: int, config: Any) -> float:
        if iteration == 4:
            optimizer.param_groups[-1]["params"][-1].data.fill_(float("inf"))
        return real(optimizer, iteration, config)

    monkeypatch.setattr(run_module, "set_learning_rate", poison)
    monkeypatch.setattr(run_state, "check_losses", lambda *_: None)
    with pytest.raises(FloatingPointError, match=r"weight .* became NaN or infinite by iteration 6: lower optimisation"):
        run(tmp_path, tiny({"adaptation": {"rounds": 0}}), validation=None)
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.pth")
    assert saved["resume"]["iteration"] == 3
    assert all(value.isfinite().all() for value in saved["student"].values())


def test_a_stop_saves_nothing_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, stop = run_module.set_learning_rate, StopAt(5)

    def poison(optimizer: torch.optim.Optimizer, iteration: int, config: Any) -> float:
        if iteration == 4:
            optimizer.param_groups[-1]["params"][-1].data.fill_(float("nan"))
        return real(optimizer, iteration, config)

    monkeypatch.setattr(run_module, "set_learning_rate", poison)
    with pytest.raises(FloatingPointError, match=r"became nan at iteration 5.*the last checkpoint is from before"):
        run(tmp_path, tiny({"schedule": {"log_every": 100}}), listener=stop, stop=lambda: stop.now)
    saved = load_checkpoint(tmp_path / "checkpoints" / "last.pth")
    assert saved["resume"]["iteration"] == 3
    assert all(value.isfinite().all() for value in saved["student"].values())


def test_out_of_memory_names_a_setting_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device of this test has room for two 64 x 64 crops, and no more."""
    from hrda_core.training import safety

    real = safety.step

    def bounded(learner: Any, iteration: int, source: Any, *rest: Any) -> Any:
        if source.image.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(learner, iteration, source, *rest)

    monkeypatch.setattr(run_module, "step", bounded)
    monkeypatch.setattr(safety, "step", bounded)
    told: list[Event] = []
    said = (
        r"out of memory on cpu at iteration 0 with optimisation\.batch_size=8 and crops of data\.crop_height=64 x "
        r"data\.crop_width=64: optimisation\.batch_size=2 fits"
    )
    with pytest.raises(MemoryError, match=said):
        run(tmp_path, tiny({"optimisation": {"batch_size": 8}}), listener=told.append)
    assert isinstance(told[-1], Failed) and "batch_size=2 fits" in told[-1].reason


def test_out_of_memory_may_need_a_smaller_crop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hrda_core.training import safety

    real = safety.step

    def bounded(learner: Any, iteration: int, source: Any, *rest: Any) -> Any:
        if source.image.numel() > 3 * 100 * 100:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return real(learner, iteration, source, *rest)

    monkeypatch.setattr(run_module, "step", bounded)
    monkeypatch.setattr(safety, "step", bounded)
    config = tiny({"data": {"crop_height": 128, "crop_width": 128}})
    with pytest.raises(MemoryError, match=r"optimisation\.batch_size=1, data\.crop_height=96, data\.crop_width=96 fits"):
        run(tmp_path, config)


def test_what_is_said_to_fit_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MiT takes any multiple of 8, but a crop has to be one of 32; and parts of a batch have to divide it."""
    from hrda_core.training import safety

    def bounded(learner: Any, iteration: int, source: Any, *rest: Any) -> Any:
        if source.image.numel() > 3 * 400 * 400:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}

    monkeypatch.setattr(run_module, "step", bounded)
    monkeypatch.setattr(safety, "step", bounded)
    changes = {
        "model": {"encoder": "mit_b0", "multi_resolution": True},
        "data": {"crop_height": 768, "crop_width": 768, "check": False},
        "optimisation": {"batch_size": 4, "accumulation": 4},
    }
    said = "optimisation.batch_size=1, optimisation.accumulation=1, data.crop_height=288, data.crop_width=288"
    with pytest.raises(MemoryError, match=f"{re.escape(said)} fits"):
        run(tmp_path, tiny(changes))
    tiny(changes).changed(said.split(", "))  # which is a configuration


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of 3 MB. Where none may be mounted, the third file to be synchronised finds no space left."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        yield place
        subprocess.run(["umount", str(place)], check=True)
        return
    real, calls = os.fsync, iter(range(1000))

    def fsync(file: int) -> None:
        if next(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", fsync)
    yield place


def test_a_full_disk_is_named_and_loses_nothing(small_disk: Path) -> None:
    told: list[Event] = []
    config = tiny({"schedule": {"checkpoint_every": 1, "keep_checkpoints": 100, "label_free_photos": 0}})
    with pytest.raises(OSError, match=r"the disk of run directory .* is full: free some space, then resume"):
        run(small_disk / "run", config, listener=told.append)
    assert isinstance(told[-1], Failed) and "is full" in told[-1].reason
    last = load_checkpoint(small_disk / "run" / "checkpoints" / "last.pth")  # whole
    assert last["resume"]["iteration"] >= 1
    assert not [path for path in (small_disk / "run" / "checkpoints").iterdir() if path.name.startswith(".")]
