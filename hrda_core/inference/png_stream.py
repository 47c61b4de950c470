"""A grey 8-bit PNG written row by row, so that a mask of any size needs the memory of a few rows.

PNG (ISO/IEC 15948): a signature, then chunks of length, type, content and checksum; the pixels are one zlib stream spread
over IDAT chunks, every row of it preceded by the number of its filter.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

UP = 2  # filter: a byte minus the one above, which turns repeated rows into zeros


class PngStream:
    """Writes to an open binary file: `write` rows (h, width) uint8 until all are there, then `finish`."""

    def __init__(self, file: BinaryIO, height: int, width: int) -> None:
        self._file = file
        self._deflate = zlib.compressobj(6)
        self._above = np.zeros((1, width), dtype=np.uint8)
        file.write(b"\x89PNG\r\n\x1a\n")
        grey, bits = 0, 8
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, grey, 0, 0, 0))

    def write(self, rows: NDArray[np.uint8]) -> None:
        filtered = np.empty((rows.shape[0], rows.shape[1] + 1), dtype=np.uint8)
        filtered[:, 0] = UP
        filtered[:, 1:] = rows - np.concatenate([self._above, rows[:-1]])  # modulo 256, as the standard wants
        self._above = rows[-1:].copy()
        self._pixels(self._deflate.compress(filtered.tobytes()))

    def finish(self) -> None:
        self._pixels(self._deflate.flush())
        self._chunk(b"IEND", b"")

    def _pixels(self, compressed: bytes) -> None:
        if compressed:
            self._chunk(b"IDAT", compressed)

    def _chunk(self, kind: bytes, content: bytes) -> None:
        checksum = zlib.crc32(kind + content)
        self._file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum))
