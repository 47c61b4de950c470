"""The SDK's wizard with our cards in it, and app states that are taken whole or refused in words."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import supervisely as sly
from supervisely.app.widgets import Card, Container, Text
from supervisely.nn.training import train_app
from supervisely.nn.training.gui import gui as sdk_gui
from supervisely.nn.training.gui import utils as gui_utils
from supervisely.nn.training.gui.training_artifacts import TrainingArtifacts
from supervisely.nn.training.gui.training_logs import TrainingLogs
from supervisely.nn.utils import ModelSource

from hrda_core import TrainConfig
from train_app.app_state import check_options, check_state, choice_from_state
from train_app.classes_card import ClassesCard
from train_app.errors import UserError
from train_app.hyperparameters_card import HyperparametersCard
from train_app.memory_estimate import free_bytes, memory_sentence
from train_app.sdk_bridge.model_card import ModelCard
from train_app.settings import ModelChoice, read_settings, read_yaml
from train_app.source_target import SourceTargetCard
from train_app.training_card import TrainingCard
from train_app.training_view import TrainingView

STEPS = ("input_selector", "model_selector", "classes_selector", "hyperparameters_selector")
SDK_ERRORS = (KeyError, ValueError, TypeError, AttributeError, IndexError)  # for what it does not find or expect


class InputCard(SourceTargetCard):
    """Ours, with what the SDK's tree of datasets forgets when it is disabled: its own drop-downs."""

    @property
    def widgets_to_disable(self) -> list[Any]:
        trees = [role.selector for role in (self.source, self.target, self.validation)]
        parts = [part for tree in trees for part in (tree._select_team, tree._select_workspace, tree._select_project)]
        return [*super().widgets_to_disable, *parts, *(tree._select_dataset for tree in trees)]


class LogsCard(TrainingLogs):
    """The SDK's, with our view of the training in it."""

    def __init__(self, app_options: dict[str, Any]) -> None:
        super().__init__(app_options)
        self.view = TrainingView()
        self.container = Container([*self.display_widgets, *self.view.widgets])
        self.card = Card("Progress", "Curves, and predictions on your own photos", content=self.container)
        self.card.lock("Start training to unlock")


class ArtifactsCard(TrainingArtifacts):
    """The SDK's, with links to what came out, and how the model is put to use."""

    def __init__(self, api: sly.Api, app_options: dict[str, Any]) -> None:
        super().__init__(api, app_options)
        self.result = Text("", widget_id="hrda_result")
        self.result.hide()
        self.container = Container([*self.display_widgets, self.result])
        self.card = Card(self.title, "The experiment, its report, and how to deploy the model", content=self.container)
        self.card.lock("Artifacts will be here when the training is over")

    def show_result(self, content: str) -> None:
        self.result.text = content
        self.result.show()


