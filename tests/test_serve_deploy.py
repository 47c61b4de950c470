"""Models come into service: from the page, from published checkpoints, on whatever device there is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervisely as sly
import torch
from fastapi import FastAPI
from fastapi.testclient import TestClient
from golden_formulas import hrda_state
from serve_scene import CLASSES, NAMES, Scene, expected, make_checkpoint, picture
from starlette.middleware import Middleware
from supervisely.nn.utils import ModelSource
from test_serve_app import Payload

from hrda_core import ClassInfo
from hrda_core.models.weights import our_name
from serve_app import deploy as deploy_module
from serve_app.appended import are_equal
from serve_app.deploy import deploy, published_file, read_content
from serve_app.engine import EngineClosed
from serve_app.errors import RequestError
from serve_app.image_routes import add_image_routes
from serve_app.limits import Admission, PixelBudget, Refused
from serve_app.model import ServeHRDA, WakeUp
from serve_app.published import CITYSCAPES, published_content
from serve_app.sdk_bridge import Requests
from serve_app.service import Service
from serve_app.uploads import Upload
from tests.local_platform import LocalPlatform


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("run") / "best.pth", steps=2)


def test_a_gpu_that_is_not_there_is_replaced_with_a_notice(checkpoint: Path) -> None:
    deployed = deploy(checkpoint, "cuda:7")
    assert str(deployed.engine.device) == "cpu"
    assert "cuda:7 was asked for" in deployed.notices[0] and "runs on the CPU" in deployed.notices[0]
    assert not deploy(checkpoint, "cpu").notices and deployed.facts.tuned == (0.4, 0.4)
    deployed.engine.close()


def test_a_gpu_that_fails_is_replaced_with_a_notice(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, devices = deploy_module.Engine, []

    def engine(content: Any, device: str, precision: str) -> Any:
        devices.append(device)
        if device != "cpu":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
        return real(content, device, precision)

    monkeypatch.setattr(deploy_module, "Engine", engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    deployed = deploy(checkpoint, "cuda:0")
    assert devices == ["cuda:0", "cpu"]
    assert deployed.notices == (
        "The GPU could not be used (CUDA out of memory. Tried to allocate 2 GiB): the model runs on the CPU, slowly.",
    )


def test_a_model_that_does_not_fit_beside_the_old_one_takes_its_place(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = deploy_module.Engine, []

    def engine(content: Any, device: str, precision: str) -> Any:
        if not room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(content, "cpu", precision)

    def make_room() -> bool:
        room.append(True)
        return True

    monkeypatch.setattr(deploy_module, "Engine", engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    deployed = deploy(checkpoint, "cuda:0", make_room=make_room)
    assert room == [True] and not deployed.notices
    deployed.engine.close()


def test_what_cannot_be_deployed_is_told(checkpoint: Path, tmp_path: Path) -> None:
    for arguments, words in (
        ((checkpoint, "gpu"), "device='gpu'"),
        ((checkpoint, "cpu", "fp8"), "precision='fp8': use auto, fp32, bf16"),
        ((tmp_path / "none.pth",), "there is no such file"),
    ):
        with pytest.raises(RequestError, match=words):
            deploy(*arguments)


# ---- published checkpoints


def published(path: Path, multi_resolution: bool = True, classes: int = 19) -> tuple[Path, dict[str, torch.Tensor]]:
    """As the authors' code saves one, with a small encoder: student and teacher, and DAFormer without the scale attention."""
    state = {key: value for key, value in hrda_state().items() if multi_resolution or "scale_attention" not in key}
    if not multi_resolution:
        state = {key.replace("decode_head.head.", "decode_head."): value for key, value in state.items()}
    for key in [key for key in state if "conv_seg" in key]:
        state[key] = state[key][:classes]
    state = {f"{network}.{key}": value for network in ("model", "ema_model") for key, value in state.items()}
    torch.save({"meta": {"epoch": 1}, "state_dict": state}, path)
    return path, state


