"""From images to labels: a checkpoint, sliding windows, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrda_core.data.crops import scale_of
from hrda_core.data.samples import ClassInfo, Image, check_image, read_image
from hrda_core.evaluation.thresholds import apply_thresholds
from hrda_core.inference.tiling import slide_logits
from hrda_core.models.checkpoints import load_checkpoint, model_of
from hrda_core.models.daformer_head import resize
from hrda_core.models.hrda import HRDA


@dataclass(frozen=True)
class Preprocessing:
    """How an image reaches the network; stored in the checkpoint as plain types.

    scale, fit_short, fit_long: see `DataConfig`. window: (height, width) of the sliding window. overlap: share of it.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    fit_short: int
    fit_long: int
    window: tuple[int, int]
    overlap: float

    @staticmethod
    def from_plain(content: Mapping[str, Any]) -> Preprocessing:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return Preprocessing(**fields)

    def as_plain(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


@dataclass(frozen=True)
class Prediction:
    """labels: (H, W) uint8 class indices, 255 = no class. confidence: (H, W) float32, the probability of the emitted class.

    probabilities: (C, H, W) float32, where asked for.
    """

    labels: NDArray[np.uint8]
    confidence: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None = None


class Predictor:
    """Predicts with a checkpoint.

    Args:
        checkpoint: path of a `.pth` of this project, or its loaded content.
        device: "auto" takes a GPU where there is one.
        precision: "auto" (bf16 where the GPU has it), "fp32" or "bf16".
        network: "selected", "student" or "teacher".
        thresholds: "tuned" (those stored in the checkpoint, argmax where there are none), "argmax", or one number per
            foreground class (per class where there is no background).
    """

    def __init__(
        self,
        checkpoint: str | Path | Mapping[str, Any],
        device: str = "auto",
        precision: str = "auto",
        network: str = "selected",
        thresholds: str | Sequence[float] = "tuned",
    ) -> None:
        content = checkpoint if isinstance(checkpoint, Mapping) else load_checkpoint(checkpoint)
        self.device = choose_device(device)
        self.autocast = choose_precision(precision, self.device)
        self.model: HRDA = model_of(content, network).to(self.device)
        self.classes = tuple(ClassInfo(c["name"], tuple(c["color"]), c["value"]) for c in content["classes"])
        self.has_background = bool(content["preprocessing"]["has_background"])
        plain = {key: value for key, value in content["preprocessing"].items() if key != "has_background"}
        self.preprocessing = Preprocessing.from_plain(plain)
        which = content["selected"] if network == "selected" else network
        self.thresholds = self._thresholds(thresholds, content["thresholds"].get(which))

    def predict(self, images: Sequence[Image | str | Path], probabilities: bool = False) -> list[Prediction]:
        """Images (H, W, 3) uint8 RGB or paths, of any size -> one prediction each, at the image's size."""
        predictions: list[Prediction] = []
        for item in images:
            image = item if isinstance(item, np.ndarray) else read_image(Path(item))
            check_image(image, f"image {len(predictions)}" if isinstance(item, np.ndarray) else str(item))
            shares = self.probabilities(image)
            labels, confidence = apply_thresholds(shares, self.thresholds, self.has_background)
            predictions.append(Prediction(labels, confidence, shares if probabilities else None))
        return predictions

    def probabilities(self, image: Image) -> NDArray[np.float32]:
        """(H, W, 3) uint8 RGB -> (C, H, W) float32."""
        return image_probabilities(self.model, image, self.preprocessing, self.device, self.autocast)

    def _thresholds(self, wanted: str | Sequence[float], stored: Sequence[float] | None) -> list[float] | None:
        if not isinstance(wanted, str):
            expected = len(self.classes) - int(self.has_background)
            if len(wanted) != expected or not all(0 <= t <= 1 for t in wanted):
                raise ValueError(f"thresholds={list(wanted)}: give {expected} numbers from 0 to 1, one per foreground class")
            return list(wanted)
        if wanted not in ("tuned", "argmax"):
            raise ValueError(f"thresholds={wanted!r}: use 'tuned', 'argmax' or numbers")
        return list(stored) if wanted == "tuned" and stored is not None else None


@torch.no_grad()
def image_probabilities(
    model: HRDA, image: Image, preprocessing: Preprocessing, device: torch.device, autocast: torch.dtype | None
) -> NDArray[np.float32]:
    """Scales, normalises, slides windows, and resizes the logits (never the labels) back: -> (C, H, W) float32."""
    p = preprocessing
    height, width = image.shape[:2]
    scale = scale_of(height, width, p.scale, p.fit_short, p.fit_long)
    if scale != 1:
        size = (max(round(width * scale), 1), max(round(height * scale), 1))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR), np.uint8)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float() / 255
    mean = torch.tensor(p.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(p.std, device=device).view(1, 3, 1, 1)
    with torch.autocast(device.type, dtype=autocast or torch.bfloat16, enabled=autocast is not None):
        logits = slide_logits(model, (pixels - mean) / std, p.window, p.overlap)
    return np.asarray(resize(logits, (height, width))[0].softmax(dim=0).cpu().numpy())


def choose_device(name: str) -> torch.device:
    """ "auto" -> the GPU where there is one, else the CPU.

    Raises:
        ValueError: a device that this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device={name!r}: use 'auto', 'cpu', 'cuda' or 'cuda:1'") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use 'auto' or 'cpu'")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The autocast type, or None for float32.

    Raises:
        ValueError: another name than "auto", "fp32" and "bf16".
    """
    if name not in ("auto", "fp32", "bf16"):
        raise ValueError(f"precision={name!r}: use 'auto', 'fp32' or 'bf16'")
    if name == "bf16" or (name == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()):
        return torch.bfloat16
    return None
