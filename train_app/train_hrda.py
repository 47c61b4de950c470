"""Train HRDA: from the choices in the wizard to an experiment. The SDK's part is in sdk_bridge."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from pathlib import Path
from typing import Any

import supervisely as sly

from hrda_core import TrainConfig, load_checkpoint
from hrda_core.data.parallel import Stopped
from hrda_core.inference.export import export_onnx
from hrda_core.training.run_directory import RunDirectory
from train_app.artifacts import base_checkpoint, figures_of, meta_of, stage_artifacts
from train_app.benchmark import benchmark_projects, why_no_benchmark
from train_app.checkpoint_upload import CheckpointUpload
from train_app.devices import check_batch, check_devices
from train_app.errors import UserError
from train_app.hearing import Hearing
from train_app.model_files import ModelFiles
from train_app.projects import Prepared, default_cache, prepare_datasets
from train_app.runner import Outcome, Runner, TrainingFailed
from train_app.sdk_bridge import BridgedTrainApp
from train_app.session import SessionFile
from train_app.settings import check_needs, read_settings
from train_app.team_files import fetch_run

HERE = Path(__file__).parent


class TrainHRDA(BridgedTrainApp):
    """The app. One task trains in one directory, runs/{task id} of the app's data, and goes on there after any interruption."""

    def __init__(self) -> None:
        data = Path(sly.app.get_synced_data_dir())
        self._stop = threading.Event()
        self._runner: Runner | None = None
        self._prepared: Prepared | None = None
        self._config: TrainConfig | None = None
        self._gpus: list[str] = []
        self._continues = False
        self._ended: Outcome | None = None  # of a training that is over, where a former process of this task got so far
        super().__init__(str(HERE / "models.json"), str(HERE / "hyperparameters.yaml"), str(HERE / "app_options.yaml"))
        self._run = RunDirectory(data / "runs" / str(self.task_id))
        self._data = data / "datasets" / str(self.task_id)
        self._session = SessionFile(self._run.path / "session.json")
        card = self.gui.model_selector
        self._files = ModelFiles(self._api, self.team_id, card, self._run.path / "start", self._show, self._stop.is_set)
        card.check = self._files.check
        self.on_start(self.train)
        self.app.call_before_shutdown(self._stop_now)
        self._go_on_after_interruption()
        self.gui.is_starting = False

    # -- the steps of a training ---------------------------------------------------------------------------------

    def begin(self) -> None:
        self._stop.clear()

    def prepare_data(self) -> None:
        """Settings, images and masks, weights; every mistake is told before anything is trained.

        Raises:
            UserError: a choice that cannot work. Stopped: the user stopped.
        """
        choice = self.choice
        self.view.say("Checking the choices ...")
        devices: list[str] = self.gui.training_process.get_devices()
        device = check_devices(devices)
        if self.gui.training_process.continue_run.is_checked() and not self._files.is_custom():
            raise UserError(
                "options.continue_run goes on with an experiment: choose its last.pth as a custom model, or switch it off"
            )
        config = read_settings(self.hyperparameters_yaml, self._files.choice(), choice.use_target_labels, device)
        config = config.updated({"baseline": config.baseline or self.gui.training_process.baseline.is_checked()})
        check_needs(config, choice)
        check_batch(config, devices)
        config = self._files.with_local_weights(config)
        state = self._state_of_cards()
        self._continues = self._same_as_before(config, state)
        self._ended = self._outcome_of_before() if self._continues else None
        if self._ended is None:
            self._session.update(phase="preparing", app_state=state, config=config.as_dict(), record={}, stop_requested=False)
        try:
            # without the cache the images are this task's alone, and go with it
            cache = default_cache() if self.gui.input_selector.get_cache_value() else self._data / "cache"
            self._prepared = prepare_datasets(self._api, choice, self._data, cache, self._show, self._stop.is_set)
        except Exception as error:
            self._note_end(error)
            raise
        if self._continues:
            self.view.restore(self._run, config.mode)
        for notice in self._prepared.notices:
            self.view.notice(notice)
            sly.logger.warning(notice)
        self._config, self._gpus = config, devices

    def train(self) -> dict[str, Any]:
        """Trains, and lays out what the experiment consists of."""
        assert self._prepared is not None and self._config is not None  # prepare_data ran before
        if self._ended is not None:
            return self._collect(self._ended, self._prepared)
        if not self._continues and self.gui.training_process.continue_run.is_checked():
            try:
                self._fetch_run_of_experiment()
            except Exception as error:
                self._note_end(error)
                raise
        remote = f"{self.remote_directory}checkpoints"
        upload = CheckpointUpload(self._api, self.team_id, remote, self._run.path / ".upload", self._tell)
        self._session.update(phase="training")
        try:
            outcome = self._train(self._config, self._prepared, upload)
        except Exception as error:
            self._note_end(error)
            raise
        finally:
            self.view.say("Waiting for the checkpoint that is on its way to Team Files ...")
            upload.close()
        return self._collect(outcome, self._prepared)

    def _train(self, config: TrainConfig, prepared: Prepared, upload: CheckpointUpload) -> Outcome:
        folders = {"source": [prepared.source], "target": [prepared.target]}
        if prepared.validation is not None:
            folders["validation"] = [prepared.validation]
        self._runner = Runner(self._run.path, Hearing(self.view, self._run, upload))
        if self._stop.is_set():
            raise Stopped("stopped before training")
        try:
            outcome = self._runner.run(config, folders, resume=self._continues, gpus=self._gpus)
        except TrainingFailed as error:
            raise TrainingFailed(f"{error} {self._what_is_left()}".strip()) from error
        finally:
            self._runner = None
        if not self._result().best.is_file():
            raise Stopped("stopped before the first iteration")
        return outcome

    def _collect(self, outcome: Outcome, prepared: Prepared) -> dict[str, Any]:
        run = self._result()
        checkpoint = load_checkpoint(run.best)
        record = {
            "classes": checkpoint["classes"],
            "split": {
                "train": prepared.image_ids["source"],
                "val": prepared.image_ids["validation"],
                "target": prepared.image_ids["target"],
            },
            "figures": figures_of(checkpoint, outcome.score),
            "outcome": dataclasses.asdict(outcome),
        }
        self._session.update(phase="finalizing", record=record)
        if outcome.stopped:
            reason = outcome.stopped[0].upper() + outcome.stopped[1:]
            text = f"{reason}: what was trained until iteration {outcome.iteration} is saved and uploaded."
            if run is not self._run:
                text += " It is the baseline, which does not adapt to the target: adapting had not begun."
            self.gui.training_artifacts.success_message_text = text
            sly.logger.info(text)
        staged = stage_artifacts(run, Path(self.work_dir) / "staging", prepared)
        self.add_output_files([str(path) for path in staged.files])
        return {
            "model_name": checkpoint["model_config"]["encoder"],
            "task_type": "semantic segmentation",
            "model_files": {"config": str(staged.config)},
            "checkpoints": [str(path) for path in staged.checkpoints],
            "best_checkpoint": run.best.name,
        }

    def stop(self) -> None:
        """Ends a download at once, and a training after the iteration at hand. Remembered by a relaunched task."""
        self._stop.set()
        if self._is_training.locked():
            self.gui.training_process.validator_text.set("Stopping; the card Progress tells what is still to be done", "info")
        if self._runner is not None:
            self._session.update(stop_requested=True)
            self.view.say_stopping("Stopping: the iteration or evaluation at hand is finished, then everything is saved ...")
            self._runner.stop()

    def _stop_now(self) -> None:
        """The app ends: the trainer saves, and a relaunched task goes on."""
        self._stop.set()
        if self._runner is not None:
            self._runner.stop()

    # -- what the bridge asks ------------------------------------------------------------------------------------

    def run_directory(self) -> Path:
        return self._run.path

    def state_of_start(self) -> dict[str, Any] | None:
        state: dict[str, Any] | None = self._session.read().get("app_state")
        return state

    def model_meta(self) -> sly.ProjectMeta:
        return meta_of(self._record()["classes"])

    def split_ids(self) -> dict[str, list[int]]:
        split: dict[str, list[int]] = self._record()["split"]
        return split

    def figures(self) -> tuple[dict[str, float], str | None]:
        figures: dict[str, float] = self._record()["figures"]
        return figures, next(iter(figures), None)

    def finished(self) -> None:
        self._session.update(phase="done")
        shutil.rmtree(self._data, ignore_errors=True)

    def _record(self) -> dict[str, Any]:
        record: dict[str, Any] = self._session.read()["record"]
        return record

    def why_no_benchmark(self) -> str:
        return why_no_benchmark(self._api, self.choice)

    def benchmark_project(self) -> int:
        return benchmark_projects(self.choice)[0].project_id

    def export(self, experiment_info: dict[str, Any]) -> str:
        """The best checkpoint as ONNX, beside the others."""
        try:
            path = export_onnx(experiment_info["best_checkpoint"], Path(self.output_dir) / "export" / "best.onnx")
        except Exception as error:  # the SDK only logs it
            self._tell(f"The model was not exported to ONNX: {error}")
            raise
        return str(path)

    # -- parts ---------------------------------------------------------------------------------------------------

    def _result(self) -> RunDirectory:
        """The run, or its baseline where it was stopped before adapting began."""
        baseline = RunDirectory(self._run.baseline)
        return baseline if baseline.best.is_file() and not self._run.best.is_file() else self._run

    def _outcome_of_before(self) -> Outcome | None:
        """How the training of a former process ended, where all that was left was to upload it."""
        before = self._session.read()
        if before.get("phase") == "finalizing":
            return Outcome(**before["record"]["outcome"])
        result = self._result()
        if before.get("phase") == "training" and before.get("stop_requested") and result.best.is_file():
            return Outcome(result.iteration() or 0, None, "stop requested")
        return None

    def _same_as_before(self, config: TrainConfig, state: dict[str, Any]) -> bool:
        """Whether this task already trained with the very same choices: then it goes on with that."""
        trained = any(run.last.is_file() for run in (self._run, RunDirectory(self._run.baseline)))
        same = trained and self._session.has(state, config.as_dict())
        if same:
            self.view.notice("Going on with the run of this task that was interrupted.")
        return same

    def _fetch_run_of_experiment(self) -> None:
        """Resume from an experiment: its state and history become this run's beginning."""
        directory = base_checkpoint(self.gui.model_selector.get_checkpoint_link())
        fetch_run(self._api, self.team_id, directory, self._run, self._show, self._stop.is_set)
        self._continues = True

    def _note_end(self, error: Exception) -> None:
        with contextlib.suppress(OSError):  # the disk may be full, which is then told already
            self._session.update(phase="stopped" if isinstance(error, Stopped) else "failed")

    def _what_is_left(self) -> str:
        iteration = self._run.iteration()
        if iteration is None:
            return ""
        return (
            f"Nothing before that is lost: checkpoints until iteration {iteration} are in Team Files, {self.remote_directory}"
            f"checkpoints. Start with the same settings goes on from there, with other settings it begins anew."
        )

    def _show(self, text: str, done: int = 0, total: int = 0) -> None:
        self.view.say(f"{text}: {done} of {total}" if total else f"{text} ...")

    def _tell(self, text: str) -> None:
        self.view.notice(text)
        sly.logger.warning(text)

    def _go_on_after_interruption(self) -> None:
        """A relaunched task continues by itself: its upload, or its training."""
        if self.has_pending_upload():
            self.start_at_once(self._wrapped_resume_upload)
        elif self._session.is_unfinished():
            sly.logger.info("This task was interrupted; it goes on where it was.")
            self.gui.is_starting = False  # so that a state which does not fit any more is told here
            try:
                self.load_app_state(self._session.read()["app_state"])
            except UserError as error:
                self._note_end(error)
                self._tell(f"This task was interrupted and cannot go on by itself: {error}")
                self.gui.training_process.validator_text.set(str(error), "error")
                self.gui.training_process.validator_text.show()
                return
            self.start_at_once(self._wrapped_start_training)
