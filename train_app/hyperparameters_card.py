"""The card of the settings: a preset, a form of those that matter most, and all of them as YAML, in step with each other."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisely.app.widgets import Button, Card, Checkbox, Container, Field, Flexbox, Select, Text, Widget

from hrda_core import TrainConfig, preset
from train_app.errors import UserError
from train_app.hyperparameter_form import SETTINGS, HyperparameterForm
from train_app.settings import Written, read_yaml
from train_app.settings_text import preset_text, with_field
from train_app.source_target import show_outcome
from train_app.yaml_editor import YamlEditor

TEMPLATE = Path(__file__).parent / "hyperparameters.yaml"
PRESET_LABELS = {
    "quick": "Quick: a small network, 600 iterations, also on a CPU",
    "cracks": "Cracks: as measured, 1,200 iterations, also on a CPU",
    "standard": "Standard: the default",
    "published-hrda": "Published HRDA: crops of 1024, 40,000 iterations",
    "published-mic": "Published MIC: the same with masked consistency",
    "crack-tutorial": "Crack tutorial: 20,000 iterations, batch 6, 512 to 640 pixels",
}


class HyperparametersCard:
    """The YAML is what counts; the preset and the form show it and write into it.

    check: what the rest of the wizard has against a text, see `Wizard`. estimate: a sentence about a valid configuration.
    """

    title = "Hyperparameters"

    def __init__(self, hyperparameters: str, app_options: dict[str, Any] | None = None) -> None:
        self.check: Callable[[str], TrainConfig] = lambda text: read_yaml(text).config()
        self.estimate: Callable[[TrainConfig], tuple[str, str]] = lambda config: ("", "info")
        self._template = TEMPLATE.read_text(encoding="utf-8")
        self._lock = threading.RLock()
        items = [Select.Item(name, label) for name, label in PRESET_LABELS.items()]
        self.preset = Select(items, width_px=460, widget_id="hrda_preset")
        self.reset = Button("Take the preset's values again", plain=True, button_size="small", widget_id="hrda_preset_reset")
        self.form = HyperparameterForm(self._form_changed)
        self.problem = Text("", widget_id="hrda_settings_problem")
        self.note = Text("", status="info", widget_id="hrda_preset_note")
        self.memory = Text("", widget_id="hrda_memory")
        self.editor = YamlEditor(hyperparameters, height_lines=30, widget_id="hrda_yaml")
        self.run_model_benchmark_checkbox = Checkbox(
            "Evaluate with the platform's benchmark", checked=True, widget_id="hrda_benchmark"
        )
        self.run_speedtest_checkbox = Checkbox("Also measure the speed", widget_id="hrda_speed_test")
        self.model_benchmark_auto_convert_warning = Text("", widget_id="hrda_benchmark_warning")
        self.export_onnx_checkbox = Checkbox("Export the best checkpoint to ONNX", widget_id="hrda_export_onnx")
        self.validator_text = Text("", widget_id="hrda_settings_text")
        self.button = Button("Select", widget_id="hrda_settings_button")
        for hidden in (self.problem, self.memory, self.validator_text):
            hidden.hide()
        self.model_benchmark_auto_convert_warning.hide()
        after: list[Widget] = [self.run_model_benchmark_checkbox, self.run_speedtest_checkbox, self.export_onnx_checkbox]
        self.card = Card(
            title=self.title,
            description="A preset fills everything; the form and the YAML change it, and follow each other",
            content=Container(
                [
                    Field(Flexbox([self.preset, self.reset]), "Preset", "Choosing one sets every value below"),
                    *(self.note, self.form.widget, self.problem, self.memory),
                    Field(self.editor, "All settings", "Every field of the configuration; checked when you leave the editor"),
                    Field(Container([*after, self.model_benchmark_auto_convert_warning]), "After the training"),
                    *(self.validator_text, self.button),
                ]
            ),
            lock_message="Select previous step to unlock",
            collapsable=(app_options or {}).get("collapsable", False),
        )
        self.card.lock()
        self.preset.value_changed(self._preset_chosen)
        self.reset.click(self._reset)
        self.editor.left(lambda text: self.refresh())
        self.refresh()

    @property
    def widgets_to_disable(self) -> list[Any]:
        boxes = [self.run_model_benchmark_checkbox, self.run_speedtest_checkbox, self.export_onnx_checkbox]
        return [self.preset, self.reset, self.editor, *self.form.widgets, *boxes]

    # -- what the wizard asks ------------------------------------------------------------------------------------

    def get_hyperparameters(self) -> str:
        return str(self.editor.get_text())

    def set_hyperparameters(self, text: str) -> None:
        with self._lock:
            self.editor.set_text(text)
            self.refresh()

    def validate_step(self) -> bool:
        problem = self.refresh()
        return show_outcome(self.validator_text, [problem] if problem else [], "Settings are valid")

    def get_model_benchmark_checkbox_value(self) -> bool:
        return self.run_model_benchmark_checkbox.is_checked()

    def set_model_benchmark_checkbox_value(self, value: bool) -> None:
        _tick(self.run_model_benchmark_checkbox, value)
        self.toggle_mb_speedtest(value)

    def get_speedtest_checkbox_value(self) -> bool:
        return self.run_speedtest_checkbox.is_checked()

    def set_speedtest_checkbox_value(self, value: bool) -> None:
        _tick(self.run_speedtest_checkbox, value)

    def toggle_mb_speedtest(self, value: bool) -> None:
        (self.run_speedtest_checkbox.show if value else self.run_speedtest_checkbox.hide)()

    def get_export_onnx_checkbox_value(self) -> bool:
        return self.export_onnx_checkbox.is_checked()

    def set_export_onnx_checkbox_value(self, value: bool) -> None:
        _tick(self.export_onnx_checkbox, value)

    def get_export_tensorrt_checkbox_value(self) -> bool:
        return False

    def set_export_tensorrt_checkbox_value(self, value: bool) -> None:
        """It is not offered."""

    def is_export_required(self) -> bool:
        return self.get_export_onnx_checkbox_value()

    # -- in step -------------------------------------------------------------------------------------------------

    def refresh(self) -> str:
        """Shows what the YAML says in the form, and at once what is wrong with it; returns that, "" where nothing is."""
        with self._lock:
            text = self.get_hyperparameters()
            try:
                written = read_yaml(text)
                self._show(written)
                config = self.check(text)
            except UserError as error:
                self.memory.hide()
                self.problem.set(html.escape(str(error)), "error")
                self.problem.show()
                return str(error)
            self.problem.hide()
            wanted = preset(written.preset).model.encoder
            rate = config.optimisation.learning_rate
            self.note.text = (
                f"This preset was made for {wanted}; the Model card has {config.model.encoder}, which may need another learning "
                f"rate (now {rate:g}; transformers such as PVTv2, MiT and Swin learn at about 6e-5)"
            )
            (self.note.hide if wanted == config.model.encoder else self.note.show)()
            self.memory.set(*self.estimate(config))
            (self.memory.show if self.memory.text else self.memory.hide)()
            return ""

    def _show(self, written: Written) -> None:
        if self.preset.get_value() != written.preset:
            self.preset.set_value(written.preset)
        self.form.show({setting.path: written.value(setting.path) for setting in SETTINGS})

    def _form_changed(self, path: str, value: Any) -> None:
        with self._lock:
            text = self.get_hyperparameters()
            try:
                if read_yaml(text).value(path) == value:  # the page tells of what the server has set, too
                    return
                self._write(with_field(text, path, value))
            except UserError as error:
                self.problem.set(f"{html.escape(str(error))}<br>Mend the YAML first, or choose a preset.", "error")
                self.problem.show()

    def _preset_chosen(self, name: str) -> None:
        with self._lock:
            try:
                if read_yaml(self.get_hyperparameters()).preset == name:
                    return
            except UserError:
                pass  # an unreadable text gives way to the preset
            self._write(preset_text(self._template, name))

    def _reset(self) -> None:
        with self._lock:
            self._write(preset_text(self._template, str(self.preset.get_value())))

    def _write(self, text: str) -> None:
        self.editor.set_text(text)
        self.refresh()


def _tick(box: Checkbox, value: bool) -> None:
    (box.check if value else box.uncheck)()
