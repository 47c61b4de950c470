"""A file of weights, looked at when it is chosen: what it holds, or why it cannot be used. Nothing in it is executed."""

from __future__ import annotations

from pathlib import Path

from hrda_core import build_model, load_checkpoint
from hrda_core.models.build import build_encoder
from hrda_core.training.start_from import load_start
from train_app.errors import UserError
from train_app.settings import OWN_ENCODER

PUBLISHED_CLASSES = 19  # outputs of other numbers are left out when weights are loaded


def describe_network(path: Path, encoder: str) -> str:
    """Of a checkpoint of this project, or a published HRDA, DAFormer or MIC one for `encoder`.

    Raises:
        UserError: it is neither, or it does not fit the encoder.
    """
    try:
        content = load_checkpoint(path)
    except ValueError as error:
        if "public weights" not in str(error):
            raise UserError(f"The chosen checkpoint does not suit: {error}") from error
        return _describe_published(path, encoder)
    classes = ", ".join(item["name"] for item in content["classes"])
    model, iteration = content["model_config"]["encoder"], content["provenance"]["iteration"]
    return f"{path.name}: a checkpoint of Train HRDA with encoder {model}, iteration {iteration}, classes {classes}"


def check_encoder_weights(path: Path, encoder: str) -> str:
    """ImageNet weights of the encoder alone; raises UserError where they do not fit it."""
    _check_named(path, encoder)
    try:
        build_encoder(encoder, str(path))
    except ValueError as error:
        raise UserError(f"The chosen weights do not suit: {error}") from error
    return f"{path.name}: weights that fit {encoder}"


def _describe_published(path: Path, encoder: str) -> str:
    _check_named(path, encoder)
    try:
        load_start(build_model(encoder, PUBLISHED_CLASSES), {}, (), path)
    except ValueError as error:
        raise UserError(f"The chosen checkpoint does not suit: {error}") from error
    return f"{path.name}: a published network that fits {encoder}"


def _check_named(path: Path, encoder: str) -> None:
    if encoder == OWN_ENCODER:
        raise UserError(f"{path.name} is no checkpoint of Train HRDA: choose the row of the model that it belongs to")
