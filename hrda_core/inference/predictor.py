"""From images to labels: a checkpoint, sliding windows, thresholds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrda_core.config import PRECISIONS
from hrda_core.data.samples import ClassInfo, Image, check_image, read_image
from hrda_core.evaluation.thresholds import apply_thresholds
from hrda_core.inference.image_bands import ProbabilityBand, probability_bands
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.inference.window_network import Network, WindowNetwork
from hrda_core.inference.writers import ArrayWriter, Writer
from hrda_core.models.checkpoints import load_checkpoint, model_of, weights_version
from hrda_core.models.compiling import compile_networks, predict_once
from hrda_core.models.hrda import HRDA
from hrda_core.models.published_order import use_published_order

__all__ = [
    "Prediction",
    "Predictor",
    "Preprocessing",
    "choose_device",
    "choose_precision",
    "image_probabilities",
    "write_prediction",
]


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
        precision: "auto" (bf16 where the GPU has it), "fp32", "bf16", or "reference" (fp32 in the published order of operations).
        network: "selected", "student" or "teacher".
        thresholds: "tuned" (those stored in the checkpoint, argmax where there are none), "argmax", or one number per
            foreground class (per class where there is no background).
        blending, flips, tile_batch, overlap, window, zooms: see `Preprocessing`; None is what the checkpoint was measured with.
        compile: runs the network by torch.compile. The first windows of every size then take minutes, so it pays for many photos
            of at least one window; where it fails, a warning says why and the network runs without it.

    Raises:
        ValueError: an argument that does not fit, or a file that is no checkpoint of this project.
    """

    def __init__(
        self,
        checkpoint: str | Path | Mapping[str, Any],
        device: str = "auto",
        precision: str = "auto",
        network: str = "selected",
        thresholds: str | Sequence[float] = "tuned",
        blending: str | None = None,
        flips: bool | None = None,
        tile_batch: int | None = None,
        overlap: float | None = None,
        window: tuple[int, int] | None = None,
        compile: bool = False,
        zooms: Sequence[float] | None = None,
    ) -> None:
        content = checkpoint if isinstance(checkpoint, Mapping) else load_checkpoint(checkpoint)
        self.device = choose_device(device)
        self.autocast = choose_precision(precision, self.device)
        self.model: HRDA = use_published_order(model_of(content, network).to(self.device), precision == "reference")
        self.classes = tuple(ClassInfo(c["name"], tuple(c["color"]), c["value"]) for c in content["classes"])
        self.has_background = bool(content["preprocessing"]["has_background"])
        plain = {key: value for key, value in content["preprocessing"].items() if key != "has_background"}
        if zooms is not None and len(zooms) > 1 and not self.has_background:
            raise ValueError(f"zooms={tuple(zooms)}: several need a class named 'background' at index 0; use one")
        wanted = {
            "zooms": None if zooms is None else tuple(zooms),
            "blending": blending,
            "flips": flips,
            "tile_batch": tile_batch,
            "overlap": overlap,
            "window": window,
        }
        changes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None}
        self.preprocessing = replace(Preprocessing.from_plain(plain), **changes)
        self.network = WindowNetwork(
            self.model, self.device, self.autocast, self.preprocessing.tile_batch, precision != "reference"
        )
        if compile:
            example = torch.zeros(self.preprocessing.tile_batch, 3, *self.preprocessing.window, device=self.device)
            fast = self.network.model
            compile_networks([fast], lambda: predict_once(fast, example, self.autocast), warnings.warn)
        which = content["selected"] if network == "selected" else network
        self._stored_thresholds: Sequence[float] | None = content["thresholds"].get(which)
        self.thresholds = self.thresholds_for(thresholds)

    @property
    def weights_version(self) -> str:
        """SHA-256 of the weights that predict (`models.checkpoints.weights_version`)."""
        return weights_version({"selected": "ours", "ours": self.model.state_dict()})

    def predict(self, images: Sequence[Image | str | Path], probabilities: bool = False) -> list[Prediction]:
        """Images (H, W, 3) uint8 RGB or paths, of any size -> one prediction each, at the image's size.

        Raises:
            ValueError: an array that is no image, or a file that cannot be read.
        """
        predictions: list[Prediction] = []
        for position, item in enumerate(images):
            writer = ArrayWriter()
            self._predict_to(self._image(item, f"image {position}"), writer, probabilities)
            predictions.append(Prediction(writer.labels, writer.confidence, writer.probabilities))
        return predictions

    def predict_to(
        self, image: Image | str | Path, writer: Writer, probabilities: bool = False, network: Network | None = None
    ) -> None:
        """Predicts an image of any size into a writer (inference/writers.py), a band of rows at a time.

        Beside the image itself, memory grows with its width only; a `numpy.memmap` is read strip by strip.
        `network`: what runs the windows in place of `self.network`, say, a place in a `TileQueue`.

        Raises:
            ValueError: an array that is no image, or a file that cannot be read.
        """
        self._predict_to(self._image(image, "image"), writer, probabilities, network)

    def probabilities(self, image: Image) -> NDArray[np.float32]:
        """(H, W, 3) uint8 RGB -> (C, H, W) float32."""
        return image_probabilities(self.network, image, self.preprocessing)

    def features(self, image: Image) -> NDArray[np.float32]:
        """What the whole of (H, W, 3) uint8 RGB looks like to the encoder: (D,), the mean of its last stage.

        The image is seen at the size of one window, whatever its own, so that photos can be compared.
        """
        height, width = self.preprocessing.window
        factor = min(height / image.shape[0], width / image.shape[1])
        size = (max(round(image.shape[1] * factor), 1), max(round(image.shape[0] * factor), 1))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
        pixels = torch.from_numpy(small).to(self.device).permute(2, 0, 1)[None].float()
        mean, std = (pixels.new_tensor(values).view(1, 3, 1, 1) for values in (self.preprocessing.mean, self.preprocessing.std))
        with torch.inference_mode():
            last = self.model.encoder(self.model.pad((pixels / 255 - mean) / std))[-1]
        mean_feature: NDArray[np.float32] = last.mean(dim=(2, 3))[0].cpu().numpy()
        return mean_feature

    def _image(self, item: Image | str | Path, name: str) -> Image:
        image = item if isinstance(item, np.ndarray) else read_image(Path(item))
        check_image(image, name if isinstance(item, np.ndarray) else str(item))
        return image

    def _predict_to(self, image: Image, writer: Writer, probabilities: bool, network: Network | None = None) -> None:
        bands = probability_bands(network or self.network, image, self.preprocessing)
        size = (image.shape[0], image.shape[1])
        write_prediction(bands, size, len(self.classes), self.thresholds, self.has_background, writer, probabilities)

    def thresholds_for(self, wanted: str | Sequence[float]) -> list[float] | None:
        """What the argument `thresholds` means for this checkpoint: one per foreground class, None for argmax.

        Raises:
            ValueError: another word, or numbers that do not fit the classes.
        """
        if not isinstance(wanted, str):
            expected = len(self.classes) - int(self.has_background)
            if len(wanted) != expected or not all(0 <= t <= 1 for t in wanted):
                raise ValueError(f"thresholds={list(wanted)}: give {expected} numbers from 0 to 1, one per foreground class")
            return list(wanted)
        if wanted not in ("tuned", "argmax"):
            raise ValueError(f"thresholds={wanted!r}: use 'tuned', 'argmax' or numbers")
        stored = self._stored_thresholds
        return list(stored) if wanted == "tuned" and stored is not None else None


