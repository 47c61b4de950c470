"""What the user watches while a training runs: curves, previews over time, and a page that does not grow."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page import empty_page, page_size, type_into

from hrda_core.training.run_directory import RunDirectory
from train_app import preview_browser, training_view
from train_app.gallery import gallery
from train_app.preview_browser import MAX_MOMENTS, Moment, PreviewBrowser, preview_address, preview_file
from train_app.result import result_html
from train_app.training_view import MAX_CURVES, MAX_POINTS, Curves, TrainingView, curve_of, duration


@pytest.fixture(autouse=True)
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is refreshed by itself, unless a test wants it."""
    monkeypatch.setattr(training_view, "REFRESH", 1e5)
    with empty_page():
        yield


def told(kind: str, iteration: int, **fields: Any) -> dict[str, Any]:
    return {"event": kind, "iteration": iteration, "time": 1000.0 + iteration, **fields}


def evaluation(view: TrainingView, iteration: int, folder: str = "/run") -> None:
    """The events of one evaluation, as the trainer tells them."""
    values = {"validation/teacher/foreground_iou": 0.5, "validation/student/foreground_iou": 0.4}
    values |= {f"validation/teacher/iou/class {i}": 0.1 * i for i in range(5)}
    view.hear(told("Metrics", iteration, values=values | {"label_free/teacher/scale_agreement": 0.9}))
    files = {f"photo {i}": f"{folder}/previews/photo {i}_{iteration:06d}.jpg" for i in range(4)}
    view.hear(told("Preview", iteration, pictures=files))
    files = {f"label {i}": f"{folder}/previews/validation/label {i}_{iteration:06d}.jpg" for i in range(4)}
    view.hear(told("Comparison", iteration, pictures=files))


# ---- curves


def test_curves_stay_small_and_a_resumed_run_replaces_its_points() -> None:
    curves = Curves()
    for iteration in range(0, 20_000, 2):
        curves.add(iteration, {"loss/source": 0.5})
    points = curves.series["Losses"]["source"]
    assert len(points) <= MAX_POINTS
    assert (points[0][0], points[-1][0]) == (0, 19_998)
    curves.add(10_000, {"loss/source": 0.25})
    points = curves.series["Losses"]["source"]
    assert points[-1] == (10_000, 0.25) and points == sorted(points)


def test_very_many_classes_do_not_fill_the_page() -> None:
    curves = Curves()
    curves.add(1, {f"validation/teacher/iou/{i}": 0.5 for i in range(200)})
    assert len(curves.series["IoU per class"]) == MAX_CURVES


def test_the_baselines_iou_stays_beside_the_adapted_one_and_its_losses_go() -> None:
    curves = Curves()
    curves.add(500, {"validation/teacher/foreground_iou": 0.2, "loss/source": 0.3}, baseline=True)
    curves.add(100, {"validation/teacher/foreground_iou": 0.4, "loss/source": 0.2})
    assert curves.series["Foreground IoU"] == {"teacher, not adapted": [(500, 0.2)], "teacher": [(100, 0.4)]}
    assert curves.series["Losses"] == {"source": [(100, 0.2)]}


def test_where_metrics_are_drawn() -> None:
    assert curve_of("learning_rate") == ("Learning rate", "encoder")
    assert curve_of("pseudo/confident") == ("Pseudo-labels", "confident")
    assert curve_of("validation/student/foreground_iou") == ("Foreground IoU", "student")
    assert curve_of("validation/teacher/iou/crack") == ("IoU per class", "crack")
    assert curve_of("label_free/teacher/scale_agreement") == ("Scores without labels", "scale agreement")
    assert curve_of("validation/teacher/tuned_threshold") is None


def test_durations() -> None:
    assert [duration(s) for s in (0, 59, 70, 4000, 7200)] == ["0 s", "59 s", "1 min 10 s", "1 h 6 min", "2 h"]


# ---- previews over time


def test_every_evaluation_can_be_looked_at_again() -> None:
    browser = PreviewBrowser("preview", "Your photos", "")
    for iteration in (200, 400, 600):
        browser.add(Moment("adapt", iteration, {"a": f"previews/a_{iteration}.jpg"}))
    browser.show()
    assert browser.text.text == "Adapt, after 600 iterations (3 of 3)"
    assert (browser.slider.get_max(), browser.slider.get_value()) == (2, 2)
    browser.choose(0)
    assert "previews/a_200.jpg" in browser.pictures.text and browser.slider.get_value() == 0
    browser.add(Moment("adapt", 800, {"a": "previews/a_800.jpg"}))  # who looks at an earlier one is not disturbed
    browser.show()
    assert browser.text.text == "Adapt, after 200 iterations (1 of 4)"
    browser.choose(9)
    browser.add(Moment("adapt", 1000, {"a": "previews/a_1000.jpg"}))
    browser.show()
    assert browser.text.text == "Adapt, after 1000 iterations (5 of 5)"


