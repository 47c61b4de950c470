"""Train HRDA as a process in production mode, driven through its API, against the local platform and the unmodified SDK."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from app_process import PATIENCE, AppProcess
from train_app_scene import CLASSES, Experiment, Scene, iterations, refusal, start, train

from hrda_core import Predictor, TrainConfig
from tests.local_platform import LocalPlatform

INDEX_NAMES = ["background", *CLASSES]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    with LocalPlatform(tmp_path_factory.mktemp("platform")) as platform:
        yield platform


@pytest.fixture(scope="module")
def scene(platform: LocalPlatform) -> Scene:
    return Scene(platform)


# ---- a training from beginning to end


@pytest.fixture(scope="module")
def finished(platform: LocalPlatform, scene: Scene) -> tuple[Scene, int]:
    """A task that trained to the end by one request."""
    with start(platform, scene) as app:
        answer = train(app, {**scene.state(), "experiment_name": "first try"})
        assert answer.json() == {"result": "model was successfully trained"}, app.log()[-6000:]
        app.wait_for_end()
        assert app.process is not None and app.process.returncode == 0
        assert "Traceback" not in app.log()
    return scene, app.task_id


def test_the_experiment_is_as_the_platform_expects_it(finished: tuple[Scene, int], tmp_path: Path) -> None:
    scene, task_id = finished
    experiment = Experiment(scene, task_id)
    assert experiment.files >= {
        *("checkpoints/best.pth", "checkpoints/last.pth", "config.yaml", "experiment_info.json", "app_state.json"),
        *("hyperparameters.yaml", "train_val_split.json", "model_meta.json", "report.html", "metrics.jsonl", "data.json"),
    }
    info = experiment.json("experiment_info.json", tmp_path)
    required = "experiment_name framework_name model_name task_type project_id task_id model_files model_meta checkpoints"
    assert set(info) >= {*required.split(), "best_checkpoint", "hyperparameters", "artifacts_dir"}
    assert info["experiment_name"] == "first try"
    assert (info["framework_name"], info["project_id"], info["task_id"]) == ("HRDA", scene.source, task_id)
    assert info["best_checkpoint"] == "best.pth"
    assert sorted(info["checkpoints"]) == ["checkpoints/best.pth", "checkpoints/last.pth"]
    assert info["artifacts_dir"] == experiment.directory
    assert info["primary_metric"] == "score" and 0 <= info["evaluation_metrics"]["score"] <= 1
    assert (info["train_size"], info["target_size"], info["val_size"]) == (34, 16, 10)
    registered = scene.platform.task(task_id)["meta"]["output"]["experiment"]["data"]
    assert {key: registered[key] for key in info} == info
    assert TrainConfig.load(experiment.fetch("config.yaml", tmp_path)).optimisation.iterations == 6


def test_model_meta_has_the_background_and_all_classes_as_bitmaps(finished: tuple[Scene, int], tmp_path: Path) -> None:
    scene, task_id = finished
    meta = Experiment(scene, task_id).json("model_meta.json", tmp_path)
    assert [item["title"] for item in meta["classes"]] == INDEX_NAMES
    assert {item["shape"] for item in meta["classes"]} == {"bitmap"}


def test_every_image_of_every_role_is_recorded(finished: tuple[Scene, int], tmp_path: Path) -> None:
    scene, task_id = finished
    experiment, ids = Experiment(scene, task_id), scene.image_ids
    split = experiment.json("train_val_split.json", tmp_path)
    assert sorted(split["train"]) == sorted(ids["roads"] + ids["wet"])
    assert sorted(split["target"]) == sorted(ids["photos"])
    assert sorted(split["val"]) == sorted(ids["measured"] + ids["inner"])
    datasets = experiment.json("data.json", tmp_path)["datasets"]
    assert {(row["role"], row["dataset_path"], row["images"]) for row in datasets} == {
        *(("source", "roads", 20), ("source", "roads/wet", 14), ("target", "photos", 16)),
        *(("validation", "measured", 6), ("validation", "measured/inner", 4)),
    }


def test_the_checkpoint_alone_predicts_and_holds_no_code(finished: tuple[Scene, int], tmp_path: Path) -> None:
    scene, task_id = finished
    path = Experiment(scene, task_id).fetch("checkpoints/best.pth", tmp_path)
    content = torch.load(path, weights_only=True)
    assert content["model_info"] == {
        **{"task_id": task_id, "model_name": "test_efficientnet", "framework": "HRDA"},
        **{"checkpoint": "best.pth", "experiment": "first try"},
    }
    assert [item["title"] for item in content["model_meta"]["classes"]] == INDEX_NAMES
    assert content["model_files"]["config"]["name"] == "config.yaml"
    (prediction,) = Predictor(path, "cpu").predict([np.zeros((70, 90, 3), np.uint8)])
    assert prediction.labels.shape == (70, 90)


def test_nothing_was_asked_that_the_local_platform_does_not_know(finished: tuple[Scene, int]) -> None:
    platform = finished[0].platform
    assert not platform.unknown
    assert not platform.errors


def test_an_app_state_of_an_experiment_starts_the_same_training_again(finished: tuple[Scene, int], tmp_path: Path) -> None:
    scene, task_id = finished
    state = Experiment(scene, task_id).json("app_state.json", tmp_path)
    assert state["input"]["validation"]["projects"] == [{"project_id": scene.validation, "dataset_ids": []}]
    with start(scene.platform, scene) as app:
        scene.platform.calls.clear()
        assert train(app, state).ok, app.log()[-6000:]
        app.wait_for_end()
    assert not scene.platform.calls["images.bulk.download"] + scene.platform.calls["images.download"]  # from the cache
    again = Experiment(scene, app.task_id).json("app_state.json", tmp_path)
    assert again == state


# ---- what is refused, in words, before and during training; the session goes on


@pytest.fixture(scope="module")
def session(platform: LocalPlatform, scene: Scene) -> Iterator[AppProcess]:
    with start(platform, scene) as app:
        yield app


def test_wrong_choices_are_refused_in_words(session: AppProcess, scene: Scene) -> None:
    state = scene.state()
    for changes, words in (
        ({"input": {}}, "Target: choose the project with your real photos"),
        ({"input": {"target": [scene.source]}}, "dataset 'roads'"),
        ({"input": {"target": [999]}}, "project 999 does not exist"),
        ({"input": {"targets": [scene.target]}}, "input has no field 'targets'; there are project_id, source, target"),
        ({"classes": ["crack", "moss"]}, "classes: moss not in the source, which has crack, joint, patch, rust, stain"),
        ({"classes": []}, "leaves nothing to find; choose at least one class"),
        ({"classes": "crack"}, "classes='crack': give a list of class names"),
        ({"model": "pvt"}, "model='pvt': give source and name"),
        ({"modell": {}}, "app_state has no field 'modell'; there are input, model, classes"),
        ({"options": {"device": "cpu"}}, "options has no field 'device'; there are cache_project"),
        ({"options": {"devices": ["cpu", "cuda:1"]}}, "options.devices=['cpu', 'cuda:1']: several must be different GPUs"),
        (
            {"options": {"devices": "cuda:1"}},
            "options.devices='cuda:1': give a list, ['cuda:0'], ['cpu'] or ['cuda:0', 'cuda:1']",
        ),
        ({"options": {"devices": ["cuda:0"]}}, "device='cuda:0': this machine has 0 CUDA devices"),
        ({"options": {"continue_run": True}}, "choose its last.pth as a custom model, or switch it off"),
        ({"options": {"model_benchmark": False}}, "options.model_benchmark=False: give"),
        ({"input": {"target": [scene.target], "unlabelled_source": "ignore"}}, "input.unlabelled_source='ignore': use skip or"),
        ({"experiment_name": "a/b"}, "experiment_name='a/b': give a name without slashes"),
        ({"model": {"source": "Pretrained models", "model_name": "unet"}}, "model.model_name='unet': use one of pvt_v2_b2"),
        ({"hyperparameters": "optimisation: {iterations: -5}"}, "optimisation.iterations=-5: use at least 1"),
        ({"hyperparameters": "optimization: {}"}, "optimization"),
        ({"hyperparameters": "preset: huge"}, "preset='huge': use one of quick, cracks, standard"),
        ({"hyperparameters": "device: cuda:3"}, "the device is chosen in the Training card"),
    ):
        said = refusal(session, {**state, **changes})
        assert words in said, said
        assert session.alive()


def test_an_image_that_is_gone_is_named(session: AppProcess, scene: Scene, platform: LocalPlatform) -> None:
    """404 on one image: nothing is skipped silently."""
    gone = scene.image_ids["photos"][3]
    for method in ("images.bulk.download", "images.download"):
        platform.faults.add(method, status=404, times=50, when=lambda body: gone in (body.get("id"), *body.get("imageIds", [])))
    state = scene.state()
    state["options"]["cache_project"] = False
    try:
        said = refusal(session, state)
    finally:
        platform.faults.clear()
    assert "photos 3.png" in said and "'photos'" in said


def test_a_loss_that_is_not_finite_ends_in_words(session: AppProcess, scene: Scene) -> None:
    said = refusal(session, scene.state(20, optimisation={"learning_rate": 1e30}))
    assert "became nan at iteration" in said and "lower optimisation.learning_rate" in said
    assert "completed" not in session.status()
    assert session.alive()


def test_out_of_memory_ends_in_words(platform: LocalPlatform, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HRDA_TRAINER", "tests.trainer_without_memory")
    with start(platform, scene) as app:
        said = refusal(app, scene.state())
    assert "Out of memory on cpu at iteration 0" in said and "optimisation.batch_size=1 fits" in said
    assert "Traceback" not in said


def test_a_trainer_that_the_system_kills_ends_in_words(
    platform: LocalPlatform, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HRDA_TRAINER", "tests.trainer_without_memory")
    monkeypatch.setenv("HRDA_TRAINER_DIES", "1")
    with start(platform, scene) as app:
        said = refusal(app, scene.state())
    assert "ended by the system (SIGKILL), most likely because the machine ran out of memory" in said


def test_checkpoints_that_do_not_suit_end_in_words(finished: tuple[Scene, int], tmp_path: Path) -> None:
    scene, task_id = finished
    experiment = Experiment(scene, task_id)
    info = experiment.json("experiment_info.json", tmp_path)
    info["checkpoints"].append("checkpoints/broken.pth")
    (tmp_path / "experiment_info.json").write_text(json.dumps(info))
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint at all")
    for name, remote in (("broken.pth", "checkpoints/broken.pth"), ("experiment_info.json", "experiment_info.json")):
        scene.api.file.upload(scene.platform.team_id, str(tmp_path / name), experiment.directory + remote)
    with start(scene.platform, scene) as app:
        for model, words in (
            ({"task_id": task_id, "checkpoint": "broken.pth"}, "The chosen checkpoint does not suit: weights file"),
            ({"task_id": task_id, "checkpoint": "other.pth"}, f"there is no checkpoint 'other.pth' of task {task_id}"),
            ({"task_id": 999, "checkpoint": "best.pth"}, "there is no checkpoint 'best.pth' of task 999"),
        ):
            said = refusal(app, {**scene.state(), "model": {"source": "Custom models", **model}})
            assert words in said, said


# ---- a platform and a machine that fail


def test_a_platform_that_fails_now_and_then_loses_nothing(platform: LocalPlatform, scene: Scene, tmp_path: Path) -> None:
    """500 three times, a truncated body, a reset, and 20 seconds of absence in the middle."""
    state = scene.state(8)
    state["options"]["cache_project"] = False
    for fault in ({"status": 500, "times": 3}, {"truncate": True, "times": 1}, {"reset": True, "times": 1}):
        platform.faults.add("images.bulk.download", **fault)
    with start(platform, scene) as app:
        assert train(app, state, wait=False).ok
        app.wait(lambda: iterations(app) >= 1, PATIENCE, "training did not begin")
        platform.away(20)
        app.wait_for_end()
    experiment = Experiment(scene, app.task_id)
    assert {"checkpoints/best.pth", "checkpoints/last.pth", "experiment_info.json"} <= experiment.files
    assert len(experiment.json("train_val_split.json", tmp_path)["train"]) == 34
    assert scene.platform.task(app.task_id)["meta"]["output"]["experiment"]


def test_an_app_killed_in_the_middle_of_training_goes_on_when_it_is_relaunched(
    platform: LocalPlatform, scene: Scene, tmp_path: Path
) -> None:
    schedule = {"checkpoint_every": 5, "validate_every": 20, "preview_every": 40}
    with start(platform, scene) as app:
        assert train(app, scene.state(40, schedule=schedule), wait=False).ok
        app.wait(lambda: iterations(app) >= 12, PATIENCE, "training did not begin")
        app.kill()
    assert "experiment_info.json" not in Experiment(scene, app.task_id).files
    assert "checkpoints/last.pth" in Experiment(scene, app.task_id).files  # uploaded as they appear
    with start(platform, scene, app.task_id) as app:
        app.wait_for_end()
    experiment = Experiment(scene, app.task_id)
    lines = [json.loads(line) for line in experiment.fetch("metrics.jsonl", tmp_path).read_text().splitlines()]
    logged = [line["iteration"] for line in lines if "loss/source" in line]
    assert logged == list(range(2, 41, 2))  # none is missing, none is there twice
    assert "experiment_info.json" in experiment.files


@pytest.mark.parametrize("moment", ["Finalizing training", "Uploading artifacts directory"])
def test_an_app_killed_while_it_finishes_does_so_when_it_is_relaunched(
    platform: LocalPlatform, scene: Scene, moment: str, tmp_path: Path
) -> None:
    with start(platform, scene) as app:
        assert train(app, scene.state(6), wait=False).ok
        app.wait(lambda: moment in app.log(), 200, f"no {moment!r}")
        app.kill()
    assert "experiment_info.json" not in Experiment(scene, app.task_id).files
    with start(platform, scene, app.task_id) as app:
        app.wait_for_end()
    experiment = Experiment(scene, app.task_id)
    assert {"checkpoints/best.pth", "checkpoints/last.pth", "experiment_info.json", "report.html"} <= experiment.files, app.log()
    assert torch.load(experiment.fetch("checkpoints/last.pth", tmp_path), weights_only=True)["provenance"]["iteration"] == 6
    assert scene.platform.task(app.task_id)["meta"]["output"]["experiment"]


def test_a_disk_that_fills_up_is_told_and_start_goes_on_once_there_is_room(
    platform: LocalPlatform, scene: Scene, tmp_path: Path
) -> None:
    app = start(platform, scene)
    state = scene.state(60, schedule={"checkpoint_every": 5, "validate_every": 60, "preview_every": 60, "log_every": 1})
    with small_disk(app.data, megabytes=560), app:
        filler = app.data / "filler"
        assert train(app, state, wait=False).ok
        app.wait(lambda: iterations(app) >= 7, PATIENCE, "training did not begin")
        fill(filler)
        app.wait(lambda: "Start with the same settings" in app.log(), PATIENCE, "the full disk is not told")
        said = app.status()
        assert said.startswith("The disk of run directory") and "is full: free some space" in said
        assert "Nothing before that is lost: checkpoints until iteration" in said and "completed" not in said
        filler.unlink()
        app.wait(lambda: train(app, state).ok, PATIENCE, "it does not go on")  # refused until the failed one has ended
        app.wait_for_end()
    lines = Experiment(scene, app.task_id).fetch("metrics.jsonl", tmp_path).read_text().splitlines()
    logged = [entry["iteration"] for entry in map(json.loads, lines) if "loss/source" in entry]
    assert logged == list(range(1, 61))


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own at `place`. Needs root, as CI and containers have."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 20))


def test_stop_saves_and_uploads(platform: LocalPlatform, scene: Scene, tmp_path: Path) -> None:
    with start(platform, scene) as app:
        assert train(app, scene.state(5000), wait=False).ok
        app.wait(lambda: iterations(app) >= 7, PATIENCE, "training did not begin")
        assert app.post("stop_training").ok
        app.wait_for_end()
    experiment = Experiment(scene, app.task_id)
    last = torch.load(experiment.fetch("checkpoints/last.pth", tmp_path), weights_only=True)
    assert 7 <= last["provenance"]["iteration"] < 5000
    assert "experiment_info.json" in experiment.files
    assert "Stop requested: what was trained until iteration" in app.log()


def test_another_task_goes_on_with_the_run_of_an_experiment(finished: tuple[Scene, int], tmp_path: Path) -> None:
    """Resume from an experiment, with more iterations: its 6, then 6 more."""
    scene, task_id = finished
    state = scene.state(12)
    state["model"] = {"source": "Custom models", "task_id": task_id, "checkpoint": "last.pth"}
    state["options"]["continue_run"] = True
    with start(scene.platform, scene) as app:
        assert train(app, state).ok, app.log()[-6000:]
        app.wait_for_end()
    lines = Experiment(scene, app.task_id).fetch("metrics.jsonl", tmp_path).read_text().splitlines()
    logged = [entry["iteration"] for entry in map(json.loads, lines) if "loss/source" in entry]
    assert logged == [2, 4, 6, 8, 10, 12]
