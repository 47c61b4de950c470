"""Why a run may end before its last iteration: a signal, a request, its time, no more progress."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from hrda_core.data.parallel import Stopped

__all__ = [
    "EarlyStop",
    "StopRequest",
    "Stopped",
    "TimeBudget",
    "leave_signals_to_the_trainer",
    "never",
    "stop_on_signals",
    "stop_with_stdin",
]

StopRequest = Callable[[], bool]


def never() -> bool:
    return False


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """SIGINT and SIGTERM become a request to stop, which the run honours by saving; another Ctrl-C ends it at once.

    Programs send SIGTERM, and perhaps repeat it: that does not cost what was trained.
    """
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_stdin() -> None:
    """The end of standard input becomes a SIGTERM: it comes when the program that started this one ends, however it ends."""

    def wait() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock would be held at exit
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="stop with stdin", daemon=True).start()


def leave_signals_to_the_trainer(_: int) -> None:
    """For loading processes: Ctrl-C reaches the whole group, but only the training process decides when to end.

    torchrun sends its SIGTERM to the group of the training process, too, which they therefore leave.
    """
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class TimeBudget:
    """Minutes of training, counted over all resumes; 0 = unlimited."""

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.used_before = 0.0  # seconds, by the parts of the run before this process
        self._started = time.monotonic()

    def used(self) -> float:
        """Seconds."""
        return self.used_before + time.monotonic() - self._started

    def is_spent(self) -> bool:
        return self.minutes > 0 and self.used() >= 60 * self.minutes


class EarlyStop:
    """Counts evaluations that brought no better score; `patience` 0 = never stops."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.without_gain = 0

    def note(self, better: bool) -> None:
        self.without_gain = 0 if better else self.without_gain + 1

    def is_due(self) -> bool:
        return 0 < self.patience <= self.without_gain

    @property
    def reason(self) -> str:
        return f"no better score in {self.patience} evaluations"