def test_a_value_that_a_browser_clamps_is_no_choice_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    browser = PreviewBrowser("preview", "Your photos", "")
    for iteration in (200, 400, 600):
        browser.add(Moment("adapt", iteration, {}))
    browser.show()
    type_into(browser.slider, value=1)
    browser._slider_moved(1)
    assert browser.text.text == "Adapt, after 600 iterations (3 of 3)" and browser.slider.get_value() == 2
    monkeypatch.setattr(preview_browser, "ECHO", 0.0)
    browser._slider_moved(1)
    assert browser.text.text == "Adapt, after 400 iterations (2 of 3)"


def test_a_resumed_run_replaces_its_evaluations_and_the_baselines_stay() -> None:
    browser = PreviewBrowser("preview", "Your photos", "")
    for stage, iteration in (("source-only baseline", 200), ("adapt", 200), ("adapt", 400), ("adapt", 400)):
        browser.add(Moment(stage, iteration, {}))
    browser.show()
    assert browser.text.text == "Adapt, after 400 iterations (3 of 3)"


def test_a_browser_without_pictures_is_not_shown() -> None:
    browser = PreviewBrowser("comparison", "Validation images", "")
    assert browser.widget.is_hidden()
    browser.add(Moment("adapt", 200, {}))
    browser.show()
    assert not browser.widget.is_hidden() and browser._time.is_hidden()  # one moment is nothing to choose from


def test_very_many_evaluations_are_thinned_out_around_the_one_that_is_looked_at() -> None:
    browser = PreviewBrowser("preview", "Your photos", "")
    for iteration in range(1, 40):
        browser.add(Moment("adapt", iteration, {}))
    browser.choose(19)
    for iteration in range(40, 3000):
        browser.add(Moment("adapt", iteration, {}))
    browser.show()
    assert len(browser._moments) <= MAX_MOMENTS
    assert (browser._moments[0].iteration, browser._moments[-1].iteration) == (1, 2999)
    assert browser._moments[browser._chosen].iteration == 20


def test_addresses_of_pictures_lead_back_to_them(tmp_path: Path) -> None:
    for folder in ("previews", "baseline/previews", "previews/validation"):
        (tmp_path / folder).mkdir(parents=True)
        path = tmp_path / folder / "a #1?_000003.jpg"
        path.write_bytes(b"x")
        address = preview_address(str(path), 7)
        assert address.endswith("a%20%231%3F_000003.jpg?7") and address.startswith("previews/")
        name = address.removeprefix("previews/").removesuffix("?7").replace("%20", " ").replace("%23", "#").replace("%3F", "?")
        assert preview_file(tmp_path, name) == path
    (tmp_path / "config.yaml").write_bytes(b"x")
    for name in (
        "../config.yaml",
        "baseline/../../config.yaml",
        "..\\a.jpg",
        "b.jpg",
        "previews/a_000003.jpg",
        "validation/../a.jpg",
    ):
        assert preview_file(tmp_path, name) is None


def test_a_gallery_escapes_what_users_wrote() -> None:
    html = gallery([('<b>"x"</b>', "a&b.jpg")], width=100)
    assert "<b>" not in html and 'src="a&amp;b.jpg"' in html and "&lt;b&gt;" in html
    assert gallery([], 100) == ""


# ---- the page


def test_the_page_shows_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_view, "REFRESH", 0.0)
    view = TrainingView()
    view.hear(told("Stage", 0, name="adapt"))
    view.hear(told("Progress", 10, total=100))
    view.hear(told("Progress", 20, total=100))
    evaluation(view, 20)
    assert view.status.text == "Adapt: iteration 20 of 100, 1 min 20 s left"
    assert view.charts["Foreground IoU"]._series[0] == {"name": "teacher", "data": [{"x": 20, "y": 0.5}] * 2}
    assert "previews/photo%200_000020.jpg?1020" in view.previews.pictures.text
    assert "previews/validation/label%203_000020.jpg?1020" in view.comparisons.pictures.text


def test_the_end_and_a_stop_are_not_hidden_by_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_view, "REFRESH", 0.0)
    view = TrainingView()
    view.hear(told("Stage", 0, name="adapt"))
    view.hear(told("Progress", 100, total=100))
    assert view.status.text == "Adapt: iteration 100 of 100, evaluation and report follow"
    view.say_stopping("Stopping ...")
    view.hear(told("Progress", 20, total=100))
    assert view.status.text == "Stopping ..."
    view.say("Uploading ...")
    assert view.status.text == "Uploading ..."
    view.reset()
    view.hear(told("Progress", 30, total=100))
    assert view.status.text.startswith("Adapt: iteration 30 of 100")


def test_the_page_tells_what_images_are_read_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_view, "REFRESH", 0.0)
    view = TrainingView()
    for stage in ("checking data", "reading the colours of photos"):
        view.hear(told("Stage", 0, name=stage))
        view.hear(told("Preparation", 0, done=3, total=200))
        assert view.status.text == f"{stage.capitalize()}: 3 of 200 images"


