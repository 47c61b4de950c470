"""Projects -> data sets, through the unmodified SDK and a local platform: what arrives, what is refused, and what goes wrong on
the way."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import supervisely as sly
from PIL import Image

from hrda_core import Dataset
from hrda_core.data.parallel import Stopped
from hrda_core.data.samples import join
from tests.local_platform import LocalPlatform, application
from train_app import connection, folders, listing, preparation
from train_app.cache import Cache, default_cache
from train_app.labels import ClassChoice
from train_app.projects import (
    DataChoice,
    Prepared,
    ProjectChoice,
    UserError,
    ValidationChoice,
    check_choice,
    image_id_of,
    list_images,
    prepare_datasets,
)

HEIGHT, WIDTH = 24, 32
CRACK, RUST = 1, 2
CLASSES = ClassChoice(("crack", "rust"))
SHAPES = {
    "crack": sly.AnyGeometry,  # polygons, alpha masks
    "rust": sly.Bitmap,
    "dirt": sly.Rectangle,
    "spall": sly.Polygon,
    "line": sly.Polyline,
}
META = sly.ProjectMeta([sly.ObjClass(name, shape, [255, 0, 0]) for name, shape in SHAPES.items()])
BULK, ONE = "images.bulk.download", "images.download"


class Scene:
    """Three projects: "synthetic" with datasets a, a/inner and b (two labelled images each, all five geometries), "photos" with
    raw (five images, the first two labelled), and "measured" with dataset m (two labelled images and one without objects)."""

    def __init__(self, platform: LocalPlatform, folder: Path) -> None:
        self.platform, self.api, self.folder = platform, platform.api(), folder
        self.masks: dict[int, np.ndarray] = {}  # by image id
        self.datasets: dict[str, int] = {}
        self.images: dict[str, list[sly.ImageInfo]] = {}
        self.seed = 0
        self.source = self.project("synthetic")
        self.target = self.project("photos")
        self.validation = self.project("measured")
        for path, project, parent, count, labelled in (
            ("a", self.source, None, 2, 2),
            ("a/inner", self.source, "a", 2, 2),
            ("b", self.source, None, 2, 2),
            ("raw", self.target, None, 5, 2),
            ("m", self.validation, None, 3, 2),
        ):
            self.dataset(path, project, parent)
            self.add_images(path, count, labelled)
        self.choice = DataChoice(
            source=(ProjectChoice(self.source),),
            target=(ProjectChoice(self.target),),
            classes=CLASSES,
            validation=ValidationChoice("project", (ProjectChoice(self.validation),)),
        )

    def project(self, name: str, meta: sly.ProjectMeta = META, kind: str = "images") -> int:
        project = self.api.project.create(self.platform.workspace_id, name, type=kind)
        self.api.project.update_meta(project.id, meta)
        return int(project.id)

    def dataset(self, path: str, project: int, parent: str | None = None) -> None:
        parent_id = self.datasets[parent] if parent else None
        self.datasets[path] = self.api.dataset.create(project, path.split("/")[-1], parent_id=parent_id).id
        self.images[path] = []

    def add_images(self, path: str, count: int, labelled: int, prefix: str = "photo") -> list[sly.ImageInfo]:
        names = [f"{prefix} {number}.png" for number in range(count)]
        arrays = [self.noise(HEIGHT, WIDTH, 3) for _ in names]
        infos = self.api.image.upload_nps(self.datasets[path], names, arrays)
        if labelled:
            chosen = infos[:labelled]
            self.api.annotation.upload_anns([info.id for info in chosen], [self.annotation(info) for info in chosen])
        self.images[path] += infos
        return infos

    def noise(self, *shape: int) -> np.ndarray:
        self.seed += 1
        return np.random.default_rng(self.seed).integers(0, 256, shape, dtype=np.uint8)

    def label(self, info: sly.ImageInfo, extra: sly.Label | None = None) -> None:
        self.api.annotation.upload_ann(info.id, self.annotation(info, extra))

    def annotation(self, info: sly.ImageInfo, extra: sly.Label | None = None) -> sly.Annotation:
        """A polygon with a hole, an alpha mask, a bitmap over them, a rectangle and a line of classes that are not chosen."""
        opacity, bits = self.noise(6, 7), self.noise(8, 9) > 100
        opacity[0, 0] = opacity[-1, -1] = 255  # the SDK crops empty borders
        bits[0, 0] = bits[-1, -1] = True
        ring, hole = [[2, 2], [2, 20], [15, 20], [15, 2]], [[5, 5], [5, 9], [8, 9], [8, 5]]
        labels = [
            ("crack", sly.Polygon(ring, [hole])),
            ("crack", sly.AlphaMask(opacity, sly.PointLocation(16, 22))),
            ("rust", sly.Bitmap(bits, sly.PointLocation(10, 12))),
            ("dirt", sly.Rectangle(0, 0, 20, 20)),
            ("line", sly.Polyline([[1, 1], [9, 9]])),
        ]
        content = [sly.Label(shape, META.get_obj_class(name)) for name, shape in labels]
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask[2:16, 2:21] = CRACK
        mask[5:9, 5:10] = 0
        mask[16:22, 22:29][opacity >= 128] = CRACK
        mask[10:18, 12:21][bits] = RUST
        self.masks[info.id] = mask
        return sly.Annotation((HEIGHT, WIDTH), content + ([extra] if extra else []))

    def prepare(self, choice: DataChoice | None = None, folder: str = "run", **options: Any) -> Prepared:
        return prepare_datasets(self.api, choice or self.choice, self.folder / folder, self.folder / "cache", **options)

    def ids(self, *paths: str) -> list[int]:
        return [info.id for path in paths for info in self.images[path]]


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Uploaded once; every test gets a copy of the platform's directory."""
    folder = tmp_path_factory.mktemp("seeded")
    with LocalPlatform(folder) as platform:
        return Scene(platform, folder)


