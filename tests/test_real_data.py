"""On the real photos: reading them, synthesizing on real textures, a short training with ImageNet weights, prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrda_core import Dataset, Predictor, preset, train
from hrda_core.data.samples import class_pixels
from hrda_core.data.synthetic_cracks import CrackSynthesis, synthesize

pytestmark = pytest.mark.data


def test_crack_photos_are_read_with_their_masks(data_dir: Path) -> None:
    photos = Dataset.from_folder(data_dir / "cracks_real" / "val")
    assert len(photos) == 70 and photos.has_background
    shares = class_pixels(photos).sum(axis=0) / class_pixels(photos).sum()
    assert 0.02 < shares[1] < 0.05  # data/README: 3.2 % crack on average


def test_street_photos_have_eleven_classes_and_no_background(data_dir: Path) -> None:
    photos = Dataset.from_folder(data_dir / "street_real" / "val")
    assert len(photos) == 101 and len(photos.classes) == 11 and not photos.has_background
    assert (class_pixels(photos).sum(axis=0) > 0).all()


def test_adaptation_from_textured_synthetic_cracks_to_real_photos(data_dir: Path, tmp_path: Path) -> None:
    textures = str(data_dir / "textures" / "images")
    synthesize(tmp_path / "synthetic", CrackSynthesis(count=12, size=256, textures=textures), workers=1)
    validation = Dataset.from_folder(data_dir / "cracks_real" / "val")
    few = Dataset(validation.images[:3], (validation.masks or ())[:3], validation.classes)
    weights = str(data_dir / "weights" / "mobilenet_v2_imagenet_encoder_timm_keys.pt")
    config = preset("quick").updated(
        {
            "model": {"encoder": "mobilenetv2_100", "pretrained_file": weights},
            "adaptation": {"source_warmup": 3, "feature_distance_weight": 0.005},
            "optimisation": {"iterations": 6, "batch_size": 2},
            "schedule": {"validate_every": 6, "checkpoint_every": 6, "preview_every": 6, "log_every": 1, "previews": 1},
        }
    )
    target = Dataset.from_folder(data_dir / "cracks_real" / "unlabelled")
    result = train(config, Dataset.from_folder(tmp_path / "synthetic"), target, few, directory=tmp_path / "run")
    lines = (result.directory / "metrics.jsonl").read_text()
    assert "loss/mixed" in lines and "loss/feature_distance" in lines and "validation/teacher/foreground_iou" in lines
    photo = few.image(0)
    prediction = Predictor(result.last).predict([photo], probabilities=True)[0]
    assert prediction.labels.shape == photo.shape[:2] and np.isfinite(prediction.confidence).all()
