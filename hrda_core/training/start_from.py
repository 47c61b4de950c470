"""Starting from a whole trained network: a checkpoint of this project, or a published HRDA, DAFormer or MIC one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrda_core.models.checkpoints import load_checkpoint
from hrda_core.models.hrda import HRDA
from hrda_core.models.weights import load_reference_weights, read_state_dict

ARCHITECTURE = ("encoder", "head_channels", "attention", "multi_resolution")  # what the shapes of the weights depend on


def load_start(model: HRDA, options: Mapping[str, Any], class_names: Sequence[str], path: str | Path) -> str:
    """Loads the network that the file selects (the teacher of a published one) into `model`.

    Outputs of classes that both have, by name, are taken over; outputs of new classes start at random.

    Args:
        options: what `model` was built with (`build_model`'s arguments).

    Returns:
        A sentence for the user on what starts at random, "" where nothing does.

    Raises:
        ValueError: the file is no network, or one of another architecture.
    """
    content = read_state_dict(path)
    if "format_version" not in content:
        return _load_published(model, content, path)
    checkpoint = load_checkpoint(path)
    theirs = checkpoint["model_config"]
    for name in ARCHITECTURE:
        if theirs[name] != options[name]:
            raise ValueError(
                f"model.start_from={str(path)!r} was trained with model.{name}={theirs[name]!r}, this run has "
                f"{options[name]!r}: set model.{name}={theirs[name]!r}, or choose another checkpoint"
            )
    old_names = [c["name"] for c in checkpoint["classes"]]
    tensors: dict[str, Tensor] = checkpoint[checkpoint["selected"]]
    if list(class_names) != old_names:
        tensors = _with_outputs_of(model, tensors, old_names, class_names)
    model.load_state_dict(tensors)
    new = [name for name in class_names if name not in old_names]
    return f"model.start_from: the checkpoint does not know {', '.join(new)}, whose outputs start at random" if new else ""


def _with_outputs_of(
    model: HRDA, tensors: Mapping[str, Tensor], old_names: Sequence[str], class_names: Sequence[str]
) -> dict[str, Tensor]:
    """The tensors, with those that hold one row per class brought to the order of `class_names`."""
    own, result = model.state_dict(), dict(tensors)
    pairs = [(new, old_names.index(name)) for new, name in enumerate(class_names) if name in old_names]
    heads = ["head"] + (["scale_attention"] if model.attention == "class" and model.scale_attention is not None else [])
    for key in (f"{head}.classifier.{part}" for head in heads for part in ("weight", "bias")):
        rows = own[key].clone()
        if pairs:
            new, old = torch.tensor(pairs).T
            rows[new] = tensors[key][old].to(rows.dtype)
        result[key] = rows
    return result


def _load_published(model: HRDA, content: Mapping[str, Any], path: str | Path) -> str:
    try:
        report = load_reference_weights(model, content, "teacher" if _has_teacher(content) else "student")
    except ValueError as error:
        raise ValueError(f"model.start_from={str(path)!r}: {error}") from error
    lacking = [name for name in report.missing if not name.endswith("num_batches_tracked")]
    if lacking:
        raise ValueError(
            f"model.start_from={str(path)!r} is not a whole network ({report}) Weights of an encoder alone belong into "
            "model.pretrained_file"
        )
    return f"model.start_from: outputs for other classes, {report}" if report.mismatched else ""


def _has_teacher(content: Mapping[str, Any]) -> bool:
    inner = content.get("state_dict", content)
    return isinstance(inner, Mapping) and any(str(key).startswith("ema_model.") for key in inner)
