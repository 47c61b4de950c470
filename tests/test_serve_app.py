"""Serve HRDA as a process in production mode against the local platform, through the unmodified clients of the SDK."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import requests
import supervisely as sly
import torch
from app_process import PATIENCE
from image_kinds import bad_files, good_files
from serve_scene import CLASSES, NAMES, Picture, Scene, ServeProcess, as_map, expected, make_checkpoint
from supervisely.nn.model.model_api import ModelAPI

from hrda_core import ClassInfo, Predictor
from hrda_core.data.decoding import decode_image
from serve_app.settings import DEFAULTS
from tests.local_platform import LocalPlatform


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with LocalPlatform(tmp_path_factory.mktemp("platform")) as platform:
        scene = Scene(platform, tmp_path_factory.mktemp("files"))
        yield scene
        scene.close()
        assert not platform.errors, "\n".join(platform.errors)


@pytest.fixture(scope="module")
def model(scene: Scene) -> Iterator[ModelAPI]:
    """As a script deploys it: the literal entrypoint in config.json is started, and told to load a checkpoint of Train HRDA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEAM_ID", str(scene.platform.team_id))  # the client asks for it
        yield scene.api.nn.deploy(scene.best, device="cpu", workspace_id=scene.platform.workspace_id, agent_id=1)


@pytest.fixture
def session(model: ModelAPI, scene: Scene) -> sly.nn.inference.Session:
    return sly.nn.inference.Session(scene.api, task_id=model.task_id)


@pytest.fixture(scope="module")
def files(scene: Scene) -> list[str]:
    """The project's pictures as files."""
    paths = [str(scene.folder / f"{number}.png") for number in range(5)]
    for path, image in zip(paths, scene.pictures, strict=True):
        cv2.imwrite(path, image[..., ::-1])
    return paths


@pytest.fixture(scope="module")
def right(scene: Scene) -> list[Picture]:
    """What the core says about the project's pictures."""
    maps = [expected(scene.checkpoint, image) for image in scene.pictures]
    assert {index for labels in maps for index in np.unique(labels)} == {0, 1, 2}
    return maps


def post(model: ModelAPI, route: str, state: dict[str, Any]) -> requests.Response:
    return requests.post(f"{model.url}/{route}", json={"state": state, "context": {}}, timeout=60)


# ---- deployed


def test_it_tells_what_it_serves(model: ModelAPI, scene: Scene) -> None:
    info = model.get_info()
    assert (info["checkpoint_name"], info["device"], info["model_precision"]) == ("best.pth", "cpu", "FP32")
    assert (info["model_source"], info["task_type"], info["architecture"]) == ("Custom models", "semantic segmentation", "HRDA")
    assert model.get_classes() == NAMES
    assert [tuple(c.color) for c in model.get_model_meta().obj_classes] == [c.color for c in CLASSES]
    assert model.is_deployed() and model.status()["is_deployed"]
    card = requests.get(f"{model.url}/model_card", timeout=10).json()
    session = post(model, "get_session_info", {}).json()
    assert session["weights_version"] == card["version"] and session["task type"] == "semantic segmentation"


def test_every_setting_is_known_to_the_clients(model: ModelAPI, scene: Scene, files: list[str]) -> None:
    session = sly.nn.inference.SessionJSON(scene.api, task_id=model.task_id)
    assert session.get_default_inference_settings() == DEFAULTS
    session.set_inference_settings({**DEFAULTS, "threshold": 0.3, "classes": ["crack"]})
    result = session.inference_image_path(files[0])
    assert {label["classTitle"] for label in result["annotation"]["objects"]} <= {"crack"}
    with pytest.raises(ValueError, match="not acceptable"):
        session.set_inference_settings({"tile": 3})


# ---- every way in gives the core's masks, pixel for pixel


