"""From images to labels: sizes, confidence, thresholds, networks, options, memory, writers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from tiny_runs import CRACKS, cracks, tiny

from hrda_core.inference.predictor import Prediction, Predictor, Preprocessing, choose_device, choose_precision
from hrda_core.inference.tiling import slide_logits
from hrda_core.models.build import build_model
from hrda_core.models.checkpoints import save_checkpoint, weights_version

OPTIONS: dict[str, Any] = {"encoder": "test_efficientnet", "head_channels": 16, "detail_size": (64, 64)}


def checkpoint(classes: int = 2, background: bool = True, **preprocessing: Any) -> dict[str, Any]:
    """Random networks whose answers vary over an image; student and teacher differ."""
    options = {**OPTIONS, "num_classes": classes}
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = build_model(**options)
        torch.nn.init.normal_(model.head.classifier.weight, std=3.0)
        networks.append(model.state_dict())
    plain = {"scale": 1.0, "fit_short": 0, "fit_long": 0, "window": [128, 128], "overlap": 0.5, **preprocessing}
    names = ["background" if background and not i else f"class {i}" for i in range(classes)]
    return {
        "model_config": options,
        "classes": [{"name": name, "color": [i, 2 * i, 3 * i], "value": 10 * i + 5} for i, name in enumerate(names)],
        "preprocessing": {"mean": [0.5] * 3, "std": [0.2] * 3, "has_background": background, **plain},
        "student": networks[0],
        "teacher": networks[1],
        "selected": "teacher",
        "thresholds": {"teacher": [0.6] * (classes - background), "student": [0.4] * (classes - background)},
        "metrics": {},
        "provenance": {},
    }


@pytest.fixture(scope="module")
def binary() -> dict[str, Any]:
    return checkpoint()


@pytest.fixture(scope="module")
def three() -> dict[str, Any]:
    return checkpoint(3, background=False)


def photo(height: int = 100, width: int = 90, seed: int = 0) -> np.ndarray[Any, Any]:
    coarse = np.random.default_rng(seed).integers(0, 255, (max(height // 8, 1), max(width // 8, 1), 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height)), np.uint8).reshape(height, width, 3)


def predict(content: Mapping[str, Any], image: Any, **options: Any) -> Prediction:
    return Predictor(content, "cpu", **options).predict([image], probabilities=True)[0]


# -- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (37, 211), (128, 128), (129, 127), (300, 5)])
@pytest.mark.parametrize("scale", [1.0, 0.5, 1.7])
def test_any_size_gives_an_answer_of_that_size(height: int, width: int, scale: float) -> None:
    result = predict(checkpoint(scale=scale), photo(height, width))
    assert (result.labels.shape, result.labels.dtype) == ((height, width), np.uint8)
    assert (result.confidence.shape, result.confidence.dtype) == ((height, width), np.float32)
    assert result.probabilities is not None
    assert (result.probabilities.shape, result.probabilities.dtype) == ((2, height, width), np.float32)
    assert np.allclose(result.probabilities.sum(axis=0), 1, atol=1e-5)
    assert set(np.unique(result.labels)) <= {0, 1}


def test_fit_gives_an_answer_at_the_photos_size() -> None:
    assert predict(checkpoint(fit_short=64, fit_long=80), photo(150, 300)).labels.shape == (150, 300)


def test_scale_shrinks_what_the_network_sees(binary: dict[str, Any]) -> None:
    """A photo at scale 0.5 gives the probabilities of the halved photo at scale 1."""
    large = photo(128, 96)
    halved = np.asarray(cv2.resize(large, (48, 64), interpolation=cv2.INTER_AREA), np.uint8)
    scaled = Predictor(checkpoint(scale=0.5), "cpu").probabilities(large)
    plain = Predictor(binary, "cpu").probabilities(halved)
    unscaled = Predictor(binary, "cpu").probabilities(large)
    assert np.abs(scaled[:, ::2, ::2] - plain).mean() < 0.3 * np.abs(scaled - unscaled).mean()


def test_probabilities_only_on_request(binary: dict[str, Any]) -> None:
    assert Predictor(binary, "cpu").predict([photo()])[0].probabilities is None


def test_arrays_and_paths_are_the_same(binary: dict[str, Any], tmp_path: Path) -> None:
    image = photo()
    cv2.imwrite(str(tmp_path / "photo.png"), image[..., ::-1])
    path = tmp_path / "photo.png"
    results = Predictor(binary, "cpu").predict([image, path, str(path), np.ascontiguousarray(image[..., ::-1])[..., ::-1]])
    assert all((result.labels == results[0].labels).all() for result in results)
    assert Predictor(binary, "cpu").predict([]) == []


@pytest.mark.parametrize("image", [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3), np.float32)])
def test_arrays_that_are_no_images(binary: dict[str, Any], image: Any) -> None:
    with pytest.raises(ValueError, match=r"image 1: an array of .* is no image; pass RGB uint8"):
        Predictor(binary, "cpu").predict([photo(), image])


# -- thresholds and confidence ----------------------------------------------------------------------------------------


def rule(probabilities: np.ndarray[Any, Any], thresholds: list[float] | None, first: int) -> np.ndarray[Any, Any]:
    """The documented rule, pixel by pixel."""
    labels = np.empty(probabilities.shape[1:], np.uint8)
    for y, x in np.ndindex(*labels.shape):
        p = probabilities[:, y, x]
        if thresholds is None:
            labels[y, x] = p.argmax()
            continue
        above = [i for i in range(first, len(p)) if p[i] >= thresholds[i - first]]
        labels[y, x] = max(above, key=lambda i: p[i]) if above else (0 if first else 255)
    return labels


@pytest.mark.parametrize(
    ("wanted", "effective"), [("tuned", [0.6]), ("argmax", None), ([0.3], [0.3]), ((0.9,), [0.9]), ([0.0], [0.0])]
)
def test_thresholds_with_background(binary: dict[str, Any], wanted: Any, effective: list[float] | None) -> None:
    result = predict(binary, photo(), thresholds=wanted)
    assert result.probabilities is not None
    assert (result.labels == rule(result.probabilities, effective, 1)).all()
    emitted = np.take_along_axis(result.probabilities, result.labels[None].astype(int), axis=0)[0]
    assert (result.confidence == emitted).all()


@pytest.mark.parametrize(("wanted", "effective"), [("tuned", [0.6] * 3), ("argmax", None), ([0.2, 0.5, 0.7], [0.2, 0.5, 0.7])])
def test_thresholds_without_background(three: dict[str, Any], wanted: Any, effective: list[float] | None) -> None:
    result = predict(three, photo(), thresholds=wanted)
    assert result.probabilities is not None
    assert (result.labels == rule(result.probabilities, effective, 0)).all()
    known = result.labels != 255
    assert known.any()
    emitted = np.take_along_axis(result.probabilities, np.where(known, result.labels, 0)[None].astype(int), axis=0)[0]
    assert (result.confidence == emitted)[known].all()
    assert np.allclose(result.confidence[~known], 1 - result.probabilities.max(axis=0)[~known])


def test_tuned_falls_back_to_argmax(binary: dict[str, Any]) -> None:
    untuned = {**binary, "thresholds": {}}
    assert Predictor(untuned, "cpu").thresholds is None
    assert (predict(untuned, photo()).labels == predict(binary, photo(), thresholds="argmax").labels).all()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([0.5, 0.5], "give 1 numbers"),
        ([], "give 1 numbers"),
        ([1.5], "from 0 to 1"),
        ([-0.1], "from 0 to 1"),
        ([float("nan")], "from 0 to 1"),
        ("best", "use 'tuned', 'argmax' or numbers"),
    ],
)
def test_thresholds_that_do_not_fit(binary: dict[str, Any], wanted: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        Predictor(binary, "cpu", thresholds=wanted)
    assert str(caught.value).startswith("thresholds=")
    assert said in str(caught.value)


# -- networks, devices ------------------------------------------------------------------------------------------------


def test_student_and_teacher(binary: dict[str, Any]) -> None:
    selected, student, teacher = (Predictor(binary, "cpu", network=name) for name in ("selected", "student", "teacher"))
    assert (selected.thresholds, student.thresholds) == ([0.6], [0.4])  # each network has its own
    image = photo()
    assert (selected.probabilities(image) == teacher.probabilities(image)).all()
    assert not np.allclose(selected.probabilities(image), student.probabilities(image))
    assert not selected.model.training


def test_an_unknown_network(binary: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="network='ema': use 'selected', 'student' or 'teacher'"):
        Predictor(binary, "cpu", network="ema")


@pytest.mark.parametrize("device", ["banana", "cuda:99", "", "cuda:-1"])
def test_an_unknown_device(binary: dict[str, Any], device: str) -> None:
    with pytest.raises(ValueError, match=f"device='{device}': "):
        Predictor(binary, device)


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_precisions(binary: dict[str, Any]) -> None:
    cpu = torch.device("cpu")
    assert [choose_precision(name, cpu) for name in ("auto", "fp32", "bf16")] == [None, None, torch.bfloat16]
    with pytest.raises(ValueError, match="precision='fp16': use 'auto', 'fp32', 'bf16' or 'reference'"):
        Predictor(binary, "cpu", precision="fp16")


def test_half_precision_gives_float32_probabilities(binary: dict[str, Any]) -> None:
    exact, half = (Predictor(binary, "cpu", precision=p).probabilities(photo()) for p in ("fp32", "bf16"))
    assert half.dtype == np.float32
    assert np.allclose(half.sum(axis=0), 1, atol=1e-5)
    assert 0 < np.abs(exact - half).mean() < 0.05


def test_a_checkpoint_file_and_its_content_are_the_same(binary: dict[str, Any], tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "best.pth", binary)
    assert (Predictor(path, "cpu").probabilities(photo()) == Predictor(binary, "cpu").probabilities(photo())).all()
    with pytest.raises(ValueError, match=r"absent\.pth"):
        Predictor(tmp_path / "absent.pth")


def test_preprocessing_survives_plain_types() -> None:
    p = Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), 0.5, 64, 80, (128, 256), 0.25, "smooth", True, 2)
    assert Preprocessing.from_plain(p.as_plain()) == p
    assert all(type(value) in (list, float, int, str, bool) for value in p.as_plain().values())


def test_preprocessing_of_earlier_and_later_versions() -> None:
    """A field that is absent takes the value that held before it existed; one that is unknown is an error."""
    plain = Preprocessing((0.1, 0.2, 0.3), (1.0, 1.0, 1.0), 0.5, 64, 80, (128, 256), 0.25, "smooth", True, 2).as_plain()
    earlier = {key: value for key, value in plain.items() if key not in ("blending", "flips", "tile_batch")}
    loaded = Preprocessing.from_plain(earlier)
    assert (loaded.blending, loaded.flips, loaded.tile_batch) == ("average", False, 4)
    with pytest.raises(ValueError, match=r"preprocessing\.gamma: this version of hrda_core knows mean, .*; update hrda_core"):
        Preprocessing.from_plain({**plain, "gamma": 2.2})


# -- options ----------------------------------------------------------------------------------------------------------


def test_options_of_the_predictor_replace_those_of_the_checkpoint(binary: dict[str, Any]) -> None:
    p = Predictor(binary, "cpu").preprocessing
    assert (p.blending, p.flips, p.tile_batch, p.overlap, p.window) == ("average", False, 4, 0.5, (128, 128))
    changed = Predictor(binary, "cpu", blending="smooth", flips=True, tile_batch=2, overlap=0.25, window=(64, 96))
    p = changed.preprocessing
    assert (p.blending, p.flips, p.tile_batch, p.overlap, p.window) == ("smooth", True, 2, 0.25, (64, 96))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blending": "soft"}, "blending='soft': use 'smooth' or 'average'"),
        ({"overlap": 1.0}, "overlap=1.0: use a share from 0 up to, not including, 1"),
        ({"tile_batch": 0}, "tile_batch=0: use at least 1"),
        ({"window": (32, 128)}, "window=(32, 128): use (height, width) in pixels, each at least 64"),
    ],
)
def test_options_that_do_not_fit(binary: dict[str, Any], options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as caught:
        Predictor(binary, "cpu", **options)
    assert str(caught.value) == said


def test_flips_give_the_mirrored_photo_the_mirrored_answer(binary: dict[str, Any]) -> None:
    image, predictor = photo(150, 333), Predictor(binary, "cpu", flips=True, blending="smooth")
    plain, mirrored = predictor.probabilities(image), predictor.probabilities(image[:, ::-1])
    assert np.allclose(plain, mirrored[..., ::-1], atol=1e-4)
    assert not np.allclose(plain, Predictor(binary, "cpu", blending="smooth").probabilities(image), atol=1e-2)


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_the_tile_batch_does_not_matter(binary: dict[str, Any], batch: int) -> None:
    image = photo(200, 300)
    expected = Predictor(binary, "cpu").probabilities(image)
    assert np.allclose(Predictor(binary, "cpu", tile_batch=batch).probabilities(image), expected, atol=1e-4)


def test_without_scaling_logits_are_those_of_the_whole_image(binary: dict[str, Any]) -> None:
    """Averaging as published: normalise everything, slide, softmax."""
    predictor, image = Predictor(binary, "cpu"), photo(300, 200)
    normalised = (torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.2
    logits = slide_logits(predictor.model, normalised, (128, 128), 0.5)
    assert np.allclose(predictor.probabilities(image), logits[0].softmax(dim=0), atol=1e-6)


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
        torch.cuda.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
    ],
)
@pytest.mark.parametrize(("precision", "function"), [("reference", "logits"), ("auto", "see_context"), ("auto", "see_detail")])
def test_memory_that_runs_out_halves_the_batch(
    binary: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception, precision: str, function: str
) -> None:
    image, tried = photo(300, 400), []
    expected = Predictor(binary, "cpu").probabilities(image)
    predictor = Predictor(binary, "cpu", precision, tile_batch=2 if function == "see_detail" else 8)
    enough = getattr(predictor.model, function)

    def scarce(windows: torch.Tensor) -> torch.Tensor:
        tried.append(len(windows))
        if len(windows) > 2:
            raise error
        return enough(windows)  # type: ignore[no-any-return]

    monkeypatch.setattr(predictor.model, function, scarce)
    assert np.allclose(predictor.probabilities(image), expected, atol=1e-4)
    assert tried[:3] == [8, 4, 2]
    assert max(tried[3:]) == 2
    tried.clear()
    predictor.predict([image])
    assert max(tried) == 2  # it need not find out again


def test_no_memory_for_a_single_window(binary: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Predictor(binary, "cpu")

    def fail(message: str) -> None:
        def raises(windows: torch.Tensor) -> torch.Tensor:
            raise RuntimeError(message)

        monkeypatch.setattr(predictor.model, "see_context", raises)

    fail("DefaultCPUAllocator: can't allocate memory")
    with pytest.raises(RuntimeError, match="no memory for one window of 128x128 px: use a smaller window"):
        predictor.predict([photo(300, 300)])
    fail("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):  # another error stays itself
        predictor.predict([photo(300, 300)])


class Heights:
    """A writer that keeps nothing but what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def open(self, height: int, width: int, classes: int) -> None:
        self.told.append((height, width, classes))

    def write(self, top: int, labels: Any, confidence: Any, probabilities: Any) -> None:
        self.told.append((top, labels.shape, confidence.shape, None if probabilities is None else probabilities.shape))

    def close(self) -> None:
        self.told.append("closed")


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_a_writer_gets_bands_from_top_to_bottom(scale: float) -> None:
    writer, predictor = Heights(), Predictor(checkpoint(scale=scale), "cpu")
    predictor.predict_to(photo(500, 90), writer, probabilities=True)
    first, *bands, last = writer.told
    assert (first, last) == ((500, 90, 2), "closed")
    bottom = 0
    for top, labels, confidence, probabilities in bands:
        assert top == bottom
        assert labels == confidence == probabilities[1:]
        assert probabilities[0] == 2
        assert labels[0] <= 64
        bottom += labels[0]
    assert bottom == 500


