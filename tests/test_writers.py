"""Predictions in files: what OpenCV and NumPy read back is what was written, and nothing half-written has a name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrda_core.inference.png_stream import PngStream
from hrda_core.inference.writers import ArrayWriter, NpyWriter, PngWriter, Writer

Arrays = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def arrays(height: int = 50, width: int = 70, classes: int = 3) -> Arrays:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(classes), (height, width)).transpose(2, 0, 1).astype(np.float32)
    return probabilities.argmax(axis=0).astype(np.uint8), probabilities.max(axis=0), probabilities


def write(writer: Writer, content: Arrays, rows: int = 16, until: int | None = None, with_probabilities: bool = True) -> None:
    labels, confidence, probabilities = content
    writer.open(*labels.shape, len(probabilities))
    for top in range(0, until or len(labels), rows):
        band = slice(top, top + rows)
        writer.write(top, labels[band], confidence[band], probabilities[:, band] if with_probabilities else None)
    writer.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 60), st.integers(1, 60), st.lists(st.integers(1, 20), max_size=5), st.booleans())
def test_png_is_what_opencv_reads(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, cuts: list[int], noise: bool
) -> None:
    image = np.random.default_rng(width).integers(0, 256 if noise else 2, (height, width), dtype=np.uint8)
    path = tmp_path_factory.mktemp("png") / "image.png"
    edges = [0, *(edge for edge in np.cumsum(cuts).tolist() if edge < height), height]
    with path.open("wb") as file:
        stream = PngStream(file, height, width)
        for top, bottom in pairwise(edges):
            stream.write(image[top:bottom])
        stream.finish()
    read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert (read.shape, read.dtype) == (image.shape, image.dtype)
    assert (read == image).all()


def test_png_chunks_have_right_checksums(tmp_path: Path) -> None:
    """OpenCV only warns; Pillow's verify looks at every chunk."""
    from PIL import Image

    write(PngWriter(tmp_path / "mask.png"), arrays())
    with Image.open(tmp_path / "mask.png") as picture:
        assert (picture.size, picture.mode) == ((70, 50), "L")
        picture.verify()


def test_a_large_plain_mask_is_a_small_file(tmp_path: Path) -> None:
    with (tmp_path / "mask.png").open("wb") as file:
        stream = PngStream(file, 2000, 2000)
        stream.write(np.full((2000, 2000), 7, np.uint8))
        stream.finish()
    assert (tmp_path / "mask.png").stat().st_size < 10_000


@pytest.mark.parametrize("with_probabilities", [True, False])
def test_arrays(with_probabilities: bool) -> None:
    writer, content = ArrayWriter(), arrays()
    write(writer, content, with_probabilities=with_probabilities)
    assert (writer.labels == content[0]).all()
    assert (writer.confidence == content[1]).all()
    if with_probabilities:
        assert writer.probabilities is not None
        assert (writer.probabilities == content[2]).all()
    else:
        assert writer.probabilities is None


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 0), (np.float16, 1e-3)])
@pytest.mark.parametrize("rows", [1, 16, 50, 64])
def test_npy_files(dtype: Any, tolerance: float, rows: int, tmp_path: Path) -> None:
    content = arrays()
    write(NpyWriter(tmp_path / "out", dtype), content, rows)
    assert names(tmp_path / "out") == ["confidence.npy", "labels.npy", "probabilities.npy"]
    assert (np.load(tmp_path / "out" / "labels.npy") == content[0]).all()
    assert (np.load(tmp_path / "out" / "confidence.npy", mmap_mode="r") == content[1]).all()
    probabilities = np.load(tmp_path / "out" / "probabilities.npy")
    assert probabilities.dtype == dtype
    assert np.abs(probabilities - content[2]).max() <= tolerance


def test_npy_files_without_probabilities(tmp_path: Path) -> None:
    write(NpyWriter(tmp_path), arrays(), with_probabilities=False)
    assert names(tmp_path) == ["confidence.npy", "labels.npy"]


def test_png_files(tmp_path: Path) -> None:
    content, values = arrays(), np.array([0, 100, 255, *[7] * 253], np.uint8)
    write(PngWriter(tmp_path / "a" / "mask.png", tmp_path / "b" / "confidence.png", values), content)
    mask = cv2.imread(str(tmp_path / "a" / "mask.png"), cv2.IMREAD_UNCHANGED)
    confidence = cv2.imread(str(tmp_path / "b" / "confidence.png"), cv2.IMREAD_UNCHANGED)
    assert (mask == values[content[0]]).all()
    assert np.abs(confidence / 255 - content[1]).max() <= 0.5 / 255 + 1e-6


def writers(folder: Path) -> Iterator[Writer]:
    yield PngWriter(folder / "mask.png", folder / "confidence.png")
    yield NpyWriter(folder)


def test_half_a_prediction_leaves_no_file(tmp_path: Path) -> None:
    for writer in writers(tmp_path):
        write(writer, arrays(), until=32)
        assert names(tmp_path) == []


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    write(PngWriter(tmp_path / "mask.png"), arrays(5, 5))
    before = (tmp_path / "mask.png").read_bytes()
    write(PngWriter(tmp_path / "mask.png"), arrays(), until=32)
    assert (tmp_path / "mask.png").read_bytes() == before
    write(PngWriter(tmp_path / "mask.png"), arrays())
    assert (tmp_path / "mask.png").read_bytes() != before