class Wizard(sdk_gui.TrainGUI):
    """The SDK's wizard with our cards.

    is_busy: while a training runs its choices stay as they are. is_starting: nobody waits for an answer yet, so that what is
    wrong with a state (of the experiment page, of a former process) is shown on the first card instead of ending the app.
    """

    input_selector: InputCard
    model_selector: ModelCard
    classes_selector: ClassesCard
    hyperparameters_selector: HyperparametersCard
    training_process: TrainingCard
    training_logs: LogsCard
    training_artifacts: ArtifactsCard

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.is_busy: Callable[[], bool] = lambda: False
        self.is_starting = True
        super().__init__(*arguments, **options)
        # the SDK looks here for shapes that must be converted, in columns that a table of several projects lacks; none must be
        self.step_flow.steps["classes_selector"]["on_select_click"].clear()
        for moment in ("on_select_click", "on_reselect_click"):  # toggles of the editor, which `widgets_to_disable` has
            self.step_flow.steps["hyperparameters_selector"][moment].clear()
        self.input_selector.changed = self._read_classes
        self.hyperparameters_selector.check = self._check_settings
        self.hyperparameters_selector.estimate = self._estimate_memory
        self.training_process.select_device.value_changed(lambda device: self.hyperparameters_selector.refresh())
        for step in ("input_selector", "model_selector"):  # what is valid depends on them
            self.step_flow.steps[step]["on_select_click"].append(self.hyperparameters_selector.refresh)

    def load_from_app_state(self, app_state: Any, click_cb: bool = True, validate_steps: bool = True) -> None:
        """Sets all cards; with `validate_steps` off they take what they can.

        Raises:
            UserError: a card refuses its part, or a training runs.
        """
        if self.is_busy():
            raise UserError("A training is running; stop it first, or start another session of the app.")
        try:
            self._load(app_state, click_cb, validate_steps)
        except UserError as error:
            if not self.is_starting:
                raise
            sly.logger.warning("The choices that the app was started with are incomplete: %s", error)
            self.input_selector.validator_text.set(str(error), "warning")
            self.input_selector.validator_text.show()

    def _load(self, app_state: Any, click_cb: bool, validate: bool) -> None:
        state = check_state(_read(app_state) if isinstance(app_state, str) else app_state)
        for step in STEPS:  # a second state in one session: the SDK's buttons are toggles
            gui_utils.button_clicked[getattr(self, step).button.widget_id] = False
        self._choice = choice_from_state(state["input"], self._names_of_classes(state["classes"]), self.project_id)
        self.training_process.set_options(check_options(state["options"]))
        name = state.get("experiment_name")
        try:
            super().load_from_app_state(state, click_cb, validate)
            if name:
                self.training_process.set_experiment_name(name)
            if validate:
                self.training_process.check_name()
        except UserError:
            raise
        except SDK_ERRORS as error:
            raise UserError(f"The app state cannot be used: {_words(error)}") from error

    def _init_input(self, settings: Any, options: Any, click_cb: bool = True, validate: bool = True) -> bool:
        self.input_selector.set(self._choice)
        return self._taken(self.input_selector, super()._init_input(settings, options, click_cb, validate), validate)

    def _init_model(self, settings: Any, options: Any = None, click_cb: bool = True, validate: bool = True) -> bool:
        if not isinstance(settings, Mapping) or settings.get("source") not in (ModelSource.PRETRAINED, ModelSource.CUSTOM):
            raise UserError(f"model={settings!r}: give its source, {ModelSource.PRETRAINED!r} or {ModelSource.CUSTOM!r}")
        if settings["source"] == ModelSource.PRETRAINED:
            names = [model["meta"]["model_name"] for model in self.models]
            if settings.get("model_name") not in names:
                raise UserError(f"model.model_name={settings.get('model_name')!r}: use one of {', '.join(names)}")
        files = {kind: settings[kind] for kind in ("pretrained_file", "start_from") if settings.get(kind)}
        if len(files) > 1 or not all(isinstance(path, str) for path in files.values()):
            raise UserError(
                f"model: {files} are too much; give the path of one file in Team Files, start_from or pretrained_file"
            )
        self.model_selector.set_file(*next(iter(files.items()), ("", "")))
        try:
            done = super()._init_model(settings, options, click_cb, validate)
        except SDK_ERRORS as error:
            if not validate:  # say, an experiment that is gone by now, when all that is left is its upload
                return True
            raise UserError(
                f"model: there is no checkpoint {settings.get('checkpoint')!r} of task {settings.get('task_id')!r} among the "
                f"experiments of Train HRDA in this team ({_words(error)}); choose one that is in Team Files, /experiments"
            ) from error
        return self._taken(self.model_selector, done, validate)

    def _init_classes(self, settings: Any, options: Any, click_cb: bool = True, validate: bool = True) -> bool:
        self.classes_selector.set(self._choice.classes, strict=validate)
        is_valid = self.classes_selector.validate_step() if validate else True
        if is_valid and click_cb:
            self.classes_selector_cb()
            self.set_next_step()
        return self._taken(self.classes_selector, is_valid, validate)

    def _init_hyperparameters(self, settings: Any, options: Any, click_cb: bool = True, validate: bool = True) -> bool:
        done = super()._init_hyperparameters(settings, options, click_cb, validate)
        return self._taken(self.hyperparameters_selector, done, validate)

    def _check_settings(self, text: str) -> TrainConfig:
        """With the model and the roles as the other cards have them; a checkpoint's architecture is known when it is here."""
        if self.model_selector.get_model_source() == ModelSource.CUSTOM:
            return read_yaml(text).config()
        model = ModelChoice(encoder=self.model_selector.encoder())
        return read_settings(text, model, self.input_selector.use_target_labels.is_checked())

    def _estimate_memory(self, config: TrainConfig) -> tuple[str, str]:
        """Shown where the settings are made and again where the training is started; a warning, since an estimate may err."""
        if self.model_selector.get_model_source() == ModelSource.CUSTOM:
            config = config.updated({"model": {"encoder": self.model_selector.encoder()}})
        device = self.training_process.get_device()
        sentence, status = memory_sentence(config, device, free_bytes(device))
        self.training_process.memory.set(sentence, status)
        return sentence, status

    def _read_classes(self) -> None:
        card = self.input_selector
        self.classes_selector.read_projects(card.source.get(), [*card.target.get(), *card.validation.get()])

    def _names_of_classes(self, classes: list[Any]) -> list[str]:
        """Names, also where the state gives ids of classes of the launched project, as the experiment page does."""
        names = {c.sly_id: c.name for c in self.project_meta.obj_classes}
        return [names.get(item, str(item)) for item in classes]

    @staticmethod
    def _taken(card: Any, is_valid: bool, validate: bool) -> bool:
        if validate and not is_valid:
            raise UserError(html.unescape(card.validator_text.text.replace("<br>", " ")))
        return True


def put_in_our_cards() -> None:
    sdk_gui.InputSelector = InputCard
    sdk_gui.ModelSelector = ModelCard
    sdk_gui.ClassesSelector = ClassesCard
    sdk_gui.HyperparametersSelector = HyperparametersCard
    sdk_gui.TrainingProcess = TrainingCard
    sdk_gui.TrainingLogs = LogsCard
    sdk_gui.TrainingArtifacts = ArtifactsCard
    train_app.TrainGUI = Wizard


def _read(text: str) -> Any:
    """JSON, or the path of a file with it."""
    try:
        return json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"The app state is neither JSON nor a file with it ({error}); send it as an object") from error


def _words(error: Exception) -> str:
    """A KeyError's text is the key in quotes."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
