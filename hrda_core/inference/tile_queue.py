"""Tiles of concurrent requests in shared batches: one thread runs the network, everyone else waits in line."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from hrda_core.inference.image_bands import WindowNetwork

POLL = 0.05  # seconds between two looks at whether the client is still there


class DeadlinePassed(TimeoutError):
    """The request took longer than it may."""


class ClientStopped(RuntimeError):
    """The client went away, or pressed Stop."""


class EngineClosed(RuntimeError):
    """The model was taken out of service, say, by another one."""


@dataclass
class TileStatistics:
    """tiles: done since the start. batches: how many batches of each size. halvings: of the batch, for want of memory."""

    tiles: int = 0
    batches: Counter[int] = field(default_factory=Counter)
    halvings: int = 0


class _Job(NamedTuple):
    """Windows (n, 3, h, w) of one request, and where their logits (n, C, h, w) go."""

    windows: Tensor
    logits: Future[Tensor]


def _alike(one: _Job, other: _Job) -> bool:
    return one.windows.shape[1:] == other.windows.shape[1:]


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

    def submit(self, windows: Tensor) -> Future[Tensor]:
        """Normalised (n, 3, h, w) on the network's device -> logits (n, C, h, w) float32, in a while. May be cancelled.

        Raises:
            EngineClosed: after `close`.
        """
        job = _Job(windows, Future())
        with self._change:
            if self._closed:
                raise EngineClosed("the model was taken out of service; send the request again")
            self._jobs.append(job)
            self._change.notify()
        return job.logits

    def __len__(self) -> int:
        """Tiles in line."""
        with self._change:
            return sum(len(job.windows) for job in self._jobs)

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
            if job.logits.set_running_or_notify_cancel():
                job.logits.set_exception(EngineClosed("the model was taken out of service; send the request again"))
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
            room = self.network.batch
            for job in self._jobs:
                fits = not batch or (self.share and _alike(job, batch[0]) and len(job.windows) <= room)
                if not fits:
                    rest.append(job)
                elif job.logits.set_running_or_notify_cancel():
                    batch.append(job)
                    room -= len(job.windows)
            self._jobs = rest
            return batch

    def _run(self, jobs: list[_Job]) -> None:
        limit = self.network.batch
        try:
            windows = jobs[0].windows if len(jobs) == 1 else torch.cat([job.windows for job in jobs])
            logits = self.network(windows)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].logits.set_exception(error)
                return
            for job in jobs:  # one by one, so that nobody gets the error of another
                self._run([job])
            return
        with self._change:
            self._statistics.tiles += len(windows)
            self._statistics.batches[len(windows)] += 1
            self._statistics.halvings += int(self.network.batch < limit)
        for job, part in zip(jobs, logits.split([len(job.windows) for job in jobs]), strict=True):
            job.logits.set_result(part)


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

    def __call__(self, windows: Tensor) -> Tensor:
        """Raises DeadlinePassed, ClientStopped, EngineClosed, and what the network raises."""
        self.check()
        logits = self._queue.submit(windows)
        try:
            while not wait([logits], self._patience()).done:
                self.check()
        except BaseException:
            logits.cancel()
            raise
        return logits.result()

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
