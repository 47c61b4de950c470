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
from supervisely.app import show_dialog
from supervisely.app.fastapi.subapp import _add_event_handler

from hrda_core.data.parallel import Stopped
from sdk_fixes.page_messages import send_from_the_server
from train_app.errors import UserError
from train_app.result import result_html
from train_app.runner import TrainingFailed
from train_app.sdk_bridge.base import FRAMEWORK
from train_app.sdk_bridge.routes import add_routes
from train_app.sdk_bridge.steps import put_in_our_cards
from train_app.sdk_bridge.uploading import Uploading

# a bar that the garbage collector closes during a state sync would wait for the lock that the sync holds
tqdm.std.tqdm.__del__ = lambda self: None  # type: ignore[method-assign]

TOLD = (UserError, TrainingFailed, Stopped)  # shown to the user by the time they leave a thread


def _no_traceback_of_what_was_told() -> None:
    usual = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not issubclass(arguments.exc_type, TOLD):
            usual(arguments)

    threading.excepthook = hook


class BridgedTrainApp(Uploading):
    """The SDK's train app, with the gaps that train_hrda.py fills.

    A subclass gives the methods of `TrainBase`'s first section; everything else connects them to the SDK's steps.
    """

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