def test_model_api_by_file_folder_and_ids(model: ModelAPI, scene: Scene, files: list[str], right: list[Picture]) -> None:
    np.testing.assert_array_equal(as_map(model.predict(files[1])[0].annotation), right[1])
    folder = scene.folder / "two"
    folder.mkdir()
    for number in (2, 3):
        (folder / f"{number}.png").write_bytes(Path(files[number]).read_bytes())
    found = {prediction.name: as_map(prediction.annotation) for prediction in model.predict(str(folder))}
    assert found.keys() == {"2.png", "3.png"}
    np.testing.assert_array_equal(found["3.png"], right[3])
    by_id = {p.image_id: p for p in model.predict(image_ids=scene.images)}
    assert list(by_id) == scene.images
    for image, labels in zip(scene.images, right, strict=True):
        np.testing.assert_array_equal(as_map(by_id[image].annotation), labels)


def test_model_api_by_data_set_and_project(model: ModelAPI, scene: Scene, right: list[Picture]) -> None:
    connected = scene.api.nn.connect(model.task_id)
    inner = {p.image_id: p.annotation for p in connected.predict(dataset_id=scene.datasets[1])}
    assert inner.keys() == set(scene.images[3:])
    whole = {p.image_id: p.annotation for p in connected.predict_detached(project_id=scene.project)}
    for image, labels in zip(scene.images, right, strict=True):
        np.testing.assert_array_equal(as_map(whole[image]), labels)


def test_session_by_every_route(session: sly.nn.inference.Session, scene: Scene, files: list[str], right: list[Picture]) -> None:
    ids = scene.images
    np.testing.assert_array_equal(as_map(session.inference_image_path(files[0])), right[0])
    np.testing.assert_array_equal(as_map(session.inference_image_url(scene.urls[1])), right[1])
    np.testing.assert_array_equal(as_map(session.inference_image_id(ids[2])), right[2])
    for annotation, labels in zip(session.inference_image_paths(files), right, strict=True):
        np.testing.assert_array_equal(as_map(annotation), labels)
    for annotation, labels in zip(session.inference_image_ids(ids), right, strict=True):
        np.testing.assert_array_equal(as_map(annotation), labels)
    meta = session.get_model_meta()
    for start, of in ((session.inference_image_ids_async, ids), (session.inference_project_id_async, scene.project)):
        infos = start(of)
        found = {info.image_id: sly.Annotation.from_json(info.annotation, meta) for info in infos}
        np.testing.assert_array_equal(as_map(found[ids[4]]), right[4])
        assert len(found) == 5


def test_frames_of_a_video(model: ModelAPI, scene: Scene) -> None:
    path = scene.folder / "film.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 5, (128, 96))
    for image in scene.pictures:
        writer.write(image[..., ::-1])
    writer.release()
    predictions = model.predict(str(path), start_frame=1, num_frames=3)
    reader = cv2.VideoCapture(str(path))
    frames = [reader.read()[1][..., ::-1].copy() for _ in range(5)]
    assert [p.frame_index for p in predictions] == [1, 2, 3]
    for prediction in predictions:
        assert (as_map(prediction.annotation) == expected(scene.checkpoint, frames[prediction.frame_index])).mean() > 0.99


def test_a_rectangle_of_the_image_for_every_shape(model: ModelAPI, scene: Scene, right: list[Picture]) -> None:
    corner = scene.pictures[0][20:90, 30:110]
    labels = np.zeros_like(right[0])
    labels[20:90, 30:110] = expected(scene.checkpoint, np.ascontiguousarray(corner))
    rectangle = sly.Rectangle(20, 30, 89, 109).to_json()
    for output in ("bitmap", "polygon", "alpha_mask"):
        state = {"image_id": scene.images[0], "rectangle": rectangle, "settings": {"output": output}}
        answer = post(model, "inference_image_id", state).json()["annotation"]
        meta = sly.ProjectMeta([sly.ObjClass(name, sly.AnyGeometry) for name in NAMES], model.get_model_meta().tag_metas)
        annotation = sly.Annotation.from_json(answer, meta)
        if output == "alpha_mask":
            for label in annotation.labels:
                mask = np.zeros(labels.shape, bool)
                data, origin = label.geometry.data, label.geometry.origin
                mask[origin.row : origin.row + data.shape[0], origin.col : origin.col + data.shape[1]] = data > 0
                np.testing.assert_array_equal(mask, labels == NAMES.index(label.obj_class.name))
        else:
            np.testing.assert_array_equal(as_map(annotation), labels)