@pytest.mark.parametrize("multi_resolution", [True, False])
def test_published_checkpoints_know_encoder_kind_and_classes(multi_resolution: bool, tmp_path: Path) -> None:
    path, state = published(tmp_path / "latest.pth", multi_resolution)
    content = read_content(path)
    assert content["model_config"]["encoder"] == "mit_b0"
    assert content["model_config"]["multi_resolution"] is multi_resolution
    assert [c["name"] for c in content["classes"]] == list(CITYSCAPES)
    assert content["preprocessing"]["scale"] == (1.0 if multi_resolution else 0.5)
    key = next(key for key in state if key.startswith("model.backbone.block3.1.attn.q.weight"))
    assert torch.equal(content["student"][our_name(key.removeprefix("model."))], state[key])
    if not multi_resolution:
        deployed = deploy(path, "cpu", class_names=None)
        assert not deployed.facts.has_background
        assert deployed.engine.predict(picture(1, 64, 64)[0]).labels.max() < 19
        deployed.engine.close()


def test_other_classes_than_cityscapes_need_names(tmp_path: Path) -> None:
    path, _ = published(tmp_path / "latest.pth", classes=3)
    with pytest.raises(ValueError, match=r"finds 3 classes, whose names it does not hold"):
        published_content(path)
    with pytest.raises(ValueError, match=r"finds 3 classes, give each one its own name"):
        published_content(path, ["a", "a", "b"])
    assert [c["name"] for c in published_content(path, ["a", "b", "c"])["classes"]] == ["a", "b", "c"]


def test_other_public_files_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"layer.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="holds no segmentation network"):
        read_content(tmp_path / "other.pth")


def test_where_published_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(remote: str, local: Path) -> bool:
        asked.append(remote)
        local.write_bytes(b"")
        return True

    asked: list[str] = []
    with pytest.raises(RequestError, match=r"download the checkpoint from its authors .* put it under this name into Team Files"):
        published_file("hrda.pth", [tmp_path], None)
    assert published_file("hrda.pth", [tmp_path], fetch) == tmp_path / "hrda.pth"
    assert asked == ["/HRDA/published/hrda.pth"]
    own = tmp_path / "own"
    own.mkdir()
    (own / "hrda.pth").write_bytes(b"")
    monkeypatch.setenv("HRDA_PUBLISHED", str(own))
    assert published_file("hrda.pth", [tmp_path], None) == own / "hrda.pth"


# ---- the page


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with LocalPlatform(tmp_path_factory.mktemp("platform")) as platform, pytest.MonkeyPatch.context() as patch:
        scene = Scene(platform, tmp_path_factory.mktemp("files"))
        scene.experiment("two classes", make_checkpoint(scene.folder / "two.pth", CLASSES[:2], steps=2), NAMES[:2])
        torch.save({**torch.load(scene.checkpoint), "x": Payload(scene.folder / "ran")}, scene.folder / "evil.pth")
        scene.experiment("evil", scene.folder / "evil.pth", NAMES)
        task = platform.start_task("http://127.0.0.1:9")
        for name, value in platform.environment(task_id=task).items():
            patch.setenv(name, value)
        yield scene


@pytest.fixture(scope="module")
def page(scene: Scene) -> ServeHRDA:
    return ServeHRDA(use_gui=True)


def serve(page: ServeHRDA, experiment: str, precision: str = "auto") -> None:
    """The user picks a row and presses Serve, or Stop before that."""
    gui = page.gui
    if page.is_model_deployed():
        for callback in gui.on_change_model_callbacks:
            callback(gui)
    gui.model_source_tabs.set_active_tab(ModelSource.CUSTOM)
    rows = gui.experiment_selector._rows
    gui.experiment_selector.table.select_row([row._experiment_info.experiment_name for row in rows].index(experiment))
    gui.precision.set_value(precision)
    gui.deploy_with_current_params()


