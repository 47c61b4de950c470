"""What can be wrong with the data of a run: every problem is told before training, all of them together."""

from __future__ import annotations

import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from hrda_core.config import TrainConfig
from hrda_core.data.checks import DataReport, check_data
from hrda_core.data.parallel import Stopped
from hrda_core.data.samples import ClassInfo, Dataset, join, write_classes

CLASSES = (ClassInfo("background", (0, 0, 0), 0), ClassInfo("crack", (220, 20, 60), 255), ClassInfo("rust", (9, 9, 9), 7))


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig().updated({"data": {"crop_height": 64, "crop_width": 64, "cache": str(tmp_path / "cache")}})


def photo(seed: int, height: int = 80, width: int = 96) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def write(path: Path, array: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)
    return path


def labelled(root: Path, seed: int, count: int = 2) -> Dataset:
    for i in range(count):
        write(root / "images" / f"{i}.png", photo(1000 * seed + i))
        mask = np.zeros((80, 96), np.uint8)
        mask[:5], mask[5:10] = 255, 7
        write(root / "masks" / f"{i}.png", mask)
    write_classes(root / "classes.json", CLASSES)
    return Dataset.from_folder(root)


def photos(root: Path, seed: int, count: int = 2, **size: int) -> Dataset:
    for i in range(count):
        write(root / f"{i}.png", photo(1000 * seed + i, **size))
    return Dataset.from_folder(root)


@pytest.fixture
def roles(tmp_path: Path) -> dict[str, Dataset]:
    return {
        "source": labelled(tmp_path / "source", 1),
        "target": photos(tmp_path / "target", 2),
        "validation": labelled(tmp_path / "validation", 3),
    }


def again(roles: dict[str, Dataset], tmp_path: Path) -> dict[str, Dataset]:
    """The folders, read anew."""
    return {name: Dataset.from_folder(tmp_path / name) for name in roles}


def only(sentences: tuple[str, ...]) -> str:
    assert len(sentences) == 1, sentences
    return sentences[0]


# -- good data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["adapt", "source-only", "semi-supervised", "supervised"])
def test_nothing_to_say_about_good_data(config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path, mode: str) -> None:
    if "supervised" in mode:
        roles["target"] = labelled(tmp_path / "more", 4)
    report = check_data(**roles, config=replace(config, mode=mode))
    assert report == DataReport((), ())
    report.raise_if_bad()


def test_roles_may_be_missing(config: TrainConfig, roles: dict[str, Dataset]) -> None:
    assert check_data(roles["source"], None, None, replace(config, mode="source-only")) == DataReport()
    assert check_data(None, None, None, config) == DataReport()


def test_arrays_are_checked_too(config: TrainConfig) -> None:
    image, mask = photo(1), np.zeros((80, 96), np.uint8)
    mask[:5], mask[5:9] = 1, 2
    source = Dataset((image,), (mask,), CLASSES)
    assert check_data(source, Dataset((photo(2),), None, ()), None, config) == DataReport()
    mask[0, 0] = 9
    assert only(check_data(source, None, None, config).problems).startswith("source mask of image 0: mask value 9 is no class")
    wrong = Dataset((image.astype(np.float32),), None, ())  # type: ignore[arg-type]
    assert only(check_data(None, wrong, None, config).problems).startswith("target image 0: an array of float32")


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no image at all", "truncated"])
@pytest.mark.parametrize("role", ["source", "target", "validation"])
def test_unreadable_images(
    config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path, role: str, content: bytes | str
) -> None:
    path = Path(str(roles[role].images[1]))
    path.write_bytes(path.read_bytes()[:-300] if isinstance(content, str) else content)
    problem = only(check_data(**roles, config=config).problems)
    assert problem.startswith(f"{role} {path}: cannot be read")
    assert "remove" in problem


