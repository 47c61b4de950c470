"""The SDK's serving page, with the choice of the precision, and with what went wrong in words."""

from __future__ import annotations

import contextlib
import html
from collections.abc import Callable
from typing import Any

import supervisely as sly
from supervisely.app import show_dialog
from supervisely.app.widgets import Button, Field, Select, Text, Widget
from supervisely.nn.inference.gui import ServingGUITemplate
from supervisely.nn.utils import ModelSource

from serve_app.errors import RequestError
from serve_app.new_experiments import add_new_experiments

PRECISIONS = (
    ("auto", "auto: bf16 on a GPU that has it, else fp32"),
    ("fp32", "fp32: exact, slower"),
    ("bf16", "bf16: half the memory, faster on recent GPUs"),
)


class ServingGUI(ServingGUITemplate):
    """The page's own choice: `precision`. `device_in_use` tells where the model really is, `notices` what to say about it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.device_in_use: Callable[[], str | None] = lambda: None
        self.notices: Callable[[], tuple[str, ...]] = tuple
        super().__init__(*arguments, **options)
        self._model_inference_settings_widget._height_lines = 40  # else five lines of it are seen
        self._model_inference_settings_widget.update_data()

    def _initialize_extra_widgets(self) -> list[Widget]:
        items = [Select.Item(value, label) for value, label in PRECISIONS]
        self.precision = Select(items, widget_id="hrda_precision", width_px=360)
        self.look_again = Button(
            "Look for new experiments", plain=True, button_size="small", icon="zmdi zmdi-refresh", widget_id="hrda_look_again"
        )
        self.look_again.click(self._look_again)
        self.notice = Text("", "warning", widget_id="hrda_notice")
        self._update_export_message()
        return [self.look_again, Field(self.precision, "Precision", "Numbers that the network computes with"), self.notice]

    def get_params_from_gui(self) -> dict[str, Any]:
        params = super().get_params_from_gui()
        files = {key: path for key, path in params["model_files"].items() if path}  # the field for classes may be empty
        return {**params, "model_files": files, "model_precision": self.precision.get_value()}

    def deploy_with_current_params(self) -> None:
        self.notice.hide()
        if self.model_source == ModelSource.CUSTOM and self.experiment_selector.get_selected_experiment_info() is None:
            self._say("Choose one of the experiments first; where yours is missing, press 'Look for new experiments'.", "error")
            return
        try:
            super().deploy_with_current_params()
        except (RequestError, FileNotFoundError) as error:
            sly.logger.error(str(error))
            self._say(str(error), "error")
            with contextlib.suppress(Exception):  # a page that is not open yet cannot show one
                show_dialog("The model could not be deployed", str(error), "error")

    def set_deployed(self, device: str | None = None) -> None:
        super().set_deployed(self.device_in_use() or device)
        if self.notices():
            self._say(" ".join(self.notices()), "warning")

    def _update_export_message(self) -> None:
        """The SDK calls it whenever another tab is chosen, first before the button is made."""
        super()._update_export_message()
        if hasattr(self, "look_again"):
            (self.look_again.show if self.model_source == ModelSource.CUSTOM else self.look_again.hide)()
            self.notice.hide()  # it spoke of the other tab

    def _look_again(self) -> None:
        found = add_new_experiments(self.experiment_selector, self.framework_name)
        words = {0: "No new experiment of Train HRDA in this team", 1: "One new experiment, in the first row of Custom models"}
        self._say(words.get(found, f"{found} new experiments, in the first rows of Custom models"), "info")

    def _say(self, text: str, status: str) -> None:
        self.notice.set(html.escape(text), status)
        self.notice.show()
