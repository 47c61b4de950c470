"""What an image, a mask and a data set are: reading folders, checking what is wrong with them."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from hrda_core.data.samples import (
    IGNORE,
    ClassInfo,
    Dataset,
    class_pixels,
    join,
    read_classes,
    read_image,
    read_mask,
    write_classes,
)

BACKGROUND = ClassInfo("background", (0, 0, 0), 0)
CRACK = ClassInfo("crack", (220, 20, 60), 255)
RUST = ClassInfo("rust", (180, 90, 0), 7)
CRACKS = (BACKGROUND, CRACK)


def write(path: Path, array: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.asarray(array, dtype=getattr(array, "dtype", np.uint8))
    assert cv2.imwrite(str(path), array[..., ::-1] if array.ndim == 3 else array)
    return path


def folder(root: Path, images: int = 3, masks: int = 3, classes: tuple[ClassInfo, ...] | None = CRACKS) -> Path:
    """Image i is grey i; mask i has i crack pixels."""
    for i in range(images):
        write(root / "images" / f"{i}.png", np.full((4, 6, 3), i))
    for i in range(masks):
        mask = np.zeros((4, 6), np.uint8)
        mask.flat[:i] = 255
        write(root / "masks" / f"{i}.png", mask)
    if classes is not None:
        write_classes(root / "classes.json", classes)
    return root


def message_of(action: Any, *arguments: Any) -> str:
    with pytest.raises(ValueError) as caught:
        action(*arguments)
    return str(caught.value)


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_folder_of_images_masks_and_classes(tmp_path: Path) -> None:
    data = Dataset.from_folder(folder(tmp_path))
    assert len(data) == 3
    assert data.classes == CRACKS
    assert data.has_background
    for i in range(3):
        assert data.name(i) == f"{i}.png"
        assert (data.image(i) == i).all()
        mask = data.mask(i)
        assert mask is not None
        assert (mask.shape, int(mask.sum())) == ((4, 6), i)  # class indices, not the file's 255


def test_masks_may_be_partial(tmp_path: Path) -> None:
    data = Dataset.from_folder(folder(tmp_path, images=4, masks=2))
    assert [data.mask(i) is not None for i in range(4)] == [True, True, False, False]
    assert [data.labelled().name(i) for i in range(len(data.labelled()))] == ["0.png", "1.png"]
    assert data.labelled().labelled() == data.labelled()


def test_masks_may_be_absent(tmp_path: Path) -> None:
    data = Dataset.from_folder(folder(tmp_path, masks=0))
    assert data.masks is None
    assert data.mask(0) is None
    assert len(data.labelled()) == 0


def test_a_folder_of_photos_is_enough(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.jpeg", "c.webp", "notes.txt"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.zeros((4, 6, 3), np.uint8))[1].tobytes())
    data = Dataset.from_folder(tmp_path)
    assert [data.name(i) for i in range(len(data))] == ["a.jpeg", "b.JPG", "c.webp"]
    assert (data.classes, data.masks, data.has_background) == ((), None, False)
    assert data.image(0).shape == (4, 6, 3)


def test_classes_can_be_given_where_the_folder_has_none(tmp_path: Path) -> None:
    root = folder(tmp_path, classes=None)
    assert Dataset.from_folder(root).masks is None  # numbers without names mean nothing
    given = Dataset.from_folder(root, CRACKS)
    assert given.classes == CRACKS
    assert given.mask(2) is not None
    write_classes(root / "classes.json", (BACKGROUND, ClassInfo("scratch", (1, 2, 3), 255)))
    assert Dataset.from_folder(root, CRACKS).classes[1].name == "scratch"  # the folder knows better


@pytest.mark.parametrize("name", ["absent", "empty", "file"])
def test_folders_that_are_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    message = message_of(Dataset.from_folder, tmp_path / name)
    assert str(tmp_path / name) in message
    assert {"absent": "does not exist", "empty": "holds no image", "file": "is a file: give the folder"}[name] in message


def test_two_images_must_not_claim_one_mask(tmp_path: Path) -> None:
    folder(tmp_path)
    write(tmp_path / "images" / "1.jpg", np.zeros((4, 6, 3), np.uint8))
    message = message_of(Dataset.from_folder, tmp_path)
    assert "1.jpg" in message
    assert "1.png" in message


# -- classes.json -----------------------------------------------------------------------------------------------------


def test_classes_survive_writing(tmp_path: Path) -> None:
    classes = (BACKGROUND, ClassInfo("Riß", (1, 2, 3), 9), CRACK)
    write_classes(tmp_path / "classes.json", classes)
    assert read_classes(tmp_path / "classes.json") == classes


GOOD = {"name": "crack", "color": [1, 2, 3], "value": 1}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ("5", "holds 5: write a list in index order"),
        ('{"crack": 1}', "holds {'crack': 1}: write a list"),
        ('["crack", 2]', "entry 1 is 'crack': write a list"),
        ("[]", "empty"),
        (json.dumps([GOOD, {"name": "rust", "color": [1, 2, 3]}]), "entry 2 (rust) has no 'value'"),
        (json.dumps([{"name": "crack", "value": 1}]), "entry 1 (crack) has no 'color'"),
        (json.dumps([{"color": [1, 2, 3], "value": 1}]), "entry 1 (without a name) has no 'name'"),
        (json.dumps([{**GOOD, "color": "red"}]), "entry 1 (crack) has a color or value that is no number"),
        (json.dumps([{**GOOD, "color": [1, 2]}]), "class 'crack' has color [1, 2]"),
        (json.dumps([{**GOOD, "color": [1, 2, 256]}]), "class 'crack' has color [1, 2, 256]"),
        (json.dumps([{**GOOD, "value": 256}]), "class 'crack' has value 256"),
        (json.dumps([{**GOOD, "value": -1}]), "class 'crack' has value -1"),
        (json.dumps([{**GOOD, "value": None}]), "entry 1 (crack) has a color or value that is no number"),
        (json.dumps([GOOD, {**GOOD, "name": "rust"}]), "values [1, 1]"),
        (json.dumps([GOOD, {**GOOD, "value": 2}]), "names ['crack', 'crack']"),
    ],
)
def test_a_broken_classes_file_is_named(tmp_path: Path, content: str, said: str) -> None:
    folder(tmp_path)
    (tmp_path / "classes.json").write_text(content)
    message = message_of(Dataset.from_folder, tmp_path)
    assert str(tmp_path / "classes.json") in message
    assert said in message


@pytest.mark.parametrize(
    ("name", "expected"), [("background", True), ("Background", True), ("BG", True), ("__bg__", True), ("road", False)]
)
def test_background_is_class_0_where_it_is_called_so(name: str, expected: bool) -> None:
    assert Dataset((), None, (ClassInfo(name, (0, 0, 0), 0), CRACK)).has_background is expected
    assert not Dataset((), None, (CRACK, ClassInfo(name, (0, 0, 0), 0))).has_background


def test_at_most_255_classes() -> None:
    classes = tuple(ClassInfo(f"c{i}", (0, 0, 0), i) for i in range(256))
    assert len(Dataset((), None, classes[:255]).classes) == 255
    assert message_of(Dataset, (), None, classes).startswith("classes: 256 are too many")


# -- masks ------------------------------------------------------------------------------------------------------------


def test_a_class_may_claim_255(tmp_path: Path) -> None:
    mask = read_mask(write(tmp_path / "m.png", np.array([[0, 255], [255, 0]], np.uint8)), CRACKS)
    assert mask.tolist() == [[0, 1], [1, 0]]
    assert mask.dtype == np.uint8


def test_255_is_ignore_where_no_class_claims_it(tmp_path: Path) -> None:
    mask = read_mask(write(tmp_path / "m.png", np.array([[0, 255], [7, 7]], np.uint8)), (BACKGROUND, RUST))
    assert mask.tolist() == [[0, IGNORE], [1, 1]]


def test_a_value_outside_the_classes_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.png", np.array([[0, 255], [9, 0]], np.uint8))
    message = message_of(read_mask, path, CRACKS)
    assert str(path) in message
    assert "value 9" in message
    assert "255 = crack" in message


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.png", np.array([[0, 300]], np.uint16))
    message = message_of(read_mask, path, CRACKS)
    assert str(path) in message
    assert "300" in message


def test_three_equal_channels_are_one(tmp_path: Path) -> None:
    grey = np.array([[0, 255], [0, 0]], np.uint8)
    path = write(tmp_path / "m.png", np.repeat(grey[..., None], 3, axis=2))
    assert read_mask(path, CRACKS).tolist() == [[0, 1], [0, 0]]


def test_colours_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.png", np.array([[[0, 0, 0], [220, 20, 60]]], np.uint8))
    message = message_of(read_mask, path, CRACKS)
    assert str(path) in message
    assert "colours" in message


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_unreadable_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    assert message_of(read_image, path).startswith(f"{path}: cannot be read")
    assert message_of(read_mask, path, CRACKS).startswith(f"{path}: cannot be read")


def test_missing_files_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.png", tmp_path):
        assert message_of(read_image, path).startswith(f"{path}: cannot be read")


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_transparent_images_become_rgb(tmp_path: Path, channels: int) -> None:
    array = np.full((3, 5, channels), 77, np.uint8)
    cv2.imwrite(str(tmp_path / "i.png"), array)
    image = read_image(tmp_path / "i.png")
    assert (image.shape, image.dtype) == ((3, 5, 3), np.uint8)
    assert (image == 77).all()


def test_sixteen_bit_images_become_eight(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "i.png"), np.full((3, 5, 3), 77 * 256, np.uint16))
    assert (read_image(tmp_path / "i.png") == 77).all()


def test_channels_are_rgb(tmp_path: Path) -> None:
    image = read_image(write(tmp_path / "i.png", np.array([[[10, 20, 30]]], np.uint8)))
    assert image.tolist() == [[[10, 20, 30]]]


def exif(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an EXIF segment of one tag."""
    tiff = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    segment = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (8, 1), (3, 2), (6, 3)])
