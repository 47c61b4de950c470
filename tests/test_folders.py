"""What a user's labelled folder lacks is said by name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import CRACKS, write_folder

from hrda_core.data.folders import labelled_folder
from hrda_core.data.samples import Dataset, join


def rename_masks(folder: Path) -> None:
    for mask in (folder / "masks").iterdir():
        mask.rename(mask.with_name(f"{mask.stem}_mask.png"))


def remove(name: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove("classes.json"), 'classes.json is missing in it; write a list in index order, such as [{"name": "background"'),
        (remove("masks"), "the folder masks/ is missing in it (it has images)"),
        (lambda folder: (folder / "masks").rename(folder / "labels"), "masks/ is missing in it (it has images, labels)"),
        (rename_masks, "masks/ has no 0.png for 0.png (it holds 0_mask.png, 1_mask.png, 2_mask.png, ...); name masks like"),
        (lambda folder: [mask.unlink() for mask in (folder / "masks").iterdir()], "masks/ has no 0.png for 0.png (it is empty)"),
    ],
)
def test_what_is_missing(change: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "synthetic", 4, seed=1)
    assert len(labelled_folder(folder, "source").labelled()) == 4
    change(folder)
    with pytest.raises(ValueError) as caught:
        labelled_folder(folder, "source")
    assert f"source {folder} has no labelled image: " in str(caught.value)
    assert said in str(caught.value)


def test_classes_of_another_set_serve_where_the_folder_has_none(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "held_out", 2, seed=1)
    (folder / "classes.json").unlink()
    assert labelled_folder(folder, "validation", CRACKS).classes == CRACKS


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    photo = write_folder(tmp_path / "photos", 1, seed=1, masks=False) / "images" / "0.png"
    with pytest.raises(ValueError, match=f"is a file: give the folder that holds it, {photo.parent}"):
        Dataset.from_folder(photo)


def test_folders_of_different_classes_are_named(tmp_path: Path) -> None:
    one, two = (Dataset.from_folder(write_folder(tmp_path / name, 1, seed=1)) for name in ("one", "two"))
    renamed = Dataset(two.images, two.masks, (CRACKS[0], replace(CRACKS[1], name="rust")))
    with pytest.raises(ValueError) as caught:
        join([one, renamed])
    assert all(str(tmp_path / name / "images" / "0.png") in str(caught.value) for name in ("one", "two"))
