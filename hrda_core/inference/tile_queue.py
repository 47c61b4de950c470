"""Tiles of concurrent requests in shared batches: one thread runs the network, everyone else waits in line."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from hrda_core.inference.window_network import Part, WindowNetwork
from hrda_core.models.hrda import Box

POLL = 0.05  # seconds between two looks at whether the client is still there


class DeadlinePassed(TimeoutError):
    """The request took longer than it may."""


class ClientStopped(RuntimeError):
    """The client went away, or pressed Stop."""


class EngineClosed(RuntimeError):
    """The model was taken out of service, say, by another one."""


@dataclass
class TileStatistics:
    """tiles: windows done since the start. batches: of windows, how many of each size. halvings: for want of memory."""

    tiles: int = 0
    batches: Counter[int] = field(default_factory=Counter)
    halvings: int = 0


class _Job(NamedTuple):
    """Windows (n, 3, h, w) of one request, or details of them, and where the network's answer goes."""

    windows: Tensor
    part: Part
    answer: Future[Tensor]


def _alike(one: _Job, other: _Job) -> bool:
    return one.part is other.part and one.windows.shape[1:] == other.windows.shape[1:]


class TileQueue:
    """Runs the network for many threads, in the order in which they ask.

    The request in front always goes next; windows of the others that have its shape fill the batch up, where they `share`. A
    large image has one batch of windows in line at a time, so that a small one never waits for all of it.
    """

    def __init__(self, network: WindowNetwork, share: bool = True) -> None:
        self.network = network
        self.share = share
        self._jobs: deque[_Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._statistics = TileStatistics()
        self._worker = threading.Thread(target=self._work, name="tiles", daemon=True)
        self._worker.start()

    def submit(self, windows: Tensor, part: Part = Part.WHOLE) -> Future[Tensor]:
        """Normalised (n, 3, h, w) on the network's device -> what `part` says, in a while. May be cancelled.

        Raises:
            EngineClosed: after `close`.
        """
        job = _Job(windows, part, Future())
        with self._change:
            if self._closed:
                raise EngineClosed("the model was taken out of service; send the request again")
            self._jobs.append(job)
            self._change.notify()
        return job.answer

    def __len__(self) -> int:
        """Tiles in line."""
        with self._change:
            return sum(len(job.windows) for job in self._jobs if job.part is not Part.DETAIL)

    def statistics(self) -> TileStatistics:
        with self._change:
            return TileStatistics(self._statistics.tiles, Counter(self._statistics.batches), self._statistics.halvings)

    def close(self) -> None:
        """Ends the thread after its batch; who still waits in line gets `EngineClosed`."""
        with self._change:
            self._closed = True
            left, self._jobs = list(self._jobs), deque()
            self._change.notify()
        for job in left:
            if job.answer.set_running_or_notify_cancel():
                job.answer.set_exception(EngineClosed("the model was taken out of service; send the request again"))
        self._worker.join()

    def _work(self) -> None:
        with torch.no_grad():  # belongs to a thread, not to the caller
            while (batch := self._next_batch()) is not None:
                if batch:
                    self._run(batch)

    def _next_batch(self) -> list[_Job] | None:
        """The job in front and those that fit beside it; empty where all were abandoned, None at the end."""
        with self._change:
            while not self._jobs and not self._closed:
                self._change.wait()
            if self._closed:
                return None
            batch: list[_Job] = []
            rest: deque[_Job] = deque()
            room = self.network.limit(self._jobs[0].windows, self._jobs[0].part)
            for job in self._jobs:
                fits = not batch or (self.share and _alike(job, batch[0]) and len(job.windows) <= room)
                if not fits:
                    rest.append(job)
                elif job.answer.set_running_or_notify_cancel():
                    batch.append(job)
                    room -= len(job.windows)
            self._jobs = rest
            return batch

    def _run(self, jobs: list[_Job]) -> None:
        first, part = jobs[0].windows, jobs[0].part
        limit = self.network.limit(first, part)
        try:
            windows = jobs[0].windows if len(jobs) == 1 else torch.cat([job.windows for job in jobs])
            answers = self.network(windows, part)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:  # one by one, so that nobody gets the error of another
                self._run([job])
            return
        with self._change:
            if part is not Part.DETAIL:
                self._statistics.tiles += len(windows)
                self._statistics.batches[len(windows)] += 1
            self._statistics.halvings += int(self.network.limit(first, part) < limit)
        for job, answer in zip(jobs, answers.split([len(job.windows) for job in jobs]), strict=True):
            job.answer.set_result(answer)


class RequestNetwork:
    """One request's place in the queue: what `probability_bands` takes for the network.

    deadline: instant of `time.monotonic`, None without. stop: asked every 50 ms; True abandons the request.
    """

    def __init__(self, queue: TileQueue, deadline: float | None, stop: Callable[[], bool] | None) -> None:
        self._queue = queue
        self._deadline = deadline
        self._stop = stop

    @property
    def device(self) -> torch.device:
        return self._queue.network.device

    def __call__(self, windows: Tensor, part: Part = Part.WHOLE) -> Tensor:
        """Raises DeadlinePassed, ClientStopped, EngineClosed, and what the network raises."""
        self.check()
        answer = self._queue.submit(windows, part)
        try:
            while not wait([answer], self._patience()).done:
                self.check()
        except BaseException:
            answer.cancel()
            raise
        return answer.result()

    def detail_boxes(self, height: int, width: int) -> list[Box]:
        return self._queue.network.detail_boxes(height, width)

    def join(self, seen: Tensor, details: Sequence[Tensor], windows: Tensor) -> Tensor:
        return self._queue.network.join(seen, details, windows)

    def check(self) -> None:
        if self._stop is not None and self._stop():
            raise ClientStopped("the client stopped the request")
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlinePassed("the request took longer than it may: send a smaller image or scale, or raise the deadline")

    def _patience(self) -> float | None:
        left = None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)
        if self._stop is None:
            return left
        return POLL if left is None else min(POLL, left)
