"""The card from which the training is started.

Like the others (source_target.py, classes_card.py, hyperparameters_card.py) it has what the SDK's wizard expects of a card.
"""

from __future__ import annotations

from typing import Any

from supervisely.app.widgets import (
    Button,
    Card,
    Checkbox,
    Container,
    Field,
    Flexbox,
    Input,
    SelectCudaDevice,
    Text,
)

from train_app.errors import UserError


class TrainingCard:
    """Device, name, Start and Stop."""

    title = "Training"

    def __init__(self, app_options: dict[str, Any]) -> None:
        self.is_multi_gpu = False
        self.select_device = SelectCudaDevice(
            sort_by_free_ram=True, include_cpu_option=True, multiple=True, width_px=420, widget_id="hrda_device"
        )
        self.experiment_name_input = Input("Enter experiment name", widget_id="hrda_experiment_name")
        self.continue_run = Checkbox(
            "With a custom model: go on with that run (its optimiser and iteration) instead of starting anew from its weights",
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
        self.memory = Text("", widget_id="hrda_training_memory")
        buttons = Flexbox([self.start_button, self.resume_button, self.stop_button])
        self.card = Card(
            title=self.title,
            description="Images are downloaded first; Stop saves what was trained and uploads it",
            content=Container(
                [
                    Field(
                        self.select_device,
                        "Device",
                        "A GPU, or the CPU for a first look; there is nothing to choose where the machine has only one",
                    ),
                    Field(self.experiment_name_input, "Experiment name"),
                    *(self.baseline, self.continue_run, self.memory, self.resume_info_text, buttons, self.validator_text),
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
            self.select_device.set_devices(options["devices"])
        else:
            self.select_device.refresh()

    def get_device(self) -> str:
        """The first of them."""
        return self.get_devices()[0]

    def get_devices(self) -> list[str]:
        return [str(device) for device in self.select_device.get_devices() if device] or ["cpu"]

    def get_device_name(self) -> str:
        return device_name(self.get_device())

    def get_device_names(self) -> list[str]:
        return [device_name(device) for device in self.get_devices()]

    def get_experiment_name(self) -> str:
        return str(self.experiment_name_input.get_value())

    def set_experiment_name(self, name: str) -> None:
        self.experiment_name_input.set_value(name)


def device_name(device: str) -> str:
    import torch  # late: the wizard's modules load without it

    return str(torch.cuda.get_device_name(device)) if device.startswith("cuda") and torch.cuda.is_available() else "CPU"