def test_truncated_jpegs_and_missing_files(config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(photo(77)).save(buffer, format="JPEG")
    path = tmp_path / "target" / "photo.jpg"
    path.write_bytes(buffer.getvalue()[:-100])
    roles = again(roles, tmp_path)
    Path(str(roles["target"].images[0])).unlink()
    missing, truncated = check_data(**roles, config=config).problems
    assert missing.startswith(f"target {tmp_path / 'target' / '0.png'}: cannot be read (No such file")
    assert truncated.startswith(f"target {path}: cannot be read as an image, it is truncated")


def test_masks_of_another_size(config: TrainConfig, roles: dict[str, Dataset]) -> None:
    path = write(Path(str(roles["source"].masks[0])), np.full((40, 48), 255, np.uint8))  # type: ignore[index]
    problem = only(check_data(**roles, config=config).problems)
    assert problem == f"source mask {path}: it is 48x40, the upright image 96x80; export both at the same size"


def test_masks_that_lack_the_photos_rotation(config: TrainConfig, tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6
    source = labelled(tmp_path / "source", 1)
    Pillow.fromarray(photo(5)).save(str(source.images[0]), exif=exif)
    problem = only(check_data(source, None, None, config).problems)
    assert "it is 96x80, the upright image 80x96: the photo has an EXIF rotation that the mask lacks" in problem


def test_mask_values_outside_the_classes(config: TrainConfig, roles: dict[str, Dataset]) -> None:
    mask = np.zeros((80, 96), np.uint8)
    mask[0], mask[1] = 255, 42
    path = write(Path(str(roles["validation"].masks[1])), mask)  # type: ignore[index]
    problem = only(check_data(**roles, config=config).problems)
    assert problem.startswith(f"validation mask {path}: mask value 42 belongs to no class; classes.json has 0 = background")
    assert problem.endswith("correct the mask or add the class")


def test_unreadable_masks(config: TrainConfig, roles: dict[str, Dataset]) -> None:
    path = Path(str(roles["source"].masks[0]))  # type: ignore[index]
    path.write_bytes(path.read_bytes()[:50])
    assert only(check_data(**roles, config=config).problems).startswith(f"source mask {path}: cannot be read as a mask")


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["source", "validation"])
def test_no_foreground_at_all(config: TrainConfig, roles: dict[str, Dataset], role: str) -> None:
    for path in roles[role].masks or ():
        write(Path(str(path)), np.zeros((80, 96), np.uint8))
    problem = only(check_data(**roles, config=config).problems)
    assert problem.startswith(f"{role}: there is no foreground at all (crack, rust: 0 pixels in 2 masks)")
    assert "classes.json" in problem


def test_classes_without_pixels(config: TrainConfig, roles: dict[str, Dataset]) -> None:
    for path in roles["source"].masks or ():
        write(Path(str(path)), np.full((80, 96), 255, np.uint8))
    report = check_data(**roles, config=config)
    assert report.problems == ()
    assert report.warnings == (
        "source: class 'background' has 0 pixels in 2 masks; label some, or take the class out of classes.json",
        "source: class 'rust' has 0 pixels in 2 masks; label some, or take the class out of classes.json",
    )


def test_images_without_a_mask_are_left_out_and_never_background(
    config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path
) -> None:
    path = write(tmp_path / "source" / "images" / "extra.png", photo(99))
    report = check_data(**again(roles, tmp_path), config=config)
    assert report.problems == ()
    assert only(report.warnings) == f"source {path}: has no mask, so it is left out; add the mask if it should count"


def test_a_role_without_any_mask(config: TrainConfig, roles: dict[str, Dataset]) -> None:
    unlabelled = {**roles, "source": replace(roles["source"], masks=None)}
    problem = only(check_data(**unlabelled, config=config).problems)
    assert problem.startswith("source: none of its 2 images has a mask")


def test_masks_of_the_target_are_looked_at_only_where_they_are_used(config: TrainConfig, tmp_path: Path) -> None:
    source, target = labelled(tmp_path / "source", 1), labelled(tmp_path / "target", 2)
    path = Path(str(target.masks[0]))  # type: ignore[index]
    path.write_bytes(b"broken")
    for mode, expected in (("adapt", 0), ("source-only", 0), ("supervised", 1), ("semi-supervised", 1)):
        problems = check_data(source, target, None, replace(config, mode=mode)).problems
        assert len(problems) == expected, mode
        assert all(problem.startswith(f"target mask {path}") for problem in problems)


def test_unlabelled_targets_are_no_matter_in_semi_supervised_mode(config: TrainConfig, tmp_path: Path) -> None:
    source, target = labelled(tmp_path / "source", 1), labelled(tmp_path / "target", 2)
    mixed = join([target, replace(photos(tmp_path / "photos", 3), classes=CLASSES)])
    assert check_data(source, mixed, None, replace(config, mode="semi-supervised")) == DataReport()
    left_out = check_data(source, mixed, None, replace(config, mode="supervised")).warnings
    assert len(left_out) == 2
    assert all("left out" in warning for warning in left_out)


def test_a_source_that_is_not_used_is_not_looked_at(config: TrainConfig, tmp_path: Path) -> None:
    source, target = labelled(tmp_path / "source", 1), labelled(tmp_path / "target", 2)
    Path(str(source.images[0])).write_bytes(b"broken")
    assert check_data(source, target, None, replace(config, mode="supervised")) == DataReport()


# -- pictures that occur twice ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [("source", "target"), ("source", "validation"), ("target", "validation")])
def test_the_same_picture_in_two_roles(config: TrainConfig, roles: dict[str, Dataset], one: str, other: str) -> None:
    """By its pixels: another name and another file format do not hide it."""
    first, second = (Path(str(roles[role].images[1])) for role in (one, other))
    picture = Pillow.open(first)
    picture.load()
    picture.save(second, format="TIFF")
    problem = only(check_data(**roles, config=config).problems)
    assert problem.startswith(f"{one} {first} and {other} {second} show the same picture: remove it from one of the two")


def test_a_png_copy_of_a_jpeg_is_the_same_picture(config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path) -> None:
    jpeg = tmp_path / "target" / "photo.jpg"
    Pillow.fromarray(photo(50)).save(jpeg, quality=80)
    decoded = cv2.imread(str(jpeg))
    assert decoded is not None
    cv2.imwrite(str(roles["validation"].images[0]), decoded)
    problem = only(check_data(**again(roles, tmp_path), config=config).problems)
    assert str(jpeg) in problem
    assert str(roles["validation"].images[0]) in problem


def test_photos_only_looked_at_may_be_validated_on(config: TrainConfig, tmp_path: Path) -> None:
    source, validation = labelled(tmp_path / "source", 1), labelled(tmp_path / "validation", 2)
    report = check_data(source, validation, validation, replace(config, mode="source-only"))
    assert report.problems == ()
    assert len(report.warnings) == 2


def test_the_same_picture_twice_in_a_role(config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path) -> None:
    for name in ("again", "and_again"):
        write(tmp_path / "target" / f"{name}.png", photo(2000))
    report = check_data(**again(roles, tmp_path), config=config)
    assert report.problems == ()
    assert [warning.partition(":")[0] for warning in report.warnings] == [
        f"target {tmp_path / 'target' / name}.png" for name in ("again", "and_again")
    ]
    assert all(f"same picture as {tmp_path / 'target' / '0.png'}" in warning for warning in report.warnings)


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_some_small_targets_are_a_warning(config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path) -> None:
    path = write(tmp_path / "target" / "small.png", photo(9, 31, 80))
    report = check_data(**again(roles, tmp_path), config=config)
    assert report.problems == ()
    warning = only(report.warnings)
    assert warning.startswith(f"target {path}: 80x31 is far smaller than the crop 64x64")
    assert "data.crop_height" in warning


def test_only_small_targets_are_a_problem(config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path) -> None:
    roles["target"] = photos(tmp_path / "tiny", 5, count=2, height=30, width=31)
    report = check_data(**roles, config=config)
    assert len(report.problems) == 2
    assert all("31x30 is far smaller than the crop 64x64" in problem for problem in report.problems)


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"target_scale": 0.3}, True),  # 96x80 becomes 29x24
        ({"target_scale": 0.5}, False),
        ({"fit_short": 64, "fit_long": 64}, False),
        ({"fit_short": 20, "fit_long": 30}, True),
    ],
)
def test_size_counts_after_scaling(config: TrainConfig, roles: dict[str, Dataset], changes: dict[str, Any], bad: bool) -> None:
    problems = check_data(**roles, config=config.updated({"data": changes})).problems
    assert bool(problems) is bad
    assert all("(96x80 before scaling)" in problem for problem in problems)


