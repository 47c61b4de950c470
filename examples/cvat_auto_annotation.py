"""Pre-labels a task of CVAT with Serve HRDA, by CVAT's own command line:

    pip install cvat-cli numpy opencv-python requests
    HRDA_URL=http://localhost:8000 cvat-cli --server-host https://app.cvat.ai --auth USER task auto-annotate TASK_ID \\
        --function-file examples/cvat_auto_annotation.py --allow-unmatched-labels

The task's labels must have the names of the model's classes. docs/labelling_tools.md tells more.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

import cvat_sdk.auto_annotation as cvataa
import numpy as np
from cvat_sdk.masks import encode_mask

sys.path.insert(0, str(Path(__file__).parent))
from serve_client import class_names, predict

HRDA_URL = os.environ.get("HRDA_URL", "http://localhost:8000")
NAMES = class_names(HRDA_URL)
spec = cvataa.DetectionFunctionSpec(labels=[cvataa.label_spec(name, number, type="mask") for number, name in enumerate(NAMES)])


def detect(context: Any, image: Any) -> list[Any]:
    """A Pillow image -> masks, one for every connected piece."""
    content = io.BytesIO()
    image.convert("RGB").save(content, "PNG")
    settings: dict[str, Any] = {"objects": "component", "min_area": 10}
    if context.conf_threshold is not None:  # --conf-threshold of the command line
        settings["threshold"] = context.conf_threshold
    answer = predict(HRDA_URL, content.getvalue(), **settings)
    masks = []
    for found in answer.objects:
        whole = np.zeros((answer.height, answer.width), bool)
        height, width = found.mask.shape
        whole[found.top : found.top + height, found.left : found.left + width] = found.mask
        box = [found.left, found.top, found.left + width, found.top + height]
        masks.append(cvataa.mask(NAMES.index(found.name), encode_mask(whole, box)))
    return masks
