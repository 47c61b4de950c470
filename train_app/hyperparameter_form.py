"""The settings that matter most, as a form: widgets, and their values as plain data by path."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from supervisely.app.widgets import Checkbox, Container, Empty, Field, Grid, Input, InputNumber, Select, Text, Widget

COLUMNS = 4
Changed = Callable[[str, Any], None]


@dataclass(frozen=True)
class Setting:
    """A field of `TrainConfig`. kind: "whole", "number", "numbers" (with commas between), "switch" or "choice"."""

    path: str
    title: str
    hint: str
    kind: str = "whole"
    choices: tuple[str, ...] = ()


GROUPS: dict[str, tuple[Setting, ...]] = {
    "Length": (
        Setting("optimisation.iterations", "Iterations", "Steps of the optimiser"),
        Setting("optimisation.batch_size", "Batch", "Source crops, and as many target crops"),
        Setting("schedule.validate_every", "Evaluate every", "Iterations between evaluations"),
        Setting("seed", "Seed", "The same seed draws the same"),
    ),
    "Images": (
        Setting("data.crop_height", "Crop height", "Pixels, a multiple of 32"),
        Setting("data.crop_width", "Crop width", "Pixels, a multiple of 32"),
        Setting("data.source_scale", "Source scale", "Images are resized by this; 1 = native", "number"),
        Setting("data.target_scale", "Target scale", "The same for your photos", "number"),
        Setting("data.fit_short", "Fit short edge", "Instead: fit images into these edges; 0 = off"),
        Setting("data.fit_long", "Fit long edge", "Set both, or none"),
        Setting(
            *("augmentation.preset", "Augmentation", "Of source images", "choice"), ("none", "light", "medium", "hard", "own")
        ),
        Setting("data.rare_class_sampling", "Rare classes", "Draw images with rare classes more often", "switch"),
    ),
    "Optimisation": (
        Setting("optimisation.learning_rate", "Learning rate", "Of the encoder; heads learn faster", "number"),
        Setting("optimisation.weight_decay", "Weight decay", "Of AdamW or SGD", "number"),
        Setting("optimisation.warmup_iterations", "Warm-up", "Iterations over which the learning rate rises; -1 = a tenth"),
        Setting("adaptation.source_warmup", "Source alone first", "Iterations; -1 = chosen by the classes"),
    ),
    "Adaptation": (
        Setting(
            *("adaptation.pseudo_labels", "Pseudo-labels", "Which of the teacher's pixels count", "choice"),
            ("auto", "confident-fraction", "prior-band", "band"),
        ),
        Setting("adaptation.pseudo_threshold", "Threshold", "Of confident-fraction: probability to count", "number"),
        Setting("adaptation.colour_transfer", "Colours of photos", "Share of source crops; -1 = by the classes", "number"),
        Setting(
            *("adaptation.mixing", "Mixing", "What of the source is pasted into photos", "choice"),
            ("auto", "class-mix", "foreground", "none"),
        ),
        Setting("adaptation.rounds", "Rounds", "Times that whole photos are labelled; 0 = crops, -1 = by the classes"),
        Setting("adaptation.round_photos", "Photos of a round", "Drawn at random; 0 = all"),
        Setting("adaptation.round_crops", "Crops of photos", "In rounds, for each labelled one; -1 = by the classes"),
        Setting("adaptation.photo_scales", "Photo sizes", "The surest is taken; empty = auto, 1 = off", "numbers"),
        Setting("adaptation.mask_weight", "Masked consistency", "1 = as MIC published, 0 = off, -1 = by the classes", "number"),
        Setting("adaptation.class_balance", "Balance", "Raises rare classes; 0 = off, -1 = by the classes", "number"),
        Setting("adaptation.foreground_share", "Foreground share", "Of prior-band; -1 = at most the labelled images'", "number"),
        Setting("adaptation.hold_to_share", "Hold to share", "Prior-band: no more is found than that share", "switch"),
        Setting("inference.zooms", "Prediction sizes", "Each photo at the surest of them; empty = auto, 1 = off", "numbers"),
    ),
    "Machine": (
        Setting("precision", "Precision", "auto: bf16 where the GPU has it", "choice", ("auto", "fp32", "bf16")),
        Setting("data.workers", "Loading processes", "0 = within the training process"),
    ),
}
SETTINGS = tuple(setting for group in GROUPS.values() for setting in group)


class HyperparameterForm:
    """One widget for each setting. `changed` hears (path, value) when the user changes one."""

    def __init__(self, changed: Changed) -> None:
        self._inputs = {setting.path: _widget(setting) for setting in SETTINGS}
        self.widget: Widget = Container([part for group in GROUPS for part in self._group(group)], gap=14)
        for setting in SETTINGS:
            self._inputs[setting.path].value_changed(_listener(setting, changed))

    @property
    def widgets(self) -> list[Widget]:
        return list(self._inputs.values())

    def get(self, path: str) -> Any:
        setting = next(setting for setting in SETTINGS if setting.path == path)
        widget = self._inputs[path]
        return widget.is_checked() if setting.kind == "switch" else _parsed(setting, widget.get_value())

    def show(self, values: Mapping[str, Any]) -> None:
        """Sets the widgets whose value differs, so that nobody's typing is disturbed."""
        for setting in SETTINGS:
            value, widget = values[setting.path], self._inputs[setting.path]
            if _fits(setting, value) and self.get(setting.path) != value:
                if setting.kind == "switch":
                    (widget.check if value else widget.uncheck)()
                elif setting.kind == "whole":
                    widget.value = value
                elif setting.kind == "numbers":
                    widget.set_value(", ".join(f"{number:g}" for number in value))
                else:
                    widget.set_value(value if setting.kind == "choice" else f"{value:g}")

    def _group(self, name: str) -> list[Widget]:
        fields: list[Widget] = [Field(self._inputs[s.path], s.title, s.hint) for s in GROUPS[name]]
        fields += [Empty()] * (-len(fields) % COLUMNS)
        title = Text(f"<b>{name}</b>", widget_id=f"hrda_group_{name.lower()}")
        return [title, Grid(fields, columns=COLUMNS, widget_id=f"hrda_form_{name.lower()}")]