@pytest.mark.parametrize("batch_size", [None, 2])
def test_session_json_by_every_route(
    model: ModelAPI, scene: Scene, files: list[str], right: list[Picture], batch_size: int | None
) -> None:
    """What comes back is JSON, of which the other session makes annotations."""
    session = sly.nn.inference.SessionJSON(scene.api, session_url=model.url)
    meta, ids = sly.ProjectMeta.from_json(session.get_model_meta()), scene.images

    def check(answer: dict[str, Any], number: int) -> None:
        np.testing.assert_array_equal(as_map(sly.Annotation.from_json(answer["annotation"], meta)), right[number])
        assert len(answer["data"]["weights_version"]) == 64 and 0 <= answer["data"]["doubt"] <= 1

    assert session.get_session_info()["app_name"] and session.get_deploy_info()["checkpoint_name"] == "best.pth"
    check(session.inference_image_path(files[0]), 0)
    check(session.inference_image_url(scene.urls[1]), 1)
    check(session.inference_image_id(ids[2]), 2)
    for answers in (session.inference_image_paths(files), session.inference_image_ids(ids)):
        assert len(answers) == 5
        for number, answer in enumerate(answers):
            check(answer, number)
    for start, of in ((session.inference_image_ids_async, ids), (session.inference_project_id_async, scene.project)):
        found = {answer["image_id"]: answer for answer in start(of, batch_size=batch_size)}
        assert sorted(found) == sorted(ids)
        for number, image in enumerate(ids):
            check(found[image], number)
    found = {answer["image_id"]: answer for answer in session.inference_project_id(scene.project, batch_size=batch_size)}
    check(found[ids[4]], 4)


def test_session_leaves_results_in_the_project_that_it_names(
    session: sly.nn.inference.Session, scene: Scene, right: list[Picture]
) -> None:
    target = int(scene.api.project.create(scene.platform.workspace_id, "results").id)
    for start, of in ((session.inference_image_ids_async, scene.images[:1]), (session.inference_project_id_async, scene.project)):
        assert {info.annotation for info in start(of, output_project_id=target)} == {None}  # they go there, not here
    meta = sly.ProjectMeta.from_json(scene.api.project.get_meta(target))
    infos = [
        info for data_set in scene.api.dataset.get_list(target, recursive=True) for info in scene.api.image.get_list(data_set.id)
    ]
    for info in infos:
        annotation = sly.Annotation.from_json(scene.api.annotation.download(info.id).annotation, meta)
        np.testing.assert_array_equal(as_map(annotation), right[int(info.name[0])])
    assert {info.name[0] for info in infos} == set("01234")


# ---- images of every kind


@pytest.fixture(scope="module")
def kinds(scene: Scene) -> dict[str, tuple[bytes, Picture]]:
    """File -> what the core says about what the core reads."""
    predictor = Predictor(scene.checkpoint, "cpu")
    return {name: (content, predictor.predict([decode_image(content)])[0].labels) for name, content in good_files().items()}


def upload(model: ModelAPI, route: str, *contents: tuple[str, bytes]) -> requests.Response:
    return requests.post(f"{model.url}/{route}", files=[("files", one) for one in contents], data={"settings": "{}"}, timeout=60)


