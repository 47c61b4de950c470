"""Settings of a prediction: defaults, every value that fits, and a sentence for every one that does not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import supervisely as sly
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from serve_scene import CLASSES

from serve_app.errors import RequestError
from serve_app.predict_options import PredictOptions
from serve_app.request_state import clip, read_frames, read_rectangles, read_state
from serve_app.settings import DEFAULTS, FILE, ModelFacts, read_settings

MODEL = ModelFacts(CLASSES, True, (0.3, 0.4))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def refusal(name: str, value: Any) -> str:
    with pytest.raises(RequestError) as error:
        read_settings({name: value}, MODEL)
    return str(error.value)


def test_without_settings_the_model_predicts_as_it_was_measured() -> None:
    assert read_settings(None, MODEL).options == PredictOptions()
    assert read_settings(DEFAULTS, MODEL) == read_settings({}, MODEL)


def test_every_setting_has_a_comment() -> None:
    for line in FILE.read_text().splitlines():
        assert not line or line.startswith(("#", " ")) or "  # " in line, line


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("tuned", "tuned"),
        ("argmax", "argmax"),
        (0.5, (0.5, 0.5)),
        ("0.5", (0.5, 0.5)),
        (0, (0.0, 0.0)),
        ({"crack": 0.7}, (0.7, 0.4)),
        ({"rust": 0.7, "crack": 0.1}, (0.1, 0.7)),
        ("rust: 0.7, crack: 0.1", (0.1, 0.7)),
        ("rust=.7", (0.3, 0.7)),
        ("{crack: 0.25}", (0.25, 0.4)),
    ],
)
def test_thresholds(value: Any, expected: Any) -> None:
    assert read_settings({"threshold": value}, MODEL).options.thresholds == expected


def test_without_tuned_thresholds_the_classes_that_are_not_named_get_a_half() -> None:
    assert read_settings({"threshold": {"crack": 0.4}}, ModelFacts(CLASSES, True)).options.thresholds == (0.4, 0.5)
    assert "get 0.5 where the checkpoint has none" in FILE.read_text()


def test_conf_which_clients_have_as_an_argument_is_a_threshold() -> None:
    assert read_settings({"conf": 0.6}, MODEL).options.thresholds == (0.6, 0.6)
    assert read_settings({"conf": 0.6, "threshold": "argmax"}, MODEL).options.thresholds == "argmax"


@pytest.mark.parametrize("value", [512, "512", [512], "512x512", (512, 512), "512 x 512"])
def test_tile_sizes(value: Any) -> None:
    assert read_settings({"tile_size": value}, MODEL).options.tile_size == (512, 512)
    assert read_settings({"tile_size": "256x512"}, MODEL).options.tile_size == (256, 512)


@pytest.mark.parametrize("value", [[0.5, 1, 2], "0.5, 1, 2", "[0.5,1,2]", (0.5, 1.0, 2.0)])
def test_zooms(value: Any) -> None:
    assert read_settings({"zooms": value}, MODEL).options.zooms == (0.5, 1.0, 2.0)
    assert read_settings({"zooms": 0.5}, ModelFacts(CLASSES, False)).options.zooms == (0.5,)
    assert read_settings({"zooms": "auto"}, MODEL).options.zooms is None


def test_several_zooms_need_a_background() -> None:
    with pytest.raises(RequestError, match=r"zooms=\[0.5, 1\]: several need a model with a background, which this one lacks"):
        read_settings({"zooms": [0.5, 1]}, ModelFacts(CLASSES, False))


def test_classes_by_name_and_the_background_apart() -> None:
    assert read_settings({}, MODEL).indices == (1, 2)
    assert read_settings({"classes": ["background", "rust"]}, MODEL).indices == (2,)
    assert read_settings({"classes": ["background"]}, MODEL).indices == (0,)
    assert read_settings({"classes": "all"}, MODEL).indices == (1, 2)
    assert read_settings({"classes": "crack", "background": True}, MODEL).indices == (0, 1)
    assert read_settings({}, ModelFacts(CLASSES, False)).indices == (0, 1, 2)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("tilesize", 3, "setting 'tilesize' is not known: use tile_size, overlap"),
        ("tile_size", 32, "tile_size=32: use auto"),
        ("tile_size", True, "use auto, one side in pixels"),
        ("tile_size", "99999x99999", "each from 64 to 2048"),
        ("tile_size", [64, 64, 64], "use auto"),
        ("overlap", 1, "overlap=1: use a number from 0 to 0.9"),
        ("overlap", math.nan, "overlap=nan: use"),
        ("blending", "none", "blending='none': use smooth or average"),
        ("scale", 0, "scale=0: use a number from 0.05 to 4"),
        ("flips", 1, "flips=1: use true or false"),
        ("zooms", [0.01, 1], "zooms=0.01: use a number from 0.1 to 10"),
        ("zooms", [], "zooms=[]: use auto, or 1 to 9 factors such as [0.5, 0.7, 1, 1.4]"),
        ("zooms", {"small": 0.5}, "zooms={'small': 0.5}: use a number"),
        ("threshold", 1.5, "threshold=1.5: use a number from 0 to 1"),
        ("threshold", True, "threshold=True: use tuned"),
        ("threshold", [0.5, 0.5], "threshold=[0.5, 0.5]: use tuned"),
        ("threshold", "much", "threshold='much': use a number"),
        ("threshold", {"moss": 0.5}, "no class 'moss'; it finds crack, rust"),
        ("threshold", {"background": 0.5}, "no class 'background'"),
        ("threshold", {"crack": 2}, "threshold of crack=2: use"),
        ("classes", ["moss"], "no class 'moss'"),
        ("classes", 5, "classes=5: use all, or a list of names"),
        ("background", "perhaps", "background='perhaps': use true or false"),
        ("output", "box", "output='box': use bitmap or polygon or alpha_mask"),
        ("objects", "each", "objects='each': use class or component"),
        ("min_area", -1, "min_area=-1: use a number from 0 to 1,073,741,824"),
        ("min_area", 0.9, "min_area=0.9: use a whole number"),
        ("fill_holes", 2.5, "fill_holes=2.5: use a whole number"),
        ("upload_mode", "merge", "upload_mode='merge': use append, replace"),
        ("batch_size", 0, "use a whole number from 1 to 256"),
        ("batch_size", 3.5, "use a whole number from 1 to 256"),
        ("start_frame", -1, "start_frame='-1': use a whole number from 0 on"),
        ("step", "two", "step='two': use a whole number from 1 on"),
        ("fill_holes", "inf", "fill_holes='inf': use"),
        ("simplify", 101, "simplify=101: use a number from 0 to 100"),
        ("confidence_tag", None, "confidence_tag=None: use true or false"),
        ("uncertain_from", 2, "or false for no tag"),
        ("img_size", 640, "images are predicted at their own size"),
        ("classes", "x" * 30_000, "a text of 30000 characters"),
    ],
)
def test_what_does_not_fit_is_named_with_its_value_and_the_fix(name: str, value: Any, words: str) -> None:
    if name == "background":
        with pytest.raises(RequestError, match="use true or false"):
            read_settings({name: value}, ModelFacts(CLASSES[1:], False))
    said = refusal(name, value)
    assert words in said and len(said) < 500


@given(st.dictionaries(st.sampled_from([*DEFAULTS, "conf", "img_size", "x"]), JSON, max_size=4))
@effort(max_examples=300, deadline=None)
def test_anything_else_is_read_or_refused_in_words(given: dict[str, Any]) -> None:
    try:
        read_settings(given, MODEL)
    except ValueError as error:
        assert str(error)


# ---- beside the settings


@given(JSON | st.text())
@effort(max_examples=200, deadline=None)
def test_any_state_is_read_or_refused_in_words(state: Any) -> None:
    try:
        read_rectangles(read_state(state).get("settings") or {}, 2)
    except RequestError as error:
        assert str(error)


def test_rectangles_hold_both_their_corners_and_are_cut_at_the_image() -> None:
    settings = {"rectangle": sly.Rectangle(2, 3, 10, 12).to_json()}
    (one, two) = read_rectangles(settings, 2)
    assert one is not None and two is not None
    assert clip(one, 100, 100) == (2, 3, 11, 13) and clip(two, 5, 5) == (2, 3, 5, 5)
    assert read_rectangles({}, 2) == [None, None]
    several = [sly.Rectangle(0, 0, i, i).to_json() for i in range(2)]
    assert [r.bottom for r in read_rectangles({"rectangles": several}, 2) if r] == [0, 1]
    with pytest.raises(RequestError, match="one for each of the 3 images"):
        read_rectangles({"rectangles": several}, 3)
    with pytest.raises(RequestError, match="lie outside the image of 3x2 pixels"):
        clip(one, 2, 3)


@pytest.mark.parametrize(
    ("state", "start", "count"),
    [
        ({}, 0, 10),
        ({"start_frame": 3}, 3, 7),
        ({"start_frame": 3, "num_frames": 2}, 3, 2),
        ({"startFrameIndex": 3, "framesCount": 99}, 3, 7),
        ({"start_frame_index": 3, "end_frame": 5}, 3, 3),
        ({"start_frame": 3, "direction": "backward"}, 3, 4),
    ],
)
def test_frames_by_the_names_of_every_client(state: dict[str, Any], start: int, count: int) -> None:
    read = read_frames(state, 10)
    assert (read["startFrameIndex"], read["framesCount"]) == (start, count)


def test_frames_that_are_not_there_are_refused() -> None:
    for state, words in (({"start_frame": 10}, "has 10 frames"), ({"num_frames": 0}, "num_frames='0'"), ({"step": "a"}, "step=")):
        with pytest.raises(RequestError, match=words):
            read_frames(state, 10)
