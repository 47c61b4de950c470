"""Every kind of image file comes out as upright RGB, every kind of mask as class indices; broken ones are refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFile, ImageOps

from hrda_core.data.classes import IGNORE, ClassInfo
from hrda_core.data.decoding import read_image, read_mask

BACKGROUND, CRACK, RUST = (ClassInfo(n, (0, 0, 0), v) for n, v in (("background", 0), ("crack", 255), ("rust", 7)))
ORIENTATION = 0x0112


def scene(height: int = 48, width: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Smooth colours, different in every corner."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([250 * x, 250 * y, 120 + 100 * np.sin(5 * x * y)], axis=-1).astype(np.uint8)


def saved(path: Path, picture: Pillow.Image, **options: Any) -> Path:
    picture.save(path, **options)
    return path


def oracle(path: Path) -> np.ndarray[Any, Any]:
    with Pillow.open(path) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def message_of(action: Any, *arguments: Any) -> str:
    with pytest.raises(ValueError) as caught:
        action(*arguments)
    return str(caught.value)


# -- images -----------------------------------------------------------------------------------------------------------

KINDS = [
    ("jpg", "RGB", {"quality": 90}),
    ("jpg", "RGB", {"quality": 90, "progressive": True, "subsampling": 0}),
    ("jpg", "L", {}),
    ("jpg", "CMYK", {"quality": 95}),
    ("png", "RGB", {}),
    ("png", "RGBA", {}),
    ("png", "L", {}),
    ("png", "LA", {}),
    ("png", "P", {}),
    ("png", "P", {"bits": 2}),
    ("png", "1", {}),
    ("webp", "RGB", {"lossless": True}),
    ("webp", "RGB", {"quality": 80}),
    ("webp", "RGBA", {"lossless": True, "exact": True}),
    ("tif", "RGB", {}),
    ("tif", "RGB", {"compression": "tiff_lzw"}),
    ("tif", "RGB", {"compression": "jpeg"}),
    ("tif", "RGBA", {"compression": "tiff_adobe_deflate"}),
    ("tif", "CMYK", {}),
    ("tif", "L", {}),
    ("tif", "P", {}),
    ("tif", "1", {"compression": "group4"}),
    ("bmp", "RGB", {}),
    ("bmp", "L", {}),
    ("bmp", "P", {}),
]


@pytest.mark.parametrize(("suffix", "mode", "options"), KINDS)
def test_every_kind_comes_out_as_pillow_sees_it(tmp_path: Path, suffix: str, mode: str, options: dict[str, Any]) -> None:
    path = saved(tmp_path / f"photo.{suffix}", Pillow.fromarray(scene()).convert(mode), **options)
    image = read_image(path)
    assert (image.dtype, image.shape) == (np.uint8, (48, 64, 3))
    assert image.flags["C_CONTIGUOUS"]
    assert image.flags["WRITEABLE"]
    assert np.abs(image.astype(int) - oracle(path)).max() <= 2  # two JPEG decoders may round differently


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_photos_stand_upright_whatever_the_format(tmp_path: Path, suffix: str, orientation: int) -> None:
    picture = Pillow.fromarray(scene())
    exif = Pillow.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 95} if suffix == "jpg" else {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"photo.{suffix}", picture, exif=exif, **options)
    image = read_image(path)
    assert image.shape == ((48, 64, 3) if orientation < 5 else (64, 48, 3))
    assert np.abs(image.astype(int) - oracle(path)).max() <= 2


def test_a_photo_with_damaged_exif_is_still_a_photo(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.jpg", Pillow.fromarray(scene()), exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert read_image(path).shape == (48, 64, 3)


def test_colours_under_transparent_pixels_remain(tmp_path: Path) -> None:
    clear = np.dstack([scene(), np.zeros((48, 64), np.uint8)])
    for suffix in ("png", "tif"):
        assert (read_image(saved(tmp_path / f"clear.{suffix}", Pillow.fromarray(clear))) == scene()).all()


def test_inverted_cmyk_of_adobe(tmp_path: Path) -> None:
    """Photoshop stores 255 minus ink; read as ink, the photo would be a negative."""
    path = saved(tmp_path / "print.jpg", Pillow.fromarray(scene()).convert("CMYK"), quality=100, subsampling=0)
    assert b"Adobe" in path.read_bytes()
    assert np.abs(read_image(path).astype(int) - scene()).mean() < 3


def test_the_first_page_counts(tmp_path: Path) -> None:
    pages = [Pillow.fromarray(np.full((8, 9, 3), value, np.uint8)) for value in (10, 200)]
    for suffix, options in (("tif", {}), ("webp", {"lossless": True})):
        path = saved(tmp_path / f"pages.{suffix}", pages[0], save_all=True, append_images=pages[1:], **options)
        assert (read_image(path) == 10).all()


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "actually_a_png.jpg"
    Pillow.fromarray(scene()).save(path, format="PNG")
    assert (read_image(path) == scene()).all()


# -- more than 8 bits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("depth", [10, 12, 14, 16])
def test_deep_images_keep_their_highest_bits(tmp_path: Path, suffix: str, channels: int, depth: int) -> None:
    eight = np.dstack([scene(), np.full((48, 64), 255, np.uint8)])[..., :channels]
    eight[0, 0] = 255
    path = tmp_path / f"deep.{suffix}"
    bgr = eight[..., [0] if channels == 1 else [2, 1, 0, 3][:channels]]
    cv2.imwrite(str(path), bgr.astype(np.uint16) << (depth - 8))
    image = read_image(path)
    assert (image == (eight[..., :3] if channels > 1 else eight[..., :1])).all()


def test_a_camera_with_12_bits_is_not_black(tmp_path: Path) -> None:
    path = tmp_path / "camera.tif"
    cv2.imwrite(str(path), np.full((4, 4), 3000, np.uint16))  # of 4095: bright
    assert (read_image(path) == 3000 // 16).all()


def tiff_bytes(array: np.ndarray[Any, Any], **tags: int) -> bytes:
    """A plain TIFF of one strip, of any number of channels and depth."""
    height, width, channels = array.shape
    data = array.tobytes()
    bits = 8 * array.itemsize
    wide = len(data) + 8  # where the list of bits lies, since one entry has no room for it
    values = {256: width, 257: height, 259: 1, 262: 2 if channels == 3 else 1, 273: 8, 277: channels, 278: height}
    values |= {279: len(data), 284: 1, **{int(tag.removeprefix("tag_")): value for tag, value in tags.items()}}
    if channels > 3:
        values[262] = 1
    entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items()}
    entries[258] = struct.pack("<HHII", 258, 3, channels, wide if channels > 2 else bits)
    start = wide + 2 * channels
    directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", start) + data + struct.pack(f"<{channels}H", *[bits] * channels) + directory


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_tiffs_stand_upright(tmp_path: Path, orientation: int) -> None:
    """OpenCV decodes these, since Pillow would keep 8 bits."""
    eight, deep = tmp_path / "eight.tif", tmp_path / "deep.tif"
    eight.write_bytes(tiff_bytes(scene(), tag_274=orientation))
    deep.write_bytes(tiff_bytes(scene().astype(np.uint16) * 257, tag_274=orientation))
    assert (read_image(deep) == oracle(eight)).all()
    assert (read_image(eight) == oracle(eight)).all()


@pytest.mark.parametrize("orientation", [3, 6])
def test_deep_pngs_stand_upright(tmp_path: Path, orientation: int) -> None:
    exif = Pillow.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / "deep.png", Pillow.fromarray(scene()[..., 0].astype(np.uint16) * 257), exif=exif)
    assert (read_image(path)[..., 0] == np.rot90(scene()[..., 0], {3: 2, 6: 3}[orientation])).all()


def test_floats_from_0_to_1_are_brightness(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    cv2.imwrite(str(path), scene()[..., ::-1].astype(np.float32) / 255)
    assert (read_image(path) == scene()).all()


@pytest.mark.parametrize("value", [-0.5, 3.0, np.nan])
def test_other_floats_are_refused(tmp_path: Path, value: float) -> None:
    path = tmp_path / "height_map.tif"
    cv2.imwrite(str(path), np.full((4, 4), value, np.float32))
    message = message_of(read_image, path)
    assert message.startswith(f"{path}: numbers from {value:g}")
    assert "save 8 or 16 bits" in message


# -- size -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_very_large_images_load(tmp_path: Path, suffix: str) -> None:
    """Pillow's own limits, 89 and 179 megapixels, would refuse the second."""
    path = tmp_path / f"map.{suffix}"
    cv2.imwrite(str(path), np.full((14_000, 13_000), 90, np.uint8))
    image = read_image(path)
    assert image.shape == (14_000, 13_000, 3)
    assert int(image[-1, -1, 0]) == 90


