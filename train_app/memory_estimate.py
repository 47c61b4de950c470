"""What a training takes in memory, before it is started.

The estimate adds up weights, gradients, both moments of the optimiser, the teacher and the encoder of the feature distance,
what the backward pass needs (counted per pixel, see benchmarks/memory.py), and the program itself. What is needed beside, for
gradients of single layers, the teacher's windows and buffers of convolutions, is a factor: the one that trainings showed, on a
CPU several, on GPUs MiT-B5 with crops of 1024 and batch 2 (an H200 reserved 9.1 GB in bf16, 19.7 in the reference's float32).
"""

from __future__ import annotations

from hrda_core import TrainConfig
from train_app.model_figures import figures_of_encoder

FLOAT, BF16 = 4, 2  # bytes
COPIES = 5  # of the network: student, gradients, two moments of AdamW, teacher
WORKING = {"cpu": 3.1, "cuda": 1.9, "cuda, bf16": 1.6}  # times what is kept
PROGRAM = {"cpu": 780_000_000, "cuda": 600_000_000}  # the process with its libraries; the driver's context
WARN_FROM = 0.9  # of what is free


def estimate_bytes(config: TrainConfig, device: str) -> int | None:
    """At the peak of an iteration, without loading processes; None where nothing is known of the encoder.

    With smaller heads than the standard ones, or without the detail crop, it takes less.
    """
    figures = figures_of_encoder(config.model.encoder)
    if figures is None:
        return None
    kind = "cuda" if device.startswith("cuda") else "cpu"
    bf16 = config.precision == "bf16" or (config.precision == "auto" and kind == "cuda")
    pixels = config.optimisation.batch_size * config.data.crop_height * config.data.crop_width
    has_distance = config.adaptation.feature_distance_weight > 0 and config.model.pretrained
    weights = COPIES * figures.parameters + (figures.encoder_parameters if has_distance else 0)
    kept = pixels * (figures.kept_bf16 if bf16 else figures.kept)
    copies = BF16 * figures.parameters if bf16 else 0
    working = WORKING["cuda, bf16" if kind == "cuda" and bf16 else kind]
    return int(FLOAT * weights + copies + working * kept + PROGRAM[kind])


def free_bytes(device: str) -> int | None:
    """What the device has left; None where it cannot be asked."""
    if device.startswith("cuda"):
        import torch  # late: the page loads without it

        return int(torch.cuda.mem_get_info(device)[0]) if torch.cuda.is_available() else None
    import psutil

    return int(psutil.virtual_memory().available)


def memory_sentence(config: TrainConfig, device: str, free: int | None) -> tuple[str, str]:
    """What to tell, and its status: a warning where it will hardly fit."""
    needed = estimate_bytes(config, device)
    if needed is None:
        return (
            f"Memory: nothing is known of encoder {config.model.encoder!r}; a run that does not fit says so at its start",
            "info",
        )
    where = "the CPU's memory" if device == "cpu" else f"memory of {device}"
    text = f"Memory: about {_gb(needed)} of {where} (estimated from batch, crop, precision and model)"
    if free is None:
        return text, "info"
    if needed > WARN_FROM * free:
        return f"{text}, and {_gb(free)} are free: use a smaller batch or crop, or a smaller model", "warning"
    return f"{text}; {_gb(free)} are free", "info"


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