def test_images_of_every_kind_by_upload(model: ModelAPI, kinds: dict[str, tuple[bytes, Picture]]) -> None:
    meta = model.get_model_meta()
    batch = upload(model, "inference_batch", *((name, content) for name, (content, _) in kinds.items())).json()
    assert len({labels.shape for _, labels in kinds.values()}) > 5 and {2, 1, 0} == {
        i for _, m in kinds.values() for i in np.unique(m)
    }
    for answer, (name, (content, labels)) in zip(batch, kinds.items(), strict=True):
        for given in (answer, upload(model, "inference_image", (name, content)).json()):
            annotation = sly.Annotation.from_json(given["annotation"], meta)
            np.testing.assert_array_equal(as_map(annotation), labels, name)


def test_images_of_every_kind_in_the_platform(model: ModelAPI, scene: Scene, kinds: dict[str, tuple[bytes, Picture]]) -> None:
    """Stored as they are: what the platform holds is decoded by the core, not by the SDK."""
    data_set = scene.api.dataset.create(scene.api.project.create(scene.platform.workspace_id, "kinds").id, "kinds")
    meta = model.get_model_meta()
    for name, (content, _) in kinds.items():
        (scene.folder / name).write_bytes(content)
    paths, names = [str(scene.folder / name) for name in kinds], [f"{name}.png" for name in kinds]
    images = scene.api.image.upload_paths(data_set.id, names, paths)
    for image, (name, (_, labels)) in zip(images, kinds.items(), strict=True):
        answer = post(model, "inference_image_id", {"image_id": image.id})
        assert answer.ok, (name, answer.text)
        np.testing.assert_array_equal(as_map(sly.Annotation.from_json(answer.json()["annotation"], meta)), labels, name)


def test_what_is_no_whole_image_is_refused_in_words_and_the_next_one_answered(
    model: ModelAPI, scene: Scene, files: list[str], right: list[Picture]
) -> None:
    ran, good = scene.folder / "unpickled", Path(files[1]).read_bytes()
    meta, store = model.get_model_meta(), scene.platform.store
    data_set = scene.api.dataset.create(scene.api.project.create(scene.platform.workspace_id, "damaged").id, "damaged")
    for number, (name, (content, status, words)) in enumerate(bad_files(Payload(ran)).items()):
        damaged = scene.api.image.upload_np(data_set.id, f"{name}.png", np.full((8, 8, 3), number, np.uint8))
        store.blob_path(store.images.get(damaged.id)["hash"]).write_bytes(content)
        answers = {
            "alone": upload(model, "inference_image", (name, content)),
            "beside good ones": upload(model, "inference_batch", ("1.png", good), (name, content), ("2.png", good)),
            "in the platform": post(model, "inference_image_id", {"image_id": damaged.id}),
        }
        for how, answer in answers.items():
            assert answer.status_code == status and words in answer.json()["message"], (name, how, answer.text[:500])
            assert (name if how != "in the platform" else str(damaged.id)) in answer.json()["message"], (name, how, answer.text)
        annotation = sly.Annotation.from_json(upload(model, "inference_image", ("1.png", good)).json()["annotation"], meta)
        np.testing.assert_array_equal(as_map(annotation), right[1])
    assert not ran.exists()


# ---- into projects


def test_predictions_are_appended_once_and_replaced(model: ModelAPI, scene: Scene, right: list[Picture]) -> None:
    image, other = scene.images[0], scene.images[1]
    crack = sly.ObjClass("crack", sly.Bitmap, [1, 2, 3])
    scene.api.project.update_meta(scene.project, sly.ProjectMeta([crack]))
    own = sly.Label(sly.Bitmap(np.ones((5, 5), bool), sly.PointLocation(1, 1)), crack)
    scene.api.annotation.upload_ann(image, sly.Annotation(scene.pictures[0].shape[:2], [own]))

    model.predict(image_ids=[image, other], upload_mode="append")
    once = scene.labels(image)
    assert len(once) == 1 + len(np.unique(right[0])) - 1
    predicted = [label for label in once if label.status == sly.annotation.label.LabelingStatus.AUTO]
    np.testing.assert_array_equal(as_map(sly.Annotation(right[0].shape, predicted)), right[0])
    assert all(0 < label.tags.get("confidence").value <= 1 for label in predicted)

    model.predict(project_id=scene.project, upload_mode="append")  # say, again after it was cut off
    assert len(scene.labels(image)) == len(once)
    for number, labels in enumerate(right[1:], start=1):
        np.testing.assert_array_equal(as_map(scene.annotation(scene.images[number])), labels)

    model.predict(image_id=image, upload_mode="replace", settings={"classes": ["rust"]})
    assert {label.obj_class.name for label in scene.labels(image)} <= {"rust"}
    assert own not in scene.labels(image)


