"""Image and mask files -> arrays: JPEG, PNG, TIFF, WebP and BMP of any depth, upright, whole or not at all.

Pillow reads the header (kind, depth, EXIF orientation) and everything that is out of the ordinary; OpenCV decodes what is
common (it is faster) and what Pillow would cut to 8 bits. Both are told what to read by the first bytes, not by the suffix.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.ImageFile
from numpy.typing import NDArray
from PIL import BmpImagePlugin, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.ImageFile import ImageFile

from hrda_core.data.classes import IGNORE, ClassInfo

Image = NDArray[np.uint8]
Mask = NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# The classes of Pillow's formats, not PIL.Image.open: that refuses images beyond 179 megapixels, which drones and scanners
# make, and lifting its limit would lift it for the whole process. OpenCV has its own, 2 ** 30 pixels.
OPENERS: tuple[tuple[bytes, Any], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
    (b"II+\0", TiffImagePlugin.TiffImageFile),  # BigTIFF
    (b"RIFF", WebPImagePlugin.WebPImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
)
MAX_PIXELS = 2**30
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
PILLOW_TIFF_PIXELS = 89_000_000
ORIENTATION, BITS_PER_SAMPLE = 0x0112, 258  # tags of EXIF and TIFF


def read_image(path: Path) -> Image:
    """(H, W, 3) uint8 RGB, upright.

    - EXIF orientation is applied, for every format that can carry one.
    - More than 8 bits: the image fills 8, 10, 12, 14 or 16 bits, whichever is the least that holds its brightest value, and
      its highest 8 are kept, so that a 12-bit camera's 16-bit file does not come out black. Floats must lie in 0..1.
    - Alpha is dropped, the colours stored under it remain; palettes are looked up; CMYK and YCCK become RGB without a profile.
    - Of several pages or frames the first counts.

    Raises:
        ValueError: missing, empty, truncated, not an image, of a kind that has no sensible RGB, above 2 ** 30 pixels.
    """
    content = read_bytes(path)
    try:
        return decode_image(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_shrunk(path: Path, factor: Callable[[int, int], int]) -> tuple[Image, int]:
    """`read_image` of a photo that is then made smaller anyway, and by how much its sides are shorter already: 1, 2, 4 or 8.

    A JPEG (grey or RGB) holds its smaller versions, which take half the time or less to decode; other kinds come whole.
    `factor`: (height, width) of the file -> at most how much shorter.

    Raises:
        ValueError: as `read_image`.
    """
    content = read_bytes(path)
    try:
        header = _header(content, "an image")
        if header is None or header.format != "JPEG" or header.mode not in ("L", "RGB"):
            return decode_image(content), 1
        wanted = factor(header.height, header.width)
        shorter = next((s for s in REDUCED if s <= wanted), 1)
        if shorter == 1:
            return decode_image(content), 1
        array = _opencv(content, REDUCED[shorter] | cv2.IMREAD_IGNORE_ORIENTATION, "an image")
        return _turned(np.asarray(cv2.cvtColor(array, cv2.COLOR_BGR2RGB)), header, content), shorter
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_mask(path: Path, classes: Sequence[ClassInfo]) -> Mask:
    """(H, W) uint8 class indices; file value 255 is ignore unless a class claims it.

    The file holds class values in one channel of 1 to 16 bits, in several equal ones, or as the indices of a palette (whose
    colours do not matter). In a 1-bit mask the set pixels are value 1, or 255 where only that belongs to a class. Like an
    image, a mask is turned by its own EXIF orientation, though masks rarely have one.

    Raises:
        ValueError: unreadable as in `read_image`, coloured, or a value that no class has.
    """
    content = read_bytes(path)
    try:
        return decode_mask(content, classes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """The file's content. Raises ValueError naming it where there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); check that it exists and may be read") from error
    if not content:
        raise ValueError(f"{path}: cannot be read, it is empty (0 bytes); copy it again or remove it")
    return content


