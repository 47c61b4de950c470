"""The SDK's train app with our steps in the place of its own."""

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
from supervisely.api.file_api import FileInfo
from supervisely.app import show_dialog
from supervisely.app.fastapi.subapp import _add_event_handler
from supervisely.nn.training import resume_manifest, train_app
from supervisely.nn.utils import ModelSource

from hrda_core.data.parallel import Stopped
from sdk_fixes.page_messages import send_from_the_server
from train_app.app_state import state_of_choice
from train_app.choices import DataChoice
from train_app.errors import UserError
from train_app.result import result_html
from train_app.runner import TrainingFailed
from train_app.sdk_bridge.evaluation import serving
from train_app.sdk_bridge.routes import add_routes
from train_app.sdk_bridge.steps import Wizard, put_in_our_cards
from train_app.team_files import upload_files
from train_app.training_view import TrainingView

# a bar that the garbage collector closes during a state sync would wait for the lock that the sync holds
tqdm.std.tqdm.__del__ = lambda self: None  # type: ignore[method-assign]

FRAMEWORK = "HRDA"
TOLD = (UserError, TrainingFailed, Stopped)  # shown to the user by the time they leave a thread


def _no_traceback_of_what_was_told() -> None:
    usual = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, TOLD):
            usual(arguments)

    threading.excepthook = hook


