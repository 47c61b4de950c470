"""What the parts of the train app have in common: what a subclass gives, and what the user chose."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import supervisely as sly
from supervisely.nn.training import train_app
from supervisely.nn.utils import ModelSource

from train_app.app_state import state_of_choice
from train_app.choices import DataChoice
from train_app.sdk_bridge.steps import Wizard
from train_app.training_view import TrainingView

FRAMEWORK = "HRDA"


class TrainBase(train_app.TrainApp):
    """The SDK's train app. A subclass gives the methods of the first section."""

    gui: Wizard
    _is_training: threading.Lock

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
