"""What a run learns with: student, teacher, feature distance, on the run's device."""

from __future__ import annotations

import torch

from hrda_core.adaptation.step import Learner
from hrda_core.adaptation.teacher import Teacher
from hrda_core.inference.predictor import choose_precision
from hrda_core.models.compiling import compile_networks
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
    distance = build_feature_distance(config, student, data.classes, data.has_background)
    student = student.to(device).train()
    if ranks.size > 1:
        share_layers(student)
    # without a target no batch passes the teacher, whose norms then must follow the student's
    norm = config.adaptation.teacher_norm if data.training.target is not None else "running"
    teacher = Teacher(student, config.adaptation.teacher_alpha, norm)
    if config.compile:
        compile_networks((student, teacher.model), (config.data.crop_height, config.data.crop_width), notice)
    return Learner(
        student=student,
        teacher=teacher,
        config=config,
        feature_distance=None if distance is None else distance.to(device),
        autocast=choose_precision(config.precision, device),
        batch=ranks.batch,
    )
