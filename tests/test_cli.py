"""The command line, called in-process: each command on tiny data, and what a user reads when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from tiny_runs import TINY, tiny, write_folder

from hrda_core.__main__ import main
from hrda_core.config import TrainConfig
from hrda_core.data.samples import Dataset

COMMANDS = ("demo", "synthesize", "train", "evaluate", "predict")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """source/ and validation/ with masks, target/ with photos only, tiny.yaml."""
    root = tmp_path_factory.mktemp("data")
    write_folder(root / "source", 3, 1)
    write_folder(root / "target", 2, 2, masks=False)
    write_folder(root / "validation", 2, 3)
    (root / "tiny.yaml").write_text(yaml.safe_dump({**TINY, "mode": "adapt"}))
    return root


def train_arguments(data: Path, directory: Path) -> list[str]:
    folders = [f"--{name}={data / name}" for name in ("source", "target", "validation")]
    return ["train", str(directory), f"--config={data / 'tiny.yaml'}", *folders, "--set", "optimisation.iterations=3"]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    assert main(train_arguments(data, directory)) == 0
    return directory


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What goes to stderr; exit code 1, nothing on stdout, no traceback."""
    capsys.readouterr()
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    before, error, message = captured.err.partition("error: ")
    assert error
    assert "error" not in before
    return message


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [(), *((command,) for command in COMMANDS)])
def test_help(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "usage: python -m hrda_core" in shown
    assert all(word in shown for word in (command or COMMANDS))


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["train"], ["train", "x", "--preset", "none"], ["predict", "a.pth"], ["synthesize", "x", "--count", "a"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage:" in capsys.readouterr().err


# -- synthesize -------------------------------------------------------------------------------------------------------


def test_synthesize(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["synthesize", str(tmp_path), "--count=2", "--size=64", "--look=concrete", "--seed=5", "--workers=1"]
    assert main(arguments) == 0
    assert f"2 images and masks in {tmp_path}" in capsys.readouterr().out
    made = Dataset.from_folder(tmp_path)
    assert len(made.labelled()) == 2
    assert [made.image(i).shape for i in range(2)] == [(64, 64, 3)] * 2
    assert [c.name for c in made.classes] == ["background", "crack"]


@pytest.mark.parametrize(
    ("option", "said"),
    [("--count=0", "count"), ("--size=8", "size"), ("--textures=/nowhere", "textures"), ("--crack-free=2", "crack_free")],
)
def test_synthesize_errors(option: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in error_of(["synthesize", str(tmp_path / "out"), option], capsys)


# -- train ------------------------------------------------------------------------------------------------------------


def test_train_writes_a_run(data: Path, trained: Path) -> None:
    assert {p.name for p in trained.iterdir()} >= {"config.yaml", "metrics.jsonl", "checkpoints", "report.html"}
    config = TrainConfig.load(trained / "config.yaml")
    assert config.optimisation.iterations == 3
    assert config.data.source == (str(data / "source"),)
    assert config.data.target == (str(data / "target"),)


def test_train_goes_on_in_its_directory(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """config.yaml of the directory knows the data and the settings; --set overrides, --resume continues."""
    before = (trained / "metrics.jsonl").read_text()
    assert main(["train", str(trained), "--resume", "--set", "optimisation.iterations=4", "--set", "data.workers=0"]) == 0
    after = (trained / "metrics.jsonl").read_text()
    assert after.startswith(before)
    assert json.loads(after.splitlines()[-1])["iteration"] == 4
    assert "Best checkpoint: " in capsys.readouterr().out


def test_train_takes_several_folders(data: Path, tmp_path: Path) -> None:
    arguments = ["train", str(tmp_path), f"--config={data / 'tiny.yaml'}", "--set=mode=source-only"]
    sources = [f"--source={data / name}" for name in ("source", "validation")]
    assert main([*arguments, *sources, "--set=optimisation.iterations=1"]) == 0
    config = TrainConfig.load(tmp_path / "config.yaml")
    assert (config.mode, len(config.data.source)) == ("source-only", 2)


def test_adapting_never_opens_the_targets_masks(data: Path, tmp_path: Path) -> None:
    """Not in training, and not in the report either."""
    write_folder(tmp_path / "target", 2, 2)
    for path in (tmp_path / "target" / "masks").iterdir():
        path.write_bytes(b"poison")
    arguments = ["train", str(tmp_path / "run"), f"--config={data / 'tiny.yaml'}", "--set=optimisation.iterations=3"]
    assert main([*arguments, f"--source={data / 'source'}", f"--target={tmp_path / 'target'}"]) == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--set", "optimisation.iterations"], "write it as field=value"),
        (["--set", "optimisation.iterations=many"], "optimisation.iterations='many'"),
        (["--set", "optimisation.speed=3"], "optimisation.speed"),
        (["--set", "data.source=["], "not valid YAML"),
        (["--set", "mode=fast"], "mode='fast'"),
        (["--set", "data.crop_height=96", "--set", "data.crop_width=80"], "data.crop_width=80"),
        (["--source", "/nowhere"], "/nowhere does not exist"),
        (["--validation", "PHOTOS"], "target has no labelled image: the folder masks/ is missing in it (it has images)"),
        (["--config", "/nowhere.yaml"], "/nowhere.yaml cannot be read"),
        (["--set", "device=cuda:99"], "device='cuda:99'"),
    ],
)
def test_train_errors(more: list[str], said: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = [str(data / "target") if word == "PHOTOS" else word for word in more]
    assert said in error_of([*train_arguments(data, tmp_path), *more], capsys)


def test_a_run_begins_with_where_its_settings_are_from(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train_arguments(data, tmp_path)) == 0
    said = "test_efficientnet, crops of 64 x 64, 3 iterations of batch 2, device cpu\n"
    assert f"adapt, settings of {data / 'tiny.yaml'}: {said}" in capsys.readouterr().err
    assert main(["train", str(tmp_path), "--overwrite", "--set", "optimisation.iterations=4"]) == 0
    assert f"adapt, settings of {tmp_path / 'config.yaml'}: {said.replace('3 iter', '4 iter')}" in capsys.readouterr().err


def test_a_resume_before_the_first_checkpoint_chooses_anew(data: Path, tmp_path: Path) -> None:
    """As a start does: "auto" stays known as such."""
    changes = [*train_arguments(data, tmp_path), "--set", "adaptation.source_warmup=-1", "--set", "optimisation.iterations=8"]
    assert main(changes) == 0
    for file in (tmp_path / "checkpoints").iterdir():
        file.unlink()
    (tmp_path / "metrics.jsonl").unlink()
    assert main(["train", str(tmp_path), "--resume"]) == 0
    assert yaml.safe_load((tmp_path / "chosen.yaml").read_text())["adaptation"]["source_warmup"] == 4
    assert main(["train", str(tmp_path), "--overwrite", "--set", "optimisation.iterations=4"]) == 0
    assert TrainConfig.load(tmp_path / "config.yaml").adaptation.source_warmup == 2


def test_the_example_runs_from_a_checkout(trained: Path, data: Path, tmp_path: Path) -> None:
    """As its documentation says, with nothing installed but the requirements."""

    def example(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "examples/predict_folder.py", *words]
        return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)

    done = example(str(trained / "checkpoints" / "best.pth"), str(data / "target"), str(tmp_path / "out"))
    assert done.returncode == 0 and "2 predicted" in done.stdout, done.stderr
    wrong = example("absent.pth", str(data / "target"), str(tmp_path / "out"))
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: ") and "absent.pth" in wrong.stderr


def test_an_earlier_run_is_not_overwritten_unasked(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = train_arguments(data, tmp_path / "run")
    assert main(arguments) == 0
    assert "already holds a run" in error_of(arguments, capsys)
    assert "leave out --preset and --config" in error_of([*arguments, "--resume"], capsys)
    assert main([*arguments, "--overwrite"]) == 0


def test_train_without_data_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "needs a labelled source" in error_of(["train", str(tmp_path), "--preset=quick"], capsys)


def test_a_directory_that_cannot_be_written(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "file" in error_of(train_arguments(data, tmp_path / "file" / "run"), capsys)


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hrda_core.__main__.synthesize", interrupted)
    assert main(["synthesize", str(tmp_path)]) == 130
    assert "stopped" in capsys.readouterr().err


# -- evaluate ---------------------------------------------------------------------------------------------------------


def strict_json(text: str) -> dict[str, Any]:
    """Fails on NaN, which is no JSON."""
    return dict(json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON")))


@pytest.mark.parametrize("network", ["selected", "student", "teacher"])
def test_evaluate(network: str, data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = trained / "checkpoints" / "best.pth"
    arguments = ["evaluate", str(best), str(data / "validation"), f"--network={network}", f"--json={tmp_path / 'f.json'}"]
    capsys.readouterr()
    assert main(arguments) == 0
    figures = strict_json(capsys.readouterr().out)
    assert figures == strict_json((tmp_path / "f.json").read_text())
    assert figures["classes"] == ["background", "crack"]
    assert figures["argmax"]["images"] == figures["at_thresholds"]["images"] == 2
    assert len(figures["thresholds"]) == len(figures["best_thresholds_here"]) == 1


def test_evaluate_without_foreground_is_still_json(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, 1, 3)
    cv2.imwrite(str(tmp_path / "masks" / "0.png"), np.zeros((80, 96), np.uint8))
    capsys.readouterr()
    assert main(["evaluate", str(trained / "checkpoints" / "best.pth"), str(tmp_path)]) == 0
    assert strict_json(capsys.readouterr().out)["argmax"]["recall"][1] is None


def test_evaluate_errors(data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = str(trained / "checkpoints" / "best.pth")
    assert "absent.pth" in error_of(["evaluate", "absent.pth", str(data / "validation")], capsys)
    assert "/nowhere" in error_of(["evaluate", best, "/nowhere"], capsys)
    assert "classes" in error_of(["evaluate", best, str(data / "target")], capsys)
    (tmp_path / "broken.pth").write_bytes(b"no checkpoint")
    assert "broken.pth" in error_of(["evaluate", str(tmp_path / "broken.pth"), str(data / "validation")], capsys)
    assert "directory" in error_of(["evaluate", best, str(data / "validation"), "--json", str(tmp_path)], capsys).lower()


# -- predict ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("thresholds", ["tuned", "argmax", "0.4"])
def test_predict(thresholds: str, data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["predict", str(trained / "checkpoints" / "best.pth"), str(data / "target"), str(tmp_path)]
    assert main([*arguments, "--thresholds", thresholds]) == 0
    assert f"2 predictions in {tmp_path}" in capsys.readouterr().out
    mask = cv2.imread(str(tmp_path / "masks" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (80, 96)
    assert set(np.unique(mask)) <= {0, 255}
    assert (tmp_path / "overlays" / "1.jpg").is_file()
    assert (tmp_path / "classes.json").is_file()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--thresholds=half"], "thresholds='half': use 'tuned', 'argmax' or numbers"),
        (["--thresholds=0.4,0.5"], "thresholds=[0.4, 0.5]: give 1 numbers"),
        (["--thresholds=7"], "thresholds=[7.0]"),
        (["--device=banana"], "device='banana'"),
    ],
)
def test_predict_errors(
    more: list[str], said: str, data: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = str(trained / "checkpoints" / "best.pth")
    assert said in error_of(["predict", best, str(data / "target"), str(tmp_path), *more], capsys)


def test_predict_without_photos(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    best = str(trained / "checkpoints" / "best.pth")
    (tmp_path / "empty").mkdir()
    assert "holds no photo" in error_of(["predict", best, str(tmp_path / "empty"), str(tmp_path / "out")], capsys)
    assert "does not exist" in error_of(["predict", best, str(tmp_path / "absent"), str(tmp_path / "out")], capsys)


# -- demo -------------------------------------------------------------------------------------------------------------


def test_demo_needs_source_and_target_together(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "TARGET is missing" in error_of(["demo", str(tmp_path), f"--source={data / 'source'}"], capsys)
    assert "SOURCE is missing" in error_of(["demo", str(tmp_path), f"--target={data / 'target'}"], capsys)


def test_train_appends_events_for_a_program_that_follows(tmp_path: Path) -> None:
    source, target = write_folder(tmp_path / "source", 3, 1), write_folder(tmp_path / "target", 2, 2, masks=False)
    (tmp_path / "config.yaml").write_text(tiny({"baseline": True}).to_yaml())
    run, events = tmp_path / "run", tmp_path / "events.jsonl"
    options = ["--config", str(tmp_path / "config.yaml"), "--source", str(source), "--target", str(target)]
    assert main(["train", str(run), *options, "--events", str(events)]) == 0
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert [event["name"] for event in told if event["event"] == "Stage"] == ["checking data", "source-only baseline", "adapt"]
    assert [event["total"] for event in told if event["event"] == "Progress" and event["iteration"] == 6] == [6, 6]
    assert {"iteration", "time", "values"} < told[[event["event"] for event in told].index("Metrics")].keys()
    previews = [Path(path) for event in told if event["event"] == "Preview" for path in event["pictures"].values()]
    assert previews and all(path.is_file() for path in previews)
    assert {path.parents[1] for path in previews} == {run, run / "baseline"}
    assert any(event["event"] == "CheckpointSaved" and event["best"] for event in told)
    assert told[-1]["event"] == "Finished"


def test_a_failure_is_the_last_event(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", 2, 1)
    config = tiny(mode="source-only").changed(["optimisation.learning_rate=1e30", "schedule.log_every=1"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    events = tmp_path / "events.jsonl"
    options = ["--config", str(tmp_path / "config.yaml"), "--source", str(source), "--events", str(events)]
    assert main(["train", str(tmp_path / "run"), *options]) == 1
    last = json.loads(events.read_text().splitlines()[-1])
    assert last["event"] == "Failed"
    assert "loss/source became nan at iteration 2: lower optimisation.learning_rate" in last["reason"]
