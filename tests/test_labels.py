"""Annotations -> masks, pixel by pixel against a second rasteriser that is written here, and against the SDK's drawing."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import supervisely as sly
from PIL import Image

from train_app.errors import UserError
from train_app.labels import ClassChoice, draw, draw_mask

HEIGHT, WIDTH = 30, 40
SIZE = (HEIGHT, WIDTH)
CHOICE = ClassChoice(("crack", "rust"))
CRACK, RUST = 1, 2


# ---- a second rasteriser: geometries are dicts of plain arrays, pixels are tested one by one at their centres


def covered(geometry: sly.geometry.geometry.Geometry) -> np.ndarray:
    """(H, W) bool: the pixels of a geometry inside the image."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    if isinstance(geometry, sly.Rectangle):
        return (rows >= geometry.top) & (rows <= geometry.bottom) & (columns >= geometry.left) & (columns <= geometry.right)
    if isinstance(geometry, sly.Bitmap):  # an alpha mask is one, too
        result = np.zeros(SIZE, bool)
        for (row, column), value in np.ndenumerate(geometry.data):
            y, x = row + geometry.origin.row, column + geometry.origin.col
            if 0 <= y < HEIGHT and 0 <= x < WIDTH:
                result[y, x] = value >= 128 if isinstance(geometry, sly.AlphaMask) else value
        return result
    rings = [[(p.row, p.col) for p in ring] for ring in (geometry.exterior, *geometry.interior)]
    result = in_ring(rings[0])
    for hole in rings[1:]:
        result &= ~in_ring(hole)
    return result


def in_ring(ring: Sequence[tuple[int, int]]) -> np.ndarray:
    """Even-odd rule, the outline included."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    inside, on = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    for (y1, x1), (y2, x2) in edges(ring):
        if y1 != y2:
            crosses = (rows < y1) != (rows < y2)
            inside ^= crosses & (columns < x1 + (rows - y1) * (x2 - x1) / (y2 - y1))
        along = (columns - x1) * (y2 - y1) - (rows - y1) * (x2 - x1) == 0
        on |= along & (rows >= min(y1, y2)) & (rows <= max(y1, y2)) & (columns >= min(x1, x2)) & (columns <= max(x1, x2))
    return inside | on


def edges(ring: Sequence[tuple[int, int]]) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    return zip(ring, [*ring[1:], ring[0]], strict=True)


def distance_to_outline(polygon: sly.Polygon) -> np.ndarray:
    """(H, W): of each pixel's centre to the nearest edge."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    nearest = np.full(SIZE, np.inf)
    for ring in (polygon.exterior, *polygon.interior):
        for (y1, x1), (y2, x2) in edges([(p.row, p.col) for p in ring]):
            length = max((y2 - y1) ** 2 + (x2 - x1) ** 2, 1e-9)
            t = np.clip(((rows - y1) * (y2 - y1) + (columns - x1) * (x2 - x1)) / length, 0, 1)
            nearest = np.minimum(nearest, np.hypot(rows - y1 - t * (y2 - y1), columns - x1 - t * (x2 - x1)))
    return nearest


def expected(labels: Sequence[tuple[str, Any]], values: dict[str, int], empty: int) -> np.ndarray:
    mask = np.full(SIZE, empty, np.uint8)
    for name, geometry in labels:
        if name in values:
            mask[covered(geometry)] = values[name]
    return mask


# ---- annotations as the platform gives them


def annotation(*labels: tuple[str, Any], size: tuple[int, int] = SIZE) -> dict[str, Any]:
    objects = [
        {"classTitle": name, "geometryType": shape.geometry_name(), "tags": [], **shape.to_json()} for name, shape in labels
    ]
    return {"size": {"height": size[0], "width": size[1]}, "tags": [], "objects": objects}


def bitmap(row: int, column: int, data: np.ndarray) -> sly.Bitmap:
    return sly.Bitmap(data.astype(bool), sly.PointLocation(row, column))


def alpha(row: int, column: int, data: np.ndarray) -> sly.AlphaMask:
    return sly.AlphaMask(data.astype(np.uint8), sly.PointLocation(row, column))


def polygon(exterior: list[list[int]], *holes: list[list[int]]) -> sly.Polygon:
    return sly.Polygon(exterior, list(holes))


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


