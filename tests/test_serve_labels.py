"""From label maps to objects: what is drawn again is what was predicted, whatever the shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import supervisely as sly
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from serve_scene import CLASSES, NAMES, as_map

from hrda_core import Prediction
from serve_app.labels import annotation_of, doubt_of, meta_of
from serve_app.settings import ModelFacts, read_settings

MODEL = ModelFacts(CLASSES, True)
Labels = np.ndarray[Any, Any]


def annotate(labels: Labels, confidence: Any = 0.8, offset: tuple[int, int] = (0, 0), **wanted: Any) -> sly.Annotation:
    full = np.broadcast_to(np.float32(confidence), labels.shape)
    size = (labels.shape[0] + 2 * offset[0], labels.shape[1] + 2 * offset[1])
    return annotation_of(Prediction(labels, full), read_settings(wanted, MODEL), offset, size)


def opacity(label: sly.Label, size: tuple[int, int]) -> Labels:
    data, origin, result = label.geometry.data, label.geometry.origin, np.zeros(size, np.uint8)
    result[origin.row : origin.row + data.shape[0], origin.col : origin.col + data.shape[1]] = data
    return result


@pytest.fixture
def ring() -> Labels:
    """A crack around a hole of 9 pixels, a second small piece of it, and rust elsewhere."""
    labels = np.zeros((20, 30), np.uint8)
    labels[2:9, 2:9] = 1
    labels[4:7, 4:7] = 0
    labels[15, 3:5] = 1
    labels[10:18, 20:28] = 2
    return labels


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2, 255])))
@settings(max_examples=150, deadline=None)
def test_bitmaps_polygons_and_alpha_masks_hold_the_predicted_pixels(labels: Labels) -> None:
    known = np.where(labels == 255, 0, labels)
    for objects in ("class", "component"):
        np.testing.assert_array_equal(as_map(annotate(labels, objects=objects)), known)
    np.testing.assert_array_equal(as_map(annotate(labels, output="polygon")), known)
    alpha = annotate(labels, output="alpha_mask", objects="component")
    drawn = sum((opacity(label, labels.shape) > 0) * NAMES.index(label.obj_class.name) for label in alpha.labels)
    np.testing.assert_array_equal(drawn, known)


def test_one_object_per_class_or_per_piece(ring: Labels) -> None:
    assert [label.obj_class.name for label in annotate(ring).labels] == ["crack", "rust"]
    assert [label.obj_class.name for label in annotate(ring, objects="component").labels] == ["crack", "crack", "rust"]
    assert len(annotate(ring, output="polygon").labels) == 3


def test_the_background_only_when_asked(ring: Labels) -> None:
    assert "background" not in {label.obj_class.name for label in annotate(ring, classes=NAMES).labels}
    shown = annotate(ring, background=True)
    assert [label.obj_class.name for label in shown.labels] == NAMES
    assert sum(label.geometry.area for label in shown.labels) == ring.size


def test_only_the_wanted_classes(ring: Labels) -> None:
    assert [label.obj_class.name for label in annotate(ring, classes=["rust"]).labels] == ["rust"]
    assert not annotate(ring, classes=[]).labels


@pytest.mark.parametrize("objects", ["class", "component"])
def test_small_pieces_are_dropped(ring: Labels, objects: str) -> None:
    kept = as_map(annotate(ring, min_area=3, objects=objects))
    assert not kept[15].any() or (kept[15] == ring[15])[5:].all()
    assert (kept == 1).sum() == 40 and (kept == 2).sum() == 64
    assert not annotate(ring, min_area=1000).labels


def test_holes_up_to_a_size_are_filled_but_never_over_another_class(ring: Labels) -> None:
    assert (as_map(annotate(ring, fill_holes=8)) == 1).sum() == 42
    assert (as_map(annotate(ring, fill_holes=9)) == 1).sum() == 51
    ring[5, 5] = 2
    both = as_map(annotate(ring, fill_holes=9))
    np.testing.assert_array_equal(both, ring)
    bay = np.zeros((5, 5), np.uint8)
    bay[:4, [0, 4]], bay[4] = 1, 1  # open at the image's border
    np.testing.assert_array_equal(as_map(annotate(bay, fill_holes=100)), bay)


def test_outlines_are_simplified_to_a_tolerance() -> None:
    y, x = np.mgrid[:200, :200]
    disc = ((y - 100) ** 2 + (x - 100) ** 2 < 90**2).astype(np.uint8)
    points = {t: len(annotate(disc, output="polygon", simplify=t).labels[0].geometry.exterior) for t in (0, 1, 5)}
    assert points[0] > 200 > points[1] > points[5] >= 5
    assert (as_map(annotate(disc, output="polygon", simplify=1)) != disc).mean() < 0.02


def test_confidence_is_the_mean_probability_of_the_objects_pixels(ring: Labels) -> None:
    confidence = np.where(ring == 1, 0.6, 0.9).astype(np.float32)
    confidence[15, 3:5] = 0.75
    for objects, values in (("class", [0.6071, 0.9]), ("component", [0.6, 0.75, 0.9])):
        found = annotate(ring, confidence, objects=objects, fill_holes=9)
        assert [label.tags.get("confidence").value for label in found.labels] == pytest.approx(values, abs=1e-4)
    assert not annotate(ring, confidence_tag=False).labels[0].tags


def test_an_alpha_mask_is_the_probability(ring: Labels) -> None:
    confidence = np.where(ring == 1, 0.6, 0.9).astype(np.float32)
    crack, rust = annotate(ring, confidence, output="alpha_mask").labels
    np.testing.assert_array_equal(opacity(crack, ring.shape), (ring == 1) * np.uint8(153))
    np.testing.assert_array_equal(opacity(rust, ring.shape), (ring == 2) * np.uint8(230))


def test_objects_are_moved_into_the_whole_image(ring: Labels) -> None:
    for output in ("bitmap", "polygon"):
        moved = as_map(annotate(ring, offset=(7, 11), output=output))
        np.testing.assert_array_equal(moved[7:27, 11:41], ring)
        assert moved.sum() == ring.sum()


def test_objects_are_marked_as_made_by_a_network(ring: Labels) -> None:
    assert {label.status for label in annotate(ring).labels} == {sly.annotation.label.LabelingStatus.AUTO}


def test_doubt_is_the_doubtful_share_of_what_matters(ring: Labels) -> None:
    def doubt(confidence: Any, labels: Labels = ring) -> float:
        return doubt_of(Prediction(labels, np.broadcast_to(np.float32(confidence), labels.shape)), True)

    nothing = np.zeros_like(ring)
    assert doubt(0.95) == 0 and doubt(0.5) == 1
    assert doubt(np.where(ring == 2, 0.5, 1)) == pytest.approx(64 / (64 + 42))
    assert doubt(0.99, nothing) == 0
    assert doubt(np.where(ring == 2, 0.5, 1), nothing) == 1  # nothing is found, but something was nearly
    large = np.zeros((1000, 1000), np.uint8)
    few = np.ones(large.shape, np.float32)
    few[:10, :10] = 0.5
    assert doubt(few, large) == pytest.approx(0.1)


def test_the_tag_comes_from_a_doubt_on(ring: Labels) -> None:
    assert [(tag.name, tag.value) for tag in annotate(ring, 0.8).img_tags] == [("uncertain", 1.0)]
    assert not annotate(ring, 0.95).img_tags
    assert not annotate(ring, 0.8, uncertain_from=False).img_tags


def test_every_tag_is_in_the_meta(ring: Labels) -> None:
    meta = meta_of(CLASSES)
    assert sly.Annotation.from_json(annotate(ring).to_json(), meta).labels
    assert [(c.name, tuple(c.color)) for c in meta.obj_classes] == [(c.name, c.color) for c in CLASSES]
