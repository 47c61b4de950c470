"""The trainer on a machine whose memory is exhausted: `HRDA_TRAINER=tests.trainer_without_memory`."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch

from hrda_core.__main__ import main
from hrda_core.training import run, safety

real = run.step


def bounded(learner: Any, iteration: int, source: Any, *rest: Any) -> Any:
    """Room for one crop; with HRDA_TRAINER_DIES the system kills the process instead."""
    if source.image.shape[0] == 1:
        return real(learner, iteration, source, *rest)
    if os.environ.get("HRDA_TRAINER_DIES"):
        os.kill(os.getpid(), signal.SIGKILL)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


if __name__ == "__main__":
    run.step = safety.step = bounded
    sys.exit(main())
