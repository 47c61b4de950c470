"""`train`: a run from data to checkpoints."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from hrda_core.config import TrainConfig
from hrda_core.data.samples import Dataset
from hrda_core.models.checkpoints import load_checkpoint, save_checkpoint
from hrda_core.training.data import RunData, prepare
from hrda_core.training.distributed import AnotherRankFailed, Ranks, joined
from hrda_core.training.events import BASELINE, Event, Failed, Finished, Listener, Notice, Stage, broadcast
from hrda_core.training.run import End, Run
from hrda_core.training.run_directory import RunDirectory
from hrda_core.training.safety import in_words, telling_a_full_disk
from hrda_core.training.stopping import Stopped, StopRequest, never

UNSURE = 0.01  # by which scores without labels must differ, to tell which of two trainings is the better one (docs/adaptation.md)


@dataclass(frozen=True)
class TrainResult:
    """Where the run left what. `score` is the best checkpoint's on the validation set, None without one.

    stopped: why the run ended early, "" where it did not. baseline: the directory of the source-only run, if one was wanted.
    """

    directory: Path
    best: Path
    last: Path
    score: float | None
    stopped: str = ""
    baseline: Path | None = None


def train(
    config: TrainConfig,
    source: Dataset | None,
    target: Dataset | None,
    validation: Dataset | None = None,
    listener: Listener | None = None,
    *,
    directory: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    stop: StopRequest = never,
) -> TrainResult:
    """Trains and writes everything into `directory`.

    In a process that torchrun started, all the processes train together (training/distributed.py), each with the same
    arguments. The first one, rank 0, writes and tells; `directory` and data must be there on every machine.

    Args:
        source: labelled images; not needed in supervised mode.
        target: the photos to adapt to. Their masks are used in supervised and semi-supervised mode only; in source-only
            mode the photos serve previews and scores without labels, and may be missing.
        validation: labelled photos of the target's appearance, for evaluation and for choosing checkpoint and thresholds.
        listener: hears the events of `training.events`.
        directory: of the run: config.yaml, chosen.yaml, metrics.jsonl, TensorBoard events, checkpoints/, previews/.
        resume: go on from checkpoints/last.pth where it exists; the result equals that of an undisturbed run.
        overwrite: start anew where an earlier run lies in `directory`; with neither, that is an error.
        stop: asked before every iteration and between the images of an evaluation; True saves and ends the run.

    Raises:
        ValueError: the data do not suit the mode, the model or each other, or the directory holds another run; the
            message names the field and the fix.
        FloatingPointError: a loss or a weight became NaN or infinite; the last checkpoint is from before.
        MemoryError: out of memory; the message has a setting that fits.
        OSError: the disk is full, or a file cannot be read any more.
        AnotherRankFailed: another process, which tells why. Where that is dead, this one just ends.
    """
    position, heard = _Position(), [listener] if listener is not None else []

    def tell_failure(reason: str) -> None:
        for tell in heard:  # whatever the rank: it is the one that knows
            with contextlib.suppress(OSError):  # on a full disk a listener may fail as well, which must not hide the reason
                tell(Failed(position.iteration, reason))

    with joined(config, tell_failure) as ranks:
        tell = broadcast(position, *(heard if ranks.first else []))
        here = RunDirectory(directory)
        try:
            ranks.check_batch(config.optimisation.batch_size)
            tell(Stage(0, name="checking data"))
            data = prepare(config, source, target, validation, tell, stop, ranks)
            with contextlib.ExitStack() as lock, telling_a_full_disk(here.path):
                ranks.from_first(lambda: _open(here, lock, data.config, config, resume, overwrite))
                end, result = _train(data, here, tell, stop, ranks)
        except Stopped:  # while the data were checked, or the colours of photos read
            end, result = End(0, None, "stop requested"), TrainResult(here.path, here.best, here.last, None, "stop requested")
        except Exception as error:
            if not ranks.is_the_reason(error):
                raise AnotherRankFailed(f"rank {ranks.rank} ends, since another one failed") from error
            tell_failure(in_words(error))
            raise
        tell(Finished(end.iteration, end.score, end.stopped))
    return result


def _open(
    here: RunDirectory, lock: contextlib.ExitStack, config: TrainConfig, given: TrainConfig, resume: bool, overwrite: bool
) -> None:
    """The directory is this training's until `lock` is closed."""
    lock.enter_context(here)
    here.prepare(config, given, resume, overwrite)