def _widget(setting: Setting) -> Any:
    name = f"hrda_{setting.path.replace('.', '_')}"
    if setting.kind == "whole":
        return InputNumber(0, min=None, width=150, widget_id=name)
    if setting.kind in ("number", "numbers"):
        return Input("0", size="small", widget_id=name)
    if setting.kind == "choice":
        return Select([Select.Item(value) for value in setting.choices], size="small", widget_id=name)
    return Checkbox("On", widget_id=name)


def _listener(setting: Setting, changed: Changed) -> Callable[[Any], None]:
    return lambda value: changed(setting.path, _parsed(setting, value))


def _parsed(setting: Setting, value: Any) -> Any:
    """What was typed as a number; else as it is, so that the core says what is wrong with it."""
    if setting.kind == "number":
        with contextlib.suppress(TypeError, ValueError):
            return float(value)
    if setting.kind == "numbers" and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return [float(part) for part in value.split(",") if part.strip()]
    if setting.kind == "whole" and isinstance(value, float) and value.is_integer():
        return int(value)  # JavaScript knows one kind of number
    return value


def _fits(setting: Setting, value: Any) -> bool:
    """Whether the widget can show it; wrong values of the YAML stay in the YAML."""
    if setting.kind == "switch":
        return isinstance(value, bool)
    if setting.kind == "choice":
        return value in setting.choices
    if setting.kind == "numbers":
        return isinstance(value, list) and all(_is_number(number) for number in value)
    return _is_number(value) and (setting.kind == "number" or isinstance(value, int))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