FRAME = polygon(
    [[3, 3], [3, 20], [18, 20], [18, 3]],
    [[6, 6], [6, 12], [10, 12], [10, 6]],
    [[13, 8], [13, 15], [15, 15], [15, 8]],
)
SCENES: dict[str, list[tuple[str, Any]]] = {
    "rectangle": [("crack", sly.Rectangle(2, 3, 10, 20))],
    "one pixel": [("crack", sly.Rectangle(5, 6, 5, 6))],
    "bitmap": [("crack", bitmap(4, 5, noise(1, 12, 9) > 100))],
    "polygon with two holes": [("crack", FRAME)],
    "alpha mask": [("crack", alpha(7, 2, noise(2, 14, 15)))],
    "later over earlier": [("crack", sly.Rectangle(2, 3, 15, 20)), ("rust", FRAME)],
    "and the other way round": [("rust", FRAME), ("crack", sly.Rectangle(2, 3, 15, 20))],
    "hole shows what is below": [("rust", sly.Rectangle(0, 0, 29, 39)), ("crack", FRAME)],
    "across all four borders": [
        ("crack", sly.Rectangle(-5, -5, 4, 6)),
        ("rust", bitmap(-3, 30, noise(3, 20, 20) > 100)),
        ("crack", bitmap(25, -4, noise(4, 12, 20) > 100)),
        ("rust", alpha(20, 33, noise(5, 20, 20))),
        ("crack", polygon([[8, -9], [8, 60], [12, 60], [12, -9]], [[9, 35], [9, 45], [11, 45], [11, 35]])),
    ],
    "wholly outside": [
        ("crack", sly.Rectangle(100, 100, 110, 110)),
        ("crack", sly.Rectangle(-20, 3, -10, 9)),
        ("rust", bitmap(-30, 3, np.ones((5, 5)))),
        ("rust", alpha(3, 40, np.full((5, 5), 255))),
        ("crack", polygon([[-9, -9], [-9, -2], [-2, -2], [-2, -9]])),
    ],
    "a class that is not chosen": [("crack", FRAME), ("dirt", sly.Rectangle(0, 0, 29, 39))],
    "nothing": [],
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("background", [True, False])
def test_exact_pixels(scene: str, background: bool) -> None:
    """Rectangles, bitmaps, alpha masks and axis-aligned polygons: every pixel."""
    choice = ClassChoice(("crack", "rust"), background=background)
    values = {"crack": CRACK, "rust": RUST} if background else {"crack": 0, "rust": 1}
    mask = draw_mask(annotation(*SCENES[scene]), SIZE, choice, "image")
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, expected(SCENES[scene], values, 0 if background else 255))


@pytest.mark.parametrize("seed", range(20))
def test_random_scenes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels: list[tuple[str, Any]] = []
    for _ in range(8):
        row, column = int(rng.integers(-10, HEIGHT)), int(rng.integers(-10, WIDTH))
        height, width = (int(n) for n in rng.integers(2, 20, 2))
        data = rng.integers(0, 256, (height, width), dtype=np.uint8)
        corners = [[row, column], [row, column + width], [row + height, column + width], [row + height, column]]
        shapes = [
            sly.Rectangle(row, column, row + height, column + width),
            bitmap(row, column, data > 120),
            alpha(row, column, data),
            polygon(corners),
        ]
        labels.append((str(rng.choice(["crack", "rust", "dirt"])), shapes[rng.integers(4)]))
    mask = draw_mask(annotation(*labels), SIZE, CHOICE, "image")
    np.testing.assert_array_equal(mask, expected(labels, {"crack": CRACK, "rust": RUST}, 0))


@pytest.mark.parametrize("seed", range(20))
def test_slanted_polygons(seed: int) -> None:
    """Pixels whose centre is a pixel or more away from every edge are exact; nearer ones may fall to either side."""
    rng = np.random.default_rng(seed)
    shape = polygon([[int(rng.integers(0, HEIGHT)), int(rng.integers(0, WIDTH))] for _ in range(5)])
    drawn = draw_mask(annotation(("crack", shape)), SIZE, CHOICE, "image") == CRACK
    wrong = drawn != covered(shape)
    assert not (wrong & (distance_to_outline(shape) >= 1)).any()


@pytest.mark.parametrize(
    "scene", [name for name in SCENES if "alpha" not in name and "across" not in name and "outside" not in name]
)
def test_agreement_with_the_sdk(scene: str) -> None:
    """What `draw_class_idx_rgb` draws is what we draw (it blends alpha masks, and cannot draw bitmaps across the border)."""
    meta = sly.ProjectMeta([sly.ObjClass(name, sly.AnyGeometry) for name in ("crack", "rust", "dirt")])
    content = sly.Annotation.from_json(annotation(*SCENES[scene]), meta)
    render = np.zeros((*SIZE, 3), np.uint8)
    sly.Annotation(SIZE, [label for label in content.labels if label.obj_class.name != "dirt"]).draw_class_idx_rgb(
        render, {"crack": CRACK, "rust": RUST}
    )
    np.testing.assert_array_equal(draw_mask(content, SIZE, CHOICE, "image"), render[..., 0])
    np.testing.assert_array_equal(draw_mask(annotation(*SCENES[scene]), SIZE, CHOICE, "image"), render[..., 0])


