"""What train_app/sdk_bridge relies on in the SDK. It fails when the pinned SDK changes: read what changed, then adapt both."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import supervisely
from supervisely.app.fastapi import subapp
from supervisely.app.widgets.editor import editor
from supervisely.nn.training import resume_manifest, train_app
from supervisely.nn.training.gui import (
    classes_selector,
    gui,
    hyperparameters_selector,
    input_selector,
    model_selector,
    training_logs,
)
from supervisely.nn.training.gui import training_process as process_module
from supervisely.nn.training.gui import utils as gui_utils
from supervisely.nn.training.train_app import TrainApp

from train_app.classes_card import ClassesCard
from train_app.hyperparameters_card import HyperparametersCard
from train_app.sdk_bridge.model_card import ModelCard
from train_app.source_target import SourceTargetCard
from train_app.training_card import TrainingCard

ROOT = Path(__file__).parents[1]


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_sdk_is_the_pinned_one() -> None:
    pinned = re.search(r"^supervisely\[model-benchmark\]==(\S+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert version("supervisely") == pinned[1] == supervisely.__version__


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("__init__", "self framework_name models hyperparameters app_options work_dir"),
        ("_prepare", "self"),
        ("_prepare_working_dir", "self"),
        ("_init_logger", "self"),
        ("_register_routes", "self"),
        ("_workflow_input", "self"),
        ("_wrapped_start_training", "self"),
        ("_wrapped_resume_upload", "self"),
        ("_finalize", "self experiment_info resume"),
        ("_preprocess_artifacts", "self experiment_info model_meta"),
        ("_upload_artifacts", "self resume"),
        ("_upload_file_to_team_files", "self local_path remote_path message"),
        ("_generate_train_val_splits", "self remote_dir splits_data"),
        (
            "_generate_experiment_info",
            "self remote_dir experiment_info eval_metrics evaluation_report_id evaluation_report_link primary_metric_name "
            "export_weights",
        ),
        ("_get_resume_app_state", "self experiment_info"),
        ("_show_error", "self message e"),
        ("_set_train_widgets_state_on_start", "self"),
        ("_restore_train_widgets_state_on_error", "self"),
        ("create_model_meta", "self task_type"),
        ("get_app_state", "self experiment_info"),
        ("load_app_state", "self app_state"),
        ("stop_tensorboard", "self"),
        (
            "_run_model_benchmark",
            "self local_artifacts_dir remote_artifacts_dir experiment_info splits_data model_meta gt_project_id",
        ),
    ],
)
def test_methods_that_are_overridden_or_called(method: str, expected: str) -> None:
    assert parameters(getattr(TrainApp, method)) == expected.split()


@pytest.mark.parametrize(
    "attribute",
    [
        *("self._resume_ctx", "self._tensorboard_process", "self._tensorboard_port", "self._server", "self.output_dir"),
        *("self.work_dir", "self.log_dir", "self._experiments_dir_name", "self._experiment_json_file", "self.app = Application"),
    ],
)
def test_attributes_of_the_train_app(attribute: str) -> None:
    assert attribute in inspect.getsource(TrainApp)


def test_the_upload_takes_its_directory_from_the_resume_context() -> None:
    source = inspect.getsource(TrainApp._upload_artifacts)
    assert 'self._resume_ctx.get("remote_dir")' in source
    assert "skip_existing_by_hash=True" in source


def test_the_wizard_finds_its_cards_in_the_namespaces_that_are_patched() -> None:
    source = inspect.getsource(gui.TrainGUI.__init__)
    for call in (
        *(
            "InputSelector(self.project_info, self.app_options)",
            "TrainingProcess(self.app_options)",
            "ModelSelector(",
            "TrainingArtifacts(",
        ),
        *("ClassesSelector(", "HyperparametersSelector(", "TrainingLogs(self.app_options)"),
    ):
        assert call in source
    assert "self.gui: TrainGUI = TrainGUI(" in inspect.getsource(train_app.TrainApp.__init__)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("load_from_app_state", "self app_state click_cb validate_steps"),
        ("_init_input", "self input_settings options click_cb validate"),
        ("_init_model", "self model_settings options click_cb validate"),
        ("_init_classes", "self classes_settings options click_cb validate"),
        ("_init_hyperparameters", "self hyperparameters_settings options click_cb validate"),
        ("set_next_step", "self"),
    ],
)
def test_methods_of_the_wizard(method: str, expected: str) -> None:
    assert parameters(getattr(gui.TrainGUI, method)) == expected.split()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SourceTargetCard, input_selector.InputSelector),
        (ClassesCard, classes_selector.ClassesSelector),
        (TrainingCard, process_module.TrainingProcess),
        (ModelCard, model_selector.ModelSelector),
        (HyperparametersCard, hyperparameters_selector.HyperparametersSelector),
    ],
)
def test_our_cards_answer_what_the_wizard_asks_of_the_sdks(ours: type, theirs: type) -> None:
    """Every public method of the SDK's card that the SDK's wizard or train app calls."""
    callers = inspect.getsource(gui) + inspect.getsource(train_app)
    names = [name for name, member in vars(theirs).items() if not name.startswith("_") and callable(member)]
    missing = [name for name in names if f".{name}(" in callers and not hasattr(ours, name)]
    shared = {"update_custom_params"}
    assert set(missing) <= shared


def test_toggles_of_the_steps_and_other_names() -> None:
    assert isinstance(gui_utils.button_clicked, dict)
    assert parameters(resume_manifest.load)[0] == "work_dir"
    assert (
        parameters(subapp._add_event_handler) == ["app", "event_type", "handler"]
        or len(parameters(subapp._add_event_handler)) == 3
    )
    assert "self.hyperparameters_selector.editor.readonly" in inspect.getsource(gui.TrainGUI.__init__)
    template = (Path(inspect.getfile(editor)).parent / "template.html").read_text()
    assert "<sly-editor" in template and 'v-model="state.{{{widget.widget_id}}}.text"' in template  # as in our YamlEditor
    assert "self.display_widgets" in inspect.getsource(training_logs.TrainingLogs.__init__)


def test_defects_that_are_worked_around_are_still_there() -> None:
    """When one of these fails, a workaround in sdk_bridge may go."""
    assert "continue" in inspect.getsource(TrainApp._preprocess_artifacts)  # a checkpoint that cannot be written is skipped
    assert '"tensorboard",' in inspect.getsource(TrainApp._init_tensorboard)  # needs the command on the PATH


def test_a_list_that_is_cleared_is_the_one_that_the_select_button_goes_through() -> None:
    assert 'on_select_click=step["on_select_click"]' in inspect.getsource(gui.StepFlow.build_wrappers)
    assert "for func in on_select_click" in inspect.getsource(gui_utils.wrap_button_click)


def test_the_route_that_is_replaced_is_there() -> None:
    assert '@self._server.post("/train_from_api")' in inspect.getsource(TrainApp.__init__)
    assert parameters(TrainApp._export_weights) == ["self", "experiment_info"]


def test_the_evaluation_makes_its_session_and_its_model_where_ours_are_put_in() -> None:
    source = inspect.getsource(TrainApp._run_model_benchmark)
    for part in (
        *("m: Inference = self._inference_class(", "m._load_model_headless(**self._benchmark_params)", "m.serve()"),
        'session = SessionJSON(self._api, session_url=f"http://localhost:{port}")',
    ):
        assert part in source
