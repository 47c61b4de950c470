"""Several processes that train one network together, one for each GPU, as torchrun starts them.

    torchrun --nproc-per-node 2 -m hrda_core train RUN_DIR ...

The batch is shared out by sample, and whatever depends on all of it is exchanged (adaptation/whole_batch.py,
shared_layers.py), so that every process has the same networks and optimiser, those of a single process. Gradients of an
iteration's three backward passes are averaged once, at its end; DistributedDataParallel would do that after each pass, and
stumble over parameters that an architecture does not use.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hrda_core.adaptation.whole_batch import WholeBatch
from hrda_core.config import TrainConfig
from hrda_core.inference.predictor import choose_device
from hrda_core.training.rank_watch import RankWatch
from hrda_core.training.safety import in_words
from hrda_core.training.stopping import Stopped

Result = TypeVar("Result")

BUCKET = 2**24  # gradient values that are exchanged at once
PATIENCE = timedelta(days=7)  # of an exchange; the watch, not time, ends a training whose rank is gone


class AnotherRankFailed(RuntimeError):
    """This process is well, but another one has failed and tells why."""


class Ranks:
    """This process among those of one training. Alone, nothing is exchanged and every method gives what it was given.

    All ranks must call the same methods in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1, watch: RankWatch | None = None) -> None:
        self.rank, self.size, self._watch = rank, size, watch

    @property
    def first(self) -> bool:
        """The rank that writes files and tells events."""
        return self.rank == 0

    @property
    def batch(self) -> WholeBatch:
        return WholeBatch(self.size)

    def share(self, batch_size: int, times: int = 1) -> list[int]:
        """The samples of each batch that are this rank's; of `times` batches that pass one after the other, those of each."""
        own = batch_size // self.size
        first = range(self.rank * own, (self.rank + 1) * own)
        return [batch * batch_size + sample for batch in range(times) for sample in first]

    def device(self, name: str) -> torch.device:
        """`choose_device`, with a GPU of its own for each rank.

        Raises:
            ValueError: a GPU by number, or more ranks on this machine than it has GPUs.
        """
        device = choose_device(name)
        if self.size == 1 or device.type == "cpu":
            return device
        if device.index is not None:
            raise ValueError(
                f"device={name!r}: each of the {self.size} processes takes a GPU of its own; use 'cuda', and choose GPUs by "
                f"the environment variable CUDA_VISIBLE_DEVICES"
            )
        local, gpus = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if local >= gpus:
            raise ValueError(f"device={name!r}: this machine has {gpus} GPUs; start at most {gpus} processes on it")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        return device

    def check_batch(self, batch_size: int) -> None:
        """Raises ValueError where the batch cannot be shared out equally."""
        if batch_size % self.size:
            raise ValueError(
                f"optimisation.batch_size={batch_size}: is the batch of all {self.size} processes together; "
                f"use a multiple of {self.size}, or start fewer processes"
            )

    # -- agreement -----------------------------------------------------------------------------------------------

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Each flag: whether it is set on any rank."""
        if self.size == 1:
            return list(flags)
        numbers = torch.tensor(list(flags), dtype=torch.int32)  # on the CPU, so that nobody waits for a GPU
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return [bool(number) for number in numbers.tolist()]

    def together(self, work: Callable[[], Result]) -> list[Result]:
        """The result of every rank, in order, on every rank.

        Raises:
            Stopped: on all ranks, where the work of any of them was stopped.
        """
        if self.size == 1:
            return [work()]
        try:
            mine: tuple[str, Any] = ("done", work())
        except Stopped:
            mine = ("stopped", None)
        everything: list[Any] = [None] * self.size
        dist.all_gather_object(everything, mine)
        return [_unpacked(*part) for part in everything]

    def from_first(self, work: Callable[[], Result]) -> Result:
        """The first rank does the work, all get its result; where it fails, all fail."""
        if self.size == 1:
            return work()
        message: list[Any] = [None]
        error: Exception | None = None
        if self.first:
            try:
                message = [("done", work())]
            except Stopped:
                message = [("stopped", None)]
            except Exception as caught:
                error, message = caught, [("failed", in_words(caught))]
        dist.broadcast_object_list(message, src=0)
        if error is not None:
            raise error
        result: Result = _unpacked(*message[0])
        return result

    def agreed(self, flag: bool, fix: str) -> bool:
        """The flag, which must be the same on all ranks.

        Raises:
            ValueError: `fix`, where it is not.
        """
        some, some_not = self.any([flag, not flag])
        if some and some_not:
            raise ValueError(fix)
        return flag

    # -- tensors -------------------------------------------------------------------------------------------------

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """In place. Every rank must have gradients of the same parameters."""
        if self.size == 1:
            return
        bucket: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is not None:
                bucket.append(parameter.grad)
            if sum(gradient.numel() for gradient in bucket) >= BUCKET:
                self._average(bucket)
                bucket = []
        if bucket:
            self._average(bucket)

    def average(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scalars by name."""
        if self.size == 1:
            return dict(values)
        stacked = torch.stack([value.float() for value in values.values()])
        self._average([stacked])
        return dict(zip(values, stacked.unbind(), strict=True))

    def check_same(self, networks: Mapping[str, nn.Module], iteration: int) -> None:
        """Raises RuntimeError where a network is not the same on all ranks, which by construction it is."""
        if self.size == 1:
            return
        for name, network in networks.items():
            total = torch.stack([value.detach().double().sum() for value in network.state_dict().values()]).sum().cpu()
            low, high = total.clone(), total
            dist.all_reduce(low, op=dist.ReduceOp.MIN)
            dist.all_reduce(high, op=dist.ReduceOp.MAX)
            if not bool(low == high):
                raise RuntimeError(
                    f"the {name}'s weights differ between the ranks at iteration {iteration}: "
                    f"start all with the same settings, data, files of weights and versions of the software"
                )

    def _average(self, tensors: list[Tensor]) -> None:
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    # -- the end -------------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until every rank is here."""
        self.any([False])

    def is_the_reason(self, error: BaseException) -> bool:
        """Whether this error ends the training, and is not just another rank's end as it is felt here."""
        if self._watch is None:
            return True
        if isinstance(error, AnotherRankFailed):
            return False
        if isinstance(error, RuntimeError):  # which a failed exchange is, too
            self._watch.suspect()
        return self._watch.fail(in_words(error) or type(error).__name__)


ALONE = Ranks()


def rank_of_environment() -> int:
    """Of this process, as torchrun sets it; 0 for one that was started by itself."""
    return int(os.environ.get("RANK", 0))


@contextlib.contextmanager
def joined(config: TrainConfig, told: Callable[[str], None]) -> Iterator[Ranks]:
    """The ranks of this training: those that torchrun started, by its environment variables, or this process alone.

    Args:
        told: hears a sentence where this process ends because another one is gone.
    """
    rank, size = rank_of_environment(), int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield ALONE
        return
    gpu = config.device != "cpu" and torch.cuda.is_available()
    dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", timeout=PATIENCE)
    watch = RankWatch(rank, size, told)
    ranks = Ranks(rank, size, watch)
    ranks.wait()
    watch.start()
    try:
        yield ranks
    except BaseException as error:
        watch.fail(in_words(error) or type(error).__name__)
        raise
    ranks.wait()  # nobody leaves while another one still needs it
    watch.leave()
    dist.destroy_process_group()


def _unpacked(state: str, result: Any) -> Any:
    if state == "stopped":
        raise Stopped
    if state == "failed":
        raise AnotherRankFailed(result)
    return result