def decode_image(content: bytes) -> Image:
    """`read_image` of a file's content; messages do not name the file."""
    header = _header(content, "an image")
    bits = _bits(content, header)
    array: NDArray[Any]
    if header is None or bits > 8 or _too_big_for_pillow(header):
        array = _eight_bits(_opencv(content, cv2.IMREAD_UNCHANGED, "an image"))
    elif header.format in ("JPEG", "PNG", "WEBP") and header.mode != "CMYK":
        array = _opencv(content, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION, "an image")
        return _turned(array, header, content)
    else:  # Pillow knows that Adobe stores CMYK inverted, and reads TIFF and BMP without guessing
        return _turned(np.asarray(_pillow(header, "an image", "RGB")), header, content)
    kind = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[1 if array.ndim == 2 else array.shape[2]]
    return _turned(np.asarray(cv2.cvtColor(array, kind)), header, content)


def decode_mask(content: bytes, classes: Sequence[ClassInfo]) -> Mask:
    """`read_mask` of a file's content; messages do not name the file."""
    header = _header(content, "a mask")
    bits = _bits(content, header)
    cut = bits > 8 and header is not None and not header.mode.startswith("I")  # Pillow would keep 8 of the 16 bits
    usual = header is not None and (header.format, header.mode, bits) == ("PNG", "L", 8)  # a fifth faster with OpenCV
    if header is None or cut or usual or _too_big_for_pillow(header):
        values = _opencv(content, cv2.IMREAD_UNCHANGED, "a mask")
    else:
        values = np.asarray(_pillow(header, "a mask", None))
        if header.mode == "1":
            known = {c.value for c in classes}
            values = values * np.uint8(255 if 255 in known and 1 not in known else 1)
        elif header.mode == "L" and bits in (2, 4):  # which Pillow spreads over 0 to 255
            values = values // np.uint8(255 // (2**bits - 1))
        elif header.mode in ("LA", "PA"):
            values = values[..., 0]
    if values.ndim == 3:
        if values.shape[2] < 3 or not (values[..., :1] == values[..., 1:3]).all():
            raise ValueError("the mask has colours; save class numbers in one channel, or as the indices of a palette")
        values = values[..., 0]
    return _turned(_indices(values, classes), header, content)


def _indices(values: NDArray[Any], classes: Sequence[ClassInfo]) -> Mask:
    """File values (H, W) -> class indices."""
    table = np.full(256, IGNORE, dtype=np.uint8)
    known = np.zeros(256, dtype=bool)
    known[IGNORE] = True
    for index, info in enumerate(classes):
        table[info.value], known[info.value] = index, True
    if values.dtype == np.uint8:
        values = np.ascontiguousarray(values)
        good = not cv2.countNonZero(np.asarray(cv2.LUT(values, (~known).astype(np.uint8))))
    else:
        good = bool(np.isin(values, np.flatnonzero(known)).all())
    if not good:
        strange = [v for v in np.unique(values).tolist() if not (v in range(256) and known[int(v)])]
        names = ", ".join(f"{c.value} = {c.name}" for c in classes)
        more = f" (and {len(strange) - 1} more such values)" if len(strange) > 1 else ""
        raise ValueError(
            f"mask value {strange[0]}{more} belongs to no class; classes.json has {names}: correct the mask or add the class"
        )
    return np.asarray(cv2.LUT(np.ascontiguousarray(values, dtype=np.uint8), table), dtype=np.uint8)


def _header(content: bytes, what: str) -> ImageFile | None:
    """Pillow's image before decoding; None for a TIFF whose layout only OpenCV may know."""
    opener = next((opener for magic, opener in OPENERS if content.startswith(magic)), None)
    if opener is None:
        raise ValueError(f"cannot be read as {what}, it is none of JPEG, PNG, TIFF, WebP and BMP; remove or replace the file")
    try:
        header: ImageFile = opener(io.BytesIO(content))
    except MemoryError:
        raise
    except Exception as error:  # broken files make Pillow raise nearly anything
        if opener is TiffImagePlugin.TiffImageFile:
            return None
        raise _broken(what) from error
    if header.width * header.height > MAX_PIXELS:
        raise ValueError(f"{header.width}x{header.height} pixels are more than {MAX_PIXELS}; cut the image into pieces")
    return header


