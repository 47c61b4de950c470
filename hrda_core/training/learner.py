"""What a run learns with: student, teacher, feature distance, on the run's device."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hrda_core.adaptation.step import Learner
from hrda_core.adaptation.teacher import Teacher
from hrda_core.config import TrainConfig
from hrda_core.inference.predictor import choose_precision
from hrda_core.models.compiling import compile_networks, predict_once, train_once
from hrda_core.training.cuda_graphs import record
from hrda_core.training.data import RunData
from hrda_core.training.distributed import Ranks
from hrda_core.training.events import Listener, Notice
from hrda_core.training.networks import build_feature_distance, build_student
from hrda_core.training.shared_layers import share_layers


def build_learner(data: RunData, device: torch.device, ranks: Ranks, tell: Listener) -> Learner:
    """The same networks on every rank, since the seed decides on their start.

    Raises:
        ValueError: the crop does not suit the encoder, or weights do not fit.
    """
    config = data.config

    def notice(text: str) -> None:
        tell(Notice(0, text=text))

    torch.manual_seed(config.seed)
    student = build_student(config, [c.name for c in data.classes], notice)
    if config.model.class_prior == "labelled" and not config.model.start_from:
        student.head.begin_at(data.class_fractions())
    distance = build_feature_distance(config, student, data.classes, data.has_background)
    student = student.to(device).train()
    if ranks.size > 1:
        share_layers(student)
    # without a target no batch passes the teacher, whose norms then must follow the student's
    norm = config.adaptation.teacher_norm if data.training.target is not None else "running"
    autocast = choose_precision(config.precision, device)
    teacher = Teacher(student, config.adaptation.teacher_alpha, norm, autocast)
    learner = Learner(
        student=student,
        teacher=teacher,
        config=config,
        feature_distance=None if distance is None else distance.to(device),
        autocast=autocast,
        batch=ranks.batch,
    )
    # collective operations of several processes, and what is computed again, cannot be recorded
    recordable = device.type == "cuda" and ranks.size == 1 and not config.optimisation.recompute
    recording = config.cuda_graphs and recordable and config.model.multi_resolution and config.precision != "reference"

    def trial() -> None:
        if recording:
            record(learner)
        else:
            example = _example(config, device)
            train_once(student, example, autocast)
            predict_once(teacher.network, example, autocast)

    compiled = config.compile and compile_networks((student, teacher.network), trial, notice)
    if recording and not compiled:
        record_passes(learner, notice)
    return learner


def _example(config: TrainConfig, device: torch.device) -> Tensor:
    """Of what the student sees at once in training: (N, 3, H, W)."""
    part = config.optimisation.batch_size // config.optimisation.accumulation
    return torch.zeros(part, 3, config.data.crop_height, config.data.crop_width, device=device)


def record_passes(learner: Learner, notice: Callable[[str], None]) -> None:
    """Or tells why that fails."""
    try:
        record(learner)
    except Exception as error:  # an operation of an encoder that waits for the GPU, or too little memory
        learner.student_forward = learner.teacher.recorded = None
        learner.student.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        notice(f"cuda_graphs=true: recording failed ({reason[:200]}), so the networks run without it")
