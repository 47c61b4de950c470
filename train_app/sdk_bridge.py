"""The only module that touches the SDK's internals: its train app, with our cards, our data and our training put in.

What is relied on is guarded by tests/test_sdk_bridge.py, which fails when the pinned SDK changes.
"""

from __future__ import annotations

import contextlib
import html
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import supervisely as sly
import tqdm.std
from fastapi import HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse
from supervisely.api.file_api import FileInfo
from supervisely.app import show_dialog
from supervisely.app.fastapi.subapp import _add_event_handler
from supervisely.app.widgets import Card, Container
from supervisely.nn.training import resume_manifest, train_app
from supervisely.nn.training.gui import gui as sdk_gui
from supervisely.nn.training.gui import utils as gui_utils
from supervisely.nn.training.gui.hyperparameters_selector import HyperparametersSelector
from supervisely.nn.training.gui.training_logs import TrainingLogs
from supervisely.nn.utils import ModelSource

from hrda_core.data.parallel import Stopped
from train_app.app_state import choice_from_state, state_of_choice
from train_app.choices import DataChoice
from train_app.errors import UserError
from train_app.runner import TrainingFailed
from train_app.team_files import upload_files
from train_app.training_view import TrainingView, preview_file
from train_app.wizard import ClassesCard, SourceTargetCard, TrainingCard

# a bar that the garbage collector closes during a state sync would wait for the lock that the sync holds
tqdm.std.tqdm.__del__ = lambda self: None  # type: ignore[method-assign]

FRAMEWORK = "HRDA"
TOLD = (UserError, TrainingFailed, Stopped)  # shown to the user by the time they leave a thread
STEPS = ("input_selector", "model_selector", "classes_selector", "hyperparameters_selector")


class HyperparametersCard(HyperparametersSelector):
    """The SDK's, which takes for granted that both exports are supported as soon as one is mentioned."""

    def set_export_onnx_checkbox_value(self, value: bool) -> None:
        if self.export_onnx_checkbox is not None:
            super().set_export_onnx_checkbox_value(value)

    def set_export_tensorrt_checkbox_value(self, value: bool) -> None:
        if self.export_tensorrt_checkbox is not None:
            super().set_export_tensorrt_checkbox_value(value)


class LogsCard(TrainingLogs):
    """The SDK's, with our view of the training in it."""

    def __init__(self, app_options: dict[str, Any]) -> None:
        super().__init__(app_options)
        self.view = TrainingView()
        self.container = Container([*self.display_widgets, *self.view.widgets])
        self.card = Card("Progress", "Curves, and predictions on your own photos", content=self.container)
        self.card.lock("Start training to unlock")


