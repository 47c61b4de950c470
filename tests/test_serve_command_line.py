"""`python -m serve_app.main deploy | predict` as processes, on a machine without a platform."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
import supervisely as sly
import torch
from app_process import ROOT
from serve_scene import (
    CLASSES,
    NAMES,
    as_map,
    command_line_server,
    embedded,
    expected,
    make_checkpoint,
    picture,
    plain_environment,
)
from supervisely.nn.model.model_api import ModelAPI
from test_serve_app import Payload

from serve_app.command_line import parse_arguments
from serve_app.errors import RequestError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_checkpoint(folder / "best.pth", **embedded(NAMES))
    (folder / "photos" / "inner").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "inner/a.png")):
        cv2.imwrite(str(folder / "photos" / name), picture(number)[0][..., ::-1])
    (folder / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "serve_app.main", *words]
    return subprocess.run(command, cwd=ROOT, env=plain_environment(folder), capture_output=True, text=True, timeout=120)


def test_a_folder_is_predicted_without_a_platform(folder: Path) -> None:
    words = ("--checkpoint", str(folder / "best.pth"), "--device", "cpu", "--output", str(folder / "out"), "--draw")
    settings = ("--settings", "output=polygon", "threshold=crack: 0.3")
    done = run(folder, "predict", str(folder / "photos"), *words, *settings)
    assert done.returncode == 1 and "broken.png: left out" in done.stderr
    assert "3 of 4 images predicted" in done.stdout, done.stderr
    meta = sly.ProjectMeta([sly.ObjClass(name, sly.Polygon) for name in NAMES], [sly.TagMeta("uncertain", "any_number")])
    for name, seed in (("a.png", 0), ("inner/a.png", 2)):
        content = json.loads((folder / "out" / f"{name}.json").read_text())
        annotation = sly.Annotation.from_json(content, meta.add_tag_meta(sly.TagMeta("confidence", "any_number")))
        labels = expected(folder / "best.pth", picture(seed)[0], thresholds=[0.3, 0.4])
        np.testing.assert_array_equal(as_map(annotation), labels)
    drawn = cv2.imread(str(folder / "out" / "drawn" / "b.jpg.jpg"))
    assert drawn.shape == (96, 128, 3)


def test_a_checkpoint_with_code_is_refused_and_not_run(folder: Path) -> None:
    torch.save({**torch.load(folder / "best.pth"), "extra": Payload(folder / "ran")}, folder / "evil.pth")
    done = run(folder, "predict", str(folder / "photos"), "--model", str(folder / "evil.pth"), "--device", "cpu")
    assert done.returncode == 1 and not (folder / "ran").exists()
    assert "error: " in done.stderr and "cannot be read safely" in done.stderr and "Traceback" not in done.stderr


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
    assert parse_arguments(["main.py"]) == (None, False)
    arguments, is_command_line = parse_arguments(
        ["main.py", "predict", "a.png", "--model", "x.pth", "--settings", "threshold=0.5", "flips=true", "classes=[a, b]"]
    )
    assert is_command_line and arguments is not None
    assert arguments.settings == {"threshold": 0.5, "flips": True, "classes": ["a", "b"]} and arguments.device == "auto"
    with pytest.raises(RequestError, match="give name=value"):
        parse_arguments(["main.py", "predict", "a.png", "--model", "x.pth", "--settings", "threshold"])
    for wrong in (["main.py", "deploy"], ["main.py", "predict", "--model", "x.pth"]):
        with pytest.raises(SystemExit):
            parse_arguments(wrong)
