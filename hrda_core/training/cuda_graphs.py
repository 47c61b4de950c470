"""Recorded training passes (models/recording.py): the shapes of crops and details are the same in every iteration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.step import Learner
from hrda_core.adaptation.zooms import zoomed_size
from hrda_core.models.half_weights import HalfWeights
from hrda_core.models.hrda import HRDA, BothResolutions, Box, HRDAOutput
from hrda_core.models.passes import autocast, state_kept
from hrda_core.models.recording import WARM_UP, Pool, RecordedShapes, quiet_stream


def record(learner: Learner) -> None:
    """Student and teacher of a run on a GPU, from now on. Modes without adaptation ask nothing of the teacher about crops.

    Raises:
        RuntimeError: an operation that cannot be recorded, or too little memory.
    """
    with torch.cuda.device(next(learner.student.parameters()).device):  # recordings are made on the current one
        _record(learner)
        torch.cuda.empty_cache()  # what warming up took, which is not the recordings'


def _record(learner: Learner) -> None:
    config, student = learner.config, learner.student
    device = next(student.parameters()).device
    batch = config.optimisation.batch_size
    image = torch.zeros(batch, 3, config.data.crop_height, config.data.crop_width, device=device)
    box = StepDraws(config.seed, 0, config.adaptation, config.model.detail_crop).detail_box("source", *image.shape[2:])
    pool = torch.cuda.graph_pool_handle()  # the teacher never runs between the student's forward and backward pass
    part = image[: batch // config.optimisation.accumulation]
    teacher: RecordedShapes | None = None
    if config.mode in ("adapt", "semi-supervised") and config.adaptation.rounds < 1:  # in rounds it labels whole photos
        height, width = image.shape[2:]
        sizes = {zoomed_size(height, width, zoom) for zoom in config.adaptation.teacher_zooms or (1.0,)}
        with state_kept(learner.teacher.network):
            examples = [image.new_zeros((*image.shape[:2], *size)) for size in sizes]
            teacher = RecordedShapes(learner.teacher.network.logits, examples, learner.autocast, pool)
    learner.student_forward = RecordedStudent(student, part, box, learner.autocast, pool)
    learner.teacher.recorded = teacher


class RecordedStudent(nn.Module):
    """The student's forward and backward pass. Gradients are added to `grad` of its parameters, which must stay allocated.

    Outputs hold until the next pass, so that each must be followed by its backward pass, as in training. An image of another
    shape, or a network that is not in training, takes the plain way.
    """

    def __init__(self, student: HRDA, image: Tensor, box: Box, precision: torch.dtype | None, pool: Pool) -> None:
        super().__init__()
        self._student = [student]  # not a child: its parameters are the student's own
        self._shape = image.shape
        crops = student.crops(image, box)
        self._box_size = crops[1].shape

        half = None if precision is None else HalfWeights(student, precision, learns=True)
        network = student if half is None else half.network

        def run(*images: Tensor) -> Sequence[Tensor]:
            if half is not None:
                half.refresh()
            with autocast(images[0].device, precision):
                return network.both_resolutions(*images)

        pairs = zip(network.parameters(), student.parameters(), strict=True)
        with state_kept(student):
            self._recording = Recording(run, crops, [pair for pair in pairs if pair[1].requires_grad], pool)

    def forward(self, image: Tensor, box: Box) -> HRDAOutput:
        student = self._student[0]
        if image.shape != self._shape or not student.training:
            output: HRDAOutput = student(image, box)
            return output
        crops = student.crops(image, box)
        if crops[1].shape != self._box_size:
            raise ValueError(f"detail_box={tuple(box)}: the recorded pass is for details of {tuple(self._box_size[2:])} px")
        return student.fuse(BothResolutions(*self._recording(*crops)), box)


class Recording:
    """A function of tensors of fixed shapes, and its gradients, which each backward pass adds up.

    parameters: those that the function calculates with, and those whose `grad` gets the gradients.
    """

    def __init__(
        self,
        function: Callable[..., Sequence[Tensor]],
        examples: Sequence[Tensor],
        parameters: list[tuple[nn.Parameter, nn.Parameter]],
        pool: Pool,
    ) -> None:
        self.function = function  # what it calculates with must live as long as the recording, which knows only addresses
        self.inputs = [example.detach().clone() for example in examples]
        self.anchor = torch.zeros((), device=self.inputs[0].device, requires_grad=True)  # makes autograd ask for gradients
        for _, learned in parameters:
            if learned.grad is None:
                learned.grad = torch.zeros_like(learned)

        with quiet_stream():
            for _ in range(WARM_UP):
                outputs = function(*self.inputs)
                add_gradients(outputs, [torch.zeros_like(output) for output in outputs], parameters)
            del outputs
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.forward, pool=pool):
            outputs = function(*self.inputs)
        self.gradients = [torch.zeros_like(output) for output in outputs]
        with torch.cuda.graph(self.backward, pool=pool):
            add_gradients(outputs, self.gradients, parameters)
        self.constant = [not output.requires_grad for output in outputs]
        self.outputs = [output.detach() for output in outputs]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs: tuple[Tensor, ...] = _Replay.apply(self.anchor, self, *inputs)
        return outputs


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, recording: Recording, *inputs: Tensor) -> tuple[Tensor, ...]:
        ctx.recording = recording
        for place, given in zip(recording.inputs, inputs, strict=True):
            place.copy_(given)
        recording.forward.replay()
        outputs = tuple(output.detach() for output in recording.outputs)
        ctx.mark_non_differentiable(*(o for o, constant in zip(outputs, recording.constant, strict=True) if constant))
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        recording: Recording = ctx.recording
        for place, given in zip(recording.gradients, gradients, strict=True):
            place.copy_(given)
        recording.backward.replay()
        return (None, None, *(None for _ in recording.inputs))


def add_gradients(
    outputs: Sequence[Tensor], gradients: Sequence[Tensor], parameters: list[tuple[nn.Parameter, nn.Parameter]]
) -> None:
    """Adds to `grad` of the second of each pair of parameters what the first has: the same one, or its copy in half precision."""
    differentiable = [(output, gradient) for output, gradient in zip(outputs, gradients, strict=True) if output.requires_grad]
    used, learned = [p for p, _ in parameters], [p for _, p in parameters]
    found = torch.autograd.grad([o for o, _ in differentiable], used, [g for _, g in differentiable], allow_unused=True)
    pairs = [(p.grad, g) for p, g in zip(learned, found, strict=True) if p.grad is not None and g is not None]
    # of equal layout, so that a few launches do for all
    sums = [gradient if _alike(total, gradient) else torch.empty_like(total) for total, gradient in pairs]
    moved = [(s, g) for s, (_, g) in zip(sums, pairs, strict=True) if s is not g]
    regular = [(s, g) for s, g in moved if s.stride() == g.stride()]
    if regular:
        torch._foreach_copy_([s for s, _ in regular], [g for _, g in regular])
    for place, gradient in moved:
        if place.stride() != gradient.stride():
            place.copy_(gradient)
    torch._foreach_add_([total for total, _ in pairs], sums)


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.stride() == other.stride()
