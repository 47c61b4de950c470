"""The local platform, seen through the unmodified SDK: what is put in comes out, and faults look as they do in real life."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import supervisely as sly
from fastapi import FastAPI, Request, WebSocket
from supervisely.project.download import download_to_cache
from websockets.sync.client import connect

from tests.local_platform import LocalPlatform
from tests.local_platform.__main__ import main as local_platform_command
from tests.served import served

HEIGHT, WIDTH = 24, 32
META = sly.ProjectMeta(
    sly.ObjClassCollection(
        [
            sly.ObjClass("crack", sly.Bitmap),
            sly.ObjClass("rust", sly.Polygon),
            sly.ObjClass("plate", sly.Rectangle),
            sly.ObjClass("haze", sly.AlphaMask),
            sly.ObjClass("anything", sly.AnyGeometry),
            sly.ObjClass("seam", sly.Polyline),
            sly.ObjClass("rivet", sly.Point),
        ]
    ),
    sly.TagMetaCollection([sly.TagMeta("checked", sly.TagValueType.NONE), sly.TagMeta("depth", sly.TagValueType.ANY_NUMBER)]),
)


@pytest.fixture
def platform() -> Iterator[LocalPlatform]:
    with LocalPlatform(per_page=10) as platform:
        yield platform
        assert not platform.errors, "\n".join(platform.errors)


def random_images(count: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8))


def all_geometries(meta: sly.ProjectMeta) -> sly.Annotation:
    """One label of each geometry, one with a tag; the image has a tag with a value."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[3:9, 4:20] = True
    haze = np.random.default_rng(1).integers(1, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    geometries = {
        "crack": sly.Bitmap(mask),
        "rust": sly.Polygon([(1, 1), (1, 20), (20, 20)], [[(3, 8), (3, 12), (6, 12)]]),
        "plate": sly.Rectangle(2, 3, 10, 12),
        "haze": sly.AlphaMask(haze),
        "anything": sly.Bitmap(mask.copy()),
        "seam": sly.Polyline([(0, 0), (5, 9), (7, 30)]),
        "rivet": sly.Point(5, 6),
    }
    checked = sly.Tag(meta.get_tag_meta("checked"))
    labels = [sly.Label(geometry, meta.get_obj_class(name)) for name, geometry in geometries.items()]
    depth = sly.Tag(meta.get_tag_meta("depth"), 7)
    return sly.Annotation((HEIGHT, WIDTH), [labels[0].add_tag(checked), *labels[1:]], img_tags=[depth])


def seed(api: sly.Api, workspace_id: int, name: str, images: int = 3) -> tuple[sly.ProjectInfo, sly.ProjectMeta]:
    """A project with a data set inside a data set, all images labelled."""
    project = api.project.create(workspace_id, name)
    meta = api.project.update_meta(project.id, META)
    outer = api.dataset.create(project.id, "outer")
    inner = api.dataset.create(project.id, "inner", parent_id=outer.id)
    for number, dataset in enumerate((outer, inner)):
        names = [f"{number}_{index}.png" for index in range(images)]
        infos = api.image.upload_nps(dataset.id, names, random_images(images, seed=number))
        api.annotation.upload_anns([info.id for info in infos], [all_geometries(meta)] * images)
    return project, meta


def pixels(annotation: sly.Annotation) -> dict[str, np.ndarray]:
    """What each label looks like when drawn, by class name."""
    drawn = {}
    for label in annotation.labels:
        drawn[label.obj_class.name] = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        label.geometry.draw(drawn[label.obj_class.name], (255, 255, 255))
        if isinstance(label.geometry, sly.AlphaMask):
            drawn["exact alpha"] = label.geometry.data
    return drawn


def assert_same_labels(one: sly.Annotation, other: sly.Annotation) -> None:
    before, after = pixels(one), pixels(other)
    assert before.keys() == after.keys()
    for name, picture in before.items():
        np.testing.assert_array_equal(picture, after[name], err_msg=name)
    assert sorted(str(label.tags) for label in one.labels) == sorted(str(label.tags) for label in other.labels)
    assert str(one.img_tags) == str(other.img_tags)


def test_what_is_uploaded_comes_back_pixel_by_pixel(platform: LocalPlatform) -> None:
    api = platform.api()
    other_workspace = api.workspace.create(platform.team_id, "Other").id
    places = [(platform.workspace_id, "synthetic"), (platform.workspace_id, "real"), (other_workspace, "synthetic")]
    for workspace_id, name in places:
        project, meta = seed(api, workspace_id, name)
        assert api.project.get_info_by_name(workspace_id, name).id == project.id
        assert api.project.get_images_count(project.id) == 6
        for number, (parents, dataset) in enumerate(api.dataset.tree(project.id)):
            assert (parents, dataset.name) == ([([]), (["outer"])][number], ["outer", "inner"][number])
            infos = api.image.get_list(dataset.id)
            pictures = api.image.download_nps(dataset.id, [info.id for info in infos])
            np.testing.assert_array_equal(pictures, random_images(3, seed=number))
            np.testing.assert_array_equal(api.image.download_np(infos[0].id), pictures[0])
            for info in api.annotation.download_batch(dataset.id, [info.id for info in infos]):
                assert_same_labels(all_geometries(meta), sly.Annotation.from_json(info.annotation, meta))
    assert [project.name for project in api.project.get_list(platform.workspace_id)] == ["synthetic", "real"]
    assert not platform.unknown


def test_appending_labels_and_replacing_them(platform: LocalPlatform) -> None:
    api = platform.api()
    project, meta = seed(api, platform.workspace_id, "synthetic", images=1)
    image = api.image.get_list(project_id=project.id)[0]
    annotation = all_geometries(meta)
    api.annotation.append_labels(image.id, list(annotation.labels))
    assert api.image.get_info_by_id(image.id).labels_count == 2 * len(annotation.labels)
    api.annotation.upload_ann(image.id, annotation)
    figures = api.image.figure.download(image.dataset_id)[image.id]
    assert len(figures) == len(annotation.labels)
    api.image.figure.remove_batch([figure.id for figure in figures[1:]])
    assert [label["id"] for label in api.annotation.download(image.id).annotation["objects"]] == [figures[0].id]
    api.annotation.upload_anns_fast([image.id], [annotation], log_progress=False)
    assert api.image.get_info_by_id(image.id).labels_count == 1 + len(annotation.labels)


def test_a_class_that_leaves_the_meta_takes_its_labels_along(platform: LocalPlatform) -> None:
    api = platform.api()
    project, meta = seed(api, platform.workspace_id, "synthetic", images=1)
    image = api.image.get_list(project_id=project.id)[0]
    smaller = api.project.update_meta(project.id, meta.delete_obj_class("rust"))
    assert {"crack": meta.get_obj_class("crack").sly_id}.items() <= {c.name: c.sly_id for c in smaller.obj_classes}.items()
    assert "rust" not in pixels(sly.Annotation.from_json(api.annotation.download(image.id).annotation, smaller))


def test_labels_of_an_unknown_class_or_a_wrong_shape_are_refused(platform: LocalPlatform) -> None:
    api = platform.api()
    project, _ = seed(api, platform.workspace_id, "synthetic", images=1)
    image = api.image.get_list(project_id=project.id)[0]
    for obj_class in (sly.ObjClass("unheard of", sly.Point), sly.ObjClass("crack", sly.Point)):
        with pytest.raises(requests.HTTPError, match="400 Client Error"):
            api.annotation.upload_ann(image.id, sly.Annotation((HEIGHT, WIDTH), [sly.Label(sly.Point(1, 1), obj_class)]))


def test_lists_come_in_pages(platform: LocalPlatform) -> None:
    api = platform.api()
    project = api.project.create(platform.workspace_id, "many")
    dataset = api.dataset.create(project.id, "images")
    api.image.upload_nps(dataset.id, [f"{index:02}.png" for index in range(25)], random_images(25))
    platform.calls.clear()
    assert [info.name for info in api.image.get_list(dataset.id)] == [f"{index:02}.png" for index in range(25)]
    assert platform.calls["images.list"] == 3
    assert [len(page) for page in api.image.get_list_generator(dataset.id)] == [10, 10, 5]
    assert [info.name for info in api.image.get_list(dataset.id, sort="name", sort_order="desc", limit=2)] == ["24.png", "23.png"]
    wanted = [{"field": "name", "operator": "in", "value": ["03.png", "20.png"]}]
    assert [info.name for info in api.image.get_list(dataset.id, filters=wanted)] == ["03.png", "20.png"]


def test_images_by_hash_by_link_and_twice(platform: LocalPlatform) -> None:
    api = platform.api()
    project = api.project.create(platform.workspace_id, "images")
    dataset = api.dataset.create(project.id, "one")
    first = api.image.upload_np(dataset.id, "first.png", random_images(1)[0])
    again = api.image.upload_hash(dataset.id, "again.png", first.hash)
    linked = api.image.upload_link(dataset.id, "linked.png", first.full_storage_url)
    assert first.hash == again.hash == linked.hash
    with pytest.raises(requests.HTTPError, match="exist already"):
        api.image.upload_np(dataset.id, "first.png", random_images(1)[0])
    renamed = api.image.upload_nps(dataset.id, ["first.png"], random_images(1), conflict_resolution="rename")
    assert renamed[0].name.startswith("first_")
    with pytest.raises(ValueError, match="corrupted"):
        api.image._upload_data_bulk(lambda item: item, [(b"no image", "some hash")])


def test_image_tags_and_statistics(platform: LocalPlatform) -> None:
    api = platform.api()
    project, meta = seed(api, platform.workspace_id, "synthetic")
    images = api.image.get_list(project_id=project.id)
    api.image.add_tag(images[0].id, meta.get_tag_meta("checked").sly_id)
    assert [tag["name"] for tag in api.image.get_info_by_id(images[0].id).tags] == ["depth", "checked"]
    checked = [{"type": "images_tag", "data": {"tagId": meta.get_tag_meta("checked").sly_id, "include": True}}]
    assert [info.id for info in api.image.get_filtered_list(project_id=project.id, filters=checked)] == [images[0].id]
    stats = api.project.get_stats(project.id)
    assert {item["objectClass"]["name"]: item["total"] for item in stats["objects"]["items"]}["crack"] == 6
    assert {item["tagMeta"]["name"]: item["total"] for item in stats["imageTags"]["items"]} == {"checked": 1, "depth": 6}


@pytest.mark.parametrize("way", ["download", "download_async", "download_to_cache"])
def test_a_project_downloads_whole(platform: LocalPlatform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    api = platform.api()
    project, meta = seed(api, platform.workspace_id, "synthetic", images=12)
    if way == "download":
        sly.Project.download(api, project.id, str(tmp_path / "synthetic"), log_progress=False, save_image_info=True)
    elif way == "download_async":
        asyncio.run(sly.Project.download_async(api, project.id, str(tmp_path / "synthetic"), log_progress=False))
    else:
        monkeypatch.setenv("APPS_CACHE_DIR", str(tmp_path))
        download_to_cache(api, project.id, log_progress=False)
    folder = next(path.parent for path in tmp_path.rglob("meta.json"))
    local = sly.Project(str(folder), sly.OpenMode.READ)
    assert local.total_items == 24
    for dataset in local.datasets:
        for name in dataset:
            assert_same_labels(all_geometries(meta), dataset.get_ann(name, local.meta))
    assert not platform.unknown


def test_team_files(platform: LocalPlatform, tmp_path: Path) -> None:
    api, team = platform.api(), platform.team_id
    local = tmp_path / "experiment"
    (local / "checkpoints").mkdir(parents=True)
    (local / "checkpoints" / "best.pth").write_bytes(bytes(range(256)) * 1000)
    (local / "info.json").write_text('{"name": "first"}')
    api.file.upload_directory_fast(team, str(local), "/experiments/one")
    api.file.upload_directory(team, str(local), "/experiments/two")
    assert api.file.listdir(team, "/experiments") == ["/experiments/one/", "/experiments/two/"]
    assert api.file.listdir(team, "/experiments/one", recursive=True) == [
        "/experiments/one/checkpoints/best.pth",
        "/experiments/one/info.json",
    ]
    assert api.file.get_json_file_content(team, "/experiments/one/info.json") == {"name": "first"}
    assert api.file.get_info_by_path(team, "/experiments/one/checkpoints/best.pth").sizeb == 256_000
    assert not api.file.exists(team, "/experiments/one/checkpoints/last.pth")

    api.file.download(team, "/experiments/one/checkpoints/best.pth", str(tmp_path / "best.pth"))
    api.file.download_directory(team, "/experiments/two", str(tmp_path / "whole"))
    for copy in (tmp_path / "best.pth", tmp_path / "whole" / "checkpoints" / "best.pth"):
        assert copy.read_bytes() == (local / "checkpoints" / "best.pth").read_bytes()

    api.file.remove_dir(team, "/experiments/one/")
    assert not api.file.dir_exists(team, "/experiments/one/")
    assert api.file.dir_exists(team, "/experiments/two/")
    assert not platform.unknown


def test_a_full_storage_refuses_at_once(tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(10_000))
    with LocalPlatform(quota=5_000) as platform, pytest.raises(requests.HTTPError, match=r"403 Client Error.*quota"):
        platform.api().file.upload(platform.team_id, str(tmp_path / "large.bin"), "/large.bin")
    assert platform.calls["file-storage.bulk.upload"] == 1


def one_image(platform: LocalPlatform) -> tuple[sly.Api, sly.ImageInfo]:
    api = platform.api()
    dataset = api.dataset.create(api.project.create(platform.workspace_id, "one").id, "image")
    return api, api.image.upload_np(dataset.id, "image.png", random_images(1)[0])


def test_the_sdk_outlives_errors_of_the_server(platform: LocalPlatform) -> None:
    api, image = one_image(platform)
    platform.faults.add("images.download", status=500, times=3)
    assert api.image.download_np(image.id).shape == (HEIGHT, WIDTH, 3)
    assert platform.calls["images.download"] == 4


def test_the_sdk_does_not_repeat_what_was_refused(platform: LocalPlatform) -> None:
    api, image = one_image(platform)
    platform.faults.add("images.download", status=404)
    with pytest.raises(requests.HTTPError, match="404"):
        api.image.download_np(image.id)
    assert platform.calls["images.download"] == 1
    assert api.image.get_info_by_id(10**6) is None


def test_one_image_can_be_broken_for_ever(platform: LocalPlatform) -> None:
    api, image = one_image(platform)
    other = api.image.upload_np(image.dataset_id, "other.png", random_images(1)[0])
    platform.faults.add("images.download", status=403, times=None, when=lambda body: body["id"] == other.id)
    api.image.download_np(image.id)
    for _ in range(2):
        with pytest.raises(requests.HTTPError, match="403"):
            api.image.download_np(other.id)
    platform.faults.clear()
    api.image.download_np(other.id)


@pytest.mark.parametrize("fault", ["truncate", "reset"])
def test_broken_connections_are_tried_again(platform: LocalPlatform, fault: str) -> None:
    api, image = one_image(platform)
    platform.faults.add("images.download", times=2, **{fault: True})
    np.testing.assert_array_equal(api.image.download_np(image.id), random_images(1)[0])
    platform.faults.add("images.download", times=2, **{fault: True})
    content = asyncio.run(api.image.download_bytes_single_async(image.id))
    np.testing.assert_array_equal(sly.image.read_bytes(content), random_images(1)[0])
    assert platform.calls["images.download"] == 6


def test_a_streamed_download_that_is_cut_off_is_an_error(platform: LocalPlatform, tmp_path: Path) -> None:
    api, image = one_image(platform)
    platform.faults.add("images.download", truncate=True)
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        api.image.download_path(image.id, str(tmp_path / "image.png"))


def test_the_sdk_loses_a_byte_when_it_resumes_a_stream(platform: LocalPlatform, tmp_path: Path) -> None:
    """It asks for the byte after the next one, so a large file that was cut off fails its checksum instead of being resumed."""
    (tmp_path / "large.bin").write_bytes(os.urandom(18 << 20))  # the SDK reads in pieces of 8 MiB
    api = platform.api()
    api.file.upload(platform.team_id, str(tmp_path / "large.bin"), "/large.bin")
    platform.faults.add("file-storage.download", truncate=True)
    with pytest.raises(RuntimeError, match="does not match the expected hash"):
        asyncio.run(api.file.download_async(platform.team_id, "/large.bin", str(tmp_path / "copy.bin")))
    assert (tmp_path / "copy.bin").stat().st_size == (18 << 20) - 1


def test_the_sdk_cannot_repeat_a_multipart_upload(tmp_path: Path) -> None:
    """The second try sends the old length and an empty body. The asynchronous upload of files does not have this defect."""
    (tmp_path / "notes.txt").write_text("notes")
    with LocalPlatform(body_timeout=0.2) as platform:
        api = platform.api(retry_count=3)
        platform.faults.add("file-storage.bulk.upload", status=503)
        with pytest.raises(requests.exceptions.RetryError):
            api.file.upload(platform.team_id, str(tmp_path / "notes.txt"), "/notes.txt")
        platform.faults.add("file-storage.upload", status=503)
        asyncio.run(api.file.upload_async(platform.team_id, str(tmp_path / "notes.txt"), "/notes.txt"))
        assert api.file.exists(platform.team_id, "/notes.txt")


def test_a_slow_answer(platform: LocalPlatform) -> None:
    api, image = one_image(platform)
    platform.faults.add("images.info", delay=0.3)
    started = time.monotonic()
    api.image.get_info_by_id(image.id)
    assert time.monotonic() - started > 0.3


def test_the_platform_goes_away_and_returns(platform: LocalPlatform) -> None:
    api, image = one_image(platform)
    platform.away(seconds=2)
    with pytest.raises(requests.ConnectionError):
        requests.get(platform.address)
    started = time.monotonic()
    assert api.image.get_info_by_id(image.id).name == "image.png"
    assert time.monotonic() - started > 1.5


def test_a_wrong_token(platform: LocalPlatform) -> None:
    with pytest.raises(requests.HTTPError, match=r"401 Client Error.*token is wrong"):
        platform.api(token="stolen").project.get_list(platform.workspace_id)


def test_methods_that_nobody_wrote_are_counted(platform: LocalPlatform) -> None:
    with pytest.raises(requests.HTTPError, match=r"501 Server Error.*videos.list"):
        platform.api().post("videos.list", {})
    assert platform.unknown == {"videos.list": 1}


def tiny_app() -> FastAPI:
    app = FastAPI()

    @app.post("/count_projects")
    def count_projects(request: dict[str, Any]) -> dict[str, Any]:
        """Calls the platform while the platform waits for the answer."""
        api = sly.Api(request["server_address"], request["api_token"])
        workspace_id = request["state"]["workspace_id"]
        return {"projects": len(api.project.get_list(workspace_id)), "outside": request["context"]["outside_request"]}

    @app.post("/echo/{name}")
    async def echo(name: str, request: Request) -> dict[str, Any]:
        return {"name": name, "query": dict(request.query_params), "body": (await request.body()).decode()}

    @app.websocket("/sly/ws")
    async def shout(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text((await socket.receive_text()).upper())

    return app


def test_apps_are_reached_through_the_platform(platform: LocalPlatform) -> None:
    api = platform.api()
    api.project.create(platform.workspace_id, "one")
    task_id = platform.start_task()
    assert not api.task.is_running(task_id)  # the app is not there yet
    with served(tiny_app()) as url:
        platform.start_task(url, task_id=task_id)
        answer = api.task.send_request(task_id, "count_projects", {"workspace_id": platform.workspace_id})
        assert answer == {"projects": 1, "outside": True}
        echo = requests.post(f"{platform.session_url(task_id)}/echo/me?times=2", data="hello").json()
        assert echo == {"name": "me", "query": {"times": "2"}, "body": "hello"}
        with connect(f"{platform.session_url(task_id)}/sly/ws".replace("http", "ws")) as browser:
            browser.send("to the app")
            assert browser.recv() == "TO THE APP"
        assert requests.get(f"{platform.address}/net/no-such-token/").status_code == 404


def test_what_apps_tell_about_themselves(platform: LocalPlatform) -> None:
    api = platform.api()
    task_id = platform.start_task(app="Train HRDA", params={"state": {"epochs": 3}})
    api.task.set_output_experiment(task_id, {"experiment_name": "first"})
    api.task.set_output_error(task_id, "No labels", "Label something first")
    api.task._update_app_content(task_id, [{"op": "add", "path": "/progress", "value": 5}], {"tab": "charts"})
    api.task.set_field(task_id, "deploy.model", "best.pth")
    assert api.task.get_field(task_id, "deploy.model") == "best.pth"
    task = platform.task(task_id)
    assert task["meta"]["output"]["experiment"]["data"] == {"experiment_name": "first"}
    assert task["meta"]["output"]["general"]["title"] == "No labels"
    assert (task["data"], task["state"]) == ({"progress": 5}, {"tab": "charts"})
    assert api.task.get_info_by_id(task_id)["meta"]["params"] == {"state": {"epochs": 3}}
    platform.end_task(task_id)
    assert api.task.get_status(task_id) is api.task.Status.FINISHED


def test_the_environment_of_an_app_is_that_of_production(platform: LocalPlatform) -> None:
    api = platform.api()
    project = api.project.create(platform.workspace_id, "one")
    task_id = platform.start_task(app="Train HRDA")
    script = """
import supervisely as sly, supervisely.io.env as env
assert sly.is_production() and env.team_id() and env.workspace_id() and env.app_name() == "Train HRDA"
api = sly.Api.from_env()
api.app.workflow.add_input_project(env.project_id())
api.project.version.create(env.project_id())
print(sly.app.get_data_dir())
"""
    variables = {**os.environ, **platform.environment(project.id, task_id)}
    done = subprocess.run([sys.executable, "-c", script], env=variables, check=True, capture_output=True, text=True)
    assert str(platform.store.directory) in done.stdout
    edge = platform.task(task_id)["workflow"][0]
    assert (edge["direction"], edge["type"], edge["id"]) == ("input", "project", project.id)
    assert [version.version for version in api.project.version.get_list(project.id)] == [1]


def test_browsers_may_call_and_see_images(platform: LocalPlatform) -> None:
    _, image = one_image(platform)
    asked = {"Origin": "http://localhost:8000", "Access-Control-Request-Method": "POST"}
    asked["Access-Control-Request-Headers"] = "x-api-key,content-type"
    answer = requests.options(f"{platform.address}/public/api/v3/projects.list", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    np.testing.assert_array_equal(sly.image.read_bytes(requests.get(image.full_storage_url).content), random_images(1)[0])
    assert requests.get(image.preview_url).headers["content-type"] == "image/jpeg"


def test_a_platform_that_starts_again_knows_everything(tmp_path: Path) -> None:
    directory = tmp_path / "platform"
    (tmp_path / "notes.txt").write_text("notes")
    with LocalPlatform(directory) as platform:
        api = platform.api()
        project, _ = seed(api, platform.workspace_id, "synthetic")
        api.file.upload(platform.team_id, str(tmp_path / "notes.txt"), "/notes.txt")
        task_id = platform.start_task()
        api.task.set_output_text(task_id, "done")
        image = api.image.get_list(project_id=project.id)[0]
        annotation = api.annotation.download(image.id)
    with LocalPlatform(directory) as platform:
        api = platform.api()
        assert api.project.get_info_by_id(project.id).name == "synthetic"
        assert api.annotation.download(image.id) == annotation
        np.testing.assert_array_equal(api.image.download_np(image.id), random_images(1)[0])
        assert api.file.listdir(platform.team_id, "/") == ["/notes.txt"]
        assert platform.task(task_id)["meta"]["output"]["general"]["title"] == "done"
        assert api.project.create(platform.workspace_id, "new").id > task_id  # ids are not given twice


def test_many_threads_at_once(platform: LocalPlatform) -> None:
    api = platform.api()
    project = api.project.create(platform.workspace_id, "crowded")

    def upload(number: int) -> None:
        dataset = api.dataset.create(project.id, f"{number}")
        api.image.upload_nps(dataset.id, [f"{index}.png" for index in range(5)], random_images(5, seed=number))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({image.id for image in api.image.get_list(project_id=project.id)}) == 40


def test_a_port_that_no_machine_has_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["local_platform", "--port", "80900"])
    with pytest.raises(SystemExit):
        local_platform_command()
    assert "--port: 80900 is not between 0 (any free one) and 65535" in capsys.readouterr().err


def test_from_the_command_line(tmp_path: Path) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "tests.local_platform", "--port", str(port), "--directory", str(tmp_path)]
    root = Path(__file__).parents[1]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address, token = process.stdout.readline().split()[3].rstrip(","), "local-platform-token"
        api = sly.Api(address, token)
        api.retry_sleep_sec = 0.05
        requests.post(f"{address}/local/faults", json={"method": "users.me", "status": 500, "times": 2}).raise_for_status()
        assert api.user.get_my_info().login == "admin"
        assert requests.get(f"{address}/local/calls").json()["users.me"] == 3
        assert requests.get(f"{address}/local/unknown").json() == {}
        started = requests.post(f"{address}/local/tasks", json={"app": "Train HRDA"}).json()
        assert started["environment"]["TASK_ID"] == str(started["id"])
        assert requests.get(f"{address}/local/tasks/{started['id']}").json()["status"] == "started"
        requests.post(f"{address}/local/away", json={"seconds": 0.5}).raise_for_status()
        time.sleep(0.2)
        assert api.user.get_my_info().login == "admin"
        process.terminate()