class Wizard(sdk_gui.TrainGUI):
    """The SDK's wizard with our cards; an app state that a card refuses is an error, not a silence."""

    input_selector: SourceTargetCard
    classes_selector: ClassesCard
    training_process: TrainingCard
    training_logs: LogsCard

    def load_from_app_state(self, app_state: Any, click_cb: bool = True, validate_steps: bool = True) -> None:
        for step in STEPS:  # a second state in one session: the SDK's buttons are toggles
            gui_utils.button_clicked[getattr(self, step).button.widget_id] = False
        if isinstance(app_state, dict):
            app_state = {"train_val_split": {}, "tags": [], **app_state}
            self._classes_of_state = self._names_of_classes(app_state.get("classes"))
        self._read_options((app_state or {}).get("options") or {} if isinstance(app_state, dict) else {})
        super().load_from_app_state(app_state, click_cb, validate_steps)

    def _read_options(self, options: dict[str, Any]) -> None:
        process = self.training_process
        for box, name in ((process.continue_run, "continue_run"), (process.baseline, "baseline")):
            (box.check if options.get(name, False) else box.uncheck)()
        devices = options.get("devices")
        if devices:
            process.select_device.set_device(devices[0])

    def _init_input(self, settings: Any, options: Any, click_cb: bool = True, validate: bool = True) -> bool:
        choice = choice_from_state(settings or {}, self._classes_of_state, self.project_id)
        self.input_selector.set(choice)
        self._class_choice = choice.classes
        return self._taken(self.input_selector, super()._init_input(settings, options, click_cb, validate))

    def _init_model(self, settings: Any, options: Any = None, click_cb: bool = True, validate: bool = True) -> bool:
        source = settings.get("source")
        if source not in (ModelSource.PRETRAINED, ModelSource.CUSTOM):
            raise UserError(f"model.source={source!r}: use {ModelSource.PRETRAINED!r} or {ModelSource.CUSTOM!r}")
        if source == ModelSource.PRETRAINED:
            names = [model["meta"]["model_name"] for model in self.models]
            if settings.get("model_name") not in names:
                raise UserError(f"model.model_name={settings.get('model_name')!r}: use one of {', '.join(names)}")
        try:
            done = super()._init_model(settings, options, click_cb, validate)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:  # the SDK's, for what it does not find
            raise UserError(
                f"model: there is no checkpoint {settings.get('checkpoint')!r} of task {settings.get('task_id')!r} among the "
                f"experiments of Train HRDA in this team ({error}); choose one that is in Team Files, /experiments"
            ) from error
        return self._taken(self.model_selector, done)

    def _init_classes(self, settings: Any, options: Any, click_cb: bool = True, validate: bool = True) -> bool:
        self.classes_selector.set(self._class_choice)
        is_valid = self.classes_selector.validate_step() if validate else True
        if is_valid and click_cb:
            self.classes_selector_cb()
            self.set_next_step()
        return self._taken(self.classes_selector, is_valid)

    def _init_hyperparameters(self, settings: Any, options: Any, click_cb: bool = True, validate: bool = True) -> bool:
        done = super()._init_hyperparameters(settings, options, click_cb, validate)
        return self._taken(self.hyperparameters_selector, done)

    def _names_of_classes(self, classes: Any) -> list[str]:
        """Names, also where the state gives ids of classes, as the experiment page does."""
        if not isinstance(classes, list):
            raise UserError(f"classes={classes!r}: give a list of class names, such as ['crack']")
        names = {c.sly_id: c.name for c in self.project_meta.obj_classes}
        return [names.get(item, str(item)) for item in classes]

    @staticmethod
    def _taken(card: Any, is_valid: bool) -> bool:
        if not is_valid:
            raise UserError(card.validator_text.text.replace("<br>", " "))
        return True


def _no_traceback_of_what_was_told() -> None:
    usual = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, TOLD):
            usual(arguments)

    threading.excepthook = hook


def _put_in_our_cards() -> None:
    sdk_gui.InputSelector = SourceTargetCard
    sdk_gui.ClassesSelector = ClassesCard
    sdk_gui.HyperparametersSelector = HyperparametersCard
    sdk_gui.TrainingProcess = TrainingCard
    sdk_gui.TrainingLogs = LogsCard
    train_app.TrainGUI = Wizard


