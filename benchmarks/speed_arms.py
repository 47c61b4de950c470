"""One arm of benchmarks.speed: tasks are read from standard input, a line of JSON answers each."""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.tiling import peak_bytes
from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.losses import multi_resolution_loss
from hrda_core.adaptation.step import Learner, SourceBatch, TargetBatch, step
from hrda_core.adaptation.teacher import Teacher
from hrda_core.allocator import held_memory
from hrda_core.config import TrainConfig
from hrda_core.data.decoding import read_image
from hrda_core.data.samples import ClassInfo, Dataset, class_pixels
from hrda_core.inference.predictor import choose_precision
from hrda_core.inference.shared_details import SharedDetails
from hrda_core.inference.tiling import Tiling, logit_bands
from hrda_core.inference.window_network import WindowNetwork
from hrda_core.models.build import build_model
from hrda_core.models.compiling import compile_networks, predict_once
from hrda_core.models.hrda import HRDA, Box
from hrda_core.models.published_order import use_published_order
from hrda_core.presets import preset
from hrda_core.training.cuda_graphs import record
from hrda_core.training.learner import record_passes
from hrda_core.training.loading import Labelled, TrainingData, batches
from hrda_core.training.networks import preprocessing_of
from hrda_core.training.optimisation import build_optimizer

CLASSES, BATCH, WINDOW = 19, 2, 512
WORKERS = 4  # for labelled images, and as many for photos
STARTED = time.perf_counter()


@dataclass(frozen=True)
class Arm:
    """reference: the published order, and PyTorch's own memory. tf32: in matrix products too, where PyTorch leaves it off.

    overlap, inference_overlap: of detail windows, in the teacher and in prediction. graphs: passes are recorded (on a GPU).
    """

    about: str
    reference: bool = False
    precision: str = "auto"
    overlap: float = 0.5
    inference_overlap: float = 0.0
    tf32: bool = False
    graphs: bool = True
    compile: bool = False


ARMS = {
    "reference": Arm(
        "fp32, published order of operations, memory as PyTorch takes it", True, "reference", inference_overlap=0.5, graphs=False
    ),
    "reference, TF32": Arm(
        "the same with TF32 in matrix products, on a GPU", True, "reference", inference_overlap=0.5, tf32=True, graphs=False
    ),
    "default": Arm(
        "training: the same function with less work, on a GPU with bf16 autocast; prediction: details without overlap"
    ),
    "every window": Arm("the default, but details overlap in prediction too: on a CPU equal arithmetic", inference_overlap=0.5),
    "fp32": Arm("on a GPU: equal arithmetic", precision="fp32", inference_overlap=0.5),
    "unrecorded": Arm("on a GPU: the default without recorded passes", graphs=False),
    "compiled": Arm("on a GPU: the default with torch.compile", compile=True),
    "bf16": Arm("approximation: bf16 autocast", precision="bf16", inference_overlap=0.5),
    "fewer windows": Arm("approximation: the teacher's details do not overlap either", overlap=0.0),
    "both": Arm("approximation: bf16 and no overlap of details", precision="bf16", overlap=0.0),
}


