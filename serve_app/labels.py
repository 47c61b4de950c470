"""From a prediction to Supervisely objects: bitmaps, polygons or alpha masks, with their confidence, and the image's doubt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import supervisely as sly
from numpy.typing import NDArray

from hrda_core import ClassInfo, Prediction
from hrda_core.data.classes import IGNORE
from serve_app.settings import InferenceSettings

CONFIDENCE = sly.TagMeta("confidence", sly.TagValueType.ANY_NUMBER)
UNCERTAIN = sly.TagMeta("uncertain", sly.TagValueType.ANY_NUMBER)
SURE = 0.9  # a pixel whose class has less is doubtful; the report of a training counts the same ones
SMALLEST_SHARE = 1e-3  # of the image: a few doubtful pixels in an image without objects are no reason to look at it first


class Piece(NamedTuple):
    """An object's pixels (h, w) bool, from (top, left) on. filled: those of them that were holes, None where there are none."""

    pixels: NDArray[np.bool_]
    top: int
    left: int
    filled: NDArray[np.bool_] | None = None


def meta_of(classes: tuple[ClassInfo, ...]) -> sly.ProjectMeta:
    """The model's classes in index order, background included, and the two tags."""
    return sly.ProjectMeta([sly.ObjClass(c.name, sly.Bitmap, list(c.color)) for c in classes], [CONFIDENCE, UNCERTAIN])


def annotation_of(
    prediction: Prediction, settings: InferenceSettings, offset: tuple[int, int], size: tuple[int, int]
) -> sly.Annotation:
    """The objects of a prediction, moved by `offset` (rows, columns) into an image of `size` (height, width)."""
    labels, model = [], settings.model
    present = cv2.calcHist([prediction.labels], [0], None, [256], [0, 256])[:, 0] > 0
    for index in settings.indices:
        if not present[index]:
            continue
        for piece in _pieces(prediction.labels, index, settings):
            labels += _labels(piece, prediction.confidence, model.classes[index], settings, offset)
    tags = []
    if settings.uncertain_from is not None:
        doubt = doubt_of(prediction, model.has_background)
        if doubt >= settings.uncertain_from:
            tags.append(sly.Tag(UNCERTAIN, round(doubt, 3)))
    return sly.Annotation(size, labels, sly.TagCollection(tags))


def doubt_of(prediction: Prediction, has_background: bool) -> float:
    """How much of what matters in the image the network is not sure of, 0 to 1.

    What matters is every pixel that belongs to an object or that the network is less than 90 % sure of; of these, the share
    that it is less than 90 % sure of. 0 where it surely found nothing.
    """
    doubtful = prediction.confidence < SURE
    found = prediction.labels != IGNORE
    if has_background:
        found &= prediction.labels != 0
    matters = max(np.count_nonzero(doubtful | found), SMALLEST_SHARE * doubtful.size)
    return float(np.count_nonzero(doubtful) / matters)


def _pieces(labels: NDArray[np.uint8], index: int, settings: InferenceSettings) -> Iterator[Piece]:
    """Holes are filled first, then small pieces dropped."""
    mask = (labels == index).view(np.uint8)
    left, top, width, height = cv2.boundingRect(mask)
    mask = mask[top : top + height, left : left + width]
    filled = None
    if settings.fill_holes:
        filled = _holes(mask, labels[top : top + height, left : left + width], settings.fill_holes, settings.model.has_background)
        mask = mask | filled.view(np.uint8)
    one_each = settings.objects == "component" or settings.output == "polygon"
    if not one_each and settings.min_area <= 1:
        yield Piece(mask.astype(bool), top, left, filled)
        return
    _, numbers, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(mask), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= settings.min_area
    keep[0] = False
    if not one_each:
        if keep.any():
            yield Piece(keep[numbers], top, left, filled)
        return
    for number in np.flatnonzero(keep):
        x, y, w, h = (int(value) for value in stats[number, :4])
        pixels = numbers[y : y + h, x : x + w] == number
        yield Piece(pixels, top + y, left + x, None if filled is None else filled[y : y + h, x : x + w])


def _holes(mask: NDArray[np.uint8], labels: NDArray[np.uint8], largest: int, has_background: bool) -> NDArray[np.bool_]:
    """(h, w) bool: what the mask encloses, in pieces of at most `largest` pixels in which no other class lies."""
    count, numbers, stats, _ = cv2.connectedComponentsWithStats((mask == 0).view(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] <= largest
    fill[0] = False  # the mask itself
    for border in (numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]):
        fill[border] = False
    other = (mask == 0) & (labels != IGNORE)
    if has_background:
        other &= labels != 0
    fill[np.unique(numbers[other])] = False
    assert len(fill) == count
    return fill[numbers]


def _labels(
    piece: Piece, confidence: NDArray[np.float32], info: ClassInfo, settings: InferenceSettings, offset: tuple[int, int]
) -> list[sly.Label]:
    height, width = piece.pixels.shape
    there = confidence[piece.top : piece.top + height, piece.left : piece.left + width]
    predicted = piece.pixels if piece.filled is None else piece.pixels & ~piece.filled
    mean = float(there[predicted].mean(dtype=np.float64)) if predicted.any() else 0.0
    row, column = piece.top + offset[0], piece.left + offset[1]
    tags = [sly.Tag(CONFIDENCE, round(mean, 4))] if settings.confidence_tag else []
    if settings.output == "polygon":
        shapes: list[sly.geometry.geometry.Geometry] = list(_polygons(piece.pixels, row, column, settings.simplify))
    elif settings.output == "alpha_mask":
        opacity = np.where(predicted, there, np.float32(mean))
        alpha = np.maximum(np.rint(opacity * 255), 1).astype(np.uint8) * piece.pixels
        shapes = [sly.AlphaMask(alpha, sly.PointLocation(row, column))]
    else:
        shapes = [sly.Bitmap(piece.pixels, sly.PointLocation(row, column), extra_validation=False)]
    labels = []
    for shape in shapes:
        label = sly.Label(shape, sly.ObjClass(info.name, type(shape), list(info.color)), sly.TagCollection(tags))
        label.status = sly.annotation.label.LabelingStatus.AUTO
        labels.append(label)
    return labels


def _polygons(pixels: NDArray[np.bool_], row: int, column: int, tolerance: float) -> Iterator[sly.Polygon]:
    """Outlines with their holes, which the SDK draws without their outlines: the same pixels, where `tolerance` is 0."""
    contours, _ = cv2.findContours(pixels.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for contour in contours:
        filled = cv2.fillPoly(np.zeros(pixels.shape, np.uint8), [contour], 1)
        missing = (filled.astype(bool) & ~pixels).view(np.uint8)
        holes, _ = cv2.findContours(missing, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        yield sly.Polygon(_points(contour, tolerance, row, column), [_points(hole, tolerance, row, column) for hole in holes])


def _points(contour: NDArray[np.int32], tolerance: float, row: int, column: int) -> list[sly.PointLocation]:
    simple = cv2.approxPolyDP(contour, tolerance, True) if tolerance > 0 else contour
    points = (simple if len(simple) >= 3 else contour)[:, 0]
    points = np.concatenate([points, np.repeat(points[-1:], max(3 - len(points), 0), axis=0)])  # a line is a flat polygon
    return [sly.PointLocation(int(y) + row, int(x) + column) for x, y in points]
