"""`python -m serve_app.main deploy | predict` on a machine without a platform."""

from __future__ import annotations

import importlib
import json
import runpy
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests
import supervisely as sly
import torch
from app_process import ROOT
from fastapi.testclient import TestClient
from PIL import Image
from serve_scene import (
    CLASSES,
    NAMES,
    as_map,
    command_line_server,
    embedded,
    expected,
    make_checkpoint,
    picture,
)
from supervisely.nn.model.model_api import ModelAPI
from test_serve_app import Payload

from serve_app.command_line import notice, parse_arguments
from serve_app.errors import RequestError

MAIN = "/app/serve_app/main.py"  # argv[0] of `python -m serve_app.main`


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_checkpoint(folder / "best.pth", **embedded(NAMES))
    (folder / "photos" / "inner").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "inner/a.png")):
        cv2.imwrite(str(folder / "photos" / name), picture(number)[0][..., ::-1])
    (folder / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture
def no_platform(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SERVER_ADDRESS", "API_TOKEN", "ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))


def run(patch: pytest.MonkeyPatch, *words: str) -> Any:
    """`python -m serve_app.main` with these words, in this process -> what it exits with."""
    patch.setattr(sys, "argv", [MAIN, *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_module("serve_app.main", run_name="__main__")
    return end.value.code


def test_a_folder_is_predicted(
    folder: Path, no_platform: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--checkpoint", str(folder / "best.pth"), "--device", "cpu", "--output", str(folder / "out"), "--draw")
    settings = ("--settings", "output=polygon", "threshold=crack: 0.3")
    assert run(monkeypatch, "predict", str(folder / "photos"), *words, *settings) == 1
    said = capsys.readouterr()
    assert "broken.png: left out" in said.err
    assert "3 of 4 images predicted" in said.out
    meta = sly.ProjectMeta([sly.ObjClass(name, sly.Polygon) for name in NAMES], [sly.TagMeta("uncertain", "any_number")])
    for name, seed in (("a.png", 0), ("inner/a.png", 2)):
        content = json.loads((folder / "out" / f"{name}.json").read_text())
        annotation = sly.Annotation.from_json(content, meta.add_tag_meta(sly.TagMeta("confidence", "any_number")))
        labels = expected(folder / "best.pth", picture(seed)[0], thresholds=[0.3, 0.4])
        np.testing.assert_array_equal(as_map(annotation), labels)
    drawn = cv2.imread(str(folder / "out" / "drawn" / "b.jpg.jpg"))
    assert drawn.shape == (96, 128, 3)


def test_a_checkpoint_with_code_is_refused_and_not_run(folder: Path, no_platform: None, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({**torch.load(folder / "best.pth"), "extra": Payload(folder / "ran")}, folder / "evil.pth")
    for mode in (["predict", str(folder / "photos")], ["deploy"]):
        said = run(monkeypatch, *mode, "--model", str(folder / "evil.pth"), "--device", "cpu")
        assert said.startswith("error: ") and "cannot be read safely" in said
    assert not (folder / "ran").exists()


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with command_line_server(folder / "best.pth", folder / "log", "--device", "cuda:3", "--host", "127.0.0.1") as url:
        yield url


def test_model_api_by_the_address_alone(url: str, folder: Path) -> None:
    model = ModelAPI(url=url)
    assert model.get_info()["device"] == "cpu" and model.get_classes() == NAMES and model.is_deployed()
    assert model.list_pretrained_models() == ["hrda_gta_cityscapes", "mic_hrda_gta_cityscapes", "daformer_gta_cityscapes"]
    (prediction,) = model.predict(str(folder / "photos" / "a.png"), min_area=3, classes=["crack"])
    labels = expected(folder / "best.pth", picture(0)[0])
    assert set(np.unique(as_map(prediction.annotation))) == {0, 1}
    assert (as_map(prediction.annotation)[labels == 0] == 0).all()
    assert model.freeze_model() == {"message": "Model is frozen."}
    assert len(model.predict(str(folder / "photos" / "b.jpg"), output="alpha_mask")) == 1


# ---- the examples, against this server


def read_run_lengths(content: list[int]) -> list[int]:
    """As Label Studio's converter reads them."""
    bits = iter("".join(f"{byte:08b}" for byte in content))

    def number(count: int) -> int:
        return int("".join(next(bits) for _ in range(count)), 2)

    total, word = number(32), number(5) + 1
    sizes, values = [number(4) + 1 for _ in range(4)], []
    while len(values) < total:
        repeated, length = number(1), 0
        length = number(sizes[number(2)]) + 1
        values += [number(word)] * length if repeated else [number(word) for _ in range(length)]
    return values


def test_label_studio_gets_masks_in_its_own_format(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    backend = importlib.import_module("label_studio_backend")
    monkeypatch.setattr(backend, "HRDA_URL", url)
    content = (folder / "photos" / "a.png").read_bytes()
    monkeypatch.setattr(backend, "fetch", {"/data/a.png": content}.get)
    client = TestClient(backend.app)
    assert client.get("/health").json() == {"status": "UP"}
    assert len(client.post("/setup", json={}).json()["model_version"]) == 12
    labels = '<BrushLabels name="tag" toName="image"><Label value="crack"/><Label value="rust"/></BrushLabels>'
    interface = f'<View><Image name="image" value="$photo"/>{labels}</View>'
    body = {"tasks": [{"data": {"photo": "/data/a.png"}}], "label_config": interface}
    (result,) = client.post("/predict", json=body).json()["results"]
    drawn = np.zeros((96, 128), np.uint8)
    for region in result["result"]:
        assert (region["original_width"], region["original_height"], region["from_name"]) == (128, 96, "tag")
        mask = np.reshape(read_run_lengths(region["value"]["rle"]), (96, 128, 4))
        drawn[mask[..., 3] == 255] = NAMES.index(region["value"]["brushlabels"][0])
    answer = importlib.import_module("serve_client").predict(url, content, min_area=10, objects="component")
    wanted = expected(folder / "best.pth", picture(0)[0])
    assert ((drawn == wanted) | (drawn == 0)).all() and (drawn == wanted).mean() > 0.95
    assert result["score"] == pytest.approx(1 - answer.doubt)


def test_cvat_gets_masks(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVAT's package is not among our requirements: its three names stand in."""
    annotation = types.ModuleType("cvat_sdk.auto_annotation")
    annotation.DetectionFunctionSpec = annotation.label_spec = lambda *_, **given: given  # type: ignore[attr-defined]
    annotation.mask = lambda label, mask: (label, mask)  # type: ignore[attr-defined]
    masks = types.ModuleType("cvat_sdk.masks")
    masks.encode_mask = lambda mask, box: (mask, box)  # type: ignore[attr-defined]
    package = types.ModuleType("cvat_sdk")
    package.auto_annotation = annotation  # type: ignore[attr-defined]
    for module in (package, annotation, masks):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    monkeypatch.setenv("HRDA_URL", url)
    function = importlib.import_module("cvat_auto_annotation")
    assert NAMES[1:] == function.NAMES
    found = function.detect(types.SimpleNamespace(conf_threshold=None), Image.fromarray(picture(0)[0]))
    wanted = expected(folder / "best.pth", picture(0)[0])
    for number, (mask, (left, top, right, bottom)) in found:
        assert (wanted[mask] == number + 1).all() and mask[top:bottom, left:right].sum() == mask.sum() >= 10
    assert found


def test_a_folder_with_the_core_alone(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    script = str(ROOT / "examples" / "predict_folder.py")
    words = [str(folder / "best.pth"), str(folder / "photos" / "inner"), str(folder / "masks"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(script, run_name="__main__")
    assert end.value.code == 0
    assert "1 predicted, 0 were there already, 0 could not be read" in capsys.readouterr().out
    mask = cv2.imread(str(folder / "masks" / "masks" / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(mask, expected(folder / "best.pth", picture(2)[0]))


def test_another_checkpoint_is_loaded_by_its_path(url: str, folder: Path) -> None:
    run_folder = folder / "run"
    checkpoint = make_checkpoint(run_folder / "checkpoints" / "two.pth", CLASSES[:2], steps=2)
    (run_folder / "experiment_info.json").write_text(json.dumps({"model_files": {}, "model_name": "two"}))
    (run_folder / "model_meta.json").write_text(json.dumps(embedded(NAMES)["model_meta"]))
    model = ModelAPI(url=url)
    model.load(str(checkpoint), device="cpu")
    assert model.get_classes() == NAMES[:2]
    assert requests.get(f"{url}/model_card", timeout=10).json()["classes"][1]["name"] == "crack"


def test_addresses_inside_the_network_are_not_fetched(url: str) -> None:
    state = {"state": {"image_url": f"{url}/metrics"}, "context": {}}
    answer = requests.post(f"{url}/inference_image_url", json=state, timeout=10)
    assert answer.status_code == 400 and "not public" in answer.json()["message"]


def test_arguments() -> None:
    assert parse_arguments(["/bin/uvicorn", "serve_app.main:model.app", "--port", "8000"]) == (None, False)
    assert parse_arguments(["/lib/uvicorn/__main__.py", "serve_app.main:model.app"]) == (None, False)
    arguments, is_command_line = parse_arguments(
        [MAIN, "predict", "a.png", "--model", "x.pth", "--settings", "threshold=0.5", "flips=true", "classes=[a, b]"]
    )
    assert is_command_line and arguments is not None
    assert arguments.settings == {"threshold": 0.5, "flips": True, "classes": ["a", "b"]} and arguments.device == "auto"
    with pytest.raises(RequestError, match="give name=value"):
        parse_arguments([MAIN, "predict", "a.png", "--model", "x.pth", "--settings", "threshold"])
    for wrong in ([], ["deploy"], ["deplyo"], ["predict", "--model", "x.pth"], ["deploy", "--model", "x", "--port", "80000"]):
        with pytest.raises(SystemExit) as end:
            parse_arguments([MAIN, *wrong])
        assert end.value.code == 2  # with a sentence, as argparse does
    options_first = parse_arguments([MAIN, "--model", "x.pth", "predict", "a.png"])[0]
    assert options_first is not None and options_first.mode == "predict"


def test_help(no_platform: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    assert "Serve HRDA without a platform" in capsys.readouterr().out


def test_who_may_ask() -> None:
    everyone, this_machine = (
        parse_arguments([MAIN, "deploy", "--model", "x.pth", *more])[0] for more in ((), ("--host", "127.0.0.1"))
    )
    assert "every machine" in notice(everyone)
    assert notice(this_machine) == notice(None) == ""
