"""Parts of the train app without a platform: choices as data, settings, the child process."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_runs import TINY, cracks, tiny, write_folder

from hrda_core import TrainConfig, build_model, preset, train
from hrda_core.data.parallel import Stopped
from hrda_core.training.run_directory import RunDirectory
from tests.local_platform import LocalPlatform
from train_app.app_state import choice_from_state, state_of_choice
from train_app.artifacts import figures_of, meta_of
from train_app.checkpoint_check import check_encoder_weights, describe_network
from train_app.checkpoint_upload import CheckpointUpload
from train_app.choices import DataChoice, ProjectChoice, ValidationChoice
from train_app.errors import UserError
from train_app.labels import ClassChoice
from train_app.memory_estimate import estimate_bytes, free_bytes, memory_sentence
from train_app.model_figures import figures_of_encoder
from train_app.runner import Event, Runner, TrainingFailed, launcher
from train_app.session import SessionFile
from train_app.settings import ModelChoice, read_settings
from train_app.team_files import fetch_file

ROOT = Path(__file__).parents[1]
PVT = ModelChoice("pvt_v2_b2")
DEFAULTS = (ROOT / "train_app" / "hyperparameters.yaml").read_text()


# ---- choices as data


def test_choices_survive_the_way_through_json() -> None:
    choice = DataChoice(
        source=(ProjectChoice(1), ProjectChoice(2, (20, 21))),
        target=(ProjectChoice(3),),
        classes=ClassChoice(("crack", "joint"), background=False, ignored=("mud",), merged=(("hairline", "crack"),)),
        validation=ValidationChoice("project", (ProjectChoice(4, (40,)),), unlabelled="background"),
        use_target_labels=True,
        unlabelled_source="background",
    )
    state = json.loads(json.dumps(state_of_choice(choice)))
    assert choice_from_state(state, ["crack", "joint"], launched_on=1) == choice


def test_what_is_left_out_takes_its_default() -> None:
    choice = choice_from_state({"target": [3]}, ["crack"], launched_on=7)
    assert choice.source == (ProjectChoice(7),)
    assert choice.target == (ProjectChoice(3),)
    assert choice.validation.method == "none" and choice.classes.background


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"targets": [3]}, "input has no field 'targets'; there are project_id, source, target"),
        ({"target": 3}, "input.target=3: give a list of project ids"),
        ({"target": [{"project": 3}]}, "input.target has no field 'project'; there are project_id, dataset_ids"),
        ({"target": [True]}, "input.target: True is no project"),
        ({"validation": {"method": "share", "percent": "ten"}}, "input.validation.percent='ten': use a whole number"),
        ({"background": "yes"}, "input.background='yes': use true or false"),
        ({"merged_classes": ["a"]}, "input.merged_classes"),
    ],
)
def test_mistakes_in_a_state_name_the_field(state: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        choice_from_state(state, ["crack"], 1)


# ---- settings


def test_the_file_of_hyperparameters_is_the_standard_preset() -> None:
    assert read_settings(DEFAULTS, PVT) == preset("standard")


def test_every_commented_line_of_the_file_shows_the_value_of_the_standard_preset() -> None:
    lines = [line.removeprefix("# ") for line in DEFAULTS.split("can be added.")[1].splitlines() if line.startswith("# ")]
    shown = yaml.safe_load("\n".join(lines))
    assert len(shown) > 5
    assert preset("standard").updated(shown) == preset("standard")


@pytest.mark.parametrize("name", ["quick", "cracks", "published-hrda", "published-mic", "crack-tutorial"])
def test_the_model_card_decides_on_the_encoder(name: str) -> None:
    config = read_settings(f"preset: {name}", ModelChoice("convnext_tiny"))
    assert config.model.encoder == "convnext_tiny"
    assert config.updated({"model": {"encoder": preset(name).model.encoder}}) == preset(name)


@pytest.mark.parametrize(
    ("text", "model", "words"),
    [
        ("preset: huge", PVT, "preset='huge': use one of quick, cracks, standard"),
        ("optimisation: {iterations: 0}", PVT, "optimisation.iterations=0: use at least 1"),
        ("optimisation: {iteration: 5}", PVT, "iteration"),
        ("a: [", PVT, "The hyperparameters are no YAML"),
        ("- 5", PVT, "The hyperparameters are no list of 'name: value' lines"),
        ("device: cuda:1", PVT, "device='cuda:1': the device is chosen in the Training card"),
        ("data: {source: [x]}", PVT, "data.source=['x']: the data are chosen"),
        ("model: {encoder: mit_b5}", PVT, "model.encoder='mit_b5' is not the model chosen in the Model card (pvt_v2_b2)"),
        ("", ModelChoice(), "model.encoder is missing: with 'Own encoder'"),
        ("mode: supervised", PVT, "mode='supervised' learns from labels of target images: allow that"),
    ],
)
def test_wrong_settings_are_refused_in_words(text: str, model: ModelChoice, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        read_settings(text, model)


def test_labels_of_the_target_make_it_semi_supervised() -> None:
    assert read_settings("", PVT, use_target_labels=True).mode == "semi-supervised"


def test_pictures_are_made_at_every_evaluation_unless_the_settings_say_otherwise() -> None:
    assert read_settings("schedule: {validate_every: 300}", PVT).schedule.preview_every == 300
    assert read_settings("schedule: {validate_every: 300, preview_every: 900}", PVT).schedule.preview_every == 900


def test_a_checkpoint_brings_its_architecture(tmp_path: Path) -> None:
    path = train(tiny(mode="source-only"), cracks(2, 1), None, directory=tmp_path).best
    config = read_settings("preset: standard", ModelChoice(checkpoint=path))
    assert (config.model.encoder, config.model.head_channels) == ("test_efficientnet", 16)
    assert config.model.start_from == str(path)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"junk\.pth cannot be read"):
        read_settings("", ModelChoice(checkpoint=tmp_path / "junk.pth"))


def test_a_checkpoint_is_described_when_it_is_chosen(tmp_path: Path) -> None:
    path = train(tiny(mode="source-only"), cracks(2, 1), None, directory=tmp_path).best
    said = describe_network(path, "own encoder")
    assert said == "best.pth: a checkpoint of Train HRDA with encoder test_efficientnet, iteration 6, classes background, crack"
    assert read_settings("", ModelChoice("pvt_v2_b2", checkpoint=path)).model.encoder == "test_efficientnet"


def test_public_weights_are_checked_against_the_row_when_they_are_chosen(tmp_path: Path) -> None:
    model = build_model("mit_b0", 19)
    torch.save(model.encoder.state_dict(), tmp_path / "mit_b0.pth")
    torch.save({"state_dict": {"backbone.x": torch.zeros(1)}}, tmp_path / "other.pth")
    torch.save({"code": Path}, tmp_path / "code.pth")
    assert check_encoder_weights(tmp_path / "mit_b0.pth", "mit_b0") == "mit_b0.pth: weights that fit mit_b0"
    for name, encoder, words in (
        ("mit_b0.pth", "mit_b1", "The chosen weights do not suit"),
        ("mit_b0.pth", "own encoder", "choose the row of the model that it belongs to"),
        ("code.pth", "mit_b0", "cannot be read safely"),
    ):
        with pytest.raises(UserError, match=words):
            check_encoder_weights(tmp_path / name, encoder)
    for name, words in (
        ("other.pth", "does not suit"),
        ("mit_b0.pth", "do not belong to this network"),
        ("code.pth", "read safely"),
    ):
        with pytest.raises(UserError, match=words):
            describe_network(tmp_path / name, "mit_b0")


def test_a_file_of_weights_goes_into_the_configuration(tmp_path: Path) -> None:
    config = read_settings("", ModelChoice("mit_b1", pretrained_file=tmp_path / "mit_b1.pth"))
    assert (config.model.encoder, config.model.pretrained_file) == ("mit_b1", str(tmp_path / "mit_b1.pth"))
    torch.save({"state_dict": {}}, tmp_path / "hrda.pth")
    config = read_settings("", ModelChoice("mit_b5", checkpoint=tmp_path / "hrda.pth"))
    assert (config.model.encoder, config.model.start_from) == ("mit_b5", str(tmp_path / "hrda.pth"))


def test_the_table_of_models_tells_the_true_number_of_parameters() -> None:
    models = json.loads((ROOT / "train_app" / "models.json").read_text())
    assert models[0]["meta"]["model_name"] == preset("standard").model.encoder
    for row in models:
        name = row["meta"]["model_name"]
        if name in ("mit_b0", "pvt_v2_b2", "mobilenetv2_100", "vit_small_patch14_dinov2"):
            with torch.device("meta"):
                count = sum(p.numel() for p in build_model(name, 2).parameters())
            assert round(count / 1e6, 1) == row["Parameters (M)"], name


def test_the_table_of_models_tells_memory_and_speed_as_they_were_counted() -> None:
    models = json.loads((ROOT / "train_app" / "models.json").read_text())
    standard = figures_of_encoder("pvt_v2_b2")
    assert standard is not None
    for row in models[:-1]:  # the last one is whatever encoder the settings name
        name = row["meta"]["model_name"]
        figures = figures_of_encoder(name)
        needed = estimate_bytes(preset("standard").updated({"model": {"encoder": name}}), "cuda:0")
        assert figures is not None and needed is not None, name
        assert round(figures.parameters / 1e6, 1) == row["Parameters (M)"], name
        assert round(needed / 1e9, 1) == row["Memory (GB)"], name
        assert round(standard.multiply_adds / figures.multiply_adds, 2) == row["Relative speed"], name


def test_memory_grows_with_batch_and_crop_and_shrinks_with_bf16() -> None:
    def needed(*changes: str, device: str = "cuda:0") -> int:
        return estimate_bytes(preset("standard").changed(changes), device) or 0

    standard = needed()
    assert needed("optimisation.batch_size=4") > standard
    assert needed("data.crop_height=1024") == needed("optimisation.batch_size=4")
    assert needed("precision=fp32") > 1.3 * standard
    assert needed("precision=bf16", device="cpu") < needed(device="cpu")  # "auto" is fp32 there


def test_what_will_hardly_fit_is_a_warning_and_no_refusal() -> None:
    config = preset("standard")
    assert memory_sentence(config, "cuda:0", None)[1] == "info"
    assert memory_sentence(config, "cuda:0", 80 * 10**9)[1] == "info"
    text, status = memory_sentence(config.changed(["optimisation.batch_size=16"]), "cuda:0", 6 * 10**9)
    assert status == "warning" and "6.0 GB are free: use a smaller batch or crop" in text
    assert "nothing is known of encoder 'mine'" in memory_sentence(config.changed(["model.encoder=mine"]), "cpu", None)[0]
    assert (free_bytes("cpu") or 0) > 10**8


# ---- the child process


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    root = tmp_path_factory.mktemp("data")
    return {
        "source": [write_folder(root / "source", 3, 1)],
        "target": [write_folder(root / "target", 2, 2, masks=False)],
        "validation": [write_folder(root / "validation", 2, 3)],
    }


def test_a_run_is_followed_to_its_end(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    heard: list[Event] = []
    outcome = Runner(tmp_path, heard.append).run(tiny(), folders)
    assert (outcome.iteration, outcome.stopped) == (6, "")
    kinds = [event["event"] for event in heard]
    assert kinds[0] == "Stage" and kinds[-1] == "Finished"
    assert {"Progress", "Metrics", "Preview", "CheckpointSaved"} <= set(kinds)
    assert (tmp_path / "report.html").is_file()


def test_stop_saves_and_a_second_run_goes_on_with_new_settings(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    def hear(event: Event) -> None:
        if event["event"] == "Progress" and event["iteration"] >= 3:
            runner.stop()

    runner = Runner(tmp_path, hear)
    outcome = runner.run(tiny({"optimisation": {"iterations": 9000}}), folders)
    assert outcome.stopped == "stop requested" and 3 <= outcome.iteration < 9000
    more = tiny({"optimisation": {"iterations": outcome.iteration + 2}})
    again = Runner(tmp_path, lambda event: None).run(more, folders, resume=True)
    assert again.iteration == outcome.iteration + 2
    logged = [json.loads(line)["iteration"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert logged == sorted(logged)


def test_several_gpus_train_together_and_stop_in_order(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    """A process for each device; here they compute on the CPU."""

    def hear(event: Event) -> None:
        if event["event"] == "Progress" and event["iteration"] >= 3:
            runner.stop()

    runner = Runner(tmp_path, hear)
    outcome = runner.run(tiny({"optimisation": {"iterations": 9000}}), folders, gpus=["cuda:0", "cuda:1"])
    assert outcome.stopped == "stop requested" and 3 <= outcome.iteration < 9000
    assert RunDirectory(tmp_path).iteration() == outcome.iteration
    odd = tiny({"optimisation": {"batch_size": 3}})
    with pytest.raises(TrainingFailed, match=r"^Optimisation.batch_size=3: is the batch of all 2 processes together"):
        Runner(tmp_path, lambda event: None).run(odd, folders, gpus=["cuda:0", "cuda:1"])


def test_chosen_gpus_are_counted_among_those_that_the_app_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    options, environment = launcher(["cuda:0", "cuda:2"])
    assert environment["CUDA_VISIBLE_DEVICES"] == "4,6"
    assert "--nproc-per-node=2" in options
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert launcher(["cuda:0", "cuda:2"])[1]["CUDA_VISIBLE_DEVICES"] == "0,2"


def test_a_killed_trainer_is_told_in_words(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    def hear(event: Event) -> None:
        if event["event"] == "Progress":
            os.kill(int((tmp_path / ".lock-owner").read_text()), 9)

    with pytest.raises(TrainingFailed, match=r"ended by the system \(SIGKILL\), most likely because .* ran out of memory\.$"):
        Runner(tmp_path, hear).run(tiny({"optimisation": {"iterations": 9000}}), folders)


def test_a_mistake_before_training_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match=r"^Data folder .*nowhere does not exist\.$"):
        Runner(tmp_path / "run", lambda event: None).run(tiny(), {"source": [tmp_path / "nowhere"]})


def test_a_run_waits_for_the_trainer_of_an_app_that_was_killed(folders: dict[str, list[Path]], tmp_path: Path) -> None:
    with RunDirectory(tmp_path):
        waiting = threading.Thread(target=lambda: Runner(tmp_path, lambda event: None).run(tiny(), folders))
        waiting.start()
        time.sleep(1)
        assert not (tmp_path / "events.jsonl").exists()
    waiting.join(60)
    assert (tmp_path / "report.html").is_file()


# ---- records


def test_a_session_is_unfinished_until_it_says_otherwise(tmp_path: Path) -> None:
    session = SessionFile(tmp_path / "runs" / "7" / "session.json")
    assert session.read() == {} and not session.is_unfinished()
    session.update(phase="training", app_state={"classes": ["crack"]})
    assert session.is_unfinished() and session.read()["app_state"] == {"classes": ["crack"]}
    session.update(phase="done")
    assert not session.is_unfinished() and session.read()["app_state"] == {"classes": ["crack"]}
    session.path.write_text('{"phase": "trai')
    assert session.read() == {}


def test_figures_and_meta_of_a_checkpoint() -> None:
    checkpoint = {"selected": "teacher", "metrics": {"teacher": {"foreground_iou": 0.4, "mean_iou": 0.7, "iou": [1]}}}
    assert figures_of(checkpoint, 0.5) == {"score": 0.5, "foreground_iou": 0.4, "mean_iou": 0.7}
    assert figures_of({"selected": "teacher", "metrics": {}}, None) == {}
    meta = meta_of([{"name": "background", "color": [0, 0, 0]}, {"name": "crack", "color": [255, 0, 0]}])
    assert [item.name for item in meta.obj_classes] == ["background", "crack"]


def test_checkpoints_go_up_beside_the_training_and_a_failure_only_delays(tmp_path: Path) -> None:
    class Files:
        def __init__(self) -> None:
            self.uploaded: list[tuple[bytes, str]] = []
            self.broken = True

        def upload_bulk_fast(self, team_id: int, local: list[str], remote: list[str], enable_fallback: bool) -> None:
            if self.broken:
                raise OSError("connection reset")
            self.uploaded.append((Path(local[0]).read_bytes(), remote[0]))

    class Api:
        file = Files()

    told: list[str] = []
    upload = CheckpointUpload(Api(), 1, "/experiments/x/checkpoints", tmp_path / "staging", told.append)  # type: ignore[arg-type]
    path = tmp_path / "last.pth"
    path.write_bytes(b"one")
    upload.offer(path)
    _wait(lambda: bool(told))
    assert told == ["last.pth could not be uploaded yet (connection reset); it is on the agent, and goes up with the next one"]
    Api.file.broken = False
    path.write_bytes(b"two")
    upload.offer(path)
    _wait(lambda: bool(Api.file.uploaded))
    upload.close()
    assert Api.file.uploaded == [(b"two", "/experiments/x/checkpoints/last.pth")]
    assert not (tmp_path / "staging").exists()


def test_the_default_settings_are_those_of_a_whole_configuration() -> None:
    """TINY, which the tests of the app send, is no setting that the core would not take."""
    assert TrainConfig().updated(TINY).optimisation.iterations == 6


def _wait(condition: Any) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_session_recognises_the_same_choices_on_another_device(tmp_path: Path) -> None:
    session, config = SessionFile(tmp_path / "session.json"), preset("standard")
    state = {"input": {"target": [1]}, "classes": ["crack"], "experiment_name": "one"}
    assert not session.has(state, config.as_dict())
    session.update(app_state=state, config=config.as_dict())
    other = config.updated({"device": "cpu"})
    assert session.has({**state, "experiment_name": "two"}, other.as_dict())
    assert not session.has({**state, "classes": ["joint"]}, config.as_dict())
    assert not session.has(state, config.changed(["optimisation.learning_rate=1"]).as_dict())


def test_a_checkpoint_of_team_files_is_downloaded_once_and_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "best.pth").write_bytes(bytes(3_000_000))
    shown: list[str] = []
    with LocalPlatform() as platform:
        api = platform.api()
        api.file.upload(platform.team_id, str(tmp_path / "best.pth"), "/weights/best.pth")
        with pytest.raises(Stopped):
            fetch_file(api, platform.team_id, "/weights/best.pth", tmp_path / "start", shown.append, lambda: True)
        assert not list((tmp_path / "start").rglob("*.pth*"))
        for _ in range(2):
            local = fetch_file(api, platform.team_id, "/weights/best.pth", tmp_path / "start", shown.append, lambda: False)
            assert local.read_bytes() == bytes(3_000_000)
        assert shown == ["Downloading best.pth"] * 2  # the stopped one, and one of two
        with pytest.raises(UserError, match=r"/weights/other\.pth is neither on the agent nor in Team Files"):
            fetch_file(api, platform.team_id, "/weights/other.pth", tmp_path / "start", shown.append, lambda: False)
