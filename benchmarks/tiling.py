"""Sliding windows: memory and time against the image's size, and how much an answer depends on where the windows lie.

    python -m benchmarks.tiling memory                   # 10,000 x 10,000 px, 2 and 19 classes, each in a fresh process
    python -m benchmarks.tiling time                     # 1 to 100 megapixels
    python -m benchmarks.tiling offset DIRECTORY         # and a picture of the seams; trains a small network first
    python -m benchmarks.tiling offset DIRECTORY --checkpoint best.pth --photo photo.jpg

Memory and time are those of a network with random weights, small enough for a processor: they show what tiling costs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from hrda_core import Dataset, Predictor, build_model, preset, train
from hrda_core.data.samples import read_image
from hrda_core.data.synthetic_cracks import CrackSynthesis, synthesize
from hrda_core.evaluation.pictures import confidence_map
from hrda_core.inference.tiling import BLENDINGS
from hrda_core.inference.writers import PngWriter
from hrda_core.models.hrda import window_boxes

SIDES = (1000, 2000, 4000, 8000, 10_000)
OFFSETS = {"odd": 37, "aligned": 64}  # px; the second is a multiple of every stride in the network


def micro(classes: int) -> dict[str, Any]:
    """A checkpoint: timm's smallest encoder with random weights, windows of 512 px."""
    options = {"encoder": "test_efficientnet", "num_classes": classes, "head_channels": 16, "multi_resolution": False}
    torch.manual_seed(0)
    state = build_model(**options).state_dict()
    return {
        "model_config": options,
        "classes": [{"name": f"class {i}", "color": [i, i, i], "value": i} for i in range(classes)],
        "preprocessing": {
            **{"mean": [0.5] * 3, "std": [0.2] * 3, "scale": 1.0, "fit_short": 0, "fit_long": 0, "window": [512, 512]},
            **{"overlap": 0.5, "blending": "smooth", "flips": False, "tile_batch": 4, "has_background": False},
        },
        **{"student": state, "teacher": state, "selected": "teacher", "thresholds": {}},
    }


def measure(side: int, classes: int, scale: float) -> dict[str, Any]:
    """Predicts side x side pixels into a mask and a confidence PNG; to be called in a process of its own."""
    checkpoint = micro(classes)
    checkpoint["preprocessing"]["scale"] = scale
    predictor = Predictor(checkpoint, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        start, used = time.perf_counter(), time.process_time()
        predictor.predict_to(image, PngWriter(Path(folder) / "mask.png", Path(folder) / "confidence.png"))
        seconds, used = time.perf_counter() - start, time.process_time() - used
    return {
        "side": side,
        "megapixels": side * side / 1e6,
        "classes": classes,
        "scale": scale,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(used, 2),  # of all cores; other work on the machine hardly changes it
        "peak_mb": round(peak_bytes() / 1e6),
        "image_mb": round(image.nbytes / 1e6),
    }


def peak_bytes() -> int:
    """Peak resident memory of this process (Linux). Not `getrusage`, which starts from the parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def measured_apart(side: int, classes: int, scale: float = 1.0) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.tiling", "one", str(side), str(classes), str(scale)]
    result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps(result), flush=True)
    return dict(result)


def small_network(directory: Path, iterations: int = 150) -> Path:
    """A checkpoint trained on synthetic cracks, without pretrained weights."""
    synthesize(directory / "cracks", CrackSynthesis(count=60, size=256, seed=1))
    config = preset("quick").updated(
        {
            "mode": "source-only",
            "model": {"pretrained": False},
            "optimisation": {"iterations": iterations},
            "schedule": {"validate_every": iterations, "checkpoint_every": iterations, "preview_every": iterations},
        }
    )
    return train(config, Dataset.from_folder(directory / "cracks"), None, directory=directory / "run", overwrite=True).last


def seam_step(probability: NDArray[np.float32], window: tuple[int, int], overlap: float) -> float:
    """Mean absolute step between neighbouring pixels across the windows' left and right borders, over that elsewhere.

    1 means that the borders cannot be told from the rest.
    """
    boxes = window_boxes(*probability.shape, window, overlap)
    borders = {edge for box in boxes for edge in (box.left, box.right)} - {0, probability.shape[1]}
    steps = np.abs(np.diff(probability, axis=1)).mean(axis=0)  # step i lies between columns i and i + 1
    at = np.array(sorted(edge - 1 for edge in borders))
    # beside, not everywhere: the steps also depend on a pixel's place in the network's grid, whose cells are 8 px here
    beside = np.concatenate([at - 16, at + 16])
    return float(steps[at].mean() / steps[beside].mean())


def offset(directory: Path, checkpoint: Path, photo: NDArray[np.uint8], overlap: float | None) -> dict[str, Any]:
    """What the windows do to the photo's answer, for both blendings.

    `seam_step` tells how much their borders stand out. The others are differences of the first class's probability in the
    middle of the photo when its top left rows and columns are cut off. Cutting 37 px moves the windows and also the network's
    own grid (its coarsest features have a stride of 32 px) against the pixels; cutting 64 px moves the windows alone.
    """
    results: dict[str, Any] = {}
    panels = [photo]
    for blending in BLENDINGS:
        predictor = Predictor(checkpoint, blending=blending, overlap=overlap)
        margin = max(predictor.preprocessing.window)
        whole = predictor.probabilities(photo)[0]
        panels.append(confidence_map(1 - whole))
        middle = np.s_[margin:-margin, margin:-margin]
        results[blending] = {"seam_step": seam_step(whole, predictor.preprocessing.window, predictor.preprocessing.overlap)}
        for name, cut in OFFSETS.items():
            part = np.zeros_like(whole)
            part[cut:, cut:] = predictor.probabilities(np.ascontiguousarray(photo[cut:, cut:]))[0]
            difference = np.abs(whole - part)[middle]
            results[blending][name] = {"max": float(difference.max()), "mean": float(difference.mean())}
    directory.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(directory / "seams.png"), np.concatenate(panels, axis=1)[..., ::-1])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("memory")
    commands.add_parser("time")
    one = commands.add_parser("one", help="one measurement, in this process")
    one.add_argument("side", type=int)
    one.add_argument("classes", type=int)
    one.add_argument("scale", type=float)
    command = commands.add_parser("offset")
    command.add_argument("directory", type=Path, help="for seams.png, and the network where none is given")
    command.add_argument("--checkpoint", type=Path)
    command.add_argument("--photo", type=Path, help="at least three windows wide and high; default: a synthetic one")
    command.add_argument("--overlap", type=float, help="of windows; default: the checkpoint's")
    options = parser.parse_args()

    if options.command == "one":
        print(json.dumps(measure(options.side, options.classes, options.scale)))
    elif options.command == "memory":
        for classes, scale in ((2, 1.0), (19, 1.0), (19, 0.5)):
            measured_apart(10_000, classes, scale)
    elif options.command == "time":
        for side in SIDES:
            measured_apart(side, 2)
    else:
        checkpoint = options.checkpoint or small_network(options.directory)
        if options.photo is None:
            synthesize(options.directory / "photo", CrackSynthesis(count=1, size=1280, seed=7, crack_free=0.0))
        path = options.photo or next((options.directory / "photo" / "images").iterdir())
        print(json.dumps(offset(options.directory, checkpoint, read_image(path), options.overlap), indent=1))


if __name__ == "__main__":
    main()
