"""`train`: a run from data to checkpoints."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.step import Learner, SourceBatch, TargetBatch, step
from hrda_core.adaptation.teacher import Teacher
from hrda_core.config import TrainConfig
from hrda_core.data.crops import SourceStream, TargetStream
from hrda_core.data.samples import Dataset, class_pixels
from hrda_core.data.sampling import SourceSampler
from hrda_core.evaluation.thresholds import apply_thresholds
from hrda_core.inference.predictor import choose_device, choose_precision, image_probabilities
from hrda_core.models.checkpoints import load_checkpoint, save_checkpoint
from hrda_core.models.hrda import HRDA
from hrda_core.training import networks
from hrda_core.training.events import (
    CheckpointSaved,
    Failed,
    Finished,
    Listener,
    Metrics,
    Preview,
    Progress,
    broadcast,
)
from hrda_core.training.listeners import JsonLines, PreviewFiles, TensorBoard
from hrda_core.training.optimisation import build_optimizer, set_learning_rate
from hrda_core.training.roles import roles, same_classes
from hrda_core.training.snapshot import describe
from hrda_core.training.validation import Evaluation, check_validation, evaluate, scalars


@dataclass(frozen=True)
class TrainResult:
    """Where the run left what. `score` is the best checkpoint's on the validation set, None without one."""

    directory: Path
    best: Path
    last: Path
    score: float | None


def train(
    config: TrainConfig,
    source: Dataset | None,
    target: Dataset | None,
    validation: Dataset | None = None,
    listener: Listener | None = None,
    *,
    directory: str | Path,
    resume: bool = False,
) -> TrainResult:
    """Trains and writes everything into `directory`.

    Args:
        source: labelled images; not needed in supervised mode.
        target: the photos to adapt to. Their masks are used in supervised and semi-supervised mode only; in source-only
            mode the photos serve previews and may be missing.
        validation: labelled photos of the target's appearance, for evaluation and for choosing checkpoint and thresholds.
        listener: hears the events of `training.events`.
        directory: of the run: config.yaml, metrics.jsonl, TensorBoard events, checkpoints/, previews/.
        resume: go on from checkpoints/last.pth where it exists.

    Raises:
        ValueError: the data do not suit the mode, the model or each other; the message names the field and the fix.
        FloatingPointError: the loss became NaN or infinite.
    """
    run = Run(config, source, target, validation, Path(directory), listener)
    try:
        if resume and (run.checkpoints / "last.pth").is_file():
            run.restore()
        run.loop()
    except Exception as error:
        run.tell(Failed(run.iteration, str(error)))
        raise
    run.tell(Finished(run.iteration, run.best_score))
    return TrainResult(run.directory, run.checkpoints / "best.pth", run.checkpoints / "last.pth", run.best_score)