class BridgedTrainApp(train_app.TrainApp):
    """The SDK's train app, with the gaps that train_hrda.py fills.

    A subclass gives the methods of the first section; everything else connects them to the SDK's steps.
    """

    gui: Wizard

    def __init__(self, models: str, hyperparameters: str, app_options: str) -> None:
        _put_in_our_cards()
        _no_traceback_of_what_was_told()
        super().__init__(FRAMEWORK, models, hyperparameters, app_options)
        self._is_training = threading.Lock()
        self._add_routes()
        self.gui.training_process.stop_button.click(self.stop)
        self.gui.input_selector.source_changed = self._read_classes

    # -- for subclasses ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        raise NotImplementedError

    def prepare_data(self) -> None:
        raise NotImplementedError

    def model_meta(self) -> sly.ProjectMeta:
        raise NotImplementedError

    def figures(self) -> tuple[dict[str, float], str | None]:
        raise NotImplementedError

    def split_ids(self) -> dict[str, list[int]]:
        raise NotImplementedError

    def why_no_benchmark(self) -> str:
        raise NotImplementedError

    def benchmark_project(self) -> int:
        raise NotImplementedError

    def export(self, experiment_info: dict[str, Any]) -> str:
        raise NotImplementedError

    def finished(self) -> None:
        """The experiment is complete."""
        raise NotImplementedError

    def run_directory(self) -> Path:
        raise NotImplementedError

    # -- what the user chose -------------------------------------------------------------------------------------

    @property
    def view(self) -> TrainingView:
        return self.gui.training_logs.view

    @property
    def classes(self) -> list[str]:
        return self.gui.classes_selector.get_selected_classes()

    @property
    def choice(self) -> DataChoice:
        return self.gui.input_selector.choice(self.gui.classes_selector.choice())

    def get_app_state(self, experiment_info: dict[str, Any] | None = None) -> dict[str, Any]:
        """The SDK's, with section "input" and the options that it does not know; it round-trips through the API."""
        state: dict[str, Any] = super().get_app_state(experiment_info)
        if state["model"]["source"] == ModelSource.PRETRAINED:
            state["model"]["model_name"] = self.model_info["meta"]["model_name"]  # the table's row, not the trained encoder
        state["input"] = state_of_choice(self.choice)
        state["options"] |= {
            "devices": self.gui.training_process.get_devices(),
            "continue_run": self.gui.training_process.continue_run.is_checked(),
            "baseline": self.gui.training_process.baseline.is_checked(),
        }
        state["experiment_name"] = self.gui.training_process.get_experiment_name()
        return state

    def _read_classes(self) -> None:
        self.gui.classes_selector.read_projects([project.project_id for project in self.gui.input_selector.source.get()])

    # -- the SDK's steps, with ours in their place ---------------------------------------------------------------

    def _wrapped_start_training(self) -> None:
        """One training at a time, whether started by the button, the API or a relaunch."""
        if not self._is_training.acquire(blocking=False):
            raise UserError("A training is running already; stop it first, or start another session of the app.")
        try:
            super()._wrapped_start_training()
        except TOLD:
            raise
        except Exception as error:  # as one of ours, so that a client is not told to try it all again (5xx)
            raise TrainingFailed(self.sentence(error, "Training failed")) from error
        finally:
            self._is_training.release()
            self.gui.training_process.stop_button.hide()

    def _prepare(self) -> None:
        if sly.is_production():
            self._workflow_input()
        self.prepare_data()

    def _workflow_input(self) -> None:
        super()._workflow_input()
        chosen = {p.project_id for role in ("target", "validation") for p in self.choice.projects(role)}
        for project_id in sorted(chosen - {self.project_id}):
            try:
                self._api.app.workflow.add_input_project(project_id)
            except Exception as error:  # bookkeeping of the platform; the training does not depend on it
                sly.logger.debug("no workflow input for project %s: %r", project_id, error)

    def _finalize(self, experiment_info: dict[str, Any], resume: bool = False) -> None:
        super()._finalize(experiment_info, resume)
        self.finished()

    def create_model_meta(self, task_type: str) -> sly.ProjectMeta:
        return self.model_meta()

    def _preprocess_artifacts(self, experiment_info: dict[str, Any], model_meta: sly.ProjectMeta) -> dict[str, Any]:
        """The SDK skips a checkpoint that it cannot write, with a line in its log."""
        names = {Path(path).name for path in experiment_info["checkpoints"]}
        result: dict[str, Any] = super()._preprocess_artifacts(experiment_info, model_meta)
        lost = names - {Path(path).name for path in result["checkpoints"]}
        if lost:
            raise UserError(
                f"{', '.join(sorted(lost))} could not be written to {self.output_dir}; free space on the agent's disk and start "
                f"the task again: it goes on where it was"
            )
        return result

    def _upload_file_to_team_files(self, local_path: str, remote_path: str, message: str) -> FileInfo | None:
        """By the SDK's asynchronous upload: the other one waits for ever when the platform answers with an error once."""
        self.view.say(f"{message} ...")
        upload_files(self._api, self.team_id, [local_path], [remote_path])
        return self._api.file.get_info_by_path(self.team_id, remote_path)

    def _upload_artifacts(self, resume: bool = False) -> Any:
        """Into the directory that has the checkpoints of this task already, and without what is there."""
        self._resume_ctx = {**(self._resume_ctx or {}), "remote_dir": self.remote_directory}
        return super()._upload_artifacts(resume=True)

    @property
    def remote_directory(self) -> str:
        return f"/{self._experiments_dir_name}/{self.project_id}_{self.project_name}/{self.task_id}_{FRAMEWORK}/"

    def _generate_train_val_splits(self, remote_dir: str, splits_data: dict[str, Any]) -> None:
        path = Path(self.output_dir) / "train_val_split.json"
        sly.json.dump_json_file(self.split_ids(), str(path))
        self._upload_file_to_team_files(str(path), f"{remote_dir.rstrip('/')}/{path.name}", f"Uploading {path.name}")

    def _generate_experiment_info(self, remote_dir: str, experiment_info: dict[str, Any], *more: Any) -> dict[str, Any]:
        evaluation, report_id, link, metric, export = more
        figures, primary = self.figures()
        result: dict[str, Any] = super()._generate_experiment_info(
            remote_dir, experiment_info, evaluation or figures, report_id, link, metric or primary, export
        )
        split = self.split_ids()
        additions = {
            "train_val_split": "train_val_split.json",
            "train_size": len(split["train"]),
            "val_size": len(split["val"]),
            "target_size": len(split["target"]),
        }
        preview = result.pop("project_preview", None)
        result |= additions
        path = Path(self.output_dir) / self._experiment_json_file
        sly.json.dump_json_file(result, str(path))
        self._upload_file_to_team_files(str(path), f"{remote_dir.rstrip('/')}/{path.name}", f"Uploading {path.name}")
        return {**result, "project_preview": preview}

    def _run_model_benchmark(
        self,
        local_artifacts_dir: str,
        remote_artifacts_dir: str,
        experiment_info: dict[str, Any],
        splits_data: dict[str, Any],
        model_meta: sly.ProjectMeta,
        gt_project_id: int | None = None,
    ) -> tuple[Any, ...]:
        """The platform's own evaluation, on the validation images; where it cannot run the user is told why."""
        reason = self.why_no_benchmark() or ("the serving app is not installed here" if self._inference_class is None else "")
        if reason:
            text = f"The platform's own evaluation report was not made: {reason}. Our figures are in report.html."
            self.view.notice(text)
            sly.logger.warning(text)
            return None, None, None, {}, None
        split = self.split_ids()
        parts = {name: {"dataset_ids": None, "images_ids": split[name]} for name in ("train", "val")}
        project = self.benchmark_project()
        result: tuple[Any, ...] = super()._run_model_benchmark(
            local_artifacts_dir, remote_artifacts_dir, experiment_info, parts, model_meta, project
        )
        return result

    def _get_resume_app_state(self, experiment_info: dict[str, Any]) -> dict[str, Any]:
        """The SDK's would put its own section "input" over ours."""
        return {**self.get_app_state(experiment_info), "start_training": False}

    def has_pending_upload(self) -> bool:
        """A former process of this task trained, and its upload is not complete."""
        return resume_manifest.load(self.work_dir, self.task_id) is not None

    # -- words instead of tracebacks -----------------------------------------------------------------------------

    def _show_error(self, message: str, e: Exception | None = None) -> None:
        """A stop is not an error; an error is told by its own sentence, not by 'check the logs'."""
        sentence = self.sentence(e, message)
        stopped = isinstance(e, Stopped)
        known = isinstance(e, TOLD)
        sly.logger.log(20 if stopped else 40, sentence, exc_info=None if known else e)
        status = "warning" if stopped else "error"
        self.gui.training_process.validator_text.set(html.escape(sentence).replace("\n", "<br>"), status)
        self.gui.training_process.validator_text.show()
        self.gui.training_process.start_button.loading = False
        self.gui.training_process.resume_button.loading = False
        self._restore_train_widgets_state_on_error()
        show_dialog(title="Stopped" if stopped else "Error", description=sentence, status="info" if stopped else "error")

    def sentence(self, error: Exception | None, message: str) -> str:
        if isinstance(error, Stopped):
            return "Stopped before training began; what was downloaded is kept for the next start."
        if isinstance(error, (UserError, TrainingFailed)):
            return str(error)
        return message if error is None else f"{message.split('. ')[0]}: {type(error).__name__}: {error}"

    def _set_train_widgets_state_on_start(self) -> None:
        super()._set_train_widgets_state_on_start()
        self._activate(self.gui.training_logs)
        self.gui.training_process.stop_button.enable()
        self.gui.training_process.stop_button.show()
        self.view.reset()

    def _restore_train_widgets_state_on_error(self) -> None:
        super()._restore_train_widgets_state_on_error()
        self.gui.training_logs.card.unlock()  # what was seen so far stays to be seen
        self._activate(self.gui.training_process)

    def _activate(self, card: Any) -> None:
        self.gui.stepper.set_active_step(self.gui.steps.index(card.card) + 1)

    # -- routes --------------------------------------------------------------------------------------------------

    def _add_routes(self) -> None:
        server = self._server

        @server.exception_handler(UserError)
        @server.exception_handler(TrainingFailed)
        @server.exception_handler(Stopped)
        async def refuse(request: Request, error: Exception) -> JSONResponse:
            # never 5xx: the SDK's client would send the request ten times, and train as often
            return JSONResponse({"error": self.sentence(error, "")}, 400 if isinstance(error, UserError) else 409)

        @server.post("/stop_training")
        def stop() -> dict[str, str]:
            """Saves what was trained and uploads it."""
            self.stop()
            return {"result": "stop requested"}

        @server.post("/app_state")
        def app_state() -> dict[str, Any]:
            """The choices as they are now: what /train_from_api takes."""
            return self.get_app_state()

        @server.get("/previews/{name:path}")
        def preview(name: str) -> FileResponse:
            path = preview_file(self.run_directory(), name)
            if path is None:
                raise HTTPException(404, f"no preview {name!r}")
            return FileResponse(path)

    # -- start-up ------------------------------------------------------------------------------------------------

    def on_start(self, function: Callable[[], dict[str, Any]]) -> None:
        """What Start runs, once `prepare_data` has."""
        self.start(function)
        self.export_onnx(self.export)

    def start_at_once(self, function: Callable[[], None]) -> None:
        """Runs `function` in a thread as soon as the server is up."""

        def run() -> None:
            with contextlib.suppress(*TOLD):  # shown already
                function()

        _add_event_handler(self._server, "startup", lambda: threading.Thread(target=run, daemon=True).start())

    def _prepare_working_dir(self) -> None:
        super()._prepare_working_dir()  # empties its own log directory
        self.log_dir = str(self.run_directory() / "tensorboard")

    def _init_logger(self) -> None:
        """TensorBoard on what the child process writes; the SDK's would need its command on the PATH and its port free."""
        if self._tensorboard_process is not None:
            return
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._tensorboard_port = probe.getsockname()[1]
        self._register_routes()
        options = [f"--logdir={self.log_dir}", f"--port={self._tensorboard_port}", "--host=127.0.0.1", "--reload_multifile=true"]
        command = [sys.executable, "-m", "train_app.tensorboard_server", *options]
        quiet = subprocess.DEVNULL
        self._tensorboard_process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet)
        self.app.call_before_shutdown(self.stop_tensorboard)
        self.gui.training_logs.tensorboard_button.enable()
