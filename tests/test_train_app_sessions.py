"""Sessions of Train HRDA that do not go straight: two requests, several sources, a baseline, stops, renamed classes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import supervisely as sly
import torch
from app_process import PATIENCE
from train_app_scene import CLASSES, META, Experiment, Scene, iterations, refusal, start, train

from hrda_core import TrainConfig
from tests.local_platform import LocalPlatform


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    with LocalPlatform(tmp_path_factory.mktemp("platform")) as platform:
        yield platform


@pytest.fixture(scope="module")
def scene(platform: LocalPlatform) -> Scene:
    return Scene(platform)


def test_several_sources_a_baseline_and_an_export(platform: LocalPlatform, scene: Scene, tmp_path: Path) -> None:
    """The second source has classes of its own. Of the checkpoints, the experiment lists those of the run and the best of the
    baseline, all with the model's classes inside; the exported file's classes begin with the background."""
    more = scene.add_source("more", "moss")
    state = scene.state(6, schedule={"keep_checkpoints": 1, "checkpoint_every": 2})
    state["input"]["source"] = [scene.source, {"project_id": more, "dataset_ids": []}]
    state["classes"] = ["crack", "moss"]
    state["options"] |= {"baseline": True, "export": {"enable": True, "ONNXRuntime": True, "TensorRT": False}}
    with start(platform, scene) as app:
        assert train(app, state).ok, app.log()[-6000:]
        app.wait_for_end()
    experiment = Experiment(scene, app.task_id)
    info = experiment.json("experiment_info.json", tmp_path)
    expected = ["baseline_best.pth", "best.pth", "iteration_000006.pth", "last.pth"]
    assert sorted(info["checkpoints"]) == [f"checkpoints/{name}" for name in expected]
    for name in expected:
        content = torch.load(experiment.fetch(f"checkpoints/{name}", tmp_path), weights_only=True)
        assert [item["title"] for item in content["model_meta"]["classes"]] == ["background", "crack", "moss"]
    assert info["train_size"] == 34 + 4
    assert info["export"] == {"ONNXRuntime": "export/best.onnx"}
    assert list(experiment.json("export/classes.json", tmp_path).values()) == ["background", "crack", "moss"]
    config = TrainConfig.load(experiment.fetch("config.yaml", tmp_path))
    assert (config.data.source, config.data.target, config.baseline) == ((), (), True)  # no places of the agent's disk


def test_the_platforms_own_evaluation_where_it_can_run_and_why_not_elsewhere(
    platform: LocalPlatform, scene: Scene, tmp_path: Path
) -> None:
    state = scene.state(6)
    state["options"]["model_benchmark"] = {"enable": True, "speed_test": False}
    bitmaps = scene.add_bitmaps("bitmaps")
    for project, classes, words in ((scene.validation, ["crack", "joint"], "it compares bitmaps only"), (bitmaps, ["crack"], "")):
        state |= {"classes": classes}
        state["input"]["validation"]["projects"] = [project]
        with start(platform, scene) as app:
            assert train(app, state).ok, app.log()[-6000:]
            app.wait_for_end()
        info = Experiment(scene, app.task_id).json("experiment_info.json", tmp_path)
        if words:
            assert words in app.log() and info["evaluation_report_id"] is None
        else:
            assert "report was not made" not in app.log(), app.log()[-9000:]
            assert info["evaluation_report_id"] and info["evaluation_report_link"].startswith("http")
            assert 0 <= info["evaluation_metrics"]["mIoU"] <= 1
    assert not platform.unknown


def test_a_second_request_changes_nothing_of_the_training_that_runs(
    platform: LocalPlatform, scene: Scene, tmp_path: Path
) -> None:
    """And pressing Stop twice saves as pressing it once does."""
    with start(platform, scene) as app:
        assert train(app, {**scene.state(4000), "experiment_name": "first"}, wait=False).ok
        app.wait(lambda: iterations(app) >= 5, PATIENCE, "training did not begin")
        for wait in (True, False):
            answer = train(app, {**scene.state(7), "classes": ["crack"], "experiment_name": "second"}, wait)
            assert answer.status_code == 400
            assert "A training is running; stop it first" in answer.json()["error"]
        assert app.post("stop_training").ok
        assert app.post("stop_training").ok
        app.wait_for_end()
    experiment = Experiment(scene, app.task_id)
    state = experiment.json("app_state.json", tmp_path)
    assert (state["experiment_name"], state["classes"]) == ("first", CLASSES)
    assert experiment.json("experiment_info.json", tmp_path)["experiment_name"] == "first"
    assert "iterations: 4000" in experiment.fetch("hyperparameters.yaml", tmp_path).read_text()


def test_stopped_in_the_baseline_it_is_the_result_and_other_settings_begin_anew(
    platform: LocalPlatform, scene: Scene, tmp_path: Path
) -> None:
    state = scene.state(4000, adaptation={"source_warmup": 3900})
    state["options"]["baseline"] = True
    with start(platform, scene) as app:
        assert train(app, state, wait=False).ok
        app.wait(lambda: iterations(app) >= 5, PATIENCE, "training did not begin")
        assert app.post("stop_training").ok
        app.wait_for_end()
    experiment = Experiment(scene, app.task_id)
    assert {"checkpoints/best.pth", "checkpoints/last.pth", "report.html", "experiment_info.json"} <= experiment.files
    assert "It is the baseline, which does not adapt" in app.log()
    with start(platform, scene, app.task_id) as app:
        assert train(app, scene.state(6, optimisation={"learning_rate": 1e-4})).ok, app.log()[-6000:]
        app.wait_for_end()
    lines = experiment.fetch("metrics.jsonl", tmp_path).read_text().splitlines()
    assert [entry["iteration"] for entry in map(json.loads, lines) if "loss/source" in entry] == [2, 4, 6]


@pytest.mark.parametrize("moment", ["adapt", "Uploading artifacts directory"])
def test_a_class_that_is_renamed_while_the_app_is_away(platform: LocalPlatform, moment: str) -> None:
    """A trained model is uploaded all the same; a training cannot go on, which is told, and the session stays for a new one."""
    scene = Scene(platform)
    with start(platform, scene) as app:
        assert train(app, scene.state(6 if moment != "adapt" else 4000), wait=False).ok
        app.wait(lambda: moment in app.log() and iterations(app) >= 5, 200, f"no {moment!r}")
        app.kill()
    renamed = [item.clone(name="Rust") if item.name == "rust" else item for item in META.obj_classes]
    scene.api.project.update_meta(scene.source, sly.ProjectMeta(renamed))
    with start(platform, scene, app.task_id) as app:
        if moment == "adapt":
            assert "classes: rust not in the source, which has Rust" in app.status()
            assert "rust not in the source" in refusal(app, scene.state())
        else:
            app.wait_for_end()
            assert "experiment_info.json" in Experiment(scene, app.task_id).files


def test_a_stop_is_remembered_by_a_relaunched_task(platform: LocalPlatform, scene: Scene, tmp_path: Path) -> None:
    with start(platform, scene) as app:
        assert train(app, scene.state(4000), wait=False).ok
        app.wait(lambda: iterations(app) >= 5, PATIENCE, "training did not begin")
        app.post("stop_training")
        app.wait(lambda: "Finalizing training" in app.log(), PATIENCE, "no end")
        app.kill()
    with start(platform, scene, app.task_id) as app:
        app.wait_for_end()
    last = torch.load(Experiment(scene, app.task_id).fetch("checkpoints/last.pth", tmp_path), weights_only=True)
    assert last["provenance"]["iteration"] < 4000


def test_the_page_of_an_experiment_starts_the_app_with_a_state_as_text(
    platform: LocalPlatform, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it lacks is said on the first card; the app is there."""
    state: dict[str, Any] = scene.state()
    monkeypatch.setenv("modal.state.guiState", json.dumps({**state, "input": {}}))
    with start(platform, scene) as app:
        assert "Target: choose the project with your real photos" in app.log()
        monkeypatch.delenv("modal.state.guiState")
        assert app.post("app_state").json()["classes"] == CLASSES
