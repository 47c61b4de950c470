"""The checkpoint format: a dictionary of plain types and tensors that loads without executing code.

Keys: format_version, model_config, classes, preprocessing, student, teacher, selected, thresholds, metrics, provenance;
in `last.pth` also `resume` (optimiser, iteration, best score).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrda_core.models.build import build_model
from hrda_core.models.hrda import HRDA
from hrda_core.models.weights import read_state_dict
from hrda_core.whole_file import whole_file

FORMAT_VERSION = 1
KEYS = ("model_config", "classes", "preprocessing", "student", "teacher", "selected", "thresholds", "metrics", "provenance")


def save_checkpoint(path: str | Path, checkpoint: Mapping[str, Any]) -> Path:
    """Writes atomically: a reader sees the old file or the new one, never a part."""
    path = Path(path)
    with whole_file(path) as file:
        torch.save({"format_version": FORMAT_VERSION, **checkpoint}, file)
    return path


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of this project.

    Raises:
        ValueError: no such file, not loadable without code execution, another format, or keys missing.
    """
    checkpoint = read_state_dict(path)
    version = checkpoint.get("format_version")
    if version is None:
        raise ValueError(f"{path} is not a checkpoint of this project; public weights load through load_reference_weights")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format_version={version}, this version of hrda_core reads {FORMAT_VERSION}; update hrda_core"
        )
    missing = [key for key in KEYS if key not in checkpoint]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: the file is damaged, use another checkpoint of the run")
    return checkpoint


def model_of(checkpoint: Mapping[str, Any], network: str = "selected") -> HRDA:
    """The checkpoint's network in eval mode: "student", "teacher", or the "selected" one of the two."""
    which = checkpoint["selected"] if network == "selected" else network
    if which not in ("student", "teacher"):
        raise ValueError(f"network={network!r}: use 'selected', 'student' or 'teacher'")
    model = build_model(**checkpoint["model_config"])
    model.load_state_dict(checkpoint[which])
    return model.eval()


def weights_version(checkpoint: Mapping[str, Any]) -> str:
    """SHA-256 over the sorted selected tensors: it survives re-saving, which a hash of the file would not."""
    digest = hashlib.sha256()
    tensors: Mapping[str, Tensor] = checkpoint[checkpoint["selected"]]
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