def test_beyond_a_gigapixel_is_refused_by_size(tmp_path: Path) -> None:
    content = bytearray(png_bytes(np.zeros((4, 4), np.uint8)))
    struct.pack_into(">II", content, 16, 40_000, 40_000)
    struct.pack_into(">I", content, 29, zlib.crc32(content[12:29]))
    path = tmp_path / "huge.png"
    path.write_bytes(content)
    assert message_of(read_image, path).startswith(f"{path}: 40000x40000 pixels are more than")


# -- broken files -----------------------------------------------------------------------------------------------------


def png_bytes(array: Any) -> bytes:
    buffer = io.BytesIO()
    Pillow.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("suffix", "mode", "options"), KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.98])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, mode: str, options: dict[str, Any], share: float) -> None:
    path = saved(tmp_path / f"photo.{suffix}", Pillow.fromarray(scene(200, 300)).convert(mode), **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    message = message_of(read_image, path)
    assert message.startswith(f"{path}: cannot be read")
    assert "empty (0 bytes)" in message if share == 0 else "remove or replace the file" in message


def test_a_truncated_photo_with_a_thumbnail_is_refused(tmp_path: Path) -> None:
    """The thumbnail has an end of its own, which must not pass for the photo's."""
    thumbnail = io.BytesIO()
    Pillow.fromarray(scene()).save(thumbnail, format="JPEG")
    path = saved(tmp_path / "photo.jpg", Pillow.fromarray(scene(300, 400)), exif=b"Exif\0\0II*\0" + thumbnail.getvalue())
    assert read_image(path).shape == (300, 400, 3)
    path.write_bytes(path.read_bytes()[:-200])
    assert message_of(read_image, path).startswith(f"{path}: cannot be read as an image, it is truncated")


@pytest.mark.parametrize("content", [b"no image", b"GIF89a", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"RIFF", b"BM"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    assert message_of(read_image, path).startswith(f"{path}: cannot be read as an image")
    assert message_of(read_mask, path, (BACKGROUND, CRACK)).startswith(f"{path}: cannot be read as a mask")


def test_more_channels_than_colours(tmp_path: Path) -> None:
    path = tmp_path / "satellite.tif"
    path.write_bytes(tiff_bytes(np.zeros((8, 9, 6), np.uint8)))
    assert message_of(read_image, path).startswith(f"{path}: cannot be read as an image")


# -- masks ------------------------------------------------------------------------------------------------------------

VALUES = np.array([[0, 255, 7], [7, 0, 255]], np.uint8)
THREE = (BACKGROUND, CRACK, RUST)
INDICES = [[0, 1, 2], [2, 0, 1]]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_equal_channels_are_one_and_alpha_does_not_count(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "m.png", Pillow.fromarray(VALUES).convert(mode))
    assert read_mask(path, THREE).tolist() == INDICES


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_masks_with_small_values(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"m.{suffix}"
    cv2.imwrite(str(path), np.repeat(VALUES[..., None], channels, axis=2).astype(np.uint16))
    assert read_mask(path, THREE).tolist() == INDICES


def test_a_palette_gives_its_indices_not_its_colours(tmp_path: Path) -> None:
    """As in PASCAL VOC, where 255 is the border and ignored."""
    picture = Pillow.fromarray(np.array([[0, 1, 255], [1, 7, 0]], np.uint8), mode="P")
    picture.putpalette([v for i in range(256) for v in (255 - i, i, 77)])
    classes = (BACKGROUND, ClassInfo("plane", (1, 1, 1), 1), RUST)
    assert read_mask(saved(tmp_path / "m.png", picture), classes).tolist() == [[0, 1, IGNORE], [1, 2, 0]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_palettes(tmp_path: Path, bits: int) -> None:
    picture = Pillow.fromarray(np.array([[0, 1], [1, 0]], np.uint8), mode="P")
    picture.putpalette([255, 0, 0, 0, 255, 0])
    path = saved(tmp_path / "m.png", picture, bits=bits)
    assert read_mask(path, (BACKGROUND, ClassInfo("plane", (1, 1, 1), 1))).tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(("value", "other"), [(255, 7), (1, 7), (1, 255), (255, None)])
def test_one_bit_masks(tmp_path: Path, value: int, other: int | None) -> None:
    """A set pixel is value 1, or 255 where only that belongs to a class."""
    path = saved(tmp_path / "m.png", Pillow.fromarray(np.array([[False, True]])))
    more = () if other is None else (ClassInfo("other", (2, 2, 2), other),)
    assert read_mask(path, (BACKGROUND, ClassInfo("crack", (1, 1, 1), value), *more)).tolist() == [[0, 1]]


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_keep_their_numbers(tmp_path: Path, bits: int) -> None:
    """Decoders spread them over 0 to 255: the 3 of a 2-bit mask must not become 255."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = bytes([0, 0b00011011 if bits == 2 else 0x01]) + (b"" if bits == 2 else b"\x23")  # filter 0; pixels 0 1 2 3
    header = struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    path = tmp_path / "m.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    classes = tuple(ClassInfo(f"c{i}", (i, i, i), i) for i in range(4))
    assert read_mask(path, classes).tolist() == [[0, 1, 2, 3]]


def test_a_mask_is_turned_by_its_own_exif(tmp_path: Path) -> None:
    exif = Pillow.Exif()
    exif[ORIENTATION] = 6
    path = saved(tmp_path / "m.png", Pillow.fromarray(VALUES), exif=exif)
    assert read_mask(path, THREE).tolist() == np.rot90(INDICES, -1).tolist()


def test_strange_values_are_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.png", Pillow.fromarray(np.array([[0, 9, 17]], np.uint8)))
    message = message_of(read_mask, path, (BACKGROUND, CRACK))
    assert message.startswith(f"{path}: mask value 9 (and 1 more such values) belongs to no class")
    assert "255 = crack" in message
    assert "add the class" in message


def test_coloured_masks_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.png", Pillow.fromarray(scene()))
    assert message_of(read_mask, path, THREE).startswith(f"{path}: the mask has colours; save class numbers")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_truncated_masks_are_refused(tmp_path: Path, share: float) -> None:
    content = png_bytes(np.random.default_rng(0).integers(0, 2, (99, 99), dtype=np.uint8) * np.uint8(255))
    path = tmp_path / "m.png"
    path.write_bytes(content[: int(share * len(content))])
    assert message_of(read_mask, path, THREE).startswith(f"{path}: cannot be read")


def test_truncated_files_are_refused_where_pillow_was_made_tolerant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the platform's SDK does on import, for the whole process."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = saved(tmp_path / "photo.tif", Pillow.fromarray(scene(200, 300)))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in message_of(read_image, path)