@pytest.mark.parametrize("seed", range(30))
def test_slanted_polygons_agree_with_the_sdk_exactly(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ring = [[int(rng.integers(-8, HEIGHT + 8)), int(rng.integers(-8, WIDTH + 8))] for _ in range(7)]
    shape = polygon(ring, [[10, 10], [14, 12], [11, 17]])
    render = np.zeros(SIZE, np.uint8)
    shape.draw(render, CRACK)
    np.testing.assert_array_equal(draw_mask(annotation(("crack", shape)), SIZE, CHOICE, "image"), render)


def test_colours_do_not_matter() -> None:
    """Equal colours and black: the incumbent's masks merged such classes, or lost them in the background."""
    meta = sly.ProjectMeta(
        [
            sly.ObjClass("crack", sly.Rectangle, [0, 0, 0]),
            sly.ObjClass("rust", sly.Rectangle, [0, 0, 0]),
            sly.ObjClass("dirt", sly.Point),
        ]
    )
    labels = [("crack", sly.Rectangle(1, 1, 9, 9)), ("rust", sly.Rectangle(5, 5, 20, 20))]
    content = sly.Annotation.from_json(annotation(*labels), meta)
    np.testing.assert_array_equal(draw_mask(content, SIZE, CHOICE, "image"), expected(labels, {"crack": CRACK, "rust": RUST}, 0))


def test_any_shape_alpha_mask_through_the_sdk() -> None:
    meta = sly.ProjectMeta([sly.ObjClass("crack", sly.AnyGeometry)])
    shape = alpha(3, 4, noise(9, 10, 11))
    content = sly.Annotation(SIZE, [sly.Label(shape, meta.get_obj_class("crack"))])
    np.testing.assert_array_equal(draw_mask(content, SIZE, CHOICE, "image"), expected([("crack", shape)], {"crack": CRACK}, 0))


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "plain"])
def test_alpha_masks_as_any_png(mode: str) -> None:
    """Opacity is the alpha channel where there is one, else the brightness; zlib-packed or not."""
    opacity = noise(6, 12, 9)
    white = np.full_like(opacity, 255)
    layers = {"L": [opacity], "plain": [opacity], "LA": [white, opacity], "RGBA": [white, white, white, opacity]}[mode]
    png = io.BytesIO()
    Image.fromarray(np.squeeze(np.stack(layers, axis=2))).save(png, "PNG")
    packed = png.getvalue() if mode == "plain" else zlib.compress(png.getvalue())
    content = annotation(("crack", alpha(4, 5, white)))
    content["objects"][0]["bitmap"]["data"] = base64.b64encode(packed).decode()
    mask = draw_mask(content, SIZE, CHOICE, "image")
    np.testing.assert_array_equal(mask[4:16, 5:14] == CRACK, opacity >= 128)


def test_multipolygon() -> None:
    parts = [polygon([[1, 1], [1, 5], [5, 5], [5, 1]]), FRAME]
    mask = draw_mask(annotation(("crack", sly.Multipolygon(parts))), SIZE, CHOICE, "image")
    np.testing.assert_array_equal(mask == CRACK, covered(parts[0]) | covered(parts[1]))


@pytest.mark.parametrize("angle", [0, 0.5, 2.0])
def test_oriented_box_agrees_with_the_sdk(angle: float) -> None:
    box = sly.OrientedBBox(5, 8, 15, 28, angle=angle)
    render = np.zeros(SIZE, np.uint8)
    box.draw(render, CRACK)
    np.testing.assert_array_equal(draw_mask(annotation(("crack", box)), SIZE, CHOICE, "image"), render)


def test_priority_is_the_order_of_the_labelling_tool() -> None:
    labels = [("crack", sly.Rectangle(0, 0, 9, 9)), ("rust", sly.Rectangle(5, 5, 20, 20))]
    content = annotation(*labels)
    content["objects"][0]["priority"] = 2
    content["objects"][1]["priority"] = 1
    mask = draw_mask(content, SIZE, CHOICE, "image")
    np.testing.assert_array_equal(mask, expected(labels[::-1], {"crack": CRACK, "rust": RUST}, 0))


