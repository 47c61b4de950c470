"""The loop of one run: iterations, rounds of self-training, and what is due in between."""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch

from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.step import SourceBatch, TargetBatch, step
from hrda_core.allocator import held_memory
from hrda_core.data.photo_labels import PhotoLabels
from hrda_core.training import foreground_limit, photo_share
from hrda_core.training.events import Comparison, Counting, Metrics, Preview, Progress, Sizing, broadcast
from hrda_core.training.harm import no_foreground_notice, no_gain_notice
from hrda_core.training.listeners import JsonLines, PreviewFiles, TensorBoard
from hrda_core.training.loading import batches
from hrda_core.training.optimisation import set_learning_rate
from hrda_core.training.photo_scale import scale_for
from hrda_core.training.rounds import Stretch, rates_of, stretches
from hrda_core.training.run_state import RunState
from hrda_core.training.safety import check_weights, is_out_of_memory, out_of_memory_message
from hrda_core.training.stopping import Stopped
from hrda_core.training.validation import Evaluation


class End(NamedTuple):
    """score: of the best checkpoint, None without a validation set. stopped: why early, "" where it was not.

    chosen_by: what the best checkpoint was chosen by: the score, or without a validation set one that needs no labels.
    seconds: of training, over all resumes. interrupted: stopped by a request or its time, not because nothing more was gained.
    """

    iteration: int
    score: float | None
    stopped: str
    chosen_by: float | None = None
    seconds: float = 0.0
    interrupted: bool = False