# -- the report -------------------------------------------------------------------------------------------------------


def test_all_problems_come_together_and_long_lists_end(config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path) -> None:
    for i in range(42):
        (tmp_path / "target" / f"broken_{i:02d}.jpg").write_bytes(b"\xff\xd8\xff" + bytes([i]))
    write(Path(str(roles["source"].masks[0])), np.full((80, 96), 42, np.uint8))  # type: ignore[index]
    report = check_data(**again(roles, tmp_path), config=config)
    assert [problem.partition(":")[0] for problem in report.problems] == [
        f"source mask {tmp_path / 'source' / 'masks' / '0.png'}",
        *[f"target {tmp_path / 'target' / f'broken_{i:02d}.jpg'}" for i in range(5)],
        "target images that cannot be used",
    ]
    assert report.problems[-1].endswith("and 37 more")
    with pytest.raises(ValueError) as caught:
        report.raise_if_bad()
    for problem in report.problems:
        assert f"\n- {problem}" in str(caught.value)
    assert "data.check=false" in str(caught.value)


def test_progress_and_stop(config: TrainConfig, roles: dict[str, Dataset]) -> None:
    heard: list[tuple[int, int]] = []
    check_data(**roles, config=config, progress=lambda done, total: heard.append((done, total)))
    assert heard[0] == (0, 6)
    assert heard[-1] == (6, 6)
    assert heard == sorted(heard)
    with pytest.raises(Stopped, match="stopped after 0 of 2"):
        check_data(**roles, config=config, stop=lambda: True)


