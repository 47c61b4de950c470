"""Pixel counts are the same however they come about: in parallel, remembered, or without any memory."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sqlite3
import stat
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from hrda_core.data import file_facts
from hrda_core.data.memory_of_files import FILE_NAME, FileMemory, default_folder
from hrda_core.data.parallel import Stopped, in_order
from hrda_core.data.pixel_index import class_pixels, most_foreground
from hrda_core.data.samples import ClassInfo, Dataset

CLASSES = (ClassInfo("background", (0, 0, 0), 0), ClassInfo("crack", (220, 20, 60), 255))


def masks(folder: Path, count: int = 12) -> Dataset:
    """Mask i has i pixels of crack."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        mask = np.zeros((10, 12), np.uint8)
        mask.flat[:i] = 255
        cv2.imwrite(str(folder / f"{i:03d}.png"), mask)
    paths = tuple(folder / f"{i:03d}.png" for i in range(count))
    return Dataset(paths, paths, CLASSES)


EXPECTED = [[120 - i, i, 0] for i in range(12)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every file that is read ("r") and every mask that is decoded ("d")."""
    events: list[str] = []
    read, decode = file_facts.read_bytes, file_facts.decode_mask
    monkeypatch.setattr(file_facts, "read_bytes", lambda path: (events.append("r"), read(path))[1])
    monkeypatch.setattr(file_facts, "decode_mask", lambda *arguments: (events.append("d"), decode(*arguments))[1])
    return events


def test_a_second_run_reads_nothing(tmp_path: Path, decoded: list[str]) -> None:
    data, cache = masks(tmp_path / "m"), str(tmp_path / "cache")
    assert class_pixels(data, cache=cache).tolist() == EXPECTED
    assert sorted(decoded) == ["d"] * 12 + ["r"] * 12
    decoded.clear()
    assert class_pixels(data, cache=cache).tolist() == EXPECTED
    assert decoded == []


def test_moved_and_touched_files_are_known_by_their_content(tmp_path: Path, decoded: list[str]) -> None:
    cache = str(tmp_path / "cache")
    class_pixels(masks(tmp_path / "m"), cache=cache)
    decoded.clear()
    shutil.move(tmp_path / "m", tmp_path / "elsewhere")
    paths = tuple(sorted((tmp_path / "elsewhere").iterdir()))
    os.utime(paths[0], ns=(1, 1))
    assert class_pixels(Dataset(paths, paths, CLASSES), cache=cache).tolist() == EXPECTED
    assert decoded == ["r"] * 12


def test_a_changed_mask_is_counted_anew(tmp_path: Path, decoded: list[str]) -> None:
    data, cache = masks(tmp_path / "m"), str(tmp_path / "cache")
    class_pixels(data, cache=cache)
    decoded.clear()
    cv2.imwrite(str(tmp_path / "m" / "003.png"), np.full((10, 12), 255, np.uint8))
    assert class_pixels(data, cache=cache).tolist()[3] == [0, 120, 0]
    assert decoded == ["r", "d"]


def test_other_class_values_are_other_counts(tmp_path: Path) -> None:
    data, cache = masks(tmp_path / "m", 3), str(tmp_path / "cache")
    class_pixels(data, cache=cache)
    swapped = Dataset(data.images, data.masks, (ClassInfo("a", (0, 0, 0), 255), ClassInfo("b", (0, 0, 0), 0)))
    assert class_pixels(swapped, cache=cache).tolist() == [[0, 120, 0], [1, 119, 0], [2, 118, 0]]


def test_errors_are_remembered_with_the_name_of_today(tmp_path: Path) -> None:
    data, cache = masks(tmp_path / "m", 1), str(tmp_path / "cache")
    cv2.imwrite(str(tmp_path / "m" / "000.png"), np.full((4, 4), 9, np.uint8))
    for path in (tmp_path / "m" / "000.png", tmp_path / "m" / "renamed.png"):
        with pytest.raises(ValueError, match=f"^{path}: mask value 9 belongs to no class"):
            class_pixels(Dataset((path,), (path,), CLASSES), cache=cache)
        if path.name == "000.png":
            path.rename(path.with_name("renamed.png"))
    assert len(data) == 1


def test_images_without_mask_and_arrays_are_counted_too(tmp_path: Path) -> None:
    path = masks(tmp_path / "m", 3).images[2]
    image, mask = np.zeros((2, 2, 3), np.uint8), np.array([[0, 1], [1, 255]], np.uint8)
    mixed = Dataset((image, image, image), (None, mask, path), CLASSES)
    assert class_pixels(mixed, cache=str(tmp_path / "cache")).tolist() == [[0, 0, 0], [1, 2, 1], [118, 2, 0]]
    assert class_pixels(Dataset((), (), CLASSES)).shape == (0, 3)


# -- a memory that cannot be used costs nothing but a warning ---------------------------------------------------------


def test_a_corrupt_memory_is_done_without(tmp_path: Path) -> None:
    data = masks(tmp_path / "m")
    for content in (b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000):
        (tmp_path / FILE_NAME).write_bytes(content)
        with pytest.warns(UserWarning, match=r"data\.cache: .*cannot be used .* delete it"):
            assert class_pixels(data, cache=str(tmp_path)).tolist() == EXPECTED


def test_a_memory_with_other_tables_is_done_without(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as connection:
        connection.execute("CREATE TABLE facts (something INTEGER)")
    with pytest.warns(UserWarning, match=r"data\.cache"):
        assert class_pixels(masks(tmp_path / "m"), cache=str(tmp_path)).tolist() == EXPECTED


def test_a_damaged_row_is_computed_anew(tmp_path: Path) -> None:
    data, cache = masks(tmp_path / "m"), tmp_path / "cache"
    class_pixels(data, cache=str(cache))
    with sqlite3.connect(cache / FILE_NAME) as connection:
        connection.execute("UPDATE facts SET value = 'no json'")
    assert class_pixels(data, cache=str(cache)).tolist() == EXPECTED


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(UserWarning, match=r"set data\.cache to a folder that can be written to"):
        assert class_pixels(masks(tmp_path / "m"), cache=str(tmp_path / "file")).tolist() == EXPECTED


def test_a_read_only_memory_still_answers(tmp_path: Path, decoded: list[str]) -> None:
    data, cache = masks(tmp_path / "m"), tmp_path / "cache"
    class_pixels(data, cache=str(cache))
    decoded.clear()
    for path, mode in ((cache / FILE_NAME, stat.S_IRUSR), (cache, stat.S_IRUSR | stat.S_IXUSR)):
        path.chmod(mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert class_pixels(data, cache=str(cache)).tolist() == EXPECTED
    finally:
        cache.chmod(stat.S_IRWXU)


def test_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_folder() == tmp_path / "xdg" / "hrda_core"
    class_pixels(masks(tmp_path / "m"), cache="")
    assert (tmp_path / "xdg" / "hrda_core" / FILE_NAME).is_file()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_folder() == tmp_path / "home" / ".cache" / "hrda_core"


def _count(folder: Path, cache: str, results: multiprocessing.Queue[list[list[int]]]) -> None:
    paths = tuple(sorted(folder.iterdir()))
    results.put(class_pixels(Dataset(paths, paths, CLASSES), cache=cache).tolist())


def test_several_processes_share_one_memory(tmp_path: Path) -> None:
    masks(tmp_path / "m")
    context = multiprocessing.get_context("fork")  # as loading workers are; spawned ones would import torch first
    results: multiprocessing.Queue[list[list[int]]] = context.Queue()
    cache = str(tmp_path / "cache")
    processes = [context.Process(target=_count, args=(tmp_path / "m", cache, results)) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert found == [EXPECTED] * 3
    with FileMemory(cache) as memory:
        assert all(memory.known_digest(path) for path in (tmp_path / "m").iterdir())


# -- side by side -----------------------------------------------------------------------------------------------------


def test_progress_and_stop(tmp_path: Path) -> None:
    data, heard = masks(tmp_path / "m"), []
    class_pixels(data, 2, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(i, 12) for i in range(13)]
    with pytest.raises(Stopped, match="stopped after 5 of 12 files"):
        asked = iter([False] * 5 + [True])
        class_pixels(data, 2, stop=lambda: next(asked))


def test_what_was_found_before_a_stop_is_kept(tmp_path: Path, decoded: list[str]) -> None:
    data, cache = masks(tmp_path / "m"), str(tmp_path / "cache")
    asked = iter([False] * 6 + [True])
    with pytest.raises(Stopped):
        class_pixels(data, 1, cache=cache, stop=lambda: next(asked))
    decoded.clear()
    class_pixels(data, 1, cache=cache)
    assert decoded.count("d") <= 6


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_work_is_done_in_order_a_few_at_a_time(workers: int) -> None:
    begun: list[int] = []

    def items() -> object:
        for i in range(200):
            begun.append(i)
            yield i

    results = in_order(lambda i: i * i, items(), 200, workers)  # type: ignore[arg-type]
    for i, result in enumerate(results):
        assert result == i * i
        assert len(begun) <= i + 4 * workers + 1


def test_an_error_ends_the_work() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda i: 1 // (5 - i), range(100), 100, 2))


def test_the_fullest_image_counts_by_its_labelled_pixels() -> None:
    """Background, crack, ignored: 10 %, 50 % of what is labelled, and an image without a label."""
    pixels = np.array([[90, 10, 0], [5, 5, 90], [0, 0, 100]])
    assert most_foreground(pixels) == 0.5