def write_prediction(
    bands: Iterator[ProbabilityBand],
    size: tuple[int, int],
    classes: int,
    thresholds: Sequence[float] | None,
    has_background: bool,
    writer: Writer,
    probabilities: bool = False,
) -> None:
    """Bands of an image of `size` (height, width) -> labels, confidence and perhaps probabilities, into the writer."""
    writer.open(size[0], size[1], classes)
    try:
        for top, shares in bands:
            labels, confidence = apply_thresholds(shares, thresholds, has_background)
            writer.write(top, labels, confidence, shares if probabilities else None)
    finally:
        writer.close()


def image_probabilities(network: WindowNetwork, image: Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """The whole of (H, W, 3) uint8 RGB at once: -> (C, H, W) float32. `probability_bands` tells what happens to it."""
    result = np.empty((network.model.num_classes, *image.shape[:2]), dtype=np.float32)
    for top, band in probability_bands(network, image, preprocessing):
        result[:, top : top + band.shape[1]] = band
    return result


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
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device={name!r}: only CPUs and CUDA GPUs are supported; use 'auto', 'cpu', 'cuda' or 'cuda:1'")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use 'auto' or 'cpu'")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The autocast type, or None for float32.

    Raises:
        ValueError: another name than "auto", "fp32", "bf16" and "reference".
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision={name!r}: use 'auto', 'fp32', 'bf16' or 'reference'")
    if name == "bf16" or (name == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()):
        return torch.bfloat16
    return None