class Tasks:
    """The networks of an arm, and what is timed on them."""

    def __init__(self, arm: Arm, encoder: str, crop: int, device: str, sizes: list[str]) -> None:
        self.device, self.arm = torch.device(device), arm
        torch.backends.cuda.matmul.allow_tf32 = arm.tf32
        torch.manual_seed(0)
        base = preset("published-hrda").updated({"data": {"crop_height": crop, "crop_width": crop, "workers": WORKERS}})
        changes = {"model": {"encoder": encoder}, "adaptation": {"feature_distance_weight": 0.0}, "mode": "adapt"}
        self.config: TrainConfig = base.updated({**changes, "optimisation": {"batch_size": BATCH}})
        self.options: dict[str, Any] = {"detail_size": crop // 2, "detail_overlap": arm.overlap}
        self.encoder, self.window = encoder, max(WINDOW, crop)
        self.autocast = choose_precision(arm.precision, self.device)
        self.student = self._network().train()
        teacher = Teacher(self.student, norm="batch", autocast=None if arm.reference else self.autocast)
        self.learner = Learner(self.student, teacher, self.config, autocast=self.autocast)
        self.image = torch.randn(BATCH, 3, crop, crop, device=self.device)
        self.label = torch.randint(0, CLASSES, (BATCH, crop, crop), device=self.device)
        if arm.compile:
            compile_networks((self.student, teacher.network), lambda: record(self.learner), print_error)
        elif arm.graphs and self.device.type == "cuda":
            record_passes(self.learner, print_error)
        self.optimizer = build_optimizer(self.student, self.config.optimisation, fused=not arm.reference)
        self.predicting: Callable[[Tensor], Tensor] | None = None
        self.latest = ""
        self.iteration = 0
        self.training_memory = ExitStack()
        if not arm.reference:
            self.training_memory.enter_context(held_memory(device))
        self.by_name: dict[str, Callable[[], object]] = {
            "forward and backward": self.forward_backward,
            "teacher": self.teach,
            "EMA": lambda: self.learner.teacher.update(self.student, 10),
            "optimiser": self.optimise,
            "training step": self.train,
        }
        self.photo = Path(tempfile.mkdtemp()) / "photo.jpg"
        noise = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), dtype=np.uint8)
        cv2.imwrite(str(self.photo), cv2.GaussianBlur(noise, (0, 0), 1.5))
        if self.device.type == "cuda":
            self.fed = self._fed()
            self.by_name[f"training step, fed by {2 * WORKERS} processes"] = lambda: next(self.fed)
        for size in sizes:
            height, width = (int(side) for side in size.split("x"))
            self.by_name[f"inference {size}"] = lambda h=height, w=width: self.predict(h, w)  # type: ignore[misc]
        self.by_name["decoding the images of a step"] = self.decode

    def _network(self) -> HRDA:
        model = use_published_order(build_model(self.encoder, CLASSES, **self.options), self.arm.reference)
        return model.to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None)

    def forward_backward(self) -> None:
        self.optimizer.zero_grad(set_to_none=self.learner.student_forward is None)
        box = StepDraws(0, 0, self.config.adaptation).detail_box("source", *self.image.shape[2:])
        with self._autocast():
            output = (self.learner.student_forward or self.student)(self.image, box)
        multi_resolution_loss(output, self.label, None, box).total.backward()

    def teach(self) -> None:
        with self._autocast():
            self.learner.teacher.logits(self.image)

    def optimise(self) -> None:
        if all(p.grad is None for p in self.student.parameters()):
            self.forward_backward()
        self.optimizer.step()

    def train(self) -> None:
        self._step(SourceBatch(self.image, self.label), TargetBatch(self.image, torch.ones_like(self.image[:, 0])))

    def _step(self, source: SourceBatch, target: TargetBatch | None) -> None:
        """A whole iteration: EMA, source, teacher, mixing, augmentation, mixed, optimiser."""
        self.optimizer.zero_grad(set_to_none=self.learner.student_forward is None)
        step(self.learner, self.iteration, source, target, StepDraws(0, self.iteration, self.config.adaptation))
        self.optimizer.step()
        self.iteration += 1

    def _fed(self) -> Iterator[None]:
        """Iterations on labelled images and photos of 2048 x 1024 from JPEG and PNG files, as a run reads them."""
        folder = self.photo.parent
        mask = np.random.default_rng(1).integers(0, CLASSES, (8, 16), dtype=np.uint8)
        cv2.imwrite(str(folder / "mask.png"), cv2.resize(mask, (2048, 1024), interpolation=cv2.INTER_NEAREST))
        classes = tuple(ClassInfo(str(c), (c, c, c), c) for c in range(CLASSES))
        source = Dataset([self.photo] * 16, [folder / "mask.png"] * 16, classes)
        labelled = Labelled(source, class_pixels(source))
        data = TrainingData(labelled, Dataset([self.photo] * 16, None, classes), None)
        preprocessing = preprocessing_of(self.config, self.student)
        for source_batch, target_batch in batches(data, self.config, preprocessing, self.device, 0):
            self._step(source_batch, target_batch)
            yield

    def predict(self, height: int, width: int) -> None:
        if self.predicting is None:
            self._end_training()
            network = self._network().eval()
            network.detail_size = (self.window // 2, self.window // 2)
            network.detail_overlap = self.arm.inference_overlap
            self.predicting = network.logits
            if not self.arm.reference:
                windows = WindowNetwork(network, self.device, self.autocast, 4)
                if self.arm.compile:
                    example = torch.zeros(1, 3, self.window, self.window, device=self.device)
                    compile_networks([windows.model], lambda: predict_once(windows.model, example, self.autocast), print_error)
                self.predicting = windows
        image = torch.randn(1, 3, height, width, device=self.device)

        def read(box: Box) -> Tensor:
            return image[:, :, box.top : box.bottom, box.left : box.right]

        tiling = Tiling((self.window, self.window), batch=4 if self.device.type == "cuda" else 1)
        shared = None if self.arm.reference else SharedDetails.of(self.predicting, tiling.boxes(height, width))
        for _ in logit_bands(read, self.predicting, (height, width), tiling, shared):
            pass

    def _end_training(self) -> None:
        """Its memory is not that of inference."""
        self.training_memory.close()
        if self.device.type == "cuda":
            del self.learner, self.student, self.optimizer, self.fed
            gc.collect()
            torch.cuda.empty_cache()

    def decode(self) -> None:
        """Two labelled images and two photos as JPEG of 2048 x 1024, by one loading process, against a training step.

        benchmarks.loading measures the whole of loading.
        """
        for _ in range(2 * BATCH):
            read_image(self.photo)

    def timed(self, name: str) -> dict[str, float]:
        cuda = self.device.type == "cuda"
        if cuda and name != self.latest:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        self.latest = name
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        self.by_name[name]()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "peak_mb": (torch.cuda.max_memory_reserved() if cuda else peak_bytes()) / 1e6}


def print_error(text: str) -> None:
    print(text, file=sys.stderr)


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
