"""Train segmentation models on synthetic labels and unlabelled real photos."""

from hrda_core import allocator as _allocator  # noqa: F401  # first: before any tensor
from hrda_core.config import TrainConfig
from hrda_core.data.samples import ClassInfo, Dataset
from hrda_core.inference.predictor import Prediction, Predictor
from hrda_core.models.build import build_model
from hrda_core.models.checkpoints import load_checkpoint
from hrda_core.presets import preset
from hrda_core.training.loop import TrainResult, train

__version__ = "0.1.0"

__all__ = [
    "ClassInfo",
    "Dataset",
    "Prediction",
    "Predictor",
    "TrainConfig",
    "TrainResult",
    "build_model",
    "load_checkpoint",
    "preset",
    "train",
]
