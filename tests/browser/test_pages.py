"""Both apps in Chromium, against the local platform: what a person clicks, and what they see."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import jsonpatch
import pytest
import requests
import yaml
from app_process import AppProcess
from playwright.sync_api import Browser, Locator, expect
from serve_scene import ServeProcess
from train_app_scene import Scene, start

from tests.browser.clicks import TIMEOUT, AppPage, chromium
from tests.browser.libraries import install
from tests.browser.pages import add_pages
from tests.browser.parity import components, unknown, uses
from tests.local_platform import LocalPlatform


class Apps:
    """Two training sessions and a serving one; `open` shows one in a tab."""

    def __init__(self, platform: LocalPlatform, scene: Scene) -> None:
        self.platform, self.scene = platform, scene
        self.stopped, self.finished = start(platform, scene), start(platform, scene)
        self.serve = ServeProcess(platform)

    def address(self, app: AppProcess) -> str:
        return f"{self.platform.session_url(app.task_id)}/"


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apps]:
    install()
    with ExitStack() as stack:
        platform = stack.enter_context(LocalPlatform(tmp_path_factory.mktemp("platform"), pages=add_pages))
        apps = Apps(platform, Scene(platform))
        processes = [apps.stopped, apps.finished, apps.serve]
        for app in processes:
            stack.callback(app.kill)
        threads = [threading.Thread(target=app.__enter__) for app in processes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(app.alive() for app in processes)
        yield apps


@pytest.fixture(scope="module")
def browser(apps: Apps) -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def page(apps: Apps, browser: Browser) -> AppPage:
    return AppPage(browser.new_context(viewport={"width": 1280, "height": 900}), apps.address(apps.stopped))


def test_the_stand_ins_bind_what_the_sdks_pages_use(apps: Apps, page: AppPage) -> None:
    """So that a page that works here works there."""
    for app in (apps.stopped, apps.serve):
        assert unknown(uses(requests.get(app.url).text), components(page.page)) == []


def test_a_tag_or_attribute_that_nobody_knows_is_told(page: AppPage) -> None:
    html = '<sly-card :title="t" :shadow="s" @fold="f"></sly-card><sly-new></sly-new><el-button :type="t" :tpye="t"></el-button>'
    assert unknown(uses(html), components(page.page)) == [
        "<el-button> has no attribute tpye",
        "<sly-card> has no attribute shadow",
        "<sly-card> has no event fold",
        "<sly-new> is no component",
    ]


def test_the_shell_applies_patches_as_the_sdk_means_them(page: AppPage) -> None:
    document = {"a": {"list": [1, 2, 3], "b/c~": {"x": 1}}, "gone": True}
    patch = [
        {"op": "replace", "path": "/a/list/1", "value": 20},
        {"op": "add", "path": "/a/list/0", "value": {"new": []}},
        {"op": "add", "path": "/a/list/-", "value": 4},
        {"op": "remove", "path": "/a/list/2"},
        {"op": "copy", "from": "/a/b~1c~0", "path": "/copied"},
        {"op": "replace", "path": "/a/b~1c~0/x", "value": None},
        {"op": "move", "from": "/gone", "path": "/kept"},
    ]
    shown = page.page.evaluate(
        """async ([document, patch]) => {
            const { applyPatch } = await import('/shell/patches.js');
            const watched = new Vue({ data: { document }, computed: { text() { return JSON.stringify(this.document) } } });
            watched.text;  // computed before, so that it is stale where a change is not seen
            applyPatch(watched.document, patch);
            return JSON.parse(watched.text);
        }""",
        [document, patch],
    )
    assert shown == jsonpatch.apply_patch(document, patch)


def test_labels_of_a_project_are_drawn_over_its_photos(apps: Apps, page: AppPage) -> None:
    project = page.page.context.new_page()
    project.goto(f"{apps.platform.address}/projects/{apps.scene.validation}/datasets")
    expect(project.locator(".photo").first).to_contain_text("5 labels", timeout=TIMEOUT)
    project.wait_for_function("() => document.querySelector('.photo canvas').width === 96", timeout=TIMEOUT)
    changed = project.evaluate(
        CHANGED_PIXELS, apps.scene.api.image.get_info_by_id(apps.scene.image_ids["measured"][0]).full_storage_url
    )
    assert 0 < changed < 96 * 80
    project.close()


# how many pixels of the first photo differ from the picture itself
CHANGED_PIXELS = """async url => {
    const image = await createImageBitmap(await (await fetch(url)).blob());
    const plain = new OffscreenCanvas(image.width, image.height).getContext('2d');
    plain.drawImage(image, 0, 0);
    const size = [0, 0, image.width, image.height];
    const before = plain.getImageData(...size).data;
    const after = document.querySelector('.photo canvas').getContext('2d').getImageData(...size).data;
    let changed = 0;
    for (let i = 0; i < before.length; i += 4) changed += before[i] !== after[i] || before[i + 1] !== after[i + 1] ? 1 : 0;
    return changed;
}"""


def test_choices_are_refused_in_words(page: AppPage) -> None:
    data = page.card("Source and target")
    page.press(data, "Select")
    page.says(data, "Target: choose the project with your real photos (they need no labels).")
    expect(page.card("Select Model").locator(".lock")).to_be_visible()


def choose_everything(page: AppPage, apps: Apps, iterations: int) -> None:
    """From the first card to the last before Start."""
    data = page.card("Source and target")
    add_project(page, page.field(data, "Target"), "photos")
    expect(data).not_to_contain_text("Target: choose the project")  # a refusal goes with its reason
    validation = page.field(data, "Validation")
    validation.get_by_text("Labelled photos of these projects").click()
    add_project(page, validation, "measured")
    page.press(data, "Select")
    model = page.card("Select Model")
    model.locator(".el-radio", has_text="Own encoder").click()
    page.press(model, "Select")
    page.press(page.card("Classes"), "Select")
    settings = page.card("Hyperparameters")
    expect(settings.locator(".lock")).to_have_count(0, timeout=TIMEOUT)
    page.write_yaml(settings, "iterations: wrong")
    page.says(settings, "iterations")
    page.write_yaml(settings, yaml.safe_dump(yaml.safe_load(apps.scene.state(iterations)["hyperparameters"])))
    expect(page.field(settings, "Iterations").locator("input")).to_have_value(str(iterations), timeout=TIMEOUT)
    uncheck(settings.locator(".el-checkbox", has_text="Evaluate with the platform's benchmark"))
    page.press(settings, "Select")
    expect(page.card("Training").locator(".lock")).to_have_count(0, timeout=TIMEOUT)


def add_project(page: AppPage, role: Locator, name: str) -> None:
    page.choose(page.field(role, "Project"), name)
    page.press(role, "Add this project")
    page.says(role, f"{name}: all datasets")


def uncheck(box: Locator) -> None:
    if "is-checked" in (box.locator(".el-checkbox__input").get_attribute("class") or ""):
        box.click()


def curve(page: AppPage) -> str:
    """How the first curve of the losses is drawn."""
    path = page.page.locator(".chart").filter(has_text="Losses").locator(".apexcharts-series path").first
    return path.get_attribute("d") or ""


def test_a_training_is_watched_from_two_tabs_and_stopped(apps: Apps, page: AppPage) -> None:
    choose_everything(page, apps, iterations=5000)
    name = page.field(page.card("Training"), "Experiment name").locator("input")
    name.fill("seen in a browser")
    other = AppPage(page.page.context, apps.address(apps.stopped))
    page.press(page.card("Training"), "Start")
    for tab in (page, other):
        tab.says(tab.card("Progress"), "iteration")
        expect(tab.field(tab.card("Training"), "Experiment name").locator("input")).to_have_value("seen in a browser")
    expect(page.page.locator(".chart").filter(has_text="Losses").locator(".apexcharts-series path").first).to_be_attached(
        timeout=TIMEOUT
    )
    before = curve(page)
    page.page.wait_for_function(
        """before => [...document.querySelectorAll('.chart')].filter(chart => chart.textContent.includes('Losses'))
            .some(chart => chart.querySelector('.apexcharts-series path').getAttribute('d') !== before)""",
        arg=before,
        timeout=TIMEOUT,
    )
    wait_for_preview(page)

    page.reload()  # in the middle of training
    page.says(page.card("Progress"), "iteration")
    page.says(page.field(page.card("Source and target"), "Target"), "photos: all datasets, 16 images")
    expect(page.field(page.card("Training"), "Experiment name").locator("input")).to_have_value("seen in a browser")
    wait_for_preview(page)
    assert curve(page)

    page.press(other.card("Training"), "Stop")
    for tab in (page, other):
        tab.says(tab.card("Training Artifacts"), "Folder in Team files")
    apps.stopped.wait_for_end()
    page.page.reload()  # the platform still shows what the app sent last
    page.says(page.card("Training Artifacts"), f"{apps.stopped.task_id}_HRDA")
    assert page.complaints == [] and other.complaints == []


def wait_for_preview(page: AppPage) -> None:
    """A picture, or a canvas, with something in it."""
    page.page.wait_for_function(
        """() => [...document.querySelectorAll('.card img, .card .gallery canvas')]
            .some(picture => (picture.naturalWidth || picture.width) > 50 && picture.offsetWidth > 50)""",
        timeout=TIMEOUT,
    )


def test_a_model_is_trained_deployed_and_predicts_on_a_photo(apps: Apps, browser: Browser) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    training, serving = AppPage(context, apps.address(apps.finished)), AppPage(context, apps.address(apps.serve))
    choose_everything(training, apps, iterations=6)
    training.press(training.card("Training"), "Start")
    training.says(training.card("Training Artifacts"), "Folder in Team files")
    apps.finished.wait_for_end()

    choice = serving.card("Select Model")
    serving.tab(choice, "Custom models")
    serving.press(serving.card("Serve Model"), "SERVE")
    serving.says(choice, "Choose one of the experiments first")
    serving.press(choice, "Look for new experiments")
    serving.says(choice, f"{apps.finished.task_id}")
    choice.locator(".fast-table tbody .el-radio").first.click()
    serving.press(serving.card("Serve Model"), "SERVE")
    serving.says(serving.card("Serve Model"), "successfully loaded on CPU")

    photos = context.new_page()
    photos.set_default_timeout(TIMEOUT)
    photos.goto(f"{apps.platform.address}/projects/{apps.scene.target}/datasets")
    photos.get_by_text("Predict", exact=True).first.click()
    expect(photos.locator(".photo").first).to_contain_text("predicted:", timeout=TIMEOUT)
    assert [*training.complaints, *set(serving.complaints)] == []
