"""What may come at the same time: models into and out of service, sleep, requests; and what is left behind where one fails."""

from __future__ import annotations

import functools
import gc
import shutil
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import supervisely as sly
from fastapi import FastAPI
from fastapi.testclient import TestClient
from serve_scene import as_map
from served_model import WAIT, busy_network, in_parallel, micro_checkpoint, photo, png
from supervisely.nn.inference.inference import AutoRestartInfo
from supervisely.nn.utils import ModelSource

from hrda_core import Predictor
from hrda_core.models.checkpoints import save_checkpoint
from serve_app.engine import EngineClosed
from serve_app.errors import RequestError
from serve_app.limits import Admission, Refused
from serve_app.model import ServeHRDA
from serve_app.uploads import Upload

IMAGE = photo(70, 90)
NAMES = ["background", "damage 1", "damage 2"]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two that know the same classes and answer differently."""
    folder, one, other = tmp_path_factory.mktemp("checkpoints"), micro_checkpoint(), micro_checkpoint()
    for weights in (other["student"], other["teacher"]):
        weights["head.classifier.weight"] = -weights["head.classifier.weight"]
    return [save_checkpoint(folder / "one.pth", one), save_checkpoint(folder / "other.pth", other)]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeHRDA]:
    """Without a page and without a platform."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLY_APP_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        patch.setenv("SMART_CACHE_CONTAINER_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(ServeHRDA, "api", None)
        app = ServeHRDA(use_gui=False)
        yield app
        app.shutdown_model()


@pytest.fixture(scope="module")
def server(app: ServeHRDA) -> TestClient:
    server = FastAPI()
    app.add_routes(server)
    return TestClient(server)


def deploy(app: ServeHRDA, path: Path, **more: Any) -> None:
    files = {"checkpoint": str(path)}
    app.deploy_by_api({"deploy_params": {"model_source": ModelSource.EXTERNAL, "model_files": files, "device": "cpu", **more}})


def downloaded(app: ServeHRDA, checkpoint: Path, name: str) -> Path:
    """As if it came from Team Files."""
    folder = Path(app.model_dir) / f"model-{name}"
    folder.mkdir(parents=True)
    return Path(shutil.copy(checkpoint, folder))


def wait_until(condition: Any) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- at the same time


def test_requests_while_models_come_and_go_and_sleep(app: ServeHRDA, checkpoints: list[Path]) -> None:
    """Each gets the answer of one model, and says which; none gets stuck."""
    right = {}
    for path in checkpoints:
        deploy(app, path)
        labels = Predictor(path, "cpu").predict([IMAGE])[0].labels
        right[app.service.card()["version"]] = labels
    assert len(right) == 2 and not np.array_equal(*right.values())
    ended = threading.Event()

    def change() -> None:
        try:
            for number in range(9):
                deploy(app, checkpoints[number % 2])
                app._freeze_model()
        finally:
            ended.set()

    def ask() -> int:
        answered = 0
        while not ended.is_set() or not answered:
            try:
                results = app.run_images([Upload("photo.png", png(IMAGE))] * 2, {"batch_size": 1})
            except EngineClosed:  # changed between two images
                continue
            for result in results:
                annotation = sly.Annotation.from_json(result["annotation"], app.model_meta)
                np.testing.assert_array_equal(as_map(annotation, NAMES), right[result["data"]["weights_version"]])
            answered += 1
        return answered

    done = in_parallel(lambda index: change() if index == 0 else ask(), 5)
    assert done[0] is None and all(isinstance(count, int) for count in done[1:]), done


def test_stop_is_told_at_once_while_requests_end(app: ServeHRDA, checkpoints: list[Path], server: TestClient) -> None:
    deploy(app, checkpoints[0])
    with busy_network() as network:
        results: list[Any] = []
        request = threading.Thread(target=lambda: results.append(app.run_images([Upload("a.png", png(IMAGE))], {})))
        request.start()
        assert network.arrived.wait(WAIT)
        stop = threading.Thread(target=app.shutdown_model)
        stop.start()
        wait_until(lambda: app.service.engine is None)
        for answer in (server.get("/ready"), server.post("/predict/labels", files={"image": png(IMAGE)})):
            assert answer.status_code == 503 and "no model is deployed" in answer.json()["message"]
        with pytest.raises(Refused, match="no model is deployed") as refused:
            app.validate_inference_state({})
        assert refused.value.status == 409 and stop.is_alive() and not results
        network.free.set()
        request.join(WAIT)
        stop.join(WAIT)
    assert len(results) == 1 and not stop.is_alive()  # what was under way was answered


