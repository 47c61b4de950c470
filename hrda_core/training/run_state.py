"""The state of one training: networks, optimiser, counters; how it is kept in checkpoints, so that a run goes on exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from hrda_core.models.checkpoints import load_checkpoint, save_checkpoint
from hrda_core.training import networks
from hrda_core.training.data import RunData
from hrda_core.training.distributed import ALONE, Ranks
from hrda_core.training.evaluator import Evaluator
from hrda_core.training.events import CheckpointSaved, Listener, Notice
from hrda_core.training.learner import build_learner
from hrda_core.training.optimisation import build_optimizer, restore_averages
from hrda_core.training.rounds import PhotoLabeller, stretches
from hrda_core.training.run_directory import RunDirectory
from hrda_core.training.safety import check_losses, check_weights
from hrda_core.training.snapshot import describe
from hrda_core.training.stopping import EarlyStop, StopRequest, TimeBudget
from hrda_core.training.validation import Evaluation


class RunState:
    """Networks, optimiser and the counters of one training: the same on every rank, of which the first writes and tells.

    Args:
        keep_state_at: the iteration whose state is kept as checkpoints/warmup.pth, for another run to branch off.
    """

    def __init__(
        self,
        data: RunData,
        here: RunDirectory,
        tell: Listener,
        stop: StopRequest,
        keep_state_at: int | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.data, self.here, self.config = data, here, data.config
        self.stop, self.keep_state_at, self.ranks = stop, keep_state_at, ranks
        self.device = ranks.device(self.config.device)
        self.learner = build_learner(data, self.device, ranks, tell)
        self.optimizer = build_optimizer(self.learner.student, self.config.optimisation, self.config.precision != "reference")
        self.preprocessing = networks.preprocessing_of(self.config, self.learner.student, data.most_foreground())
        self.evaluator = Evaluator(
            self.learner,
            self.preprocessing,
            self.device,
            data.validation,
            data.photos,
            data.has_background,
            tuple(c.name for c in data.classes),
            data.class_fractions(),
            stop,
            ranks,
        )
        self.photo_factor: float | None = None  # on data.target_scale, once it is known
        self.photo_share: float | None = None  # the expected share of foreground, once photos were looked at for it
        self.labeller = None
        if self.config.adaptation.rounds and data.training.target is not None:
            labelled = (self.learner, self.preprocessing, data.training.target, here.photo_labels, self._must_end, ranks)
            self.labeller = PhotoLabeller(*labelled)
        self.tell = tell
        self.iteration = 0
        self.stretch = next(stretches(self.config))  # of iterations, to which this one belongs
        self.held = 0  # the last iteration at which the networks were held to the expected share of foreground
        self.evaluated = 0  # the last iteration whose evaluation is complete
        self.best_score: float | None = None
        self.best_iteration = 0
        self.warned = set[str]()
        self.sums: dict[str, Tensor] = {}  # of each logged scalar since the last line of the log: (total, count)
        self.early_stop = EarlyStop(self.config.schedule.early_stop)
        self.budget = TimeBudget(self.config.schedule.time_budget)

    def _must_end(self) -> bool:
        """Asked where a run may be busy for many minutes between two iterations."""
        return self.stop() or self.budget.is_spent()

    def _see_photos_at(self, factor: float) -> None:
        """factor: on the configured scale.

        Structures that are thinner in the photos cover less of them: of a line as long, as much less as it is thinner.
        """
        self.photo_factor = factor
        scale, share = factor * self.data.config.data.target_scale, self.data.config.adaptation.foreground_share
        if share == self.data.foreground_share():  # a share of the photos that the user gave is true at any size
            share = min(share / factor, 1.0)
        changes = {"data": {"target_scale": scale}, "adaptation": {"foreground_share": share}}
        self.config = self.learner.config = self.config.updated(changes)
        self.preprocessing = self.evaluator.preprocessing = replace(self.preprocessing, scale=scale)
        if self.labeller is not None:
            self.labeller.preprocessing = self.preprocessing

    def _expect(self, share: float) -> None:
        """Of foreground in the photos, as they are seen now."""
        self.photo_share = share
        self.config = self.learner.config = self.config.updated({"adaptation": {"foreground_share": share}})

    def _averages(self) -> dict[str, float]:
        return {name: float(total[0] / total[1]) for name, total in self.sums.items()}

    def _check(self) -> None:
        check_losses(self._averages(), self.iteration, self.config)

    def _warn(self, subject: str, text: str | None) -> None:
        """Of each subject once."""
        if text is not None and subject not in self.warned:
            self.warned.add(subject)
            self.tell(Notice(self.iteration, text=text))

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _save_last(self) -> None:
        self._check()
        self._save(self.here.last, {}, best=False, resume=True)
        keep = self.config.schedule.keep_checkpoints
        if keep and self.ranks.first:
            self._save(self.here.checkpoints / f"iteration_{self.iteration:06d}.pth", {}, best=False)
            for old in sorted(self.here.checkpoints.glob("iteration_*.pth"))[:-keep]:
                old.unlink()

    def _save(self, path: Path, evaluations: dict[str, Evaluation], best: bool, resume: bool = False) -> None:
        check_weights(self.learner.student, self.iteration, self.config)  # what is not finite must reach no file
        if not self.ranks.first:
            return
        target, validation = self.data.photos, self.data.validation
        provenance = {
            "iteration": self.iteration,
            "labelled_images": len(self.data.training.labelled.dataset),
            "target_images": 0 if target is None else len(target),
            "validation_images": 0 if validation is None else len(validation),
        }
        checkpoint = describe(self.learner, self.data.training.labelled.dataset, self.preprocessing, evaluations, provenance)
        if resume:
            checkpoint["resume"] = self._state()
        save_checkpoint(path, checkpoint)
        self.tell(CheckpointSaved(self.iteration, path=path, best=best))

    def _state(self) -> dict[str, Any]:
        return {
            "iteration": self.iteration,
            "optimizer": self.optimizer.state_dict() if self.config.schedule.save_optimizer else None,
            "best_score": self.best_score,
            "best_iteration": self.best_iteration,
            "evaluated": self.evaluated,
            "photo_factor": self.photo_factor,
            "photo_share": self.photo_share,
            "held": self.held,
            "foreground": self.learner.foreground.counts.cpu(),
            "class_shares": self.learner.shares.totals.cpu(),
            "sums": {name: total.cpu() for name, total in self.sums.items()},
            "without_gain": self.early_stop.without_gain,
            "seconds": self.budget.used(),
        }

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint with `resume` state; later lines of metrics.jsonl are dropped."""
        checkpoint = load_checkpoint(path)
        theirs, ours = ([c["name"] for c in checkpoint["classes"]], [c.name for c in self.data.classes])
        if theirs != ours:
            raise ValueError(
                f"{path} has the classes {theirs}, the data {ours}: resume with the data that the run was started with, "
                f"or start anew in another directory"
            )
        state = checkpoint["resume"]
        self.learner.student.load_state_dict(checkpoint["student"])
        self.learner.teacher.model.load_state_dict(checkpoint["teacher"])
        self.iteration, self.evaluated = int(state["iteration"]), int(state["evaluated"])
        if state["optimizer"] is not None:
            restore_averages(self.optimizer, state["optimizer"])
        else:
            text = "the checkpoint was saved without the optimiser (schedule.save_optimizer=false): its averages start anew"
            self.tell(Notice(self.iteration, text=text))
        self.best_score, self.best_iteration = state["best_score"], int(state.get("best_iteration", 0))
        if state.get("photo_factor") is not None:  # checkpoints of older versions do not have it
            self._see_photos_at(float(state["photo_factor"]))
        if state.get("photo_share") is not None:
            self._expect(float(state["photo_share"]))
        self.held = int(state.get("held", 0))  # checkpoints of older versions do not have it
        if "foreground" in state:
            self.learner.foreground.counts = state["foreground"].to(self.device)
        if "class_shares" in state:
            self.learner.shares.totals = state["class_shares"].to(self.device)
        self.sums = {name: total.to(self.device) for name, total in state["sums"].items()}
        self.early_stop.without_gain = int(state["without_gain"])
        self.budget.used_before = float(state["seconds"])
        if self.ranks.first:
            self.here.truncate_metrics(self.iteration)

    def forget_evaluations(self) -> None:
        """For a run that branched off another: scores and log begin here."""
        self.best_score, self.best_iteration, self.sums, self.evaluated = None, 0, {}, self.iteration
        self.early_stop.without_gain = 0
