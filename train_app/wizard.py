"""The cards before training: source and target (source_target.py), classes, training.

Each has what the SDK's wizard expects of a card.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    SelectCudaDevice,
    Text,
)

from hrda_core.data.classes import BACKGROUND_NAMES
from train_app.errors import UserError
from train_app.labels import ClassChoice
from train_app.source_target import SourceTargetCard, show_outcome

SHAPES = [sly.Bitmap, sly.Polygon, sly.Rectangle, sly.AlphaMask, sly.AnyGeometry]


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
        """Shows the classes of the source projects, by name; what was selected stays selected."""
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

    def set(self, choice: ClassChoice, strict: bool = True) -> None:
        """Raises UserError where a class is not in the source, unless not `strict`."""
        known = self._names()
        missing = [name for name in choice.names if name not in known]
        if missing and strict:
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
        self.classes_table.select_classes([name for name in self._names() if name.lower() not in BACKGROUND_NAMES])

    def _names(self) -> list[str]:
        """Of the classes in the table, which leaves out shapes that cover no pixels."""
        meta = self.classes_table.project_meta
        return [item.name for item in meta.obj_classes if item.geometry_type in SHAPES]


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

    def check_name(self) -> None:
        """Raises UserError for a name that cannot be one of a folder's entries."""
        name = self.get_experiment_name()
        if not name.strip() or any(character in name for character in "/\\"):
            raise UserError(f"experiment_name={name!r}: give a name without slashes")

    def set_options(self, options: dict[str, Any]) -> None:
        """Of an app state; what it does not name gets its default again."""
        for box, name in ((self.continue_run, "continue_run"), (self.baseline, "baseline")):
            (box.check if options[name] else box.uncheck)()
        if options["devices"]:
            self.select_device.set_device(options["devices"][0])
        else:
            self.select_device.refresh()

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


__all__ = ["ClassesCard", "SourceTargetCard", "TrainingCard"]
