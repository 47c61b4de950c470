"""The cards before training: source and target, classes, training. Each has what the SDK's wizard expects of a card."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import supervisely as sly
from supervisely.app.widgets import (
    Button,
    Card,
    Checkbox,
    ClassesTable,
    Container,
    Empty,
    Field,
    Input,
    InputNumber,
    RadioGroup,
    SelectCudaDevice,
    Text,
    Widget,
)

from hrda_core.data.classes import BACKGROUND_NAMES
from train_app.app_state import choice_from_state, state_of_choice
from train_app.choices import DataChoice, ProjectChoice, ValidationChoice
from train_app.errors import UserError
from train_app.labels import ClassChoice
from train_app.project_list import ProjectList

SHAPES = [sly.Bitmap, sly.Polygon, sly.Rectangle, sly.AlphaMask, sly.AnyGeometry]
METHODS = (
    ("none", "None: watch scores that need no labels"),
    ("project", "Labelled photos of these projects"),
    ("share", "A share of the labelled target images"),
)


class SourceTargetCard:
    """Which images are labelled, which are to be adapted to, and what to measure on."""

    title = "Source and target"

    def __init__(self, project_info: sly.ProjectInfo, app_options: dict[str, Any] | None = None) -> None:
        api = sly.Api.from_env()
        self.launched_on = project_info.id
        self.source_changed: Callable[[], None] = lambda: None
        self.source = ProjectList(
            api, "source", [ProjectChoice(project_info.id)], "No labelled project is chosen.", lambda: self.source_changed()
        )
        self.target = ProjectList(api, "target", empty="No project with real photos is chosen.")
        self.validation = ProjectList(api, "validation", empty="No validation project is chosen.")
        items = [RadioGroup.Item(value, label) for value, label in METHODS]
        self.method = RadioGroup(items, direction="vertical", widget_id="hrda_validation_method")
        self.percent = InputNumber(10, min=1, max=90, widget_id="hrda_validation_percent")
        self.use_target_labels = Checkbox("Also learn from labels that target images have", widget_id="hrda_use_target_labels")
        self.unlabelled_source = Checkbox("Source images without any object are background", widget_id="hrda_unlabelled_source")
        self.unlabelled_validation = Checkbox(
            "Validation images without any object are background", widget_id="hrda_unlabelled_validation"
        )
        self.cache = Checkbox("Keep downloaded images for later trainings", checked=True, widget_id="hrda_cache")
        self.validator_text = Text("", widget_id="hrda_input_text")
        self.validator_text.hide()
        self.button = Button("Select", widget_id="hrda_input_button")
        explained: list[tuple[str, str, Widget]] = [
            ("Source", "Labelled images, mostly synthetic ones", Container([self.source.widget, self.unlabelled_source])),
            ("Target", "Real photos; they need no labels", Container([self.target.widget, self.use_target_labels])),
            (
                "Validation",
                "Labelled photos that look like the target: for the curves, the best checkpoint and the thresholds",
                Container([self.method, self.validation.widget, self.percent, self.unlabelled_validation]),
            ),
        ]
        fields: list[Widget] = [Field(content, title, description) for title, description, content in explained]
        self.card = Card(
            title=self.title,
            description="Projects and datasets are chosen for each role on their own; no image may have two roles",
            content=Container([*fields, self.cache, self.validator_text, self.button]),
            collapsable=(app_options or {}).get("collapsable", False),
        )
        self._show_validation(self.method.get_value())
        self.method.value_changed(self._show_validation)
        # chosen in the API only, by fields that the cards do not show
        self.class_options: dict[str, Any] = {}

    @property
    def widgets_to_disable(self) -> list[Any]:
        return [
            *(self.source, self.target, self.validation, self.method, self.percent),
            *(self.use_target_labels, self.unlabelled_source, self.unlabelled_validation, self.cache),
        ]

    def choice(self, classes: ClassChoice) -> DataChoice:
        method = self.method.get_value()
        return DataChoice(
            source=self.source.get(),
            target=self.target.get(),
            classes=classes,
            validation=ValidationChoice(
                method=method,
                projects=self.validation.get() if method == "project" else (),
                percent=int(self.percent.get_value()),
                unlabelled="background" if self.unlabelled_validation.is_checked() else "skip",
            ),
            use_target_labels=self.use_target_labels.is_checked(),
            unlabelled_source="background" if self.unlabelled_source.is_checked() else "skip",
        )

    def set(self, choice: DataChoice) -> None:
        self.source.set(choice.source)
        self.target.set(choice.target)
        self.validation.set(choice.validation.projects)
        self.method.set_value(choice.validation.method)
        self.percent.value = choice.validation.percent
        for box, checked in (
            (self.use_target_labels, choice.use_target_labels),
            (self.unlabelled_source, choice.unlabelled_source == "background"),
            (self.unlabelled_validation, choice.validation.unlabelled == "background"),
        ):
            (box.check if checked else box.uncheck)()
        self._show_validation(choice.validation.method)
        self.source_changed()

    def get_project_id(self) -> int:
        return self.launched_on

    def set_cache(self, value: bool) -> None:
        (self.cache.check if value else self.cache.uncheck)()

    def get_cache_value(self) -> bool:
        return self.cache.is_checked()

    def validate_step(self) -> bool:
        problems = []
        if not self.source.get():
            problems.append("Source: choose the project with labelled images.")
        if not self.target.get():
            problems.append("Target: choose the project with your real photos (they need no labels).")
        if self.method.get_value() == "project" and not self.validation.get():
            problems.append("Validation: choose a project, or another way to validate.")
        return show_outcome(self.validator_text, problems, "Data are chosen")

    def _show_validation(self, method: str) -> None:
        (self.validation.widget.show if method == "project" else self.validation.widget.hide)()
        (self.percent.show if method == "share" else self.percent.hide)()
        (self.unlabelled_validation.hide if method == "none" else self.unlabelled_validation.show)()


class ClassesCard:
    """Which classes of the source are learned."""

    title = "Classes"

    def __init__(
        self, project_id: int, classes: Sequence[str] = (), model_selector: Any = None, app_options: dict[str, Any] | None = None
    ) -> None:
        self._api = sly.Api.from_env()
        self.classes_table = ClassesTable(project_id=project_id, allowed_types=SHAPES, widget_id="hrda_classes")
        self.background = Checkbox(
            "Pixels outside all objects are background (class 0)", checked=True, widget_id="hrda_background"
        )
        self.validator_text = Text("", widget_id="hrda_classes_text")
        self.validator_text.hide()
        self.button = Button("Select", widget_id="hrda_classes_button")
        self.card = Card(
            title=self.title,
            description="Bitmaps, polygons, rectangles and alpha masks are all turned into masks; objects drawn later lie on top",
            content=Container([self.classes_table, self.background, self.validator_text, self.button]),
            lock_message="Select previous step to unlock",
            collapsable=(app_options or {}).get("collapsable", False),
        )
        self.card.lock()
        self.ignored: tuple[str, ...] = ()
        self.merged: tuple[tuple[str, str], ...] = ()
        self._select_all()

    @property
    def widgets_to_disable(self) -> list[Any]:
        return [self.classes_table, self.background]

    def read_projects(self, project_ids: Sequence[int]) -> None:
        """Shows the classes of the source projects; what was selected stays selected."""
        selected = self.get_selected_classes()
        if len(project_ids) == 1:
            self.classes_table.read_project_from_id(project_ids[0])
        else:
            meta = sly.ProjectMeta()
            for project_id in project_ids:
                for item in sly.ProjectMeta.from_json(self._api.project.get_meta(project_id)).obj_classes:
                    if meta.get_obj_class(item.name) is None:
                        meta = meta.add_obj_class(item)
            self.classes_table.read_meta(meta)
        self.classes_table.select_classes(selected)
        if not self.get_selected_classes():
            self._select_all()

    def choice(self) -> ClassChoice:
        return ClassChoice(tuple(self.get_selected_classes()), self.background.is_checked(), self.ignored, self.merged)

    def set(self, choice: ClassChoice) -> None:
        known = {row[0]["data"] for row in self.classes_table._table_data}
        missing = [name for name in choice.names if name not in known]
        if missing:
            raise UserError(f"classes: {', '.join(missing)} not in the source, which has {', '.join(sorted(known)) or 'none'}")
        self.classes_table.select_classes(list(choice.names))
        (self.background.check if choice.background else self.background.uncheck)()
        self.ignored, self.merged = choice.ignored, choice.merged

    def get_selected_classes(self) -> list[str]:
        return [str(name) for name in self.classes_table.get_selected_classes()]

    def set_classes(self, classes: Sequence[str]) -> None:
        self.classes_table.select_classes(list(classes))

    def get_wrong_shape_classes(self, task_type: str) -> list[str]:
        """None: every shape that can be chosen is drawn as it is."""
        return []

    def is_convert_class_shapes_enabled(self) -> bool:
        return False

    def validate_step(self) -> bool:
        problems: list[str] = []
        try:
            names = self.choice().names
        except UserError as error:
            names, problems = (), [str(error)]
        return show_outcome(self.validator_text, problems, f"Selected {len(names)} {'class' if len(names) == 1 else 'classes'}")

    def _select_all(self) -> None:
        names = [row[0]["data"] for row in self.classes_table._table_data]
        self.classes_table.select_classes([name for name in names if name.lower() not in BACKGROUND_NAMES])


class TrainingCard:
    """Device, name, Start and Stop."""

    title = "Training"

    def __init__(self, app_options: dict[str, Any]) -> None:
        self.is_multi_gpu = False
        self.select_device = SelectCudaDevice(sort_by_free_ram=True, include_cpu_option=True, widget_id="hrda_device")
        self.experiment_name_input = Input("Enter experiment name", widget_id="hrda_experiment_name")
        self.continue_run = Checkbox(
            "Continue that experiment's run (its optimiser and iteration) instead of starting from its weights",
            widget_id="hrda_continue_run",
        )
        self.baseline = Checkbox("First train without adapting, to see what adapting gains", widget_id="hrda_baseline")
        self.start_button = Button("Start", widget_id="hrda_start")
        self.stop_button = Button("Stop", button_type="danger", widget_id="hrda_stop")
        self.stop_button.hide()
        self.resume_button = Button("Resume upload", button_type="success", widget_id="hrda_resume_upload")
        self.resume_button.hide()
        self.resume_info_text = Text("", widget_id="hrda_resume_text")
        self.resume_info_text.hide()
        self.validator_text = Text("", widget_id="hrda_training_text")
        self.validator_text.hide()
        buttons = Container(
            [self.start_button, self.resume_button, self.stop_button, Empty()], "horizontal", fractions=[1, 1, 1, 10], gap=1
        )
        self.card = Card(
            title=self.title,
            description="Images are downloaded first; Stop saves what was trained and uploads it",
            content=Container(
                [
                    Field(self.select_device, "Device", "A GPU, or the CPU for a first look"),
                    Field(self.experiment_name_input, "Experiment name"),
                    *(self.baseline, self.continue_run, self.resume_info_text, buttons, self.validator_text),
                ]
            ),
            lock_message="Select previous step to unlock",
        )
        self.card.lock()

    @property
    def widgets_to_disable(self) -> list[Any]:
        return [self.experiment_name_input, self.select_device, self.continue_run, self.baseline]

    def validate_step(self) -> bool:
        return True

    def get_device(self) -> str:
        return str(self.select_device.get_device() or "cpu")

    def get_devices(self) -> list[str]:
        return [self.get_device()]

    def get_device_name(self) -> str:
        return device_name(self.get_device())

    def get_device_names(self) -> list[str]:
        return [self.get_device_name()]

    def get_experiment_name(self) -> str:
        return str(self.experiment_name_input.get_value())

    def set_experiment_name(self, name: str) -> None:
        self.experiment_name_input.set_value(name)


def device_name(device: str) -> str:
    import torch  # late: the wizard's modules load without it

    return str(torch.cuda.get_device_name(device)) if device.startswith("cuda") and torch.cuda.is_available() else "CPU"


def show_outcome(text: Text, problems: Sequence[str], success: str) -> bool:
    """Shows either the problems or the success; returns whether there were none."""
    text.set("<br>".join(problems) or success, "error" if problems else "success")
    text.show()
    return not problems


__all__ = ["ClassesCard", "SourceTargetCard", "TrainingCard", "choice_from_state", "show_outcome", "state_of_choice"]