def test_photos_stand_upright(tmp_path: Path, orientation: int, turns: int) -> None:
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :24] = (250, 20, 20)  # red in the corner at the top left
    upright[16:, 24:] = (20, 20, 250)
    stored = np.rot90(upright, -turns)  # as the sensor saw it
    jpeg = cv2.imencode(".jpg", np.ascontiguousarray(stored[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    path = tmp_path / "photo.jpg"
    path.write_bytes(exif(jpeg, orientation))
    image = read_image(path)
    assert image.shape == upright.shape
    for row, column in ((4, 4), (28, 44), (4, 44), (28, 4)):
        assert np.abs(image[row, column].astype(int) - upright[row, column]).max() < 25


# -- arrays -----------------------------------------------------------------------------------------------------------


def test_arrays_serve_as_they_are() -> None:
    image, mask = np.zeros((3, 4, 3), np.uint8), np.ones((3, 4), np.uint8)
    data = Dataset((image, image), (mask, None), CRACKS)
    assert data.image(0) is image
    assert data.mask(0) is mask
    assert data.mask(1) is None
    assert data.name(1) == "image 1"


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
)
def test_arrays_that_are_no_images(image: Any) -> None:
    message = message_of(Dataset((image,), None, CRACKS).image, 0)
    assert message.startswith("image 0: an array of")
    assert "RGB uint8" in message


@pytest.mark.parametrize("mask", [np.zeros((4, 4), np.int64), np.zeros((4, 4, 1), np.uint8)])
def test_arrays_that_are_no_masks(mask: Any) -> None:
    assert "image 0: the mask is" in message_of(Dataset((np.zeros((4, 4, 3), np.uint8),), (mask,), CRACKS).mask, 0)


def test_as_many_masks_as_images() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    assert message_of(Dataset, (image, image), (None,), CRACKS).startswith("masks: 1 for 2 images")


# -- join -------------------------------------------------------------------------------------------------------------


def test_join_keeps_order_and_gaps(tmp_path: Path) -> None:
    first = Dataset.from_folder(folder(tmp_path / "a", images=2, masks=1))
    second = Dataset.from_folder(folder(tmp_path / "b", images=1, masks=0))
    data = join([first, second, first])
    assert [data.name(i) for i in range(len(data))] == ["0.png", "1.png", "0.png", "0.png", "1.png"]
    assert [data.mask(i) is not None for i in range(len(data))] == [True, False, False, True, False]
    assert data.classes == CRACKS
    assert join([first]) == first


def test_join_of_unlabelled_sets_is_unlabelled(tmp_path: Path) -> None:
    photos = Dataset.from_folder(folder(tmp_path, masks=0))
    assert join([photos, photos]).masks is None


@pytest.mark.parametrize("other", [(BACKGROUND, RUST), (CRACK, BACKGROUND), (BACKGROUND, CRACK, RUST), (BACKGROUND,)])
def test_join_refuses_other_classes(tmp_path: Path, other: tuple[ClassInfo, ...]) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    message = message_of(join, [Dataset((image,), None, CRACKS), Dataset((image,), None, other)])
    assert str([c.name for c in other]) in message
    assert "['background', 'crack']" in message


def test_join_refuses_other_numbers_in_the_mask_files(tmp_path: Path) -> None:
    """The joined set has one table from numbers to classes: reading the second folder with it would swap classes."""
    first = Dataset.from_folder(folder(tmp_path / "a"))
    swapped = (ClassInfo("background", (0, 0, 0), 255), ClassInfo("crack", (1, 2, 3), 0))
    second = Dataset.from_folder(folder(tmp_path / "b", classes=swapped))
    message = message_of(join, [first, second])
    assert "[255, 0]" in message
    assert "[0, 255]" in message


# -- class_pixels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_class_pixels_count_every_class_and_the_ignored(workers: int) -> None:
    image = np.zeros((2, 3, 3), np.uint8)
    masks = (
        np.array([[0, 0, 1], [1, 1, 255]], np.uint8),
        None,
        np.array([[2, 2, 2], [2, 2, 0]], np.uint8),
    )
    counts = class_pixels(Dataset((image,) * 3, masks, (BACKGROUND, CRACK, RUST)), workers)
    assert counts.tolist() == [[2, 3, 0, 1], [0, 0, 0, 0], [1, 0, 5, 0]]
    assert counts.dtype == np.int64


def test_class_pixels_read_mask_files(tmp_path: Path) -> None:
    assert class_pixels(Dataset.from_folder(folder(tmp_path))).tolist() == [[24, 0, 0], [23, 1, 0], [22, 2, 0]]


def test_class_pixels_refuse_indices_without_a_class() -> None:
    data = Dataset((np.zeros((1, 2, 3), np.uint8),), (np.array([[0, 2]], np.uint8),), CRACKS)
    message = message_of(class_pixels, data)
    assert message.startswith("image 0: mask value 2 is no class")
    assert "0 to 1" in message