def test_a_second_run_recalls_what_the_first_saw(
    config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(str(roles["target"].images[0])).write_bytes(b"\xff\xd8\xff")
    first = check_data(**roles, config=config)
    assert len(first.problems) == 1
    with monkeypatch.context() as patched:
        for name in ("decode_image", "decode_mask", "read_bytes"):
            patched.setattr(f"hrda_core.data.file_facts.{name}", None)
        assert check_data(**roles, config=config) == first
    write(Path(str(roles["target"].images[0])), photo(12))  # repaired
    assert check_data(**roles, config=config) == DataReport()


def test_memory_does_not_grow_with_the_images(config: TrainConfig, tmp_path: Path) -> None:
    """Sixty images of a megapixel, decoded a few at a time."""
    target = photos(tmp_path / "large", 7, count=1, height=1000, width=1000)
    many = join([target] * 60)
    check_data(None, target, None, config)
    tracemalloc.start()
    check_data(None, many, None, config.updated({"data": {"cache": str(tmp_path / "new")}}))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 3_000_000 / 2


def test_what_is_remembered_holds_no_paths(config: TrainConfig, roles: dict[str, Dataset], tmp_path: Path) -> None:
    check_data(**roles, config=config)
    (file,) = (tmp_path / "cache").iterdir()
    assert str(tmp_path).encode() not in file.read_bytes()
    assert json.dumps(str(tmp_path)).encode() not in file.read_bytes()
