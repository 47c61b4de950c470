"""What can go wrong in the middle of a run, found early and said in a sentence."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.step import Learner, SourceBatch, TargetBatch, step
from hrda_core.config import TrainConfig
from hrda_core.training.optimisation import build_optimizer


def check_losses(values: Mapping[str, float], iteration: int, config: TrainConfig) -> None:
    """Raises FloatingPointError where a logged average is NaN or infinite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise FloatingPointError(f"{name} became {value} at iteration {iteration}: {_advice(config)}")


def check_weights(model: nn.Module, iteration: int, config: TrainConfig) -> None:
    """Raises FloatingPointError where a weight is NaN or infinite; one transfer from the device for all of them."""
    names = [name for name, _ in model.named_parameters()]
    finite = torch.stack([p.detach().isfinite().all() for p in model.parameters()]).tolist()
    for name, good in zip(names, finite, strict=True):
        if not good:
            raise FloatingPointError(f"weight {name} became NaN or infinite by iteration {iteration}: {_advice(config)}")


def is_out_of_memory(error: BaseException) -> bool:
    texts = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in texts)
    )


def out_of_memory_message(learner: Learner, device: torch.device, iteration: int, ranks: int = 1) -> str:
    """Names batch and crop, and a smaller setting that was tried here and fits. The learner is used up by the trials.

    With several ranks nothing is tried, since the others would have to take part.
    """
    config = learner.config
    data, batch = config.data, config.optimisation.batch_size
    text = (
        f"out of memory on {device} at iteration {iteration} with optimisation.batch_size={batch} and crops of "
        f"data.crop_height={data.crop_height} x data.crop_width={data.crop_width}: "
    )
    if ranks > 1:
        return f"{text}a batch is shared by {ranks} processes; {_less_for_ranks(batch, ranks)}"
    for smaller in _smaller(config, learner.student.size_multiple, learner.student.min_size):
        if _fits(learner, device, smaller):
            return f"{text}{_difference(config, smaller)} fits"
    return f"{text}not even the smallest crop with batch 1 fits; use a smaller model.encoder, or device=cpu"


@contextmanager
def telling_a_full_disk(directory: Path) -> Iterator[None]:
    """Turns "no space left" into a sentence that says where, and that nothing is lost."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"the disk of run directory {directory} is full: free some space, then resume; the last checkpoint is whole",
        ) from error


def in_words(error: BaseException) -> str:
    """The sentence of an error; without "[Errno 28]" where the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return str(error.strerror)
    return str(error)


def _advice(config: TrainConfig) -> str:
    return (
        f"lower optimisation.learning_rate (now {config.optimisation.learning_rate}) or set "
        f"optimisation.clip_gradient_norm (now {config.optimisation.clip_gradient_norm}); "
        f"the last checkpoint is from before"
    )


def _less_for_ranks(batch: int, ranks: int) -> str:
    if batch > ranks:
        return f"use optimisation.batch_size={batch // ranks // 2 * ranks}, or smaller crops"
    return "use smaller crops or a smaller model.encoder"


def _smaller(config: TrainConfig, multiple: int, smallest: int) -> Iterable[TrainConfig]:
    """Half the batch, again and again; then smaller crops one by one."""
    batch, accumulation = config.optimisation.batch_size, config.optimisation.accumulation
    while batch > 1:
        batch //= 2
        accumulation = math.gcd(batch, accumulation)
        config = config.updated({"optimisation": {"batch_size": batch, "accumulation": accumulation}})
        yield config
    multiple = math.lcm(multiple, 32)  # the detail crop is half of the crop, and a multiple of 16
    smallest = -(-max(smallest, 64) // multiple) * multiple
    height, width = config.data.crop_height, config.data.crop_width
    while min(height, width) > smallest:
        height, width = (max(3 * side // 4 // multiple * multiple, smallest) for side in (height, width))
        yield config.updated({"data": {"crop_height": height, "crop_width": width}})


def _difference(before: TrainConfig, now: TrainConfig) -> str:
    """The fields of batch and crop to set, the batch always."""
    optimisation, data = now.optimisation, now.data
    fields = [f"optimisation.batch_size={optimisation.batch_size}"]
    if optimisation.accumulation != before.optimisation.accumulation:
        fields.append(f"optimisation.accumulation={optimisation.accumulation}")
    if (data.crop_height, data.crop_width) != (before.data.crop_height, before.data.crop_width):
        fields += [f"data.crop_height={data.crop_height}", f"data.crop_width={data.crop_width}"]
    return ", ".join(fields)


def _fits(learner: Learner, device: torch.device, config: TrainConfig) -> bool:
    """One whole iteration on noise, as heavy as a real one."""
    config = replace(config, adaptation=replace(config.adaptation, source_warmup=0))
    batch, height, width = config.optimisation.batch_size, config.data.crop_height, config.data.crop_width
    adapting = config.mode in ("adapt", "semi-supervised")
    part = 2 if config.model.detail_crop == "half" else 1
    learner.student.detail_size = learner.teacher.model.detail_size = (height // part, width // part)
    learner.student.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    try:
        image = torch.randn(batch, 3, height, width, device=device)
        label = torch.zeros(batch, height, width, dtype=torch.int64, device=device)
        optimizer = build_optimizer(learner.student, config.optimisation)
        draws = StepDraws(config.seed, 0, config.adaptation, config.model.detail_crop)
        # a recorded pass would write into gradients that are gone
        trial = replace(learner, config=config, student_forward=None)
        step(trial, 0, SourceBatch(image, label), _noise(config, device) if adapting else None, draws)
        optimizer.step()
    except Exception as error:
        if is_out_of_memory(error):
            return False
        raise
    return True


def _noise(config: TrainConfig, device: torch.device) -> TargetBatch:
    """As many crops of photos as an iteration has at most."""
    in_rounds = config.adaptation.rounds > 0  # then nobody asks the teacher about crops
    photos = config.optimisation.batch_size * (config.adaptation.round_crops if in_rounds else 1)
    size = config.data.crop_height, config.data.crop_width
    seen = torch.zeros(photos, 3, *size, dtype=torch.uint8, device=device) if in_rounds else None
    return TargetBatch(torch.randn(photos, 3, *size, device=device), torch.ones(photos, *size, device=device), seen)