class Run(RunState):
    """Networks, optimiser and counters, and how they go from the first iteration to the last."""

    def loop(self) -> End:
        """Runs to the last iteration or to a reason to stop; either way last.pth holds the end."""
        classes, background = self.data.classes, self.data.has_background
        tensorboard = TensorBoard(self.here.tensorboard, classes, background, self.iteration)
        files = (JsonLines(self.here.metrics), tensorboard, PreviewFiles(self.here.previews, classes, background))
        self.tell = broadcast(*(files if self.ranks.first else ()), self.tell)
        self._check_ranks()
        try:
            with held_memory(self.device.type):
                stopped = self._iterate_all()
        except Stopped:
            stopped = self._reason_to_stop() or "stop requested"
        finally:
            tensorboard.close()
        if stopped:
            self._save_last()
            if not self.here.best.is_file():  # before the first evaluation: something to use nevertheless
                self._save(self.here.best, {}, best=True)
        self.ranks.wait()  # what was saved can be read by all
        if self.data.training.target is not None:
            self._warn("no gain", no_gain_notice(self.best_iteration, self.config.adaptation.source_warmup, self.evaluated))
        score = None if self.data.validation is None else self.best_score
        interrupted = stopped not in ("", self.early_stop.reason)
        return End(self.iteration, score, stopped, self.best_score, self.budget.used(), interrupted)

    def _iterate_all(self) -> str:
        """Why the run stopped early, or ""."""
        if self.iteration == self.keep_state_at == 0 and not self.here.warmup.is_file():
            self._save(self.here.warmup, {}, best=False, resume=True)
        self._finish_what_a_stop_cut_off()
        restored = self.iteration > 0
        for stretch in stretches(self.config):
            if self.iteration >= stretch.end:
                continue
            self.stretch = stretch
            stopped = self._reason_to_stop()
            if stopped:
                return stopped
            labels = self._labels_of_photos(stretch, restored)
            begin, restored = self.iteration, False
            data = (self.data.training, self.config, self.preprocessing, self.device, begin, self.ranks, stretch.end, labels)
            for source, target in batches(*data):
                stopped = self._reason_to_stop()
                if stopped:
                    return stopped
                rate = self._iterate_within_memory(source, target)
                self._after_iteration(rate)
        if self.labeller is not None:
            self.labeller.forget()
        return ""

    def _finish_what_a_stop_cut_off(self) -> None:
        before = self.held, self.evaluated
        self._hold_to_share_if_due()
        self._evaluate_if_due()
        if (self.held, self.evaluated) != before:
            self._save_last()

    def _after_iteration(self, rate: float) -> None:
        """Logs, evaluates and saves where that is due. rate: the learning rate of the iteration."""
        done, total, every = self.iteration, self.config.optimisation.iterations, self.config.schedule
        saving = done % every.checkpoint_every == 0 or done == total or done == self.keep_state_at
        evaluating = self._evaluation_is_due()
        if done % every.log_every == 0 or done == total:
            self._log(rate)
        elif saving or evaluating:
            self._check()
        self._hold_to_share_if_due()
        if saving:
            check_weights(self.learner.student, done, self.config)  # first, since ranks that are not finite differ as well
            self._check_ranks()
        if done == self.keep_state_at:
            self._save(self.here.warmup, {}, best=False, resume=True)
        self._evaluate_if_due()
        if saving:
            self._save_last()
        self.tell(Progress(done, total=total))

    def _labels_of_photos(self, stretch: Stretch, restored: bool) -> PhotoLabels | None:
        """What the teacher says of whole photos, where this stretch learns from that."""
        if self.labeller is None or stretch.round == 0:
            return None
        if self.photo_factor is None:
            self._match_photo_scale()
        if self.photo_share is None:
            self._estimate_photo_share()
        if self.iteration == stretch.begin and self.held < self.iteration:
            self._hold_to_share()
        if self.iteration == stretch.begin and not restored:
            self._save_last()  # a run that is killed while it labels goes on with labelling
        return self.labeller.labels(stretch, self.tell, keep=restored)

    def _match_photo_scale(self) -> None:
        """From now on photos are seen at the size at which the teacher is surest of what it finds."""
        candidates, photos = self.config.adaptation.photo_scales, self.data.training.target
        factor, text = 1.0, None
        if set(candidates) - {1.0} and photos is not None:  # 1 is always one of them

            def tell(done: int, total: int) -> None:
                self.tell(Sizing(self.iteration, done=done, total=total))

            work = partial(scale_for, self.learner, photos, self.preprocessing, self.device, self._must_end, tell)
            factor, text = self.ranks.from_first(work)
        self._see_photos_at(factor)
        self._warn("photo scale", text)

    def _estimate_photo_share(self) -> None:
        """From now on photos are expected to hold no more foreground than the teacher's probabilities speak for."""
        rule, photos = self.config.adaptation, self.data.training.target
        share = rule.foreground_share
        if rule.least_share < 1 and rule.pseudo_labels == "prior-band" and photos is not None:
            labelled = self.data.training.labelled.dataset
            data = (self.learner, labelled, photos, self.preprocessing, self.device, self._tell_counting)
            share = self.ranks.from_first(partial(photo_share.share_of_photos, *data))
            self._warn("photo share", photo_share.notice(share, rule))
        self._expect(share)

    def _tell_counting(self, done: int, total: int) -> None:
        if self.stop():
            raise Stopped
        self.tell(Counting(self.iteration, done=done, total=total))

    def _hold_to_share_if_due(self) -> None:
        """At the end of each round, and of a run without rounds; after the warm-up as the first round begins."""
        last = self.config.optimisation.iterations
        ends = {last, *(stretch.end for stretch in stretches(self.config) if stretch.round)}
        if self.iteration in ends and self.held < self.iteration:
            self._hold_to_share()

    def _hold_to_share(self) -> None:
        rule, photos = self.config.adaptation, self.data.training.target
        if photos is None or rule.pseudo_labels != "prior-band" or not rule.hold_to_share or self.iteration == 0:
            return
        work = partial(foreground_limit.excess, self.learner, photos, self.preprocessing, self.device, self._tell_counting)
        found = self.ranks.from_first(work)
        foreground_limit.lower(self.learner, found)
        self.held = self.iteration
        self._warn("foreground limit", foreground_limit.notice(found, rule.foreground_share))

    def _iterate_within_memory(self, source: SourceBatch, target: TargetBatch | None) -> float:
        try:
            return self._iterate(source, target)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # outside of the handler, whose traceback would keep the tensors of the failed iteration alive
        self.optimizer.state.clear()
        raise MemoryError(out_of_memory_message(self.learner, self.device, self.iteration, self.ranks.size))

    def _iterate(self, source: SourceBatch, target: TargetBatch | None) -> float:
        """One iteration; returns the learning rate of the encoder."""
        config, iteration = self.config, self.iteration
        # seeds dropout and stochastic depth, so that a resumed run repeats them
        torch.manual_seed(config.seed * 1_000_003 + iteration)
        parts = 1 if target is None else len(target.image) // len(source.image)
        samples = self.ranks.share(config.optimisation.batch_size, parts)
        draws = StepDraws(config.seed, iteration, config.adaptation, config.model.detail_crop, samples=samples)
        rate = set_learning_rate(self.optimizer, iteration - self.stretch.begin, rates_of(self.stretch, config.optimisation))
        # a recorded backward pass adds to the gradients where they lie
        self.optimizer.zero_grad(set_to_none=self.learner.student_forward is None)
        log = self.ranks.average(step(self.learner, iteration, source, target, draws))
        self.ranks.average_gradients(self.learner.student.parameters())
        if config.optimisation.clip_gradient_norm:
            torch.nn.utils.clip_grad_norm_(self.learner.student.parameters(), config.optimisation.clip_gradient_norm)
        self.optimizer.step()
        self.iteration += 1
        for name, value in log.items():
            pair = torch.stack([value.float(), torch.ones_like(value, dtype=torch.float32)])
            self.sums[name] = self.sums[name] + pair if name in self.sums else pair
        return rate

    def _adapting_since(self) -> int:
        """The first iteration in which photos teach; without photos to adapt to, the first of all."""
        return 0 if self.data.training.target is None else self.config.adaptation.source_warmup

    def _reason_to_stop(self) -> str:
        stop, spent = self.ranks.any([self.stop(), self.budget.is_spent()])
        if stop:
            return "stop requested"
        if spent:
            return f"time budget of {self.budget.minutes:g} minutes is spent"
        if self.early_stop.is_due():
            return self.early_stop.reason
        return ""

    def _check_ranks(self) -> None:
        self.ranks.check_same({"student": self.learner.student, "teacher": self.learner.teacher.model}, self.iteration)

    # -- evaluation ----------------------------------------------------------------------------------------------

    def _log(self, rate: float) -> None:
        self._check()
        if self.data.has_background:
            shares = self.data.foreground_share(), self.config.adaptation.expected_share
            self._warn("no foreground", no_foreground_notice(self._averages(), *shares))
        self.tell(Metrics(self.iteration, {**self._averages(), "learning_rate": rate}))
        self.sums = {}

    def _evaluation_is_due(self) -> bool:
        every, done = self.config.schedule, self.iteration
        due = done % every.validate_every == 0 or done % every.preview_every == 0 or done == self.config.optimisation.iterations
        return due and done > self.evaluated

    def _evaluate_if_due(self) -> None:
        if not self._evaluation_is_due():
            return
        every, done, last = self.config.schedule, self.iteration, self.config.optimisation.iterations
        # everything is computed before anything is told: a stop in between leaves no half of it behind
        validating, previewing = (done == last or done % n == 0 for n in (every.validate_every, every.preview_every))
        evaluations, values = self.evaluator.validate() if validating else ({}, {})
        values |= self.evaluator.label_free() if validating else {}
        pictures = self.evaluator.preview() if previewing else []
        compared = self.evaluator.compare() if previewing else []
        if validating:
            self._note_score(evaluations, values)
        if pictures:
            self.tell(Preview(done, pictures))
        if compared:
            self.tell(Comparison(done, compared))
        self.evaluated = done

    def _note_score(self, evaluations: dict[str, Evaluation], values: dict[str, float]) -> None:
        """Tells the figures, and keeps the checkpoint where it is the best so far."""
        inference = self.config.inference
        if evaluations:
            score = evaluations[inference.network].score(inference.tune_thresholds, self.data.has_background)
            values = values if math.isnan(score) else {**values, "validation/score": score}
        else:
            score = values.get(f"label_free/{inference.network}/score", math.nan)
        if values:
            self.tell(Metrics(self.iteration, values))
        # NaN where neither labels nor predictions have foreground, or nothing is scored; then the latest counts as the best
        better = self.best_score is None or math.isnan(self.best_score) or score > self.best_score
        if evaluations and self.iteration > self._adapting_since():
            self.early_stop.note(better)
        if better:
            self.best_score, self.best_iteration = score, self.iteration
            self._save(self.here.best, evaluations, best=True)
