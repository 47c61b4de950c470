"""Tens of thousands of paths in a few bytes each, that behave like a tuple of paths."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hrda_core.data.file_list import FileList
from hrda_core.data.samples import ClassInfo, Dataset, join

CLASSES = (ClassInfo("background", (0, 0, 0), 0), ClassInfo("crack", (220, 20, 60), 255))
NAMES = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
PATHS = st.lists(st.none() | st.builds(lambda folder, name: Path(folder) / name, st.sampled_from(["a", "/b/c", "."]), NAMES))


@given(PATHS, st.data())
def test_it_is_a_sequence_of_the_paths(paths: list[Path | None], data: st.DataObject) -> None:
    files = FileList(paths)
    assert list(files) == paths
    assert [files[i] for i in range(-len(paths), len(paths))] == paths + paths
    for outside in (len(paths), -len(paths) - 1):
        with pytest.raises(IndexError):
            files[outside]
    assert files == FileList(paths)
    assert hash(files) == hash(FileList(paths))
    assert list(pickle.loads(pickle.dumps(files))) == paths
    assert files.present().tolist() == [i for i, path in enumerate(paths) if path is not None]
    positions = data.draw(st.lists(st.sampled_from(range(len(paths))))) if paths else []
    assert list(files.take(positions)) == [paths[i] for i in positions]
    assert list(files[1:7:2]) == paths[1:7:2]
    assert list(files[::-1]) == paths[::-1]


@given(st.lists(PATHS, max_size=4))
def test_joining_is_concatenation(parts: list[list[Path | None]]) -> None:
    assert list(FileList.joined([FileList(part) for part in parts])) == [path for part in parts for path in part]


def test_names_that_are_no_text_survive() -> None:
    """File names on Linux are bytes."""
    path = Path("folder") / b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    assert FileList([path])[0] == path


def test_a_file_costs_a_few_bytes() -> None:
    files = FileList.in_folder(Path("photos"), (f"image_{i:06d}.jpg" for i in range(20_000)))
    assert files.nbytes < 32 * len(files)
    assert files[19_999] == Path("photos/image_019999.jpg")


def test_data_sets_keep_paths_compactly() -> None:
    images = tuple(Path(f"images/{i}.jpg") for i in range(6))
    masks = tuple(Path(f"masks/{i}.png") if i % 2 else None for i in range(6))
    data = Dataset(images, masks, CLASSES)
    assert isinstance(data.images, FileList)
    assert isinstance(data.masks, FileList)
    assert data == Dataset(list(images), list(masks), CLASSES)
    twice = join([data, replace(data, masks=None), data.labelled()])
    assert isinstance(twice.images, FileList)
    assert list(twice.images) == [*images, *images, *images[1::2]]
    assert isinstance(twice.masks, FileList)
    assert list(twice.masks) == [*masks, *[None] * 6, *masks[1::2]]


def test_arrays_and_files_can_be_joined() -> None:
    image, mask = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    both = join([Dataset((Path("a.jpg"),), None, CLASSES), Dataset((image,), (mask,), CLASSES)])
    assert both.images[0] == Path("a.jpg")
    assert both.image(1) is image
    assert [both.mask(0), both.mask(1)] == [None, mask]