def _train(data: RunData, here: RunDirectory, tell: Listener, stop: StopRequest, ranks: Ranks) -> tuple[End, TrainResult]:
    config, baseline = data.config, RunDirectory(here.baseline)
    if not (config.baseline and config.mode in ("adapt", "semi-supervised")):
        end = _run(data, here, tell, stop, ranks)
        return end, TrainResult(here.path, here.best, here.last, end.score, end.stopped)
    before = _run_baseline(data, baseline, here, tell, stop, ranks)
    if before.stopped:  # adapting has not begun, so the baseline is all there is to use
        return before, TrainResult(here.path, baseline.best, baseline.last, before.score, before.stopped, baseline.path)
    # a semi-supervised run learns from labelled photos from its first iteration on, so it shares nothing with the baseline
    branch = baseline.warmup if config.mode == "adapt" else None
    end = _run(data, here, tell, stop, ranks, branch, before.seconds)
    reason = _why_the_baseline(before, end) if config.fallback else ""
    if reason:
        end = _keep_the_baseline(before, end, reason, baseline, here, tell, ranks)
    return end, TrainResult(here.path, here.best, here.last, end.score, end.stopped, baseline.path)


def _run(
    data: RunData,
    here: RunDirectory,
    tell: Listener,
    stop: StopRequest,
    ranks: Ranks,
    branch: Path | None = None,
    seconds: float = 0.0,
) -> End:
    """`branch`: the checkpoint to start from, unless the run goes on from its own. seconds: that training took before it."""
    tell(Stage(0, name=data.config.mode))
    run = Run(data, here, tell, stop, ranks=ranks)
    if _is_there(here.last, ranks):
        run.restore(here.last)
    else:
        if branch is not None and _is_there(branch, ranks):
            run.restore(branch)
            run.forget_evaluations()
        run.budget.used_before = seconds
    ranks.from_first(lambda: here.record(data.config))
    return run.loop()


def _why_the_baseline(before: End, end: End) -> str:
    """Why the source-only network is to be kept as the best one; "" where it is not."""
    if end.interrupted and end.chosen_by is None and before.chosen_by is not None:
        return "the training ended before an adapted network was evaluated: best.pth is the source-only network until it goes on"
    if end.interrupted or not _is_better(before, end):
        return ""
    measure = "on the validation set" if end.score is not None else "by the score that needs no labels"
    return (
        f"adaptation seems to hurt: {measure} the source-only network has {before.chosen_by:.3f}, the adapted one "
        f"{end.chosen_by:.3f}. best.pth is the source-only network; the adapted one is last.pth"
    )


def _is_better(before: End, end: End) -> bool:
    """Of two scores; one that is missing or undefined decides nothing, one without labels only by a clear margin."""
    margin = 0.0 if end.score is not None else UNSURE
    return before.chosen_by is not None and end.chosen_by is not None and before.chosen_by > end.chosen_by + margin


def _keep_the_baseline(
    before: End, end: End, reason: str, baseline: RunDirectory, here: RunDirectory, tell: Listener, ranks: Ranks
) -> End:
    if ranks.first:
        content = load_checkpoint(baseline.best)
        content["provenance"]["source_only"] = True
        save_checkpoint(here.best, content)
    tell(Notice(end.iteration, text=reason))
    return end._replace(score=before.score, chosen_by=before.chosen_by)


def _run_baseline(data: RunData, here: RunDirectory, main: RunDirectory, tell: Listener, stop: StopRequest, ranks: Ranks) -> End:
    """Source-only, as long as the run itself, in a directory of its own; keeps its state at the end of the warm-up."""
    schedule = replace(data.config.schedule, early_stop=0)  # its plateau is no reason not to adapt
    config = replace(data.config, mode="source-only", baseline=False, schedule=schedule)
    alone = replace(data, config=config, training=replace(data.training, target=None, labelled_target=None, colours=None))
    tell(Stage(0, name=BASELINE))
    with contextlib.ExitStack() as lock:
        ranks.from_first(lambda: _open(here, lock, config, config, resume=True, overwrite=False))
        run = Run(alone, here, tell, stop, keep_state_at=config.adaptation.source_warmup, ranks=ranks)
        if _is_there(here.last, ranks):
            run.restore(here.last)
        ranks.from_first(lambda: here.record(config))
        if not _is_there(main.last, ranks):  # else the run itself has to be restored first
            ranks.from_first(lambda: main.record(data.config))
        return run.loop()


def _is_there(checkpoint: Path, ranks: Ranks) -> bool:
    fix = f"{checkpoint} is not there on every machine: put the run directory on a disk that all machines share"
    return ranks.agreed(checkpoint.is_file(), fix)


class _Position:
    """The iteration of the latest event."""

    iteration = 0

    def __call__(self, event: Event) -> None:
        self.iteration = event.iteration
