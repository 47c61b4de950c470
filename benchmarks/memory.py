"""What training takes in memory: counted for every row of the app's model table, and checked against processes that train.

    python -m benchmarks.memory table  # writes train_app/model_figures.json; minutes
    python -m benchmarks.memory check  # peak memory of processes on the CPU beside the estimate

Counting builds a network without any weights and runs a loss forward on tensors without content: what autograd keeps for
the backward pass is exactly what a real iteration holds at its peak, apart from the gradients of single layers.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.losses import multi_resolution_loss
from hrda_core.adaptation.step import Learner, SourceBatch, TargetBatch, step
from hrda_core.adaptation.teacher import Teacher
from hrda_core.config import TrainConfig
from hrda_core.models.build import build_model
from hrda_core.training.optimisation import build_optimizer
from train_app.memory_estimate import BF16, estimate_bytes
from train_app.model_figures import FIGURES, Figures

MODELS = Path(__file__).parents[1] / "train_app" / "models.json"
CROPS = {True: 448, False: 512}  # of encoders with patches of 14 pixels, and of all others
CHECKED = (("resnet10t", 256, 2), ("pvt_v2_b0", 256, 2), ("mit_b1", 256, 1), ("mobilenetv2_100", 384, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["table", "check", "one"])
    parser.add_argument("--case", nargs=3, default=("resnet10t", "256", "2"), help="of one: encoder, crop, batch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "table":
        names = [row["meta"]["model_name"] for row in json.loads(MODELS.read_text())]
        figures = {name: count(name) for name in names if name != "own encoder"}
        FIGURES.write_text(json.dumps({name: f._asdict() for name, f in figures.items()}, indent=1) + "\n")
    elif options.what == "one":
        encoder, crop, batch = options.case
        print(*measure(encoder, int(crop), int(batch)))
    else:
        print(
            "| encoder | crop | batch | program alone, MB | measured, MB | estimated, MB | estimated / measured |\n| --- "
            + "| --- " * 6
            + "|"
        )
        for encoder, crop, batch in CHECKED:  # a process each, since peaks never sink
            command = [sys.executable, "-m", "benchmarks.memory", "one", "--case", encoder, str(crop), str(batch)]
            answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            measured, before = (int(part) for part in answer.split())
            config = TrainConfig().changed([f"model.encoder={encoder}", f"data.crop_height={crop}", f"data.crop_width={crop}"])
            config = config.changed([f"optimisation.batch_size={batch}", "precision=fp32"])
            estimated = estimate_bytes(config, "cpu")
            assert estimated is not None
            figures = " | ".join(f"{size / 1e6:.0f}" for size in (before, measured, estimated))
            print(f"| {encoder} | {crop} | {batch} | {figures} | {estimated / measured:.2f} |", flush=True)


def count(encoder: str) -> Figures:
    """Of one encoder with the standard head, at a batch of one crop."""
    crop = CROPS["patch14" in encoder]
    kept = {bf16: kept_bytes(encoder, crop, bf16)[0] / crop**2 for bf16 in (False, True)}
    with torch.device("meta"):
        model = build_model(encoder, 2)
    sizes = [sum(p.numel() for p in part.parameters()) for part in (model, model.encoder)]
    kept_bf16 = kept[True] - BF16 * sizes[0] / crop**2  # copies of the weights, which do not grow with the crop
    return Figures(sizes[0], sizes[1], round(kept[False]), round(kept_bf16), kept_bytes(encoder, crop, False)[1] // crop**2)


def kept_bytes(encoder: str, crop: int, bf16: bool) -> tuple[int, int]:
    """Bytes that the backward pass of one crop needs, weights not counted, and multiply-adds of the forward pass."""
    kept: dict[int, int] = {}
    storages = []  # held, so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storages.append(tensor.untyped_storage())
        kept[storages[-1]._cdata] = storages[-1].nbytes()
        return tensor

    with torch.device("meta"):
        model = build_model(encoder, 2, detail_size=crop // 2).train()
    with FakeTensorMode():
        without_content(model)
        weights = {p.untyped_storage()._cdata for p in model.parameters()}
        image, label = torch.zeros(1, 3, crop, crop), torch.zeros(1, crop, crop, dtype=torch.int64)
        box = StepDraws(0, 0, TrainConfig().adaptation, "half").detail_box("source", crop, crop)
        with FlopCounterMode(display=False) as flops, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = model(image, box)
            multi_resolution_loss(output, label, None, box, 0.1, 0.0, 0.0)
    return sum(size for address, size in kept.items() if address not in weights), flops.get_total_flops() // 2


def without_content(model: nn.Module) -> None:
    """Parameters and buffers of shapes alone, in the fake mode that is active."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.empty(parameter.shape))
        for name, buffer in list(module._buffers.items()):
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)


def measure(encoder: str, crop: int, batch: int) -> tuple[int, int]:
    """Peak bytes of this process after two whole iterations, and before anything was built."""
    before = peak()
    crop_by_crop = ["adaptation.source_warmup=0", "adaptation.rounds=0"]  # the heavier way: the teacher sees every crop
    config = TrainConfig().changed([f"model.encoder={encoder}", *crop_by_crop]).resolve(2, True, 0.05)
    student = build_model(encoder, 2, detail_size=crop // 2).train()
    learner = Learner(student, Teacher(student, 0.999, "running"), config)
    optimizer = build_optimizer(student, config.optimisation)
    image, label = torch.randn(batch, 3, crop, crop), torch.zeros(batch, crop, crop, dtype=torch.int64)
    for iteration in range(2):
        optimizer.zero_grad(set_to_none=True)
        draws = StepDraws(0, iteration, config.adaptation, "half")
        step(learner, iteration, SourceBatch(image, label), TargetBatch(image, torch.ones(batch, crop, crop)), draws)
        optimizer.step()
    return peak(), before


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
