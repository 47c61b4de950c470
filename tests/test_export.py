"""ONNX files: the same probabilities as PyTorch, all that full images need, and the example that uses nothing else."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hrda_core.__main__ import main
from hrda_core.inference import export
from hrda_core.inference.export import MAX_DIFFERENCE, export_onnx, onnx_metadata
from hrda_core.inference.predictor import Predictor
from hrda_core.models.build import build_model
from hrda_core.models.checkpoints import model_of, save_checkpoint, weights_version

ROOT = Path(__file__).parents[1]
MICRO = "test_efficientnet"
TUNED = {"student": [0.4], "teacher": [0.6]}


def checkpoint(encoder: str = MICRO, classes: int = 2, **changes: Any) -> dict[str, Any]:
    """Random networks whose answers vary over an image; student and teacher differ. Changes go where they belong."""
    options = {"encoder": encoder, "num_classes": classes, "head_channels": 16, "detail_size": (64, 64)}
    options.update({key: changes.pop(key) for key in ("multi_resolution", "attention") if key in changes})
    content: dict[str, Any] = {"model_config": options, "selected": "teacher", "metrics": {}, "provenance": {}}
    content["thresholds"] = changes.pop("thresholds", TUNED)
    for seed, name in enumerate(("student", "teacher")):
        torch.manual_seed(seed)
        model = build_model(**options)
        torch.nn.init.normal_(model.head.classifier.weight, std=3.0)
        content[name] = model.state_dict()
    content["classes"] = [{"name": f"class {i}", "color": [i, 2 * i, 3 * i], "value": 10 * i + 5} for i in range(classes)]
    plain = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "scale": 1.0, "fit_short": 0, "fit_long": 0}
    tiling = {"window": [128, 128], "overlap": 0.5, "has_background": True}
    content["preprocessing"] = {**plain, **tiling, **changes}
    return content


def photo(height: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height)), np.uint8)


def session_of(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def expected(content: Mapping[str, Any], images: np.ndarray[Any, Any], network: str = "selected") -> np.ndarray[Any, Any]:
    mean, std = (torch.tensor(content["preprocessing"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits = model_of(content, network).logits((torch.from_numpy(images) / 255 - mean) / std)
    return logits.softmax(dim=1).numpy()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    content = checkpoint()
    return content, export_onnx(content, tmp_path_factory.mktemp("onnx") / "network.onnx")


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("predict_onnx", ROOT / "examples" / "predict_onnx.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- one window -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        (MICRO, {"attention": "single"}),
        (MICRO, {"attention": "fixed", "classes": 3}),
        (MICRO, {"multi_resolution": False}),
        ("mit_b0", {"window": [64, 96]}),
        ("mobilenetv2_100", {"classes": 3}),
        ("pvt_v2_b0", {"multi_resolution": False}),
        ("test_vit2", {}),  # position embeddings are resized, to one size for the context and another for the detail
        ("vit_tiny_patch16_224", {"multi_resolution": False}),
    ],
)
def test_a_window_gives_pytorchs_probabilities(encoder: str, options: dict[str, Any], tmp_path: Path) -> None:
    content = checkpoint(encoder, **options)
    path = export_onnx(content, tmp_path / "network.onnx", check=False)
    images = np.random.default_rng(1).integers(0, 256, (2, 3, *content["preprocessing"]["window"])).astype(np.float32)
    (result,) = session_of(path).run(None, {"image": images})
    wanted = expected(content, images)
    assert (result.shape, result.dtype) == (wanted.shape, np.float32)
    assert np.abs(result - wanted).max() < MAX_DIFFERENCE
    assert result.std() > 0.01  # an answer that varies, or the comparison would say nothing


def test_input_and_output(exported: tuple[dict[str, Any], Path]) -> None:
    """Any number of windows of one size, RGB 0..255."""
    session = session_of(exported[1])
    (image,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(float)", ["N", 3, 128, 128])
    assert (probabilities.name, probabilities.type, probabilities.shape) == ("probabilities", "tensor(float)", ["N", 2, 128, 128])
    for count in (1, 3):
        (result,) = session.run(None, {"image": np.zeros((count, 3, 128, 128), np.float32)})
        assert result.shape == (count, 2, 128, 128)
        assert np.allclose(result.sum(axis=1), 1, atol=1e-5)
    onnx.checker.check_model(onnx.load(str(exported[1])), full_check=True)


@pytest.mark.parametrize("network", ["student", "teacher"])
def test_network(network: str, tmp_path: Path) -> None:
    content = checkpoint(multi_resolution=False)
    path = export_onnx(content, tmp_path / "network.onnx", network=network)
    image = photo(128, 128).transpose(2, 0, 1)[None].astype(np.float32)
    (result,) = session_of(path).run(None, {"image": image})
    assert np.abs(result - expected(content, image, network)).max() < MAX_DIFFERENCE
    about = onnx_metadata(path)
    assert (about["network"], about["thresholds"]) == (network, TUNED[network])
    assert about["weights_version"] == weights_version({**content, "selected": network})


def test_another_window(tmp_path: Path) -> None:
    path = export_onnx(checkpoint(), tmp_path / "network.onnx", window=(128, 192), opset=20)
    assert onnx_metadata(path)["preprocessing"]["window"] == [128, 192]
    assert session_of(path).get_inputs()[0].shape == ["N", 3, 128, 192]
    assert onnx.load(str(path)).opset_import[0].version == 20


def test_the_checkpoints_own_window_may_have_any_size(tmp_path: Path) -> None:
    """The graph pads, as the predictor does; the check compares with it."""
    path = export_onnx(checkpoint(window=[100, 70]), tmp_path / "network.onnx")
    assert session_of(path).get_outputs()[0].shape[2:] == [100, 70]


def test_no_warnings(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        export_onnx(checkpoint("test_vit2"), tmp_path / "network.onnx")
    assert [str(warning.message) for warning in heard] == []


# -- what the file says -----------------------------------------------------------------------------------------------


def test_metadata(exported: tuple[dict[str, Any], Path]) -> None:
    content, path = exported
    about = onnx_metadata(path)
    assert about["format_version"] == 1
    assert about["encoder"] == MICRO
    assert about["classes"] == content["classes"]
    assert about["has_background"] is True
    assert about["thresholds"] == [0.6]
    assert about["weights_version"] == weights_version(content)
    assert about["verification"]["max_difference"] < 1e-4
    stored = about["preprocessing"]
    assert {**content["preprocessing"], **stored, "has_background": True} == {**content["preprocessing"], **stored}
    assert (stored["blending"], stored["flips"]) == ("average", False)
    assert "inside the graph" in stored["normalisation"]


def test_metadata_is_json_that_any_runtime_reads(exported: tuple[dict[str, Any], Path]) -> None:
    written = session_of(exported[1]).get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in written.items()} == onnx_metadata(exported[1])


# -- full images, by the example --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"blending": "smooth"},
        {"blending": "average", "flips": True, "overlap": 0.25},
        {"blending": "smooth", "flips": True, "scale": 0.75},
        {"fit_short": 160, "fit_long": 300, "thresholds": {}},
        {"zooms": [0.7, 1.0, 1.5]},
        {"zooms": [0.7, 1.0], "most_foreground": 0.4},
        {"classes": 3, "has_background": False, "thresholds": {"teacher": [0.5, 0.6, 0.7]}},
    ],
)
def test_example_agrees_with_the_predictor(options: dict[str, Any], example: ModuleType, tmp_path: Path) -> None:
    content, image = checkpoint(multi_resolution=False, **options), photo(200, 312)
    path = export_onnx(content, tmp_path / "network.onnx", check=False)
    labels, probabilities = example.OnnxPredictor(str(path)).predict(image)
    wanted = Predictor(content, "cpu").predict([image], probabilities=True)[0]
    assert wanted.probabilities is not None
    assert len(np.unique(wanted.labels)) >= 2
    # Where the image is resized, OpenCV rounds a few pixels otherwise than the predictor: by one of 255.
    assert np.abs(probabilities - wanted.probabilities).max() < (1e-2 if {"scale", "fit_short", "zooms"} & set(options) else 1e-4)
    assert (labels == wanted.labels).mean() >= 0.999


def test_example_needs_neither_torch_nor_this_project(
    exported: tuple[dict[str, Any], Path], example: ModuleType, tmp_path: Path
) -> None:
    content, path = exported
    source, result = tmp_path / "photo.png", tmp_path / "mask.png"
    image = photo(150, 200)
    cv2.imwrite(str(source), image[..., ::-1])
    assert example.main([str(path), str(source), str(result)]) == 0
    labels = Predictor(content, "cpu").predict([image])[0].labels
    mask = cv2.imread(str(result), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert (mask == np.array([5, 15], np.uint8)[labels]).mean() >= 0.999  # the classes' values
    assert example.main([str(tmp_path / "absent.onnx"), str(source), str(result)]) == 1
    allowed = {"__future__", "argparse", "json", "math", "pathlib", "sys", "cv2", "numpy", "onnxruntime"}
    assert imported_at_the_top(ROOT / "examples" / "predict_onnx.py") <= allowed


@pytest.mark.parametrize(("height", "width"), [(40, 300), (104, 96), (9, 9), (1, 1)])
def test_example_mirrors_images_smaller_than_the_window(
    height: int, width: int, exported: tuple[dict[str, Any], Path], example: ModuleType
) -> None:
    content, path = exported
    image = photo(128, 304)[:height, :width]
    labels, probabilities = example.OnnxPredictor(str(path)).predict(image)
    mirrored = cv2.copyMakeBorder(image, 0, max(128 - height, 0), 0, max(128 - width, 0), cv2.BORDER_REFLECT_101)
    wanted = Predictor(content, "cpu").predict([np.asarray(mirrored, np.uint8)], probabilities=True)[0]
    assert wanted.probabilities is not None
    assert np.abs(probabilities - wanted.probabilities[:, :height, :width]).max() < 1e-4
    assert (labels == wanted.labels[:height, :width]).mean() >= 0.999


def test_example_says_what_is_wrong(
    exported: tuple[dict[str, Any], Path], example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.main([str(exported[1]), str(tmp_path / "none.png"), str(tmp_path / "mask.png")]) == 1
    assert "none.png is no image that can be read" in capsys.readouterr().err


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "both"}, r"network='both': use 'selected', 'student' or 'teacher'"),
        ({"window": (100, 128)}, r"window=\(100, 128\): this network takes multiples of 64, at least 128; use 128x128"),
        ({"window": (32, 32)}, r"window=\(32, 32\): use \(height, width\) in pixels, each at least 64"),
        ({"opset": 17}, r"opset=17: use 18 to 20"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export_onnx(checkpoint(), tmp_path / "network.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.pth"):
        export_onnx(tmp_path / "none.pth", tmp_path / "network.onnx")
    with pytest.raises(ValueError, match=r"the checkpoint lacks model_config, classes, .*: give one of this project"):
        export_onnx({"state_dict": {}}, tmp_path / "network.onnx")


def test_a_graph_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.onnx"
    path.write_bytes(b"the old file")
    monkeypatch.setattr(export.WindowProbabilities, "_detail", lambda self, image: torch.zeros_like(self.count))
    with pytest.raises(RuntimeError, match=r"differs from PyTorch by 0\.\d+ in a probability, at most 0\.001 is allowed"):
        export_onnx(checkpoint(), path)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


def test_weights_beyond_what_a_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"one ONNX file holds 2 GB: use a smaller encoder"):
        export_onnx(checkpoint(), tmp_path / "network.onnx")


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_missing_package_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeError, match=rf"needs the package {name}, which is not installed: pip install {name}$"):
        export_onnx(checkpoint(), tmp_path / "network.onnx")


def test_nothing_imports_the_packages_before_they_are_needed() -> None:
    for file in (ROOT / "hrda_core").rglob("*.py"):
        assert not imported_at_the_top(file) & {"onnx", "onnxruntime", "onnxscript"}, file


def imported_at_the_top(file: Path) -> set[str]:
    found: set[str] = set()
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            found.add((statement.module or "").partition(".")[0])
    return found


# -- command line -----------------------------------------------------------------------------------------------------


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best, out = save_checkpoint(tmp_path / "best.pth", checkpoint()), tmp_path / "network.onnx"
    assert main(["export", str(best), str(out), "--network", "student", "--window", "192x128"]) == 0
    assert onnx_metadata(out)["preprocessing"]["window"] == [192, 128]
    printed = capsys.readouterr().out
    assert str(out) in printed
    assert "differs from PyTorch by" in printed
    assert main(["export", str(best), str(out), "--window", "big"]) == 1
    assert "--window big: use HEIGHTxWIDTH in pixels, such as 512x512" in capsys.readouterr().err
