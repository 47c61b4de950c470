"""Synthetic crack pictures: reproducible, labelled where the crack is, written so that an interrupted call can go on."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from hrda_core.data.synthetic_cracks import LOOKS, CrackSynthesis, synthesize, synthesize_sample

SMALL = CrackSynthesis(count=40, size=128, crack_free=0.0)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def samples() -> list[tuple[np.ndarray, np.ndarray]]:
    return [synthesize_sample(SMALL, index) for index in range(40)]


def test_a_sample_is_an_rgb_image_and_a_mask_of_class_indices(samples):
    for image, mask in samples:
        assert image.shape == (128, 128, 3) and image.dtype == np.uint8
        assert mask.shape == (128, 128) and mask.dtype == np.uint8
        assert set(np.unique(mask)) <= {0, 1}


def test_a_sample_depends_on_seed_and_index_alone(samples):
    image, mask = synthesize_sample(replace(SMALL, count=7), 3)
    assert np.array_equal(image, samples[3][0]) and np.array_equal(mask, samples[3][1])
    assert not np.array_equal(image, samples[4][0])
    assert not np.array_equal(image, synthesize_sample(replace(SMALL, seed=1), 3)[0])


def test_the_share_of_crack_pixels_is_that_of_the_published_set(samples):
    share = np.array([mask.mean() for _, mask in samples])
    assert 0.014 < share.mean() < 0.032
    assert 0.01 < np.median(share) < 0.028
    assert share.max() < 0.15
    assert (share > 0).mean() > 0.95  # every picture is asked to have a crack; a leaf may hide a small one


def test_cracks_are_darker_than_what_surrounds_them():
    ratios = []
    for index in range(40):
        image, mask = synthesize_sample(replace(SMALL, distractors=0.0), index)
        around = cv2.dilate(mask, np.ones((15, 15), np.uint8)) - cv2.dilate(mask, np.ones((5, 5), np.uint8))
        grey = image.mean(axis=2)
        ratios.append(grey[mask == 1].mean() / grey[around == 1].mean())
    assert np.mean(ratios) < 0.85
    assert np.mean(np.array(ratios) < 1.0) > 0.85  # the rest are sealed or limed, lighter than the surface


def test_label_width_and_margin_widen_the_label_and_leave_the_image_alone():
    image, mask = synthesize_sample(SMALL, 5)
    for settings in (replace(SMALL, label_width=2.0), replace(SMALL, label_margin=4.0)):
        same_image, wide = synthesize_sample(settings, 5)
        assert np.array_equal(image, same_image)
        assert wide.sum() > 1.2 * mask.sum()
        assert (wide >= mask).all()


def test_crack_free_is_the_share_of_pictures_without_a_crack():
    settings = replace(SMALL, size=64, crack_free=0.5)
    empty = [synthesize_sample(settings, index)[1].sum() == 0 for index in range(60)]
    assert 0.3 < np.mean(empty) < 0.7
    assert synthesize_sample(replace(settings, crack_free=1.0), 0)[1].sum() == 0


def test_distractors_change_the_picture_without_any_label():
    bare, busy = (replace(SMALL, crack_free=1.0, distractors=strength) for strength in (0.0, 3.0))
    images = [[synthesize_sample(s, index) for index in range(6)] for s in (bare, busy)]
    assert all(mask.sum() == 0 for _, mask in images[1])
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(*images, strict=True))


@pytest.mark.parametrize("look", LOOKS)
def test_every_look_makes_cracks(look):
    assert np.mean([synthesize_sample(replace(SMALL, look=look), index)[1].mean() for index in range(8)]) > 0.005


def test_looks_are_domains_apart():
    def colour(look: str) -> np.ndarray:
        pictures = [synthesize_sample(replace(SMALL, look=look), index)[0] for index in range(10)]
        return np.mean(pictures, axis=(0, 1, 2))

    asphalt, plaster, night, rusty = (colour(look) for look in ("asphalt", "plaster", "night", "rusty"))
    assert night.mean() + 20 < asphalt.mean() < plaster.mean() - 20
    assert night[2] > night[0]  # bluish
    assert rusty[0] > 1.5 * rusty[2]  # reddish
    assert abs(asphalt[0] - asphalt[2]) < 15  # grey


def test_photos_of_the_texture_folder_are_the_background(tmp_path):
    (tmp_path / "nested").mkdir()
    blue = np.zeros((90, 150, 3), np.uint8)
    blue[...] = (200, 60, 40)  # as OpenCV writes it: blue, green, red
    cv2.imwrite(str(tmp_path / "nested" / "wall.png"), blue)
    settings = replace(SMALL, textures=str(tmp_path), crack_free=1.0, distractors=0.0)
    for index in range(5):
        red, _, blue_mean = synthesize_sample(settings, index)[0].mean(axis=(0, 1))
        assert blue_mean > 1.3 * red


def test_synthesize_writes_images_masks_and_classes(tmp_path):
    calls: list[tuple[int, int]] = []
    settings = CrackSynthesis(count=3, size=96, crack_free=0.0)
    synthesize(tmp_path, settings, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert json.loads((tmp_path / "classes.json").read_text()) == [
        {"name": "background", "color": [0, 0, 0], "value": 0},
        {"name": "crack", "color": [0, 212, 255], "value": 255},
    ]
    assert sorted(p.name for p in (tmp_path / "images").iterdir()) == [f"crack_{i:06d}.jpg" for i in range(3)]
    for index in range(3):
        image, mask = synthesize_sample(settings, index)
        read = cv2.imread(str(tmp_path / "images" / f"crack_{index:06d}.jpg"))[..., ::-1]
        assert np.abs(read.astype(int) - image).mean() < 6  # JPEG at quality 95
        label = cv2.imread(str(tmp_path / "masks" / f"crack_{index:06d}.png"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(label, mask * 255)


def test_the_number_of_workers_changes_nothing(tmp_path):
    settings = CrackSynthesis(count=18, size=64)
    synthesize(tmp_path / "one", settings, workers=1)
    synthesize(tmp_path / "two", settings, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_interrupted_call_is_continued(tmp_path):
    settings = CrackSynthesis(count=6, size=64)

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "cut", settings, workers=1, progress=stop)
    kept = tmp_path / "cut" / "images" / "crack_000000.jpg"
    before = kept.stat().st_mtime_ns
    (tmp_path / "cut" / "masks" / "crack_000001.png").unlink()
    synthesize(tmp_path / "cut", settings, workers=1)
    synthesize(tmp_path / "whole", settings, workers=1)
    assert kept.stat().st_mtime_ns == before
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_set_can_grow_but_not_mix_settings(tmp_path):
    settings = CrackSynthesis(count=1, size=64)
    synthesize(tmp_path, settings, workers=1)
    synthesize(tmp_path, replace(settings, count=2), workers=1)
    assert len(list((tmp_path / "masks").iterdir())) == 2
    with pytest.raises(ValueError, match=r"look is 'night', but .* made with 'any'"):
        synthesize(tmp_path, replace(settings, count=2, look="night"), workers=1)
    with pytest.raises(ValueError, match="count is 1"):
        synthesize(tmp_path, settings, workers=1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", 0),
        ("size", 32),
        ("size", 256.5),
        ("seed", -1),
        ("textures", "no/such/folder"),
        ("label_width", 0.0),
        ("label_width", float("nan")),
        ("label_width", "wide"),
        ("label_margin", -1.0),
        ("look", "moon"),
        ("crack_free", 1.2),
        ("distractors", -0.5),
    ],
)
def test_bad_settings_name_field_and_value(field, value):
    with pytest.raises(ValueError, match=f"^{field} is {value!r}"):
        CrackSynthesis(**{field: value})


def test_a_texture_folder_without_photos_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"textures is .* holds no jpg"):
        synthesize(tmp_path / "out", CrackSynthesis(count=1, size=64, textures=str(tmp_path)), workers=1)


def test_an_unreadable_texture_is_named(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"broken\.jpg, which cannot be read"):
        synthesize_sample(CrackSynthesis(size=64, textures=str(tmp_path)), 0)