@pytest.fixture
def scene(seeded: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    monkeypatch.setattr(connection, "FIRST_WAIT", 0.05)
    monkeypatch.setattr(listing, "RECOUNT_WAIT", 0.05)
    shutil.copytree(seeded.folder, tmp_path / "platform")
    with LocalPlatform(tmp_path / "platform") as platform:
        scene = copy.copy(seeded)
        scene.platform, scene.api, scene.folder = platform, platform.api(), tmp_path
        scene.masks, scene.images = dict(seeded.masks), {path: list(infos) for path, infos in seeded.images.items()}
        scene.datasets = dict(seeded.datasets)
        yield scene
        assert not platform.errors and not platform.unknown


def mask_of(dataset: Dataset, image_id: int) -> np.ndarray | None:
    [index] = [i for i in range(len(dataset)) if image_id_of(dataset.images[i]) == image_id]  # type: ignore[arg-type]
    return dataset.mask(index)


def downloads(platform: LocalPlatform) -> int:
    wanted = (BULK, ONE, "annotations.bulk.info", "figures.bulk.download.geometry")
    return sum(platform.calls[method] for method in wanted)


# ---- what arrives


def test_three_projects_become_data_sets(scene: Scene) -> None:
    prepared = scene.prepare()
    assert prepared.image_ids["source"] == scene.ids("a", "a/inner", "b")
    assert prepared.image_ids["target"] == scene.ids("raw")
    assert prepared.image_ids["validation"] == scene.ids("m")[:2]  # the third has no object
    assert prepared.validation is not None
    source, validation = Dataset.from_folder(prepared.source), Dataset.from_folder(prepared.validation)
    for dataset, role in ((source, "source"), (validation, "validation")):
        assert [c.name for c in dataset.classes] == ["background", "crack", "rust"]
        for image_id in prepared.image_ids[role]:
            np.testing.assert_array_equal(mask_of(dataset, image_id), scene.masks[image_id])
    target = Dataset.from_folder(prepared.target)
    assert target.masks is None and not (prepared.target / "masks").exists()
    assert len(join([source, validation])) == 8
    for i in range(len(target)):
        image_id = image_id_of(target.images[i])  # type: ignore[arg-type]
        np.testing.assert_array_equal(target.image(i), scene.api.image.download_np(image_id))


def test_images_are_links_to_the_cache(scene: Scene) -> None:
    files = list((scene.prepare().target / "images").iterdir())
    assert files and all(path.stat().st_nlink == 2 for path in files)


def test_images_are_links_across_file_systems_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(existing: Path, path: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(folders.os, "link", refuse)
    prepared = scene.prepare()
    assert all(path.is_symlink() for path in (prepared.target / "images").iterdir())
    assert Dataset.from_folder(prepared.source).image(0).shape == (HEIGHT, WIDTH, 3)


def test_counts_and_notices(scene: Scene) -> None:
    prepared = scene.prepare()
    counts = {(c.role, c.project_name, c.dataset_path): (c.images, c.labelled) for c in prepared.counts}
    assert counts == {
        ("source", "synthetic", "a"): (2, 2),
        ("source", "synthetic", "a/inner"): (2, 2),
        ("source", "synthetic", "b"): (2, 2),
        ("target", "photos", "raw"): (5, 0),
        ("validation", "measured", "m"): (2, 2),
    }
    assert prepared.skipped_images == {("validation", "no objects"): 1}
    assert prepared.downloaded == 13
    assert any(notice.startswith("validation: 1 of 3 images left out (no objects)") for notice in prepared.notices)


def test_chosen_datasets_bring_those_inside_them_once(scene: Scene) -> None:
    chosen = ProjectChoice(scene.source, (scene.datasets["a"], scene.datasets["a/inner"]))
    images = list_images(scene.api, replace(scene.choice, source=(chosen, chosen))).images["source"]
    assert [image.id for image in images] == scene.ids("a", "a/inner")
    assert {image.dataset_path for image in images} == {"a", "a/inner"}


def test_several_sources_and_one_project_in_two_roles(scene: Scene) -> None:
    a, b, m = (scene.datasets[path] for path in ("a", "b", "m"))
    source = (ProjectChoice(scene.source, (b,)), ProjectChoice(scene.validation, (m,)))
    choice = replace(scene.choice, source=source, validation=ValidationChoice("project", (ProjectChoice(scene.source, (a,)),)))
    ids = scene.prepare(choice).image_ids
    assert ids["source"] == scene.ids("b") + scene.ids("m")[:2] and ids["validation"] == scene.ids("a", "a/inner")


def test_lists_longer_than_a_page(scene: Scene) -> None:
    scene.add_images("raw", 60, 0, prefix="more")
    assert len(list_images(scene.api, scene.choice).images["target"]) == 65


def test_equal_names_and_wrong_suffixes(scene: Scene) -> None:
    """All datasets have a "photo 0.png"; a JPEG that is called PNG is linked as what it is."""
    path = scene.folder / "wrong.png"
    path.write_bytes(cv2.imencode(".jpg", scene.noise(HEIGHT, WIDTH, 3))[1].tobytes())
    info = scene.api.image.upload_path(scene.datasets["raw"], "no suffix", str(path))
    prepared = scene.prepare()
    names = sorted(file.name for file in (prepared.target / "images").iterdir())
    assert f"photo_0_{scene.images['raw'][0].id}.png" in names and f"no_suffix_{info.id}.jpg" in names
    assert Dataset.from_folder(prepared.target).image(0).shape == (HEIGHT, WIDTH, 3)


def test_turned_photos(scene: Scene) -> None:
    """Labels are drawn on photos as they are shown, after the EXIF rotation, and so are masks."""
    path, exif = scene.folder / "turned.jpg", Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene.noise(WIDTH, HEIGHT, 3)).save(path, exif=exif)
    info = scene.api.image.upload_path(scene.datasets["b"], "turned.jpg", str(path))
    scene.label(info)
    source = Dataset.from_folder(scene.prepare().source)
    [index] = [i for i in range(len(source)) if source.name(i) == f"turned_{info.id}.jpg"]
    assert source.image(index).shape == (HEIGHT, WIDTH, 3)
    np.testing.assert_array_equal(source.mask(index), scene.masks[info.id])


def test_unlabelled_images_as_background(scene: Scene) -> None:
    scene.add_images("b", 1, 0, prefix="empty")
    choice = replace(
        scene.choice, unlabelled_source="background", validation=replace(scene.choice.validation, unlabelled="background")
    )
    prepared = scene.prepare(choice)
    empty, unlabelled = scene.images["b"][-1].id, scene.images["m"][-1].id
    assert empty in prepared.image_ids["source"] and unlabelled in prepared.image_ids["validation"]
    mask = mask_of(Dataset.from_folder(prepared.source), empty)
    assert mask is not None and mask.shape == (HEIGHT, WIDTH) and not mask.any()


def test_images_whose_chosen_objects_have_no_area_are_no_background(scene: Scene) -> None:
    [info] = scene.add_images("b", 1, 0, prefix="lines")
    line = sly.Label(sly.Polyline([[1, 1], [9, 9]]), META.get_obj_class("crack"))
    scene.api.annotation.upload_ann(info.id, sly.Annotation((HEIGHT, WIDTH), [line]))
    scene.label(scene.images["b"][0], extra=line)
    prepared = scene.prepare()
    assert info.id not in prepared.image_ids["source"]
    assert prepared.skipped_objects == {("source", "line"): 1}
    assert any("that are not drawn: 1 of shape 'line', which covers no pixels" in notice for notice in prepared.notices)


def test_target_labels_on_wish(scene: Scene) -> None:
    prepared = scene.prepare(replace(scene.choice, use_target_labels=True))
    target = Dataset.from_folder(prepared.target)
    for number, info in enumerate(scene.images["raw"]):
        mask = mask_of(target, info.id)
        assert (mask is None) == (number >= 2)
        if mask is not None:
            np.testing.assert_array_equal(mask, scene.masks[info.id])


def test_a_share_of_the_labelled_target_is_drawn_by_content(scene: Scene) -> None:
    scene.add_images("raw", 20, 20, prefix="labelled")
    choice = replace(scene.choice, validation=ValidationChoice("share", percent=40))
    first = scene.prepare(choice)
    validation, target = (set(first.image_ids[role]) for role in ("validation", "target"))
    assert 3 <= len(validation) <= 15 and not validation & target and validation | target == set(scene.ids("raw"))
    assert validation <= set(scene.masks)
    new = scene.add_images("raw", 10, 10, prefix="later")
    copy = scene.api.image.upload_id(scene.datasets["raw"], "copy.png", min(validation))  # not labelled
    later = scene.prepare(choice)
    assert set(later.image_ids["validation"]) - {info.id for info in new} == validation
    assert copy.id not in later.image_ids["target"]
    assert later.skipped_images["target", "same content as a validation image"] == 1


def test_no_validation(scene: Scene) -> None:
    prepared = scene.prepare(replace(scene.choice, validation=ValidationChoice()))
    assert prepared.validation is None and prepared.image_ids["validation"] == []


def test_another_choice_of_classes(scene: Scene) -> None:
    scene.prepare()
    scene.platform.calls.clear()
    choice = replace(scene.choice, classes=ClassChoice(("rust",), ignored=("crack",), background=False))
    prepared = scene.prepare(choice)
    mask = mask_of(Dataset.from_folder(prepared.source), scene.ids("a")[0])
    np.testing.assert_array_equal(mask, np.where(scene.masks[scene.ids("a")[0]] == RUST, 0, 255))
    assert downloads(scene.platform) == 0


# ---- what is refused, in words


def refusal(scene: Scene, choice: DataChoice) -> str:
    with pytest.raises(UserError) as caught:
        check_choice(list_images(scene.api, choice), choice)
    assert downloads(scene.platform) == 0
    return str(caught.value)


def test_a_dataset_in_two_roles(scene: Scene) -> None:
    said = refusal(scene, replace(scene.choice, target=(ProjectChoice(scene.source, (scene.datasets["a/inner"],)),)))
    assert said == (
        f"source and target: dataset 'a/inner' ({scene.datasets['a/inner']}) of project 'synthetic' is in both; "
        "remove it from one of them"
    )


def test_the_same_image_in_two_roles(scene: Scene) -> None:
    copy = scene.api.image.upload_id(scene.datasets["m"], "innocent.png", scene.ids("raw")[3])
    said = refusal(scene, scene.choice)
    assert said == (
        "target and validation: the same content is in both, 1 times: "
        f"image 'photo 3.png' (id {scene.ids('raw')[3]}) of dataset 'raw' in project 'photos' equals "
        f"image 'innocent.png' (id {copy.id}) of dataset 'm' in project 'measured'; remove it from one of them"
    )


def test_all_problems_at_once(scene: Scene) -> None:
    videos = scene.project("films", kind="videos")
    empty = scene.project("empty")
    choice = DataChoice(
        source=(ProjectChoice(scene.source, (9999,)), ProjectChoice(videos)),
        target=(ProjectChoice(123456), ProjectChoice(empty)),
        classes=ClassChoice(("Crack", "line", "unicorn")),
        validation=ValidationChoice("project"),
        unlabelled_source="perhaps",
    )
    lines = refusal(scene, choice).split("\n")
    for start in (
        "validation: no project is chosen",
        "unlabelled_source: 'perhaps' is unknown",
        "source: dataset 9999 is not in project 'synthetic'",
        f"source: project 'films' ({videos}) holds videos; choose a project of images",
        "target: project 123456 does not exist, is archived",
        f"target: project 'empty' ({empty}) has no images",
        "classes: 'Crack' is in none of the source projects; did you mean 'crack'?",
        "classes: 'line' has the shape line only, which covers no pixels",
        "classes: 'unicorn' is in none of the source projects; they have 'crack', 'dirt', 'line', 'rust', 'spall'.",
    ):
        assert sum(line.startswith(start) for line in lines) == 1, (start, lines)
    assert len(lines) == 9


def test_empty_roles(scene: Scene) -> None:
    said = refusal(scene, DataChoice((), (), CLASSES))
    assert said.split("\n") == [
        "source: no project is chosen; choose at least one",
        "target: no project is chosen; choose at least one",
    ]


def test_a_source_without_labels(scene: Scene) -> None:
    project = scene.project("unlabelled")
    scene.dataset("u", project)
    scene.add_images("u", 2, 0)
    said = refusal(scene, replace(scene.choice, source=(ProjectChoice(project),)))
    assert said.startswith("source: none of the 2 images can be used (2 with no objects); label some")


def test_a_share_of_nothing(scene: Scene) -> None:
    project = scene.project("unlabelled")
    scene.dataset("u", project)
    scene.add_images("u", 2, 0)
    choice = replace(scene.choice, target=(ProjectChoice(project),), validation=ValidationChoice("share"))
    assert refusal(scene, choice).startswith("validation: none of the 2 target images is labelled with the chosen classes")


def test_classes_without_objects(scene: Scene) -> None:
    assert refusal(scene, replace(scene.choice, classes=ClassChoice(("spall",)))).startswith(
        "classes: the source has no object of 'spall'"
    )
    choice = replace(scene.choice, classes=ClassChoice(("crack", "spall")))
    notices = check_choice(list_images(scene.api, choice), choice).notices
    assert any(notice.startswith("classes: 'spall' has no object in the source") for notice in notices)


def test_a_list_that_is_not_complete(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    method = application.METHODS["images.list"]

    def shortened(call: Any) -> Any:
        answer = method(call)
        return {**answer, "entities": answer["entities"][1:], "total": answer["total"] - 1}

    monkeypatch.setitem(application.METHODS, "images.list", shortened)
    assert "dataset 'raw' of project 'photos': the platform counts 5 images and lists 4" in refusal(scene, scene.choice)


def test_a_dataset_that_vanishes_meanwhile(scene: Scene) -> None:
    scene.platform.faults.add("figures.list", status=404)
    with pytest.raises(UserError, match=r"The platform has no objects of dataset \d+ \(any more\); reload the projects"):
        list_images(scene.api, scene.choice)


def test_a_wrong_token(scene: Scene) -> None:
    with pytest.raises(UserError, match=r"refuses access to project \d+ \(status 401\)"):
        list_images(scene.platform.api(token="wrong"), scene.choice)


# ---- what goes wrong on the way


def test_an_image_that_is_gone_is_named(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = scene.images["raw"][1]
    scene.platform.faults.add(BULK, times=None, status=404, when=lambda body: gone.id in body["imageIds"])
    scene.platform.faults.add(ONE, times=None, status=404, when=lambda body: body["id"] == gone.id)
    with pytest.raises(UserError) as caught:
        scene.prepare()
    assert str(caught.value) == (
        f"image 'photo 1.png' (id {gone.id}) of dataset 'raw' in project 'photos' is not on the platform any more; "
        "upload it again, or delete it from the dataset, and start again"
    )
    assert not list((scene.folder / "run").iterdir())


def test_an_annotation_that_is_gone_is_named(scene: Scene) -> None:
    gone = scene.images["b"][1]
    scene.platform.faults.add("annotations.bulk.info", times=None, status=404, when=lambda body: gone.id in body["imageIds"])
    with pytest.raises(UserError, match=rf"image 'photo 1.png' \(id {gone.id}\) of dataset 'b' in project 'synthetic' is not on"):
        scene.prepare()


FAULTS: dict[str, Callable[[LocalPlatform], object]] = {
    "500 three times": lambda platform: platform.faults.add(BULK, status=500, times=3),
    "too many requests": lambda platform: platform.faults.add(BULK, status=429, times=2),
    "images cut short": lambda platform: platform.faults.add(BULK, truncate=True, times=2),
    "a single image cut short": lambda platform: [
        platform.faults.add(BULK, status=404, times=1),
        platform.faults.add(ONE, truncate=True, times=2),
    ],
    "labels cut short": lambda platform: platform.faults.add("annotations.bulk.info", truncate=True, times=2),
    "alpha masks cut short": lambda platform: platform.faults.add("figures.bulk.download.geometry", truncate=True, times=2),
    "lists cut short": lambda platform: platform.faults.add("images.list", truncate=True, times=2),
    "connections reset": lambda platform: platform.faults.add("*", reset=True, times=3),
    "500 while listing": lambda platform: platform.faults.add("datasets.list", status=502, times=2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_pass(scene: Scene, fault: str) -> None:
    FAULTS[fault](scene.platform)
    heard: list[str] = []
    prepared = scene.prepare(progress=lambda text, done, total: heard.append(text))
    source = Dataset.from_folder(prepared.source)
    assert len(source) == 6 and len(Dataset.from_folder(prepared.target)) == 5
    for image_id in prepared.image_ids["source"]:
        np.testing.assert_array_equal(mask_of(source, image_id), scene.masks[image_id])
    assert any(text.startswith("The platform does not answer, trying again for") for text in heard)


def test_the_platform_is_away_for_three_seconds(scene: Scene) -> None:
    heard: list[str] = []

    def listen(text: str, done: int, total: int) -> None:
        if text == "Downloading images" and text not in heard:
            scene.platform.away(3)
        heard.append(text)

    prepared = scene.prepare(progress=listen)
    assert len(Dataset.from_folder(prepared.target)) == 5
    assert any(text.startswith("The platform does not answer, trying again for") for text in heard)


def test_the_platform_stays_away(scene: Scene) -> None:
    scene.platform.faults.add("*", times=None, status=503)
    with pytest.raises(UserError, match=r"did not answer for 1 seconds while asking for project \d+ .*what has arrived is kept"):
        scene.prepare(patience=1)


def test_a_request_that_hangs_is_asked_again(scene: Scene) -> None:
    scene.platform.faults.add("projects.info", delay=3)
    began = time.monotonic()
    patient = connection.Connection(scene.api, silence=0.3)
    assert patient.ask("the project", lambda api: api.project.get_info_by_id(scene.source)).name == "synthetic"
    assert time.monotonic() - began < 2


def test_damaged_images_are_not_taken(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Complete for HTTP, but not what was uploaded: once it is asked for again, time after time the image is named."""
    method, answers = application.METHODS[ONE], iter(range(100))
    scene.platform.faults.add(BULK, times=None, status=404)

    def damaged(call: Any) -> Any:
        return application.Response(b"nonsense") if next(answers) < limit else method(call)

    monkeypatch.setitem(application.METHODS, ONE, damaged)
    limit = 2
    assert len(Dataset.from_folder(scene.prepare().target)) == 5
    shutil.rmtree(scene.folder / "cache")
    limit = 100
    with pytest.raises(UserError, match=r"image 'photo \d.png' .* arrived damaged: 8 bytes instead of \d+"):
        scene.prepare()


def test_an_answer_without_some_of_the_images(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK raises KeyError; each is then asked for alone."""
    method = application.METHODS[BULK]

    def shortened(call: Any) -> Any:
        call.body["imageIds"] = call.body["imageIds"][:-1]
        return method(call)

    monkeypatch.setitem(application.METHODS, BULK, shortened)
    prepared = scene.prepare()
    assert len(Dataset.from_folder(prepared.target)) == 5


def test_an_answer_without_some_of_the_labels(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    method = application.METHODS["annotations.bulk.info"]
    missing = scene.ids("b")[1]
    monkeypatch.setitem(
        application.METHODS, "annotations.bulk.info", lambda call: [a for a in method(call) if a["imageId"] != missing]
    )
    with pytest.raises(
        UserError, match=rf"incomplete each time while asking for the labels of image 'photo 1.png' \(id {missing}\)"
    ):
        scene.prepare()


def test_an_image_of_another_kind(scene: Scene) -> None:
    path = scene.folder / "moving.gif"
    Image.fromarray(scene.noise(HEIGHT, WIDTH, 3)).save(path)
    scene.api.image.upload_path(scene.datasets["raw"], "moving.gif", str(path))
    assert refusal(scene, scene.choice).startswith(
        "1 of 14 images are of kinds that cannot be read: image/gif (1), among them image 'moving"
    )


# ---- the disk


def test_a_directory_that_cannot_be_used(scene: Scene) -> None:
    (scene.folder / "run").write_text("a file")
    with pytest.raises(UserError, match=r"Files cannot be read or written: .*File exists"):
        scene.prepare()


def test_too_small_a_disk_is_refused_before_the_download(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 9 * 10**8, 10**8))
    with pytest.raises(UserError, match=r"The disk is too small: .*cache has 0\.1 GB free, and 0\.5 GB are needed"):
        scene.prepare()
    assert downloads(scene.platform) == 0


def test_a_disk_that_fills_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a tiny file system where one can be mounted, else with a write that fails."""
    monkeypatch.setattr(preparation, "RESERVE", 0)
    monkeypatch.setattr(preparation, "LABEL_BASE", 0)
    cache = scene.folder / "cache"
    cache.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", cache], capture_output=True).returncode == 0
    try:
        if mounted:
            monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 0, 10**9))
        else:
            monkeypatch.setattr(Path, "write_bytes", _no_space)
        with pytest.raises(UserError, match=r"The disk is full: writing to .* failed\. Free space"):
            scene.prepare()
    finally:
        if mounted:
            subprocess.run(["umount", cache], check=True)


def _no_space(path: Path, content: bytes) -> int:
    raise OSError(errno.ENOSPC, "No space left on device", str(path))


# ---- Stop


@pytest.mark.parametrize("method", ["images.list", "annotations.bulk.info", BULK])
def test_stop_is_heard_within_a_second(scene: Scene, method: str) -> None:
    """Also while the platform is silent, or while an absent platform is waited for."""
    scene.platform.faults.add(method, times=None, delay=20)
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        scene.prepare(stop=stop.is_set)
    assert time.monotonic() - began < 2
    assert not list((scene.folder / "run").glob("*")) if (scene.folder / "run").exists() else True


def test_stop_while_the_platform_is_away(scene: Scene) -> None:
    scene.platform.faults.add("*", times=None, status=503)
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Stopped):
        scene.prepare(stop=stop.is_set)
    assert time.monotonic() - began < 2


# ---- the cache


def test_the_second_run_downloads_nothing(scene: Scene) -> None:
    first = scene.prepare()
    assert downloads(scene.platform) > 0
    scene.platform.calls.clear()
    second = scene.prepare(folder="other run")
    assert downloads(scene.platform) == 0 and second.downloaded == 0
    assert second.image_ids == first.image_ids and second.notices == first.notices
    for name in ("images", "masks"):
        files = sorted((first.source / name).iterdir())
        assert [path.read_bytes() for path in files] == [path.read_bytes() for path in sorted((second.source / name).iterdir())]


def test_a_run_may_be_prepared_again(scene: Scene) -> None:
    scene.prepare()
    prepared = scene.prepare(replace(scene.choice, source=(ProjectChoice(scene.source, (scene.datasets["b"],)),)))
    assert len(Dataset.from_folder(prepared.source)) == 2


def test_a_changed_label_is_fetched_again(scene: Scene) -> None:
    scene.prepare()
    info = scene.images["b"][0]
    scene.label(info)
    scene.platform.calls.clear()
    prepared = scene.prepare()
    assert scene.platform.calls["annotations.bulk.info"] == 1 and scene.platform.calls[BULK] == 0
    np.testing.assert_array_equal(mask_of(Dataset.from_folder(prepared.source), info.id), scene.masks[info.id])


def test_a_label_that_the_image_does_not_tell_of_is_fetched_again(scene: Scene) -> None:
    """Objects carry their own dates, so that it does not matter whether an edit changes the image's."""
    scene.prepare()
    platform, info = scene.platform, scene.images["b"][0]
    with platform.store.lock:
        date = platform.store.images.get(info.id)["updatedAt"]
        [rust] = [f for f in platform.store.figures.of(info.id) if f["geometryType"] == "bitmap"]
        geometry = sly.Bitmap(np.ones((3, 3), bool), sly.PointLocation(0, 0)).to_json()
        platform.store.figures.change(rust, geometry={"bitmap": geometry["bitmap"]})
        platform.store.images.get(info.id)["updatedAt"] = date
    mask = mask_of(Dataset.from_folder(scene.prepare().source), info.id)
    assert mask is not None and (mask[:3, :3] == RUST).all()


def test_a_renamed_class_is_noticed(scene: Scene) -> None:
    scene.prepare()
    meta = sly.ProjectMeta.from_json(scene.api.project.get_meta(scene.source))
    rust = meta.get_obj_class("rust")
    meta = meta.delete_obj_class("rust").add_obj_class(rust.clone(name="oxide"))
    content = meta.to_json()
    scene.api.project.update_meta(scene.source, content)
    prepared = scene.prepare(replace(scene.choice, classes=ClassChoice(("crack", "oxide"))))
    image_id = scene.ids("a")[0]
    np.testing.assert_array_equal(mask_of(Dataset.from_folder(prepared.source), image_id), scene.masks[image_id])


@pytest.mark.parametrize("kind", ["images", "annotations", "masks"])
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_damaged_entries_are_replaced(scene: Scene, kind: str, damage: str) -> None:
    scene.prepare()
    for path in (scene.folder / "cache" / kind).glob("*/*"):
        content = path.read_bytes()
        changed = bytes([content[-1] ^ 1])
        path.unlink()  # not in place, which would change the run's links, too
        path.write_bytes({"cut": content[: len(content) // 2], "changed": content[:-1] + changed, "empty": b""}[damage])
    prepared = scene.prepare()
    source = Dataset.from_folder(prepared.source)
    for i in range(len(source)):
        image_id = image_id_of(source.images[i])  # type: ignore[arg-type]
        np.testing.assert_array_equal(source.mask(i), scene.masks[image_id])
        np.testing.assert_array_equal(source.image(i), scene.api.image.download_np(image_id))


def test_images_whose_content_the_platform_does_not_know(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images by link have no hash, perhaps no size: they are known by id and date, and checked against what once arrived."""
    method = application.METHODS["images.list"]

    def nameless(call: Any) -> Any:
        answer = method(call)
        return {**answer, "entities": [{**image, "hash": None, "size": None} for image in answer["entities"]]}

    monkeypatch.setitem(application.METHODS, "images.list", nameless)
    assert scene.prepare().downloaded == 13
    assert scene.prepare().downloaded == 0
    damaged = next(path for path in (scene.folder / "cache/images").glob("*/*") if not path.suffix)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    assert scene.prepare().downloaded == 1


def test_a_count_that_includes_the_datasets_inside(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    method = application.METHODS["datasets.list"]

    def summed(call: Any) -> Any:
        answer = method(call)
        inside = {scene.datasets["a"]: 2}
        entities = [{**d, "imagesCount": d["imagesCount"] + inside.get(d["id"], 0)} for d in answer["entities"]]
        return {**answer, "entities": entities}

    monkeypatch.setitem(application.METHODS, "datasets.list", summed)
    assert scene.prepare().image_ids["source"] == scene.ids("a", "a/inner", "b")


def test_two_apps_share_a_cache(scene: Scene) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda folder: scene.prepare(folder=folder), ["one", "two"]))
    for prepared in both:
        source = Dataset.from_folder(prepared.source)
        for image_id in prepared.image_ids["source"]:
            np.testing.assert_array_equal(mask_of(source, image_id), scene.masks[image_id])
    assert not list((scene.folder / "cache").glob("*.part"))


def test_an_interrupted_download_goes_on(scene: Scene) -> None:
    scene.platform.faults.add(BULK, times=None, status=404, when=lambda body: scene.ids("raw")[0] in body["imageIds"])
    scene.platform.faults.add(ONE, times=None, status=404, when=lambda body: body["id"] == scene.ids("raw")[4])
    with pytest.raises(UserError):
        scene.prepare()
    scene.platform.faults.clear()
    assert 0 < scene.prepare().downloaded < 13


def test_forgotten_parts_are_removed(tmp_path: Path) -> None:
    old, new = tmp_path / "1-a.part", tmp_path / "1-b.part"
    for path in (old, new):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    Cache(tmp_path)
    assert not old.exists() and new.exists()


def test_the_default_cache_outlives_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPS_CACHE_DIR", str(tmp_path / "apps"))
    assert default_cache() == tmp_path / "apps" / "hrda"
    monkeypatch.setenv("APPS_CACHE_DIR", "/proc/nowhere")
    monkeypatch.setenv("SLY_APP_DATA_DIR", str(tmp_path))
    assert default_cache() == tmp_path / "cache"
