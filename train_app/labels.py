"""Supervisely annotations -> masks of class indices: by class name, in drawing order, never through colours."""

from __future__ import annotations

import base64
import io
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import supervisely as sly
from numpy.typing import NDArray
from PIL import Image

from hrda_core.data.classes import BACKGROUND_NAMES, IGNORE, ClassInfo
from train_app.colors import distinct_colors
from train_app.errors import UserError

Mask = NDArray[np.uint8]
BACKGROUND = "background"
DRAWABLE = ("bitmap", "polygon", "multipolygon", "rectangle", "oriented_bbox", "alpha_mask")  # geometries' names in annotations
OUTSIDE = "outside the image"
HALF = 128  # an alpha mask counts from here on


@dataclass(frozen=True)
class ClassChoice:
    """Which classes of the projects are learned, and what becomes of the others.

    names: the chosen classes, in index order. ignored: classes whose pixels are not learned from (255). merged: pairs
    (class, the chosen class or "background" that it joins). Objects of all other classes are as if they did not exist.

    background: index 0 is what no object covers, and the chosen classes follow; a chosen class that is called background
    is this one, not a second. Without it what no object covers is 255, and a chosen class called background comes first,
    since that is where `hrda_core` looks for it.

    Raises:
        UserError: no class, a class with two fates, a merge into a class that is not chosen, more classes than fit 8 bits.
    """

    names: tuple[str, ...]
    background: bool = True
    ignored: tuple[str, ...] = ()
    merged: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        problems = []
        fates = Counter([*self.names, *self.ignored, *(name for name, _ in self.merged)])
        for name, count in fates.items():
            if count > 1:
                problems.append(
                    f"classes: {name!r} occurs {count} times among the chosen, ignored and merged classes; give it one place"
                )
        possible = {*self.names, *([BACKGROUND] if self.background else [])}
        for name, into in self.merged:
            if into not in possible:
                problems.append(
                    f"classes: {name!r} is to join {into!r}, which is not chosen; choose {into!r} or one of {sorted(possible)}"
                )
        if not any(name.lower() not in BACKGROUND_NAMES for name in self.names):
            problems.append(f"classes: {list(self.names)} leaves nothing to find; choose at least one class besides background")
        if len(self.index_names) > 255:
            problems.append(f"classes: {len(self.index_names)} are too many, masks hold at most 255; choose fewer or merge some")
        if problems:
            raise UserError("\n".join(problems))

    @property
    def index_names(self) -> tuple[str, ...]:
        """Names in index order, background included."""
        called_background = [name for name in self.names if name.lower() in BACKGROUND_NAMES]
        others = [name for name in self.names if name not in called_background]
        return (BACKGROUND, *others) if self.background else (*called_background, *others)

    def values(self) -> dict[str, int]:
        """Class name -> number in the mask, for every class whose objects are drawn."""
        values = {name: index for index, name in enumerate(self.index_names)}
        if self.background:
            values |= {name: 0 for name in self.names if name.lower() in BACKGROUND_NAMES}
        values |= {name: values[into] for name, into in self.merged}
        return values | {name: IGNORE for name in self.ignored}

    def class_infos(self, metas: Sequence[sly.ProjectMeta]) -> tuple[ClassInfo, ...]:
        """The classes in index order, `value` = index; the first meta that has a class gives its colour.

        Colours only serve display: black and look-alike ones are replaced by others that can be told apart.
        """
        wanted: list[tuple[int, int, int] | None] = []
        for name in self.index_names:
            found = [meta.get_obj_class(name) for meta in metas]
            color = next((c.color for c in found if c is not None), None)
            wanted.append(None if color is None else (int(color[0]), int(color[1]), int(color[2])))
        first = 1 if self.background else 0
        colors = [(0, 0, 0)] * first + distinct_colors(wanted[first:])
        return tuple(ClassInfo(name, color, i) for i, (name, color) in enumerate(zip(self.index_names, colors, strict=True)))

    def fingerprint(self) -> str:
        """Equal for choices that draw equal masks: what drawn masks are cached under."""
        return json.dumps([self.background, sorted(self.values().items())])


@dataclass(frozen=True)
class Drawing:
    """A drawn annotation. mask: (H, W) uint8. drawn: objects by class name. skipped: objects of chosen (or merged, or ignored)
    classes that have no area, by geometry. objects: all in the annotation, of whatever class."""

    mask: Mask
    objects: int = 0
    drawn: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def labelled(self) -> bool:
        """False for an image without any object, which is mostly one that nobody has labelled yet."""
        return self.objects > 0