def test_merge_and_ignore() -> None:
    choice = ClassChoice(("rust", "crack"), ignored=("dirt",), merged=(("fissure", "crack"), ("shadow", "background")))
    labels = [
        ("fissure", sly.Rectangle(0, 0, 9, 9)),
        ("rust", sly.Rectangle(5, 5, 20, 20)),
        ("dirt", sly.Rectangle(15, 15, 25, 25)),
        ("shadow", sly.Rectangle(18, 18, 22, 30)),
    ]
    mask = draw_mask(annotation(*labels), SIZE, choice, "image")
    np.testing.assert_array_equal(mask, expected(labels, {"fissure": 2, "rust": 1, "dirt": 255, "shadow": 0}, 0))


def test_a_chosen_class_called_background_is_the_background() -> None:
    choice = ClassChoice(("crack", "Background"))
    labels = [("crack", sly.Rectangle(0, 0, 9, 9)), ("Background", sly.Rectangle(5, 5, 20, 20))]
    assert choice.index_names == ("background", "crack")
    mask = draw_mask(annotation(*labels), SIZE, choice, "image")
    np.testing.assert_array_equal(mask, expected(labels, {"crack": 1, "Background": 0}, 0))


def test_without_background_such_a_class_comes_first() -> None:
    choice = ClassChoice(("crack", "bg"), background=False)
    assert choice.index_names == ("bg", "crack")
    assert draw_mask(annotation(("crack", sly.Rectangle(0, 0, 0, 0))), SIZE, choice, "image")[0, :2].tolist() == [1, 255]


def test_what_has_no_area_is_counted() -> None:
    line = sly.Polyline([[1, 1], [9, 9]])
    labels = [
        ("crack", sly.Point(3, 3)),
        ("crack", line),
        ("crack", line),
        ("dirt", line),
        ("rust", sly.Rectangle(50, 50, 60, 60)),
    ]
    drawing = draw(annotation(*labels), SIZE, CHOICE, "image")
    assert drawing.skipped == {"point": 1, "line": 2, "outside the image": 1}
    assert not drawing.mask.any() and not drawing.drawn and drawing.labelled


def test_an_image_without_objects_is_not_labelled() -> None:
    assert not draw(annotation(), SIZE, CHOICE, "image").labelled
    assert draw(annotation(("dirt", FRAME)), SIZE, CHOICE, "image").labelled


def test_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"photo\.jpg: the annotation is for 40x30 pixels, the image has 30x40"):
        draw_mask(annotation(), (WIDTH, HEIGHT), CHOICE, "photo.jpg")


def test_a_broken_object_is_named() -> None:
    content = annotation(("crack", bitmap(4, 5, np.ones((3, 3)))))
    content["objects"][0] |= {"id": 77, "bitmap": {"origin": [0, 0], "data": "bm90aGluZw=="}}
    with pytest.raises(UserError, match=r"photo\.jpg: object 77 of class 'crack' \(bitmap\) cannot be read"):
        draw_mask(content, SIZE, CHOICE, "photo.jpg")


def test_class_infos() -> None:
    """The first project that has a class gives its colour; black and look-alike ones are replaced."""
    first = sly.ProjectMeta([sly.ObjClass("crack", sly.Polygon, [250, 10, 10]), sly.ObjClass("moss", sly.Polygon, [0, 0, 0])])
    second = sly.ProjectMeta(
        [
            sly.ObjClass("crack", sly.Polygon, [1, 2, 3]),
            sly.ObjClass("rust", sly.Bitmap, [255, 0, 0]),
            sly.ObjClass("spall", sly.Bitmap, [0, 0, 255]),
        ]
    )
    infos = ClassChoice(("crack", "moss", "rust", "spall", "nowhere")).class_infos([first, second])
    assert [info.name for info in infos] == ["background", "crack", "moss", "rust", "spall", "nowhere"]
    assert [info.value for info in infos] == [0, 1, 2, 3, 4, 5]
    assert infos[0].color == (0, 0, 0) and infos[1].color == (250, 10, 10) and infos[4].color == (0, 0, 255)
    for i, one in enumerate(infos):
        assert all(max(abs(a - b) for a, b in zip(one.color, other.color, strict=True)) >= 48 for other in infos[:i])


def test_254_classes_have_254_colours() -> None:
    infos = ClassChoice(tuple(f"class {i}" for i in range(254))).class_infos([])
    assert len({info.color for info in infos}) == 255


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"names": ()}, "leaves nothing to find"),
        ({"names": ("background",)}, "leaves nothing to find"),
        ({"names": ("crack", "crack")}, "'crack' occurs 2 times"),
        ({"names": ("crack",), "ignored": ("crack",)}, "'crack' occurs 2 times"),
        ({"names": ("crack",), "merged": (("rust", "moss"),)}, "'rust' is to join 'moss', which is not chosen"),
        ({"names": tuple(map(str, range(255)))}, "256 are too many"),
    ],
)
def test_impossible_choices(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ClassChoice(**arguments)