class Run:
    """The state of one training: networks, optimiser, data streams, best score."""

    def __init__(
        self,
        config: TrainConfig,
        source: Dataset | None,
        target: Dataset | None,
        validation: Dataset | None,
        directory: Path,
        listener: Listener | None,
    ) -> None:
        labelled, self.target, self.labelled_target = roles(config.mode, source, target)
        self.classes = labelled.classes
        self.validation = same_classes(validation, labelled)
        if self.validation is not None:
            check_validation(self.validation)
        self.device = choose_device(config.device)
        pixels = class_pixels(labelled)
        totals = pixels[:, :-1].sum(axis=0)
        foreground_share = float(totals[1:].sum() / max(totals.sum(), 1))
        self.config = config = config.resolve(len(self.classes), labelled.has_background, foreground_share)
        self.background = labelled.has_background

        torch.manual_seed(config.seed)
        student = networks.build_student(config, len(self.classes))
        distance = networks.build_feature_distance(config, student, self.classes, self.background)
        student = student.to(self.device).train()
        self.learner = Learner(
            student=student,
            teacher=Teacher(student, config.adaptation.teacher_alpha, config.adaptation.teacher_norm),
            config=config,
            feature_distance=None if distance is None else distance.to(self.device),
            autocast=choose_precision(config.precision, self.device),
        )
        self.optimizer = build_optimizer(student, config.optimisation)
        self.preprocessing = networks.preprocessing_of(config, student)
        self.labelled = labelled
        self.sampler = self._sampler(pixels)
        self.iteration = 0
        self.best_score: float | None = None
        self.directory, self.checkpoints = directory, directory / "checkpoints"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        writers = (
            JsonLines(directory / "metrics.jsonl"),
            TensorBoard(directory / "tensorboard", self.classes, self.background),
            PreviewFiles(directory / "previews", self.classes, self.background),
        )
        self.tell: Listener = broadcast(*writers, *([listener] if listener is not None else []))

    # -- the loop ------------------------------------------------------------------------------------------------

    def loop(self) -> None:
        config, optimisation = self.config, self.config.optimisation
        total, every = optimisation.iterations, config.schedule
        if self.iteration == 0:
            (self.directory / "metrics.jsonl").unlink(missing_ok=True)
        sums: dict[str, Tensor] = {}
        for source, target in self._batches():
            iteration = self.iteration
            # seeds dropout and stochastic depth, so that a resumed run repeats them
            torch.manual_seed(config.seed * 1_000_003 + iteration)
            draws = StepDraws(config.seed, iteration, config.adaptation, config.model.detail_crop)
            rate = set_learning_rate(self.optimizer, iteration, optimisation)
            self.optimizer.zero_grad(set_to_none=True)
            log = step(self.learner, iteration, source, target, draws)
            if optimisation.clip_gradient_norm:
                torch.nn.utils.clip_grad_norm_(self.learner.student.parameters(), optimisation.clip_gradient_norm)
            self.optimizer.step()
            self.iteration = done = iteration + 1
            for name, value in log.items():
                sums[name] = sums.get(name, 0) + torch.stack([value.float(), torch.ones_like(value, dtype=torch.float32)])
            validating = done % every.validate_every == 0 or done == total
            saving = done % every.checkpoint_every == 0 or done == total
            # also before anything is saved: a loss that became NaN must not reach a file, and averages end at checkpoints
            if done % every.log_every == 0 or validating or saving:
                self._log(sums, rate)
                sums = {}
            if validating:
                self._validate()
            if done % every.preview_every == 0 or done == total:
                self._preview()
            if saving:
                self._save("last.pth", None, best=False)
            self.tell(Progress(done, total=total))

    def _batches(self) -> Iterator[tuple[SourceBatch, TargetBatch | None]]:
        config, batch = self.config, self.config.optimisation.batch_size
        iterations, workers = config.optimisation.iterations, config.data.workers
        source = SourceStream(
            self.labelled,
            self.sampler,
            config.data,
            config.seed,
            iterations,
            batch,
            config.data.target_scale if config.mode == "supervised" else config.data.source_scale,
            None
            if self.labelled_target is None
            else (self.labelled_target, self._sampler(class_pixels(self.labelled_target)), config.data.target_scale),
            config.augmentation,
        )
        source_batches = self._load(source, batch, workers)
        if config.mode in ("source-only", "supervised") or self.target is None:
            for image, label in source_batches:
                yield SourceBatch(self._normalise(image), label.to(self.device)), None
            return
        target = TargetStream(self.target, config.data, config.adaptation, config.seed, iterations, batch)
        for (image, label), (photo, valid) in zip(source_batches, self._load(target, batch, workers), strict=True):
            yield (
                SourceBatch(self._normalise(image), label.to(self.device)),
                TargetBatch(self._normalise(photo), valid.to(self.device)),
            )

    def _load(self, stream: Any, batch: int, workers: int) -> DataLoader[Any]:
        order = range(self.iteration * batch, len(stream))  # items know their iteration, so a resumed run just skips
        return DataLoader(
            stream, batch, sampler=order, num_workers=workers, pin_memory=self.device.type == "cuda", persistent_workers=False
        )

    def _normalise(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) uint8 -> float32 as the encoder expects it."""
        pixels = image.to(self.device, non_blocking=True).float() / 255
        mean = torch.tensor(self.preprocessing.mean, device=self.device).view(1, 3, 1, 1)
        std = torch.tensor(self.preprocessing.std, device=self.device).view(1, 3, 1, 1)
        return (pixels - mean) / std

    def _sampler(self, pixels: np.ndarray[Any, np.dtype[np.int64]]) -> SourceSampler:
        data = self.config.data
        return SourceSampler(pixels, data.rare_class_sampling, data.rare_class_temperature, data.rare_class_min_pixels)

    # -- evaluation ----------------------------------------------------------------------------------------------

    def _log(self, sums: dict[str, Tensor], rate: float) -> None:
        values = {name: float(total[0] / total[1]) for name, total in sums.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"{name} became {value} at iteration {self.iteration}: lower optimisation.learning_rate "
                    f"(now {self.config.optimisation.learning_rate}) or set optimisation.clip_gradient_norm"
                )
        self.tell(Metrics(self.iteration, {**values, "learning_rate": rate}))

    def _evaluate(self, model: HRDA, validation: Dataset) -> Evaluation:
        training = model.training
        model.eval()
        tolerance = self.config.inference.tolerance
        result = evaluate(lambda image: self._probabilities(model, image), validation, tolerance=tolerance)
        model.train(training)
        self.learner.teacher.set_mode()
        return result

    def _validate(self) -> None:
        if self.validation is None:
            self._save("best.pth", None, best=True)  # without labels the latest is the best that is known
            return
        student = self._evaluate(self.learner.student, self.validation)
        teacher = self._evaluate(self.learner.teacher.model, self.validation)
        tuned, selected = self.config.inference.tune_thresholds, self.config.inference.network
        values: dict[str, float] = {}
        for name, result in (("student", student), ("teacher", teacher)):
            values |= scalars(name, result, self.validation)
        score = (student if selected == "student" else teacher).score(tuned, self.background)
        # NaN where neither labels nor predictions have foreground; then the latest counts as the best
        self.tell(Metrics(self.iteration, values if math.isnan(score) else {**values, "validation/score": score}))
        if self.best_score is None or math.isnan(self.best_score) or score > self.best_score:
            self.best_score = score
            self._save("best.pth", {"student": student, "teacher": teacher}, best=True)

    def _preview(self) -> None:
        photos = self.target if self.target is not None else self.validation
        if photos is None or self.config.schedule.previews == 0:
            return
        model = self.learner.student if self.config.inference.network == "student" else self.learner.teacher.model
        training = model.training
        model.eval()
        count = min(self.config.schedule.previews, len(photos))
        pictures = []
        for index in np.linspace(0, len(photos) - 1, count).round().astype(int).tolist():
            photo = photos.image(index)
            labels, confidence = apply_thresholds(self._probabilities(model, photo), None, self.background)
            pictures.append((photos.name(index), photo, labels, confidence))
        model.train(training)
        self.learner.teacher.set_mode()
        self.tell(Preview(self.iteration, pictures))

    def _probabilities(self, model: HRDA, image: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        return image_probabilities(model, image, self.preprocessing, self.device, self.learner.autocast)

    # -- checkpoints ---------------------------------------------------------------------------------------------

    def _save(self, name: str, evaluations: dict[str, Evaluation] | None, best: bool) -> None:
        provenance = {
            "iteration": self.iteration,
            "labelled_images": len(self.labelled),
            "target_images": 0 if self.target is None else len(self.target),
            "validation_images": 0 if self.validation is None else len(self.validation),
        }
        checkpoint = describe(self.learner, self.labelled, self.preprocessing, evaluations or {}, provenance)
        if not best:
            checkpoint["resume"] = {
                "iteration": self.iteration,
                "optimizer": self.optimizer.state_dict(),
                "best_score": self.best_score,
            }
        path = save_checkpoint(self.checkpoints / name, checkpoint)
        self.tell(CheckpointSaved(self.iteration, path=path, best=best))

    def restore(self) -> None:
        """Continues from checkpoints/last.pth; later lines of metrics.jsonl are dropped."""
        checkpoint = load_checkpoint(self.checkpoints / "last.pth")
        self.learner.student.load_state_dict(checkpoint["student"])
        self.learner.teacher.model.load_state_dict(checkpoint["teacher"])
        self.optimizer.load_state_dict(checkpoint["resume"]["optimizer"])
        self.iteration = int(checkpoint["resume"]["iteration"])
        self.best_score = checkpoint["resume"]["best_score"]
        metrics = self.directory / "metrics.jsonl"
        if metrics.is_file():
            lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["iteration"] <= self.iteration]
            metrics.write_text("".join(kept), encoding="utf-8")