def test_the_page_serves_experiments_of_train_hrda(page: ServeHRDA, scene: Scene) -> None:
    serve(page, "synthetic", "bf16")
    assert page.get_classes() == NAMES and page.model_precision == "BF16"
    serve(page, "two classes")
    assert page.get_classes() == NAMES[:2] and page.model_precision == "FP32"
    assert [c.name for c in page.model_meta.obj_classes] == NAMES[:2]
    serve(page, "synthetic")
    annotation = page.inference(scene.pictures[0])
    assert sum(label.geometry.area for label in annotation.labels) == (expected(scene.checkpoint, scene.pictures[0]) > 0).sum()


def test_the_page_tells_what_is_refused_and_runs_nothing(page: ServeHRDA, scene: Scene) -> None:
    serve(page, "evil")
    assert not (scene.folder / "ran").exists()
    assert not page.is_model_deployed() and page.get_classes() is None
    assert "cannot be read safely" in page.gui.notice.text
    serve(page, "synthetic")
    assert page.is_model_deployed()


def test_a_model_that_is_replaced_while_it_predicts_does_not_answer_with_wrong_classes(page: ServeHRDA, scene: Scene) -> None:
    serve(page, "synthetic")
    before = page.read_settings({})
    serve(page, "two classes")
    with pytest.raises(RuntimeError, match="another model was put into service"):
        page.annotate(scene.pictures[0], before, None, None)


