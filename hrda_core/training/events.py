"""What a run tells its listener. A listener is any callable that takes an event."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BASELINE = "source-only baseline"  # the name of that stage


@dataclass(frozen=True)
class Event:
    iteration: int
    time: float = field(default_factory=time.time, kw_only=True)  # seconds since the epoch


@dataclass(frozen=True)
class Stage(Event):
    """A part of the run begins: "checking data", "reading the colours of photos", BASELINE, or the mode.

    Later events belong to it.
    """

    name: str


@dataclass(frozen=True)
class Preparation(Event):
    """Before the first iteration: `done` of `total` images are read, for what the stage says."""

    done: int
    total: int


@dataclass(frozen=True)
class Labelling(Event):
    """Between two iterations, as a round of self-training begins: the teacher has labelled `done` of `total` photos."""

    done: int
    total: int


@dataclass(frozen=True)
class Sizing(Event):
    """Before the first round: of `total` looks at photos, at several sizes each, `done` are taken."""

    done: int
    total: int


@dataclass(frozen=True)
class Counting(Event):
    """After the warm-up and after each round: in `done` of `total` looks at photos foreground has been counted."""

    done: int
    total: int


@dataclass(frozen=True)
class Notice(Event):
    """Something that the user should know and that does not end the run."""

    text: str


@dataclass(frozen=True)
class Progress(Event):
    """After every iteration: `iteration` of `total` are done."""

    total: int


@dataclass(frozen=True)
class Metrics(Event):
    """Scalars by name: losses, learning rate, pseudo-label shares, validation figures."""

    values: Mapping[str, float]


@dataclass(frozen=True)
class Preview(Event):
    """Predictions on fixed target photos: name, photo (H, W, 3), labels (H, W), confidence (H, W)."""

    pictures: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32]]]


@dataclass(frozen=True)
class Comparison(Event):
    """Predictions on fixed validation images beside their labels: name, photo (H, W, 3), truth (H, W), labels (H, W)."""

    pictures: Sequence[tuple[str, NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]]


@dataclass(frozen=True)
class CheckpointSaved(Event):
    path: Path
    best: bool


@dataclass(frozen=True)
class Finished(Event):
    """The run came to its end; `score` is the best checkpoint's, None without a validation set.

    `stopped` says why where that was before the last iteration ("stop requested", ...); such a run can be resumed.
    """

    score: float | None
    stopped: str = ""


@dataclass(frozen=True)
class Failed(Event):
    """The run stopped with an error; `reason` is a sentence for the user."""

    reason: str


Listener = Callable[[Event], None]


def broadcast(*listeners: Listener) -> Listener:
    """One listener that hands every event to several."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