def test_a_writer_is_closed_when_the_prediction_fails(binary: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    writer, predictor = Heights(), Predictor(binary, "cpu")
    monkeypatch.setattr(predictor.model, "logits", None)
    with pytest.raises(TypeError):
        predictor.predict_to(photo(), writer)
    assert writer.told == [(100, 90, 2), "closed"]


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_a_memory_mapped_image_is_read_in_strips(scale: float, tmp_path: Path) -> None:
    image = photo(900, 70)
    np.save(tmp_path / "image.npy", image)
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    predictor = Predictor(checkpoint(scale=scale), "cpu")
    assert (predictor.predict([mapped])[0].labels == predictor.predict([image])[0].labels).all()


def test_the_version_is_that_of_the_weights_in_use(binary: dict[str, Any]) -> None:
    student, teacher = (Predictor(binary, "cpu", network=name).weights_version for name in ("student", "teacher"))
    assert teacher == weights_version(binary)
    assert student != teacher


def test_a_trained_checkpoint_predicts(tmp_path: Path) -> None:
    from hrda_core.training.loop import train

    config = tiny({"optimisation": {"iterations": 1}}, mode="source-only")
    result = train(config, cracks(2, 1), None, directory=tmp_path)
    predictor = Predictor(result.best)
    assert predictor.classes == CRACKS
    assert predictor.has_background
    assert predictor.preprocessing.window == (96, 96)
    assert predictor.predict([photo(200, 150)])[0].labels.shape == (200, 150)