class BridgedTrainApp(train_app.TrainApp):
    """The SDK's train app, with the gaps that train_hrda.py fills.

    A subclass gives the methods of the first section; everything else connects them to the SDK's steps.
    """

    gui: Wizard

    def __init__(self, models: str, hyperparameters: str, app_options: str) -> None:
        put_in_our_cards()
        send_from_the_server()
        _no_traceback_of_what_was_told()
        super().__init__(FRAMEWORK, models, hyperparameters, app_options)
        self._is_training = threading.Lock()
        self._inference_settings: dict[str, Any] = {}  # the SDK knows them only once a class for inference is registered
        self.gui.is_busy = self._is_training.locked
        add_routes(self, self._server)
        self.gui.training_process.stop_button.click(self.stop)

    # -- for subclasses ------------------------------------------------------------------------------------------

    def stop(self) -> None:
        raise NotImplementedError

    def begin(self) -> None:
        """A training begins; a stop that was meant for an earlier one is forgotten."""
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

    def state_of_start(self) -> dict[str, Any] | None:
        raise NotImplementedError

    def get_app_state(self, experiment_info: dict[str, Any] | None = None) -> dict[str, Any]:
        """The SDK's, with section "input" and the options that it does not know; it round-trips through the API.

        Of a training that runs or has run: its own, whatever the cards show by now.
        """
        started = self.state_of_start() if self._is_training.locked() or self._is_resume_upload else None
        if started is not None:
            return {**started, "experiment_name": self.gui.training_process.get_experiment_name()}
        return self._state_of_cards(experiment_info)

    def _state_of_cards(self, experiment_info: dict[str, Any] | None = None) -> dict[str, Any]:
        state: dict[str, Any] = super().get_app_state(experiment_info)
        if state["model"]["source"] == ModelSource.PRETRAINED:
            state["model"]["model_name"] = self.model_info["meta"]["model_name"]  # the table's row, not the trained encoder
            state["model"] |= self.gui.model_selector.state()
        state["input"] = state_of_choice(self.choice)
        state["options"] |= {
            "devices": self.gui.training_process.get_devices(),
            "continue_run": self.gui.training_process.continue_run.is_checked(),
            "baseline": self.gui.training_process.baseline.is_checked(),
        }
        state["experiment_name"] = self.gui.training_process.get_experiment_name()
        return state

    # -- the SDK's steps, with ours in their place ---------------------------------------------------------------

    def _wrapped_start_training(self) -> None:
        """One training at a time, whether started by the button, the API or a relaunch."""
        if not self._is_training.acquire(blocking=False):
            raise UserError("A training is running already; stop it first, or start another session of the app.")
        try:
            self.gui.training_process.check_name()  # the SDK ends the whole app for a wrong one
            self.begin()
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
        chosen = {p.project_id for role in ("source", "target", "validation") for p in self.choice.projects(role)}
        for project_id in sorted(chosen - {self.project_id}):
            try:
                self._api.app.workflow.add_input_project(project_id)
            except Exception as error:  # bookkeeping of the platform; the training does not depend on it
                sly.logger.debug("no workflow input for project %s: %r", project_id, error)

    def _finalize(self, experiment_info: dict[str, Any], resume: bool = False) -> None:
        super()._finalize(experiment_info, resume)
        with contextlib.suppress(Exception):  # what is shown must not spoil what is done
            self._show_result()
        self.finished()

    def _show_result(self) -> None:
        """Links that outlive the session: it ends now, and serves no pictures any more."""
        infos = self._api.file.list(self.team_id, self.remote_directory, recursive=True, return_type="fileinfo")
        addresses = {info.path.removeprefix(self.remote_directory): info.full_storage_url for info in infos}
        self.gui.training_artifacts.show_result(result_html(self.remote_directory, self.task_id, addresses))
        self.view.finish("Finished: everything is in Team Files", addresses)

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
        checkpoints = {path.name for path in Path(self._output_checkpoints_dir).glob("*.pth")}
        for info in self._api.file.list(self.team_id, f"{self.remote_directory}checkpoints/", return_type="fileinfo"):
            if info.name not in checkpoints:  # of an earlier start of this task
                self._api.file.remove(self.team_id, info.path)
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
        reason = self.why_no_benchmark()
        result: tuple[Any, ...] = (None, None, None, {}, None)
        if not reason:
            split = self.split_ids()
            parts = {name: {"dataset_ids": None, "images_ids": split[name]} for name in ("train", "val")}
            info = {**experiment_info, "framework_name": FRAMEWORK, "artifacts_dir": remote_artifacts_dir}
            info["model_meta"] = model_meta.to_json()
            folder = Path(self.work_dir) / "serving"
            try:
                with serving(Path(experiment_info["best_checkpoint"]), self.device, info, folder) as self._inference_class:
                    project = self.benchmark_project()
                    result = super()._run_model_benchmark(
                        local_artifacts_dir, remote_artifacts_dir, experiment_info, parts, model_meta, project
                    )
            except UserError as error:
                reason = str(error)
            if result[1] is None:
                reason = reason or "it failed, and the task's log says how"
        if reason:
            text = f"The platform's own evaluation report was not made: {reason}. Our figures are in report.html."
            self.view.notice(text)
            sly.logger.warning(text)
        return result

    def _export_weights(self, experiment_info: dict[str, Any]) -> Any:
        """The SDK's list of the exported model's classes lacks the background."""
        weights, classes = super()._export_weights(experiment_info)
        if classes is not None:
            names = [item.name for item in self.model_meta().obj_classes]
            sly.json.dump_json_file(dict(enumerate(names)), classes)
        return weights, classes

    def _get_resume_app_state(self, experiment_info: dict[str, Any]) -> dict[str, Any]:
        """The SDK's would put its own section "input" over ours."""
        return {**self.get_app_state(experiment_info), "start_training": False}

    def has_pending_upload(self) -> bool:
        """A former process of this task trained, and its upload is not complete."""
        manifest = resume_manifest.load(self.work_dir, self.task_id)
        if manifest is not None and not self._is_resume_upload:
            # the cards could not be filled in again, say since a class was renamed; the upload does not need them
            self._resume_ctx, self._is_resume_upload = manifest, True
        return manifest is not None

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
        for widget in self.gui.training_process.widgets_to_disable:
            widget.disable()
        self.gui.training_process.stop_button.enable()
        self.gui.training_process.stop_button.show()
        self.view.reset()

    def _restore_train_widgets_state_on_error(self) -> None:
        super()._restore_train_widgets_state_on_error()
        self.gui.training_logs.card.unlock()  # what was seen so far stays to be seen
        for widget in self.gui.training_process.widgets_to_disable:
            widget.enable()
        self._activate(self.gui.training_process)

    def _activate(self, card: Any) -> None:
        self.gui.stepper.set_active_step(self.gui.steps.index(card.card) + 1)

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
        self.log_dir = str(Path(self.work_dir) / self._log_dir_name)
        super()._prepare_working_dir()  # empties its own log directory, which must not be the run's
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
