"""A folder of photos with a checkpoint of Train HRDA: python examples/predict_folder.py CHECKPOINT PHOTOS OUTPUT

Needs hrda_core alone: no platform, no server, no SDK. Photos of any size; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # where hrda_core is not installed, its checkout

from hrda_core import Predictor
from hrda_core.inference.folder import predict_folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="best.pth of an experiment")
    parser.add_argument("photos", help="an image, or a folder of images")
    parser.add_argument("output", help="gets masks/ (class values), overlays/, classes.json")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--confidence", action="store_true", help="also write confidence/ (0..255)")
    arguments = parser.parse_args()
    try:
        return predict(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def predict(arguments: argparse.Namespace) -> int:
    predictor = Predictor(arguments.checkpoint, arguments.device)  # thresholds, windows and blending as they were measured
    print(f"classes: {', '.join(info.name for info in predictor.classes)}; weights {predictor.weights_version[:12]}")
    result = predict_folder(
        predictor,
        arguments.photos,
        arguments.output,
        progress=lambda done, total: print(f"{done} of {total}", end="\r", flush=True),
        confidence=arguments.confidence,
    )
    print(f"{result.written} predicted, {result.skipped} were there already, {len(result.failed)} could not be read")
    for path, reason in result.failed:
        print(f"  {path}: {reason}")
    return int(bool(result.failed))


if __name__ == "__main__":
    sys.exit(main())
