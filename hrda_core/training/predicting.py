"""The networks of a run as they predict between two iterations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from hrda_core.adaptation.step import Learner
from hrda_core.inference.window_network import WindowNetwork
from hrda_core.models.compiling import without_compilation
from hrda_core.models.hrda import HRDA


@contextmanager
def predicting_windows(learner: Learner, network: str, device: torch.device) -> Iterator[WindowNetwork]:
    """ "student" or "teacher" in eval mode; afterwards both are as training needs them."""
    config = learner.config
    model: HRDA = learner.student if network == "student" else learner.teacher.model
    training, overlap = learner.student.training, model.detail_overlap
    model.eval()
    model.detail_overlap = config.inference.detail_overlap
    # one for all images: a batch that did not fit into memory is halved once, not for each image
    windows = WindowNetwork(model, device, learner.autocast, config.inference.tile_batch, config.precision != "reference")
    try:
        # images of many sizes would be compiled one by one
        with without_compilation() if config.compile else nullcontext():
            yield windows
    finally:
        model.detail_overlap = overlap
        learner.student.train(training)
        learner.teacher.set_mode()