def test_the_page_tells_that_photos_are_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not count that as time of iterations."""
    monkeypatch.setattr(training_view, "REFRESH", 0.0)
    view = TrainingView()
    view.hear(told("Stage", 0, name="adapt"))
    view.hear(told("Progress", 10, total=100))
    view.hear(told("Sizing", 10, done=7, total=480))
    assert view.status.text == "Choosing the size at which to see photos: 7 of 480"
    view.hear(told("Labelling", 10, done=3, total=8))
    assert view.status.text == "The teacher labels photos: 3 of 8"
    view.hear(told("Counting", 10, done=5, total=64))
    assert view.status.text == "Counting the foreground that is found in photos: 5 of 64"
    view.hear(told("Progress", 11, total=100))
    assert view.status.text == "Adapt: iteration 11 of 100"
    view.hear(told("Progress", 21, total=100))
    assert view.status.text.startswith("Adapt: iteration 21 of 100, 1 min 19 s left")


def test_the_page_changes_about_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_view, "REFRESH", 0.2)
    view, changes = TrainingView(), []
    monkeypatch.setattr(view.charts["Losses"], "set_series", lambda series, send_changes: changes.append(series))
    view.say("begins")
    for iteration in range(100):
        view.hear(told("Metrics", iteration, values={"loss/source": 1.0}))
    assert len(changes) < 20
    _wait(lambda: len(changes[-1][0]["data"]) == 100 if changes else False)  # the last ones come without another event


def test_the_page_does_not_grow_however_long_the_run() -> None:
    view, sizes = TrainingView(), {}
    view.hear(told("Stage", 0, name="adapt"))
    for iteration in range(1, 3001):
        losses = {"loss/source": 1 / iteration, "loss/mixed": 0.5, "pseudo/confident": 0.123456, "learning_rate": 6e-5}
        view.hear(told("Metrics", iteration, values=losses))
        view.hear(told("Progress", iteration, total=3000))
        if iteration % 2 == 0:
            evaluation(view, iteration)
        view.notice(f"notice {iteration}")
        if iteration % 600 == 0:
            view._refresh()
            sizes[iteration] = page_size()
    assert max(sizes.values()) < 1.5 * sizes[600]
    assert sizes[3000] < 300_000
    assert len(view.previews._moments) <= MAX_MOMENTS


def test_a_relaunched_task_shows_what_was_there(tmp_path: Path) -> None:
    for folder in ("previews/validation", "baseline/previews"):
        (tmp_path / folder).mkdir(parents=True)
    for name in (
        "previews/a_000200.jpg",
        "previews/a_000400.jpg",
        "previews/validation/v_000400.jpg",
        "baseline/previews/a_000400.jpg",
    ):
        (tmp_path / name).write_bytes(b"x")
    lines = [{"iteration": i, "loss/source": 1.0, "validation/teacher/foreground_iou": 0.1} for i in (200, 400)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"iteration": 6')
    (tmp_path / "baseline" / "metrics.jsonl").write_text(json.dumps(lines[1]) + "\n")
    view = TrainingView()
    view.restore(RunDirectory(tmp_path), "adapt")
    assert view.curves.series["Losses"]["source"] == [(200, 1.0), (400, 1.0)]
    assert view.curves.series["Foreground IoU"]["teacher, not adapted"] == [(400, 0.1)]
    assert view.previews.text.text == "Adapt, after 400 iterations (3 of 3)"
    assert view.comparisons.text.text == "Adapt, after 400 iterations (1 of 1)"
    type_into(view.previews.slider, value=0)
    view.previews.choose(0)
    assert view.previews.text.text == "Source-only baseline, after 400 iterations (1 of 3)"
    view.reset()
    assert view.previews.widget.is_hidden() and not view.curves.series["Losses"]


def test_at_the_end_pictures_come_from_where_they_stay() -> None:
    view = TrainingView()
    view.hear(told("Stage", 0, name="adapt"))
    for iteration in (200, 400):
        evaluation(view, iteration)
    kept = {f"previews/photo {i}_000400.jpg": f"https://files/{i}" for i in range(4)}
    view.finish("Finished", kept)
    assert view.status.text == "Finished"
    assert view.previews.text.text == "Adapt, after 400 iterations (1 of 1)" and "https://files/3" in view.previews.pictures.text
    assert view.comparisons.widget.is_hidden()


def test_the_result_tells_where_everything_is_and_how_to_deploy_it() -> None:
    html = result_html("/experiments/1_a/7_HRDA/", 7, {"report.html": "https://r?a&b", "checkpoints/best.pth": "https://c"})
    assert 'href="https://r?a&amp;b"' in html and 'href="https://c"' in html
    assert (
        "the experiment of task 7" in html and "nn.deploy(model=&#x27;/experiments/1_a/7_HRDA/checkpoints/best.pth&#x27;)" in html
    )
    assert "report.html" not in result_html("/x/", 7, {})


def _wait(condition: Any) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