def test_the_uncertain_tag_follows_the_last_prediction(model: ModelAPI, scene: Scene) -> None:
    image = scene.images[4]
    for limit, there in ((0.01, True), (1.0, False)):
        state = {"image_id": image, "upload_mode": "append", "settings": {"uncertain_from": limit}}
        assert post(model, "inference_image_id", state).ok
        assert [tag.name for tag in scene.annotation(image).img_tags] == ["uncertain"] * there


def test_other_shapes_reach_the_project(model: ModelAPI, scene: Scene, right: list[Picture]) -> None:
    """The SDK gives classes of another shape a suffix."""
    image = scene.images[3]
    model.predict(image_id=image, upload_mode="replace", settings={"output": "polygon"})
    assert {type(label.geometry) for label in scene.labels(image)} == {sly.Polygon}
    names = [f"{name}_nn" for name in NAMES]
    np.testing.assert_array_equal(as_map(scene.annotation(image), names), right[3])
    for output in ("alpha_mask", "polygon", "alpha_mask"):
        state = {"image_id": image, "upload_mode": "append", "settings": {"output": output}}
        assert post(model, "inference_image_id", state).ok
    kinds = [type(label.geometry) for label in scene.labels(image)]
    assert kinds.count(sly.AlphaMask) == len(np.unique(right[3])) - 1
    pieces = post(model, "inference_image_id", {"image_id": image, "settings": {"output": "polygon"}}).json()
    assert kinds.count(sly.Polygon) == len(pieces["annotation"]["objects"]) == len(kinds) - kinds.count(sly.AlphaMask)


def test_classes_of_another_shape_are_told(model: ModelAPI, scene: Scene) -> None:
    taken = [sly.ObjClass(f"{name}{suffix}", sly.Rectangle) for name in NAMES[1:] for suffix in ("", "_nn")]
    project = scene.api.project.create(scene.platform.workspace_id, "boxes")
    scene.api.project.update_meta(project.id, sly.ProjectMeta(taken))
    dataset = scene.api.dataset.create(project.id, "photos")
    image = scene.api.image.upload_np(dataset.id, "a.png", scene.pictures[0])
    state = {"image_id": image.id, "upload_mode": "append"}
    refused = post(model, "inference_image_id", state)
    assert refused.status_code == 400 and "model_prediction_suffix" in refused.json()["message"]
    for _ in range(2):
        assert post(model, "inference_image_id", {**state, "model_prediction_suffix": "_model"}).ok
    assert scene.api.image.get_info_by_id(image.id).labels_count == 2


def test_an_upload_that_fails_is_not_called_finished(model: ModelAPI, scene: Scene) -> None:
    scene.platform.faults.add("annotations.bulk.add", status=400, times=1)
    with pytest.raises(RuntimeError, match="Inference Error"):
        model.predict(image_id=scene.images[1], upload_mode="replace")
    scene.platform.faults.clear()


def test_a_project_of_its_own(model: ModelAPI, scene: Scene, right: list[Picture]) -> None:
    before = {project.id for project in scene.api.project.get_list(scene.platform.workspace_id)}
    model.predict(dataset_id=scene.datasets[1], upload_mode="create")
    (made,) = [p for p in scene.api.project.get_list(scene.platform.workspace_id) if p.id not in before]
    meta = sly.ProjectMeta.from_json(scene.api.project.get_meta(made.id))
    images = {info.name: info.id for info in scene.api.image.get_list(project_id=made.id)}
    annotation = sly.Annotation.from_json(scene.api.annotation.download(images["3.png"]).annotation, meta)
    np.testing.assert_array_equal(as_map(annotation), right[3])
    assert len(images) == 2


