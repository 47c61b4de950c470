"""The hyperparameters' YAML and the chosen model -> a configuration of the core."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hrda_core import TrainConfig, load_checkpoint, preset
from hrda_core.presets import PRESETS
from train_app.choices import DataChoice
from train_app.errors import UserError

OWN_ENCODER = "own encoder"  # the row of the model table that leaves the encoder to the YAML
WITH_TARGET_LABELS = ("supervised", "semi-supervised")
CHOSEN_ELSEWHERE = {
    "device": "the device is chosen in the Training card (options.devices)",
    "data.source": "the data are chosen in the Source and target card (input)",
    "data.target": "the data are chosen in the Source and target card (input)",
    "data.validation": "the data are chosen in the Source and target card (input)",
    "model.start_from": "own checkpoints are chosen in the Model card (model)",
}


@dataclass(frozen=True)
class ModelChoice:
    """A row of the model table, and local copies of files: a whole network to start from, or weights of the encoder."""

    encoder: str = OWN_ENCODER
    checkpoint: Path | None = None
    pretrained_file: Path | None = None


@dataclass(frozen=True)
class Written:
    """What the YAML says: a preset by name, and the fields that override it, as nested plain data."""

    preset: str
    changes: dict[str, Any]

    def config(self) -> TrainConfig:
        """Raises UserError for an unknown field or a value out of range, in the core's words."""
        try:
            return preset(self.preset).updated(self.changes)
        except ValueError as error:
            raise UserError(str(error)) from error

    def value(self, path: str) -> Any:
        """A field as it is written, else the preset's."""
        written = _field(self.changes, path)
        return _field(preset(self.preset).as_dict(), path) if written is None else written


def read_yaml(text: str) -> Written:
    """Reads "preset: NAME" with any fields of `TrainConfig` beside it; their values are not checked yet.

    Raises:
        UserError: not YAML, an unknown preset, or a field that is chosen elsewhere.
    """
    changes = _content(text)
    name = changes.pop("preset", "standard")
    if name not in PRESETS:
        raise UserError(f"preset={name!r}: use one of {', '.join(PRESETS)}")
    for field, where in CHOSEN_ELSEWHERE.items():
        if _field(changes, field) not in (None, "", [], "auto"):
            raise UserError(f"{field}={_field(changes, field)!r}: {where}; take the line out of the hyperparameters")
    return Written(name, changes)


def read_settings(text: str, model: ModelChoice, use_target_labels: bool = False, device: str = "auto") -> TrainConfig:
    """Reads "preset: NAME" with any fields of `TrainConfig` beside it, which override the preset's.

    Raises:
        UserError: not YAML, an unknown preset or field, a value out of range, or a field that is chosen elsewhere.
    """
    written = read_yaml(text)
    config = written.config()
    if _field(written.changes, "schedule.preview_every") is None:  # pictures at every evaluation
        config = config.updated({"schedule": {"preview_every": config.schedule.validate_every}})
    try:
        config = config.updated({"device": device, **_model(model, config, _field(written.changes, "model.encoder"))})
    except UserError:
        raise
    except ValueError as error:
        raise UserError(str(error)) from error
    return _with_mode(config, use_target_labels)


def check_needs(config: TrainConfig, choice: DataChoice) -> None:
    """Raises UserError where the mode and the chosen data do not suit each other."""
    if config.mode != "source-only" and not choice.target:
        raise UserError("target: no project is chosen; choose the project with your real photos (they need no labels)")


def _content(text: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"The hyperparameters are no YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError("The hyperparameters are no list of 'name: value' lines; press Reset to see an example")
    return content


def _field(content: Mapping[str, Any], path: str) -> Any:
    value: Any = content
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _model(model: ModelChoice, config: TrainConfig, written: str | None) -> dict[str, Any]:
    if model.checkpoint is not None:
        row = None if model.encoder == OWN_ENCODER else model.encoder
        return {"model": _architecture(model.checkpoint, config, written or row)}
    if model.encoder == OWN_ENCODER:
        if written is None:
            raise UserError(
                "model.encoder is missing: with 'Own encoder' chosen in the Model card, name a timm model in the hyperparameters"
            )
        return {}
    if written not in (None, model.encoder):
        raise UserError(
            f"model.encoder={written!r} is not the model chosen in the Model card ({model.encoder}); take the line out, "
            f"or choose 'Own encoder' there"
        )
    file = {} if model.pretrained_file is None else {"pretrained_file": str(model.pretrained_file)}
    return {"model": {"encoder": model.encoder, **file}}


def _architecture(path: Path, config: TrainConfig, written: str | None) -> dict[str, Any]:
    """What must equal the checkpoint's for its weights to fit; a published checkpoint has the fields of its preset."""
    try:
        content = load_checkpoint(path)
    except ValueError as error:
        if "public weights" not in str(error):
            raise UserError(f"The chosen checkpoint does not suit: {error}") from error
        if written is None:
            raise UserError(
                f"{path.name} is not a checkpoint of Train HRDA. If it is a published HRDA, DAFormer or MIC checkpoint, name its "
                f"encoder in the hyperparameters (model.encoder: mit_b5)"
            ) from error
        return {"encoder": written, "start_from": str(path)}
    options = content["model_config"]
    same = {name: options[name] for name in ("encoder", "head_channels", "attention", "multi_resolution")}
    return {**same, "start_from": str(path), "pretrained_file": ""}


def _with_mode(config: TrainConfig, use_target_labels: bool) -> TrainConfig:
    if use_target_labels and config.mode == "adapt":
        return config.updated({"mode": "semi-supervised"})
    if config.mode in WITH_TARGET_LABELS and not use_target_labels:
        raise UserError(
            f"mode={config.mode!r} learns from labels of target images: allow that in the Source and target card "
            f"(input.use_target_labels), or use mode=adapt"
        )
    return config