def test_a_refused_model_leaves_the_old_one_as_it_was(page: ServeHRDA, scene: Scene) -> None:
    serve(page, "synthetic")
    before = page.get_info()
    image = scene.pictures[0]
    for files, source in (
        ({"checkpoint": str(scene.folder / "evil.pth")}, ModelSource.EXTERNAL),
        ({"checkpoint": "/nowhere/best.pth"}, ModelSource.CUSTOM),
        ({"checkpoint": "hrda_gta_cityscapes.pth"}, ModelSource.PRETRAINED),
        ({"checkpoint": "../best.pth"}, ModelSource.CUSTOM),
    ):
        with pytest.raises(RequestError):
            page.deploy_by_api({"deploy_params": {"model_source": source, "model_files": files, "device": "cuda:3"}})
        assert page.get_info() == before
        np.testing.assert_array_equal(
            page.predict(image, page.read_settings({}).options)[0].labels, expected(scene.checkpoint, image)
        )
    assert len(list(Path(page.model_dir).glob("model-*"))) == 1  # of the model in service


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "deploy_params='None': give model_source, one of Pretrained models, Custom models"),
        ({"deploy_params": {"model_source": "mine"}}, "give model_source"),
        ({"deploy_params": {"model_source": ModelSource.CUSTOM, "colour": 1}}, "'colour' is not known"),
        ({"deploy_params": {"model_source": ModelSource.CUSTOM}}, "model_files: give the path of a checkpoint"),
        ({"deploy_params": {"model_source": ModelSource.PRETRAINED}, "model_name": "resnet"}, "model_name='resnet': use one of"),
    ],
)
def test_deployments_that_make_no_sense_are_told(page: ServeHRDA, state: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        page.deploy_by_api(state)


def test_a_request_does_not_change_its_model_halfway(page: ServeHRDA, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the new one knows the same classes."""
    serve(page, "synthetic")
    other = torch.load(scene.checkpoint, weights_only=True)
    other["student"] = {name: value * 1.01 for name, value in other["student"].items()}
    other["teacher"] = {name: value * 1.01 for name, value in other["teacher"].items()}
    torch.save(other, scene.folder / "retrained.pth")
    annotate, asked = page.annotate, []

    def switching(*arguments: Any) -> Any:
        asked.append(1)
        if len(asked) == 2:
            page._put_into_service(deploy(scene.folder / "retrained.pth", "cpu"))
        return annotate(*arguments)

    monkeypatch.setattr(page, "annotate", switching)
    with pytest.raises(EngineClosed, match="another model was put into service while this request ran"):
        page.run_images(uploads(scene), {"batch_size": 1})
    assert len(asked) == 2


def test_what_a_sleeping_model_cannot_do_is_told(page: ServeHRDA, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(page, "synthetic")
    card = page.service.card()
    page._freeze_model()
    assert page.service.card() == card and page.service.engine is None

    def no_memory() -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    server = FastAPI()
    page.add_routes(server)
    with monkeypatch.context() as patch:
        patch.setattr(page, "_again", no_memory)
        answer = TestClient(server).post("/predict/labels", content=b"x", headers={"Content-Type": "image/png"})
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert "the model sleeps and cannot be woken: CUDA out of memory" in answer.json()["message"]
    assert TestClient(server).get("/ready").json() == {"ready": True, "asleep": True, "version": card["version"]}
    page.awake()
    assert TestClient(server).get("/ready").json() == {"ready": True, "asleep": False, "version": card["version"]}


def test_the_page_serves_a_file_of_team_files(page: ServeHRDA, scene: Scene) -> None:
    if page.is_model_deployed():
        page.shutdown_model()
    page.gui.model_source_tabs.set_active_tab(ModelSource.EXTERNAL)
    page.gui.external_models_selector.set_checkpoint_path("/nowhere/best.pth")
    page.gui.deploy_with_current_params()
    assert not page.is_model_deployed() and "/nowhere/best.pth" in page.gui.notice.text
    page.gui.external_models_selector.set_checkpoint_path(scene.best)
    page.gui.deploy_with_current_params()
    assert page.get_classes() == NAMES


def test_files_of_other_sources_bring_their_classes_along(page: ServeHRDA, tmp_path: Path) -> None:
    path, _ = published(tmp_path / "latest.pth", multi_resolution=False, classes=2)
    names = tmp_path / "classes.json"
    names.write_text('{"0": "sky", "1": "rest"}')
    files = {"checkpoint": str(path), "classes": str(names)}
    page._load_model_headless(files, ModelSource.EXTERNAL, {"model_name": "x"}, "cpu", "PyTorch")
    assert page.get_classes() == ["sky", "rest"]
    assert np.unique(page.awake().engine.predict(picture(1, 64, 64)[0]).labels).max() <= 1
    names.write_text("[]")
    with pytest.raises(RequestError, match=r"finds 2 classes|give class names"):
        page._load_model_headless(files, ModelSource.EXTERNAL, {"model_name": "x"}, "cpu", "PyTorch")


@pytest.mark.parametrize("source", [ModelSource.PRETRAINED, ModelSource.CUSTOM, ModelSource.EXTERNAL])
@pytest.mark.parametrize(
    "files",
    [
        {"checkpoint": "http://127.0.0.1:9/x.pth"},
        {"checkpoint": "https://example.org/x"},
        {"checkpoint": "/experiments/../.."},
        {"checkpoint": "../x.pth"},
        {"checkpoint": ["x"]},
        {"checkpoint": "x/"},
        {"checkpoint": "hrda_gta_cityscapes.pth", "config": "http://127.0.0.1:9/x"},
        {},
        "x",
    ],
)
def test_no_model_is_fetched_from_a_url_or_outside_its_folder(
    page: ServeHRDA, source: str, files: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supervisely.nn.inference.inference.urlopen", lambda url: pytest.fail(f"{url} was opened"))
    with pytest.raises(RequestError, match="model_files"):
        page._download_model_files({"model_source": source, "model_files": files, "runtime": "PyTorch"}, False)
    with pytest.raises(RequestError, match="model_files"):
        page._load_model_headless(files, source, {"model_name": "x"}, "cpu", "PyTorch")


def test_published_models_are_known_by_their_names(page: ServeHRDA) -> None:
    files = {"checkpoint": "hrda_gta_cityscapes.pth"}
    params = {"model_source": ModelSource.PRETRAINED, "model_files": files, "runtime": "PyTorch"}
    assert page._download_model_files(params, False) == files


def test_two_deployments_at_once_leave_one_engine(page: ServeHRDA, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def slow(*arguments: Any, **options: Any) -> Any:
        made.append(deploy(*arguments, **options))
        time.sleep(0.3)
        return made[-1]

    monkeypatch.setattr("serve_app.model.deploy", slow)
    files, info = {"checkpoint": str(scene.checkpoint)}, {"model_name": "x"}
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(page._load_model_headless, files, ModelSource.EXTERNAL, info, "cpu", "PyTorch") for _ in range(2)]
        for one in both:
            one.result()
    page._put_into_service(deploy(scene.checkpoint, "cpu"))  # whatever puts another one there
    assert len(made) == 2
    for deployed in made:
        with pytest.raises(EngineClosed):
            deployed.engine.predict(scene.pictures[0])


# ---- what one request may keep busy


def uploads(scene: Scene) -> list[Upload]:
    return [Upload(f"{n}.png", bytes(cv2.imencode(".png", image[..., ::-1])[1])) for n, image in enumerate(scene.pictures)]


def test_every_image_gets_its_own_rectangle_whatever_the_batch(page: ServeHRDA, scene: Scene) -> None:
    page._load_model_headless({"checkpoint": str(scene.checkpoint)}, ModelSource.EXTERNAL, {"model_name": "x"}, "cpu", "PyTorch")
    corners = [[[0, 16 * n], [127, 16 * n + 15]] for n in range(5)]  # x, y
    rectangles = [{"points": {"exterior": corner, "interior": []}} for corner in corners]
    state = {"settings": {"rectangles": rectangles, "threshold": "argmax", "background": True}, "batch_size": 2}
    for number, result in enumerate(page.run_images(uploads(scene), state)):
        annotation = sly.Annotation.from_json(result["annotation"], page.model_meta)
        boxes = [label.geometry.to_bbox() for label in annotation.labels]
        assert (min(b.top for b in boxes), max(b.bottom for b in boxes)) == (16 * number, 16 * number + 15)
    state["settings"]["rectangles"] = rectangles[:4]
    with pytest.raises(RequestError, match="one for each of the 5 images"):
        page.run_images(uploads(scene), state)
    for way in ("_inference_project_id", "_inference_video_id", "_tracking_by_detection"):
        with pytest.raises(RequestError, match="use `rectangle`"):
            getattr(page, way)(scene.api, state, page.inference_requests_manager.create())


def test_a_batch_is_decoded_image_by_image(page: ServeHRDA, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    files = uploads(scene)
    most, now, lock = [0], [0], threading.Lock()

    def annotate(image: Any, *_: Any) -> Any:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1
        return sly.Annotation(image.shape[:2]), {"weights_version": "1"}

    monkeypatch.setattr(page, "annotate", annotate)
    for pixels, expected_most in ((1, 1), (2 * 96 * 128, 2)):
        monkeypatch.setattr(page, "decoded", PixelBudget(pixels))
        most[0] = 0
        names = [result["name"] for result in page.run_images(files, {"batch_size": 5})]
        assert names == [file.name for file in files] and most[0] == expected_most


def test_a_request_that_answers_at_its_end_never_pauses() -> None:
    with ThreadPoolExecutor(1) as executor:
        manager = Requests(executor)
        manager.service = Service()

        def work(inference_request: Any) -> None:
            inference_request.add_results([{}] * 501)
            assert not inference_request.is_paused()

        assert len(manager.run(work)) == 501
        fetched = manager.create()
        fetched.add_results([{}] * 501)
        assert fetched.is_paused()
        manager._stop_event.set()


def test_a_busy_model_is_not_put_to_sleep(page: ServeHRDA, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    page.shutdown_model()  # and the timer of a model before it
    monkeypatch.setattr(page, "_inactivity_timeout", 0.4)
    page._load_model_headless({"checkpoint": str(scene.checkpoint)}, ModelSource.EXTERNAL, {"model_name": "x"}, "cpu", "PyTorch")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: page._schedule_freeze_on_inactivity(), range(50)))
    assert sum(isinstance(t, threading.Timer) and t.function == page._freeze_where_idle for t in threading.enumerate()) == 1
    for _ in range(8):
        time.sleep(0.1)
        page.note_use()
        assert not page.asleep
    used = page._used_at
    server = FastAPI()
    server.user_middleware.append(Middleware(WakeUp, model=page))
    TestClient(server).post("/predict/labels")
    assert page._used_at > used  # raw maps are use as well
    until = time.monotonic() + 5
    while not page.asleep and time.monotonic() < until:
        time.sleep(0.05)
    assert page.asleep
    page.shutdown_model()


def test_a_refused_video_leaves_no_file(page: ServeHRDA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = tmp_path / "video.mp4"
    video.write_bytes(b"x")
    monkeypatch.setattr(page.service, "admission", Admission(0))
    with pytest.raises(Refused):
        page.schedule_video(video, {})
    assert not video.exists()


def test_tags_of_annotators_stay_and_ours_get_another_name(page: ServeHRDA, scene: Scene) -> None:
    page._load_model_headless({"checkpoint": str(scene.checkpoint)}, ModelSource.EXTERNAL, {"model_name": "x"}, "cpu", "PyTorch")
    api = scene.api
    project = int(api.project.create(scene.platform.workspace_id, "tagged").id)
    dataset = int(api.dataset.create(project, "photos").id)
    theirs = [sly.TagMeta("confidence", sly.TagValueType.ANY_STRING), sly.TagMeta("uncertain", sly.TagValueType.NONE)]
    meta = api.project.update_meta(project, sly.ProjectMeta(tag_metas=theirs))
    images = [int(i.id) for i in api.image.upload_nps(dataset, [f"{n}.png" for n in range(4)], scene.pictures[:4])]
    for image in images:
        tag = sly.Tag(meta.get_tag_meta("uncertain"))
        api.annotation.upload_ann(image, sly.Annotation(scene.pictures[0].shape[:2], img_tags=sly.TagCollection([tag])))
    for mode in ("append", "append", "replace"):
        state = {
            **{"batch_ids": images, "upload_mode": mode, "batch_size": 1},
            "settings": {"uncertain_from": 0},
        }
        request, future = page.inference_requests_manager.schedule_task(page._inference_image_ids, api, state)
        future.result()
        assert request.exception is None and not request.is_fetched  # it never pauses: nobody fetches what is in the project
        meta = sly.ProjectMeta.from_json(api.project.get_meta(project))
        for image in images:
            annotation = sly.Annotation.from_json(api.annotation.download(image).annotation, meta)
            own = {"uncertain"} if mode == "append" else set()
            assert {tag.name for tag in annotation.img_tags} == {"uncertain_nn"} | own
            assert annotation.labels
            assert all([tag.name for tag in label.tags] == ["confidence_nn"] for label in annotation.labels)
    assert meta.get_tag_meta("confidence").value_type == sly.TagValueType.ANY_STRING


def test_objects_that_differ_by_a_rounding_are_equal() -> None:
    disc = np.zeros((60, 60), np.uint8)
    cv2.circle(disc, (30, 30), 20, 1, -1)
    nearly, other = disc.copy(), disc.copy()
    nearly[30, 51] = 1
    nearly[11, 30] = 0
    cv2.circle(other, (30, 30), 23, 1, -1)

    def shapes(mask: Any) -> list[Any]:
        outline = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0][0][:, 0, ::-1]
        alpha = sly.AlphaMask(mask * 255)
        return [sly.Bitmap(mask > 0), alpha, sly.Polygon([sly.PointLocation(*map(int, point)) for point in outline])]

    for one, close, far in zip(shapes(disc), shapes(nearly), shapes(other), strict=True):
        assert are_equal(one, close) and are_equal(close, one)
        assert not are_equal(one, far)
        assert not are_equal(one, one.translate(0, 9))


def test_the_routes_that_fetch_for_strangers_are_closed(page: ServeHRDA) -> None:
    server = FastAPI()
    page.cache.add_cache_endpoint(server)
    page.cache.add_cache_files_endpoint(server)
    assert TestClient(server).post("/smart_cache_files").status_code == 422
    add_image_routes(server, page)
    for route in ("/smart_cache", "/smart_cache_files"):
        assert TestClient(server).post(route, json={"state": {}}).status_code == 404


def test_classes_are_those_of_the_checkpoint(checkpoint: Path) -> None:
    assert deploy(checkpoint, "cpu", class_names=["a", "b"]).facts.classes == CLASSES
    assert isinstance(CLASSES[0], ClassInfo)
