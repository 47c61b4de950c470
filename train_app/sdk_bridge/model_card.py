"""The SDK's card of models, with files of Team Files to start from, looked at when they are chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from supervisely import Api
from supervisely.app.widgets import Card, Container, Field, Input, Select, Text, Widget
from supervisely.nn.training.gui.model_selector import ModelSelector
from supervisely.nn.utils import ModelSource

from train_app.errors import UserError
from train_app.settings import OWN_ENCODER
from train_app.source_target import show_outcome

WEIGHTS = {
    "": "ImageNet weights of the chosen row, downloaded when the training starts",
    "pretrained_file": "ImageNet weights of the chosen row, from a file in Team Files",
    "start_from": "A whole network from a file in Team Files: of Train HRDA, or published HRDA, DAFormer or MIC",
}
TABLE_HINT = (
    "Memory: of a GPU at the peak of an iteration, batch 2, crops of 512, bf16; counted by a dry run, not measured. "
    "Relative speed: from multiply-adds, PVTv2-B2 = 1. MiT's ImageNet weights are for research only."
)


class ModelCard(ModelSelector):
    """check: says what a file holds, (kind, path) -> sentence; kind "experiment" is the chosen checkpoint of an experiment."""

    def __init__(self, api: Api, framework: str, models: list[Any], app_options: dict[str, Any]) -> None:
        super().__init__(api, framework, models, app_options)
        self.check: Callable[[str, str], str] = lambda kind, path: ""
        items = [Select.Item(kind, label) for kind, label in WEIGHTS.items()]
        self.weights = Select(items, width_px=620, widget_id="hrda_weights")
        self.path = Input(placeholder="/weights/mit_b5.pth", widget_id="hrda_weights_path")
        self.hint = Text(TABLE_HINT, widget_id="hrda_model_hint")
        beside: list[Widget] = [
            self.hint,
            Field(Container([self.weights, self.path]), "Weights to start from", "Files are read without executing anything"),
        ]
        self.own = Container(beside)
        self.display_widgets[1:1] = [self.own]
        self.container = Container(self.display_widgets)
        self.card = Card(
            self.title,
            "A row of the table, or a checkpoint of an earlier experiment",
            content=self.container,
            lock_message=self.lock_message,
            collapsable=app_options.get("collapsable", False),
        )
        self.card.lock()
        self.weights.value_changed(lambda kind: self._show())
        self.model_source_tabs.value_changed(lambda tab: self._show())
        self._show()

    @property
    def widgets_to_disable(self) -> list[Any]:
        return [*super().widgets_to_disable, self.weights, self.path]

    def file(self) -> tuple[str, str]:
        """("", ""), or the kind and the path of the chosen file."""
        kind = str(self.weights.get_value() or "")
        if not kind or self.get_model_source() == ModelSource.CUSTOM:
            return "", ""
        return kind, str(self.path.get_value()).strip()

    def set_file(self, kind: str, path: str) -> None:
        self.weights.set_value(kind)
        self.path.set_value(path)
        self._show()

    def state(self) -> dict[str, str]:
        """Of section "model" of an app state."""
        kind, path = self.file()
        return {kind: path} if kind else {}

    def encoder(self) -> str:
        return self.get_model_name() or OWN_ENCODER

    def validate_step(self) -> bool:
        problems, said = [], "Model is selected"
        self.button.loading = True
        try:
            if self.get_model_source() == ModelSource.CUSTOM:
                if self.experiment_selector.get_selected_experiment_info() is None:
                    raise UserError("Choose an experiment; there is none yet where nothing was trained with Train HRDA")
                said = self.check("experiment", self.get_checkpoint_link()) or said
            else:
                kind, path = self.file()
                if kind and not path:
                    raise UserError(f"model.{kind} is empty: give the path of a file in Team Files, such as /weights/mit_b5.pth")
                said = (self.check(kind, path) if kind else "") or said
        except UserError as error:
            problems.append(str(error))
        finally:
            self.button.loading = False
        return show_outcome(self.validator_text, problems, said)

    def _show(self) -> None:
        (self.own.hide if self.get_model_source() == ModelSource.CUSTOM else self.own.show)()
        (self.path.show if self.weights.get_value() else self.path.hide)()
