"""Random draws that depend on nothing but (seed, iteration, stream, sample).

A resumed run, another number of workers or of processes therefore draws the same.
"""

from __future__ import annotations

import zlib

import numpy as np


def generator(seed: int, iteration: int, stream: str, sample: int = 0) -> np.random.Generator:
    """A generator of its own for one purpose (`stream`) of one sample of one iteration."""
    return np.random.default_rng([seed, iteration, zlib.crc32(stream.encode()), sample])