def test_a_model_that_is_stopped_just_before_it_would_wake(
    app: ServeHRDA, server: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.shutdown_model()
    monkeypatch.setattr(ServeHRDA, "asleep", True)  # as a request saw it a moment ago
    answer = server.post("/predict/labels", files={"image": png(IMAGE)})
    assert answer.status_code == 503 and answer.json()["code"] == "not_ready"
    with pytest.raises(Refused, match="no model is deployed"):
        app.awake()


def test_stop_and_the_timer_of_sleep_do_not_meet(app: ServeHRDA, checkpoints: list[Path]) -> None:
    deploy(app, checkpoints[0])
    held: list[bool] = []
    app._freeze_timer.cancel()
    app._freeze_timer = SimpleNamespace(cancel=lambda: held.append(app._timing.locked()))
    app.shutdown_model()
    assert held == [True] and app._freeze_timer is None


# ---- what a deployment leaves behind


def test_the_file_of_the_model_in_service_stays_whatever_fails_after(
    app: ServeHRDA, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    former, fresh = (downloaded(app, path, path.stem) for path in checkpoints)
    deploy(app, former)
    load = app.load_model

    @functools.wraps(load)
    def then_fail(*arguments: Any, **options: Any) -> None:
        load(*arguments, **options)
        raise RuntimeError("the page cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(app, "load_model", then_fail)
        with pytest.raises(RuntimeError, match="cannot be reached"):
            deploy(app, fresh)
    assert fresh.exists() and not former.parent.exists()
    app._freeze_model()
    assert app.asleep and app.run_images([Upload("a.png", png(IMAGE))], {})  # it wakes from that file
    assert app.get_info()["checkpoint_name"] == "other.pth"
    broken = downloaded(app, fresh, "broken")
    broken.write_bytes(b"no checkpoint")
    with pytest.raises(RequestError):
        deploy(app, broken)
    assert fresh.exists() and not broken.parent.exists() and app.get_info()["checkpoint_name"] == "other.pth"
    app.shutdown_model()
    assert not fresh.parent.exists()


def test_a_restart_deploys_the_last_model_as_it_was(app: ServeHRDA, checkpoints: list[Path]) -> None:
    """The SDK adds the parameters of a deployment to those of the one before."""
    deploy(app, checkpoints[0], model_precision="bf16", class_names=["a", "b", "c"])
    remembered = AutoRestartInfo(dict(app._deploy_params))
    deploy(app, checkpoints[1])
    remembered.deploy_params.update(app._deploy_params)
    app.shutdown_model()
    app._load_model_headless(**remembered.deploy_params)
    assert app.get_info()["precision"] == "fp32" and app.get_info()["checkpoint_name"] == "other.pth"
    assert remembered.deploy_params["class_names"] is None


def test_a_published_file_that_was_cut_off_is_not_found_the_next_time(
    app: ServeHRDA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(team_id: int, remote: str, local: str) -> None:
        Path(local).write_bytes(b"half of")
        if not whole:
            raise ConnectionError("cut off")

    whole: list[int] = []
    files = SimpleNamespace(get_info_by_path=lambda *_: "there", download=download)
    monkeypatch.setattr(ServeHRDA, "api", SimpleNamespace(file=files))
    monkeypatch.setenv("TEAM_ID", "1")
    with pytest.raises(ConnectionError):
        app._fetch("/HRDA/published/hrda.pth", tmp_path / "hrda.pth")
    assert not list(tmp_path.iterdir())
    whole.append(1)
    assert app._fetch("/HRDA/published/hrda.pth", tmp_path / "hrda.pth")
    assert [path.name for path in tmp_path.iterdir()] == ["hrda.pth"]


@pytest.mark.parametrize("source", [ModelSource.EXTERNAL, ModelSource.CUSTOM])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("device", 5, "device='5': give a word"),
        ("device", [], "device="),
        ("device", "banana", "device='banana': use 'auto'"),
        ("model_precision", 5, "model_precision='5'"),
        ("model_precision", "fp8", "use auto, fp32, bf16"),
        ("runtime", 7, "runtime='7'"),
        ("runtime", "ONNXRuntime", "this app serves with PyTorch"),
        ("class_names", "abc", "class_names='abc': give a list of words"),
        ("class_names", ["a", 5], "class_names='5'"),
        ("model_info", "x", "model_info='x': give an object"),
        ("model_info", {"artifacts_dir": 5}, "model_info: artifacts_dir='5'"),
        ("model_info", {"export": []}, "model_info: export="),
    ],
)
def test_parameters_of_another_type_are_named(
    app: ServeHRDA, checkpoints: list[Path], source: str, name: str, value: Any, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        deploy(app, checkpoints[0], **{"model_source": source, name: value})


# ---- what a request leaves behind


def test_a_request_that_failed_does_not_keep_its_images(
    app: ServeHRDA, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(app, checkpoints[0])

    def fail(image: Any, *_: Any) -> Any:
        pixels.append(weakref.ref(image))
        raise RuntimeError("it took too long")

    pixels: list[Any] = []
    monkeypatch.setattr(app, "annotate", fail)
    monkeypatch.setattr(sly.logger, "disabled", True)  # pytest keeps what is logged, tracebacks included
    for way in ("now", "in the background"):
        uploads = [Upload("a.png", png(IMAGE)), Upload("b.png", png(IMAGE))]
        files = [weakref.ref(upload) for upload in uploads]
        if way == "now":
            with pytest.raises(RuntimeError, match="took too long"):
                app.run_images(uploads, {})
        else:
            request = app.inference_requests_manager.get(app.schedule_images(uploads, {}))
            wait_until(request.is_finished)
            assert "took too long" in request.exception_json()["message"] and "annotate" in request.exception_json()["traceback"]
        del uploads
        references = [*files, *pixels]
        wait_until(lambda references=references: gc.collect() >= 0 and not any(one() is not None for one in references))


def test_every_request_has_a_place_in_line_and_gives_it_back(
    app: ServeHRDA, checkpoints: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(app, checkpoints[0])
    manager, upload = app.inference_requests_manager, Upload("a.png", png(IMAGE))
    monkeypatch.setattr(app.service, "admission", Admission(1))
    for _ in range(3):
        app.run_images([upload], {})
        wait_until(lambda: app.service.admission.inside == 0)
    monkeypatch.setattr(app.service, "admission", Admission(0))
    for work, arguments in (
        (app._inference_images, ([upload], {})),
        (app._inference_image_ids, (None, {"image_id": 1})),
        (app._inference_project_id, (None, {"project_id": 1})),
    ):
        for way in (manager.run, manager.schedule_task):
            with pytest.raises(Refused, match="under way or in line"):
                way(work, *arguments)
