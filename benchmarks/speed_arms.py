"""One arm of benchmarks.speed: tasks are read from standard input, a line of JSON answers each."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.tiling import peak_bytes
from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.losses import multi_resolution_loss
from hrda_core.adaptation.step import Learner, SourceBatch, TargetBatch, step
from hrda_core.adaptation.teacher import Teacher
from hrda_core.allocator import held_memory
from hrda_core.config import TrainConfig
from hrda_core.data.decoding import read_image
from hrda_core.inference.predictor import choose_precision
from hrda_core.inference.tiling import slide_logits
from hrda_core.models.build import build_model
from hrda_core.models.published_order import use_published_order
from hrda_core.presets import preset
from hrda_core.training.optimisation import build_optimizer

CLASSES, BATCH, WINDOW = 19, 2, 512
STARTED = time.perf_counter()


@dataclass(frozen=True)
class Arm:
    """reference: the published order, and PyTorch's own memory. windows overlap by the share `overlap`."""

    about: str
    reference: bool = False
    precision: str = "fp32"
    overlap: float = 0.5


ARMS = {
    "reference": Arm("fp32, published order of operations, memory as PyTorch takes it", reference=True, precision="reference"),
    "default": Arm("fp32, the same function with less work, memory in large pages, held while training"),
    "bf16": Arm("approximation: bf16 autocast", precision="bf16"),
    "fewer windows": Arm("approximation: detail windows without overlap, in the teacher and at inference", overlap=0.0),
    "both": Arm("approximation: bf16 and detail windows without overlap", precision="bf16", overlap=0.0),
}


class Tasks:
    """The networks of an arm, and what is timed on them."""

    def __init__(self, arm: Arm, encoder: str, crop: int, device: str, sizes: list[str]) -> None:
        self.device = torch.device(device)
        torch.manual_seed(0)
        base = preset("published-hrda").updated({"data": {"crop_height": crop, "crop_width": crop}})
        self.config: TrainConfig = base.updated({"model": {"encoder": encoder}, "adaptation": {"feature_distance_weight": 0.0}})
        options: dict[str, Any] = {"detail_size": crop // 2, "detail_overlap": arm.overlap}
        model = use_published_order(build_model(encoder, CLASSES, **options), arm.reference)
        self.student = model.to(self.device).train()
        autocast = choose_precision(arm.precision, self.device)
        self.learner = Learner(self.student, Teacher(self.student, norm="batch"), self.config, autocast=autocast)
        self.optimizer = build_optimizer(self.student, self.config.optimisation, fused=not arm.reference)
        self.predicting = use_published_order(build_model(encoder, CLASSES, **options), arm.reference).to(self.device).eval()
        self.predicting.detail_size = (WINDOW // 2, WINDOW // 2)
        self.image = torch.randn(BATCH, 3, crop, crop, device=self.device)
        self.label = torch.randint(0, CLASSES, (BATCH, crop, crop), device=self.device)
        self.iteration = 0
        self.training_memory = ExitStack()
        if not arm.reference:
            self.training_memory.enter_context(held_memory(device))
        self.by_name: dict[str, Callable[[], object]] = {
            "forward and backward": self.forward_backward,
            "teacher": lambda: self.learner.teacher.logits(self.image),
            "EMA": lambda: self.learner.teacher.update(self.student, 10),
            "optimiser": self.optimise,
            "training step": self.train,
        }
        for size in sizes:
            height, width = (int(side) for side in size.split("x"))
            self.by_name[f"inference {size}"] = lambda h=height, w=width: self.predict(h, w)  # type: ignore[misc]
        self.by_name["decoding the images of a step"] = self.decode
        self.photo = Path(tempfile.mkdtemp()) / "photo.jpg"
        noise = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8)
        cv2.imwrite(str(self.photo), cv2.GaussianBlur(noise, (0, 0), 1.5))

    def forward_backward(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        box = StepDraws(0, 0, self.config.adaptation).detail_box("source", *self.image.shape[2:])
        enabled = self.learner.autocast is not None
        with torch.autocast(self.device.type, dtype=self.learner.autocast or torch.bfloat16, enabled=enabled):
            output = self.student(self.image, box)
        multi_resolution_loss(output, self.label, None, box).total.backward()

    def optimise(self) -> None:
        if all(p.grad is None for p in self.student.parameters()):
            self.forward_backward()
        self.optimizer.step()

    def train(self) -> None:
        """A whole iteration: EMA, source, teacher, mixing, augmentation, mixed, optimiser."""
        self.optimizer.zero_grad(set_to_none=True)
        target = TargetBatch(self.image, torch.ones_like(self.image[:, 0]))
        draws = StepDraws(0, self.iteration, self.config.adaptation)
        step(self.learner, self.iteration, SourceBatch(self.image, self.label), target, draws)
        self.optimizer.step()
        self.iteration += 1

    def predict(self, height: int, width: int) -> None:
        self.training_memory.close()
        image = torch.randn(1, 3, height, width, device=self.device)
        enabled = self.learner.autocast is not None
        with torch.autocast(self.device.type, dtype=self.learner.autocast or torch.bfloat16, enabled=enabled):
            slide_logits(self.predicting, image, (WINDOW, WINDOW), batch=1)

    def decode(self) -> None:
        """Two labelled images and two photos as JPEG of 2048 x 1024, by one loading process, against a training step.

        benchmarks.loading measures the whole of loading.
        """
        for _ in range(2 * BATCH):
            read_image(self.photo)

    def timed(self, name: str) -> dict[str, float]:
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
        started = time.perf_counter()
        self.by_name[name]()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "peak_mb": (torch.cuda.max_memory_allocated() if cuda else peak_bytes()) / 1e6}


def main() -> None:
    name, encoder, crop, device, threads, *sizes = sys.argv[1:]
    torch.set_num_threads(int(threads))
    cv2.setNumThreads(1)
    tasks = Tasks(ARMS[name], encoder, int(crop), device, sizes)
    start_seconds = time.perf_counter() - STARTED
    for line in sys.stdin:
        task = line.strip()
        if task == "about":
            answer: dict[str, Any] = {"arm": name, "threads": torch.get_num_threads(), "start_seconds": start_seconds}
        elif task == "tasks":
            answer = {"tasks": list(tasks.by_name)}
        else:
            answer = tasks.timed(task)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