def draw(annotation: sly.Annotation | Mapping[str, Any], size: tuple[int, int], choice: ClassChoice, image: str) -> Drawing:
    """Draws an annotation's objects in their order, later ones over earlier ones.

    The order is the list's; where objects carry a "priority" (the labelling tool's z-order) the higher one is drawn later.
    Bitmaps, rectangles, and alpha masks from half opacity on are drawn exactly. Polygons are rasterised as the SDK does it:
    the pixels of the outline belong to the polygon, those of a hole's outline to the hole. What crosses the border is clipped.

    Args:
        annotation: of the SDK, or the json that `api.annotation.download_json_batch` gives (pixel coordinates).
        size: the image's (height, width).
        image: how messages call it.

    Raises:
        UserError: the annotation was made for another size, or an object cannot be read.
    """
    content = annotation.to_json() if isinstance(annotation, sly.Annotation) else annotation
    given = int(content["size"]["height"] or size[0]), int(content["size"]["width"] or size[1])  # unknown for some links
    if given != size:
        raise UserError(
            f"{image}: the annotation is for {given[1]}x{given[0]} pixels, the image has {size[1]}x{size[0]}; "
            f"label the image again, or remove it from the dataset"
        )
    values = choice.values()
    drawing = Drawing(np.full(size, 0 if choice.background else IGNORE, np.uint8), len(content["objects"]))
    for item in sorted(content["objects"], key=lambda item: item.get("priority") or 0):  # stable: mostly none has one
        name = item["classTitle"]
        if name not in values:
            continue
        geometry = item.get("geometryType") or item.get("shape")
        if geometry not in DRAWABLE:
            drawing.skipped[str(geometry)] += 1
            continue
        try:
            inside = _draw_object(drawing.mask, item, geometry, values[name])
        except (KeyError, TypeError, ValueError, IndexError, OSError, zlib.error, cv2.error) as error:
            number = f" {item['id']}" if item.get("id") is not None else ""
            raise UserError(
                f"{image}: object{number} of class {name!r} ({geometry}) cannot be read ({error!r}); "
                f"delete it in the labelling tool and draw it again"
            ) from error
        if inside:
            drawing.drawn[name] += 1
        else:
            drawing.skipped[OUTSIDE] += 1
    return drawing


def draw_mask(annotation: sly.Annotation | Mapping[str, Any], size: tuple[int, int], choice: ClassChoice, image: str) -> Mask:
    """The mask of `draw`: (H, W) uint8 class indices, 255 = ignore."""
    return draw(annotation, size, choice, image).mask


def _draw_object(mask: Mask, item: Mapping[str, Any], geometry: str, value: int) -> bool:
    """Draws one object. False: no pixel of its bounding box lies in the image."""
    if geometry == "rectangle":
        points = np.floor(np.asarray(item["points"]["exterior"], dtype=float)).astype(int)
        if points.shape != (2, 2):
            raise ValueError(f"a rectangle has two corners, not {len(points)}")
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        area = mask[max(top, 0) : max(bottom + 1, 0), max(left, 0) : max(right + 1, 0)]
        area[...] = value
        return area.size > 0
    if geometry == "oriented_bbox":
        corners = sly.OrientedBBox.from_json(dict(item)).calculate_rotated_corners()
        return _draw_polygon(mask, {"exterior": [(int(corner.col), int(corner.row)) for corner in corners]}, value)
    if geometry == "polygon":
        return _draw_polygon(mask, item["points"], value)
    if geometry == "multipolygon":
        return any([_draw_polygon(mask, part, value) for part in item["parts"]])  # a list: all are drawn
    covered = _bitmap(item["bitmap"]["data"]) if geometry == "bitmap" else _alpha(item["bitmap"]["data"]) >= HALF
    left, top = (int(np.floor(part)) for part in item["bitmap"]["origin"])
    area = mask[max(top, 0) : max(top + covered.shape[0], 0), max(left, 0) : max(left + covered.shape[1], 0)]
    skip_rows, skip_columns = max(-top, 0), max(-left, 0)
    area[covered[skip_rows : skip_rows + area.shape[0], skip_columns : skip_columns + area.shape[1]]] = value
    return area.size > 0


def _draw_polygon(mask: Mask, points: Mapping[str, Any], value: int) -> bool:
    """On a canvas of the polygon's own bounding box, so that many small ones on a large image cost little."""
    rings = [_ring(points["exterior"]), *(_ring(ring) for ring in points.get("interior") or ())]
    if not len(rings[0]):
        raise ValueError("a polygon without points")
    left, top = np.maximum(rings[0].min(axis=0), 0)
    right, bottom = np.minimum(rings[0].max(axis=0) + 1, (mask.shape[1], mask.shape[0]))
    if right <= left or bottom <= top:
        return False
    covered = np.zeros((bottom - top, right - left), np.uint8)
    corner = (-int(left), -int(top))
    cv2.fillPoly(covered, rings[:1], 1, offset=corner)
    for hole in rings[1:]:
        cv2.fillPoly(covered, [hole], 0, offset=corner)
    mask[top:bottom, left:right][covered.astype(bool)] = value
    return True


def _ring(points: Sequence[Sequence[float]]) -> NDArray[np.int32]:
    """(N, 2) columns and rows."""
    return np.asarray(np.floor(np.asarray(points, dtype=float)), dtype=np.int32).reshape(-1, 2)


def _bitmap(data: str) -> NDArray[np.bool_]:
    """PNG, zlib-packed or not, in base64 -> what it covers: its opacity where it has one, else what is not black."""
    array = cv2.imdecode(np.frombuffer(_unpacked(data), np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None:
        raise ValueError("the bitmap is no PNG")
    if array.ndim == 2:
        return np.asarray(array > 0)
    return np.asarray(array[..., 3] > 0 if array.shape[2] == 4 else array.any(axis=2))


def _alpha(data: str) -> Mask:
    """As `_bitmap`, to opacities. Not with the SDK's decoder: that takes the brightness of a PNG which has an alpha channel."""
    with Image.open(io.BytesIO(_unpacked(data))) as image:
        transparent = image.mode != "L" and ("A" in image.getbands() or "transparency" in image.info)
        return np.asarray(image.convert("RGBA"))[..., 3] if transparent else np.asarray(image.convert("L"))


def _unpacked(data: str) -> bytes:
    content = base64.b64decode(data)
    return content if content.startswith(b"\x89PNG") else zlib.decompress(content)