def _too_big_for_pillow(header: ImageFile) -> bool:
    """Of its formats TIFF alone asks for the limit again when the pixels are decoded."""
    return isinstance(header, TiffImagePlugin.TiffImageFile) and header.width * header.height > PILLOW_TIFF_PIXELS


def _bits(content: bytes, header: ImageFile | None) -> int:
    """Bits per channel; for a palette those of its colours."""
    if isinstance(header, PngImagePlugin.PngImageFile):
        return 8 if header.mode == "P" else content[24]
    if isinstance(header, TiffImagePlugin.TiffImageFile):
        return int(max(header.tag_v2.get(BITS_PER_SAMPLE, (1,))))
    return 8


def _opencv(content: bytes, flags: int, what: str) -> NDArray[Any]:
    # What is cut short is found here: OpenCV 4 fills the rest of a JPEG with grey, and libpng complains on stderr.
    # In the data of a JPEG 0xff is always followed by 0, so an end marker behind the start of the scan is the end.
    if content.startswith(b"\xff\xd8"):
        whole = content.rfind(b"\xff\xd9") > content.find(b"\xff\xda")
    elif content.startswith(b"\x89PNG"):
        whole = content.rfind(b"IEND") > 0
    else:
        whole = not content.startswith(b"RIFF") or len(content) >= 8 + int.from_bytes(content[4:8], "little")
    if not whole:
        raise _broken(what)
    try:
        array = cv2.imdecode(np.frombuffer(content, dtype=np.uint8), flags)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError(error.err) from error
        raise ValueError(f"cannot be read as {what} ({error.err}); remove or replace the file") from error
    if array is None:
        raise _broken(what)
    return np.asarray(array)


def _pillow(header: ImageFile, what: str, mode: str | None) -> Any:
    # the platform's SDK makes Pillow, for the whole process, fill up with grey what a truncated file lacks
    PIL.ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        header.load()
        return header if mode is None or header.mode == mode else header.convert(mode)
    except MemoryError:  # says nothing about the file
        raise
    except Exception as error:
        raise _broken(what) from error


def _broken(what: str) -> ValueError:
    return ValueError(f"cannot be read as {what}, it is truncated, damaged, or neither grey nor RGB; remove or replace the file")


def _eight_bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Any numbers -> 8 bits by the rule of `read_image`."""
    if array.dtype == np.uint8:
        return array
    low, high = array.min(), array.max()
    if array.dtype.kind == "f":
        if not (low >= 0 and high <= 1):  # also NaN
            raise ValueError(f"numbers from {low:g} to {high:g} have no brightness; save 8 or 16 bits, or floats from 0 to 1")
        return np.asarray((array * 255).round(), dtype=np.uint8)
    if low < 0 or high > 65535:
        raise ValueError(f"numbers from {low} to {high} have no brightness; save 8 or 16 bits")
    depth = next(bits for bits in (8, 10, 12, 14, 16) if high < 2**bits)
    return np.asarray(array >> (depth - 8), dtype=np.uint8)


def _turned(array: NDArray[np.uint8], header: ImageFile | None, content: bytes) -> NDArray[np.uint8]:
    """Upright by the EXIF orientation, contiguous and free to be written to."""
    orientation = _orientation(header, content)
    if orientation >= 5:
        array = np.asarray(cv2.transpose(array))
    # what remains of the eight orientations after the transposition is a flip: rows, columns or both
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    if flip is not None:
        array = np.asarray(cv2.flip(array, flip))
    return np.require(array, np.uint8, ["C", "W"])


def _orientation(header: ImageFile | None, content: bytes) -> int:
    if header is None or isinstance(header, TiffImagePlugin.TiffImageFile):
        return 1  # both decoders have turned a TIFF already, whatever they are asked
    if isinstance(header, PngImagePlugin.PngImageFile) and b"eXIf" not in content:
        return 1  # asking Pillow for a PNG's EXIF decodes all of it
    try:
        value = header.getexif().get(ORIENTATION, 1)
    except Exception:  # a photo is good even where its EXIF data is not
        return 1
    return value if value in range(1, 9) else 1