# ---- what is wrong is told


def test_wrong_requests_get_a_sentence(model: ModelAPI, scene: Scene, files: list[str]) -> None:
    outside = sly.Rectangle(500, 500, 600, 600).to_json()
    for state, words in (
        ({"settings": {"tile": 3}}, "setting 'tile' is not known: use tile_size, overlap"),
        ({"settings": {"overlap": 1}}, "overlap=1: use a number from 0 to 0.9"),
        ({"settings": {"threshold": {"moss": 0.5}}}, "the model has no class 'moss'; it finds crack, rust"),
        ({"settings": []}, "settings=[]: give names and values"),
        ({"settings": {}, "rectangle": 5}, "rectangle='5': give {'points'"),
        ({"settings": {}, "batch_size": 0}, "batch_size='0': use a whole number from 1"),
        ({"settings": {}, "upload_mode": "add"}, "upload_mode='add': use append, replace"),
    ):
        for route in ("inference_image_id", "inference_batch_ids_async", "inference_image_url"):
            answer = post(model, route, {**state, "image_id": scene.images[0], "image_url": scene.urls[0]})
            if "settings=[]" in words and answer.status_code == 400:
                continue
            assert answer.status_code == 400 and words in answer.json()["message"], (route, answer.text)
    answer = post(model, "inference_image_id", {"image_id": scene.images[0], "rectangle": outside})
    assert answer.status_code == 400 and "lie outside the image of 128x96" in answer.json()["message"]
    content = Path(files[0]).read_bytes()
    for upload, settings, words in (
        (content[: len(content) // 2], "{}", "0.png: the image cannot be read"),
        (b"", "{}", "0.png: the image is empty"),
        (b"no image", "{}", "none of JPEG, PNG"),
        (content, "{", "settings: not JSON"),
        (content, "[" * 100_000, "settings: not JSON"),
    ):
        for route in ("inference_image", "inference_batch"):
            sent = {"files": ("../../0.png", upload)}
            answer = requests.post(f"{model.url}/{route}", files=sent, data={"settings": settings}, timeout=60)
            assert answer.status_code == 400 and words in answer.json()["message"], (route, words, answer.text[:300])


def test_an_image_that_is_gone_ends_an_async_request_in_words(model: ModelAPI, scene: Scene) -> None:
    with pytest.raises(RuntimeError, match="Inference Error"):
        model.predict(image_ids=[987654])


def test_a_request_that_is_not_known_is_told(model: ModelAPI) -> None:
    for route in ("get_inference_progress", "pop_inference_results", "stop_inference", "get_inference_status"):
        answer = post(model, route, {"inference_request_uuid": "0"})
        assert answer.status_code == 404 and "there is no request '0'" in answer.json()["message"]


def test_stop_ends_images_too(model: ModelAPI, scene: Scene) -> None:
    big = np.tile(scene.pictures[0], (20, 20, 1))
    good, content = cv2.imencode(".png", big)
    uploads = [("files", (f"{i}.png", content.tobytes())) for i in range(8)]
    slow = {"settings": json.dumps({"settings": {"overlap": 0.9}, "batch_size": 1})}
    started = requests.post(f"{model.url}/inference_batch_async", files=uploads, data=slow, timeout=60).json()
    state = {"inference_request_uuid": started["inference_request_uuid"]}
    post(model, "stop_inference", state)
    until = time.monotonic() + 20
    while not (progress := post(model, "get_inference_progress", state).json())["finished"]:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert good and progress["exception"] is None and progress["stage"] == "Cancelled"
    assert len(post(model, "pop_inference_results", state).json()["pending_results"]) < 8


# ---- asleep, and other models


def test_it_sleeps_and_wakes(model: ModelAPI, files: list[str], right: list[Picture]) -> None:
    assert model.freeze_model() == {"message": "Model is frozen."}
    card = requests.get(f"{model.url}/model_card", timeout=10).json()
    state = requests.get(f"{model.url}/ready", timeout=10).json()
    assert state == {"ready": True, "asleep": True, "version": card["version"]}  # the next prediction wakes it
    np.testing.assert_array_equal(as_map(model.predict(files[2])[0].annotation), right[2])
    assert not requests.get(f"{model.url}/ready", timeout=10).json()["asleep"]
    model.freeze_model()
    content = Path(files[2]).read_bytes()
    headers = {"Content-Type": "image/png"}
    answer = requests.post(f"{model.url}/predict/labels", data=content, headers=headers, timeout=60)
    labels = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, right[2])


class Payload:
    """Runs when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_models_are_switched_and_code_is_refused(model: ModelAPI, scene: Scene, files: list[str]) -> None:
    two = (CLASSES[0], ClassInfo("fissure", (1, 2, 3), 1))
    other = scene.experiment("other", make_checkpoint(scene.folder / "two.pth", two, steps=2), NAMES)  # its meta is another's
    model.load(other, device="cuda:0")
    assert model.get_classes() == ["background", "fissure"]
    assert model.get_info()["device"] == "cpu"
    (notice,) = post(model, "get_session_info", {}).json()["notices"]
    assert "cuda:0 was asked for" in notice and "runs on the CPU" in notice
    model.predict(files[0])

    ran = scene.folder / "ran"
    content = torch.load(scene.checkpoint, weights_only=True)
    torch.save({**content, "extra": Payload(ran)}, scene.folder / "evil.pth")
    evil = scene.experiment("evil", scene.folder / "evil.pth", NAMES)
    with pytest.raises(requests.HTTPError, match="cannot be read safely"):
        model.load(evil)
    assert not ran.exists()
    with pytest.raises(requests.HTTPError, match="download the checkpoint from its authors"):
        model.load("hrda_gta_cityscapes")
    assert model.get_classes() == ["background", "fissure"]  # the one before still serves
    assert post(model, "inference_image_id", {"image_id": scene.images[0]}).ok
    model.load(scene.best, device="cpu")
    assert model.get_classes() == NAMES


def test_nothing_was_asked_that_the_platform_does_not_know(model: ModelAPI, scene: Scene) -> None:
    assert not scene.platform.unknown


def test_killed_while_it_predicts_a_project_nothing_is_missing_or_twice(model: ModelAPI, scene: Scene) -> None:
    """Started again it serves the same model by itself, and the same request completes what was begun."""
    wanted = [expected(scene.checkpoint, image, overlap=0.9) for image in scene.pictures]
    for image, labels in zip(scene.images, wanted, strict=True):
        scene.api.annotation.upload_ann(image, sly.Annotation(labels.shape))
    state = {"project_id": scene.project, "upload_mode": "append", "batch_size": 1, "settings": {"overlap": 0.9}}
    scene.platform.calls.clear()
    assert post(model, "inference_project_id_async", state).ok
    until = time.monotonic() + 30
    while not scene.platform.calls["annotations.bulk.add"]:
        assert time.monotonic() < until
        time.sleep(0.01)
    scene.processes[0].kill()
    with ServeProcess(scene.platform, model.task_id) as app:
        app.wait(lambda: requests.get(f"{app.url}/ready", timeout=5).ok, PATIENCE, "it is not deployed again")
        model.predict(project_id=scene.project, upload_mode="append", batch_size=1, overlap=0.9)
    for image, labels in zip(scene.images, wanted, strict=True):
        np.testing.assert_array_equal(as_map(scene.annotation(image)), labels)
        assert len(scene.labels(image)) == len(np.unique(labels)) - 1
