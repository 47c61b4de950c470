"""What a run writes into its checkpoints."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hrda_core.adaptation.step import Learner
from hrda_core.data.samples import Dataset
from hrda_core.inference.predictor import Preprocessing
from hrda_core.models.hrda import HRDA
from hrda_core.training.networks import model_options, plain_classes
from hrda_core.training.validation import Evaluation


def describe(
    learner: Learner,
    labelled: Dataset,
    preprocessing: Preprocessing,
    evaluations: Mapping[str, Evaluation],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """The checkpoint of a run's present state (models/checkpoints.py tells the format), without `resume`."""
    config = learner.config
    tuned = evaluations if config.inference.tune_thresholds else {}
    return {
        "model_config": {
            **model_options(config, len(labelled.classes)),
            "detail_overlap": config.inference.detail_overlap,  # in prediction, where the teacher's is not needed any more
        },
        "classes": plain_classes(labelled.classes),
        "preprocessing": {**preprocessing.as_plain(), "has_background": labelled.has_background},
        "student": _on_cpu(learner.student),
        "teacher": _on_cpu(learner.teacher.model),
        "selected": config.inference.network,
        "thresholds": {network: list(evaluation.tuned) for network, evaluation in tuned.items()},
        "metrics": {network: evaluation.argmax.as_dict() for network, evaluation in evaluations.items()},
        "provenance": {
            **provenance,
            "config": config.as_dict(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _on_cpu(model: HRDA) -> dict[str, Tensor]:
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
