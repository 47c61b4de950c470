"""`python -m serve_app.main deploy | predict INPUT`: the app without a platform."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import supervisely as sly
import yaml

from hrda_core.data.samples import IMAGE_SUFFIXES, Image
from hrda_core.whole_file import write_whole
from serve_app.errors import RequestError
from serve_app.uploads import Upload, decode

if TYPE_CHECKING:
    from serve_app.sdk_bridge import BridgedServing

MODES = ("deploy", "predict")


def is_command_line(words: Sequence[str]) -> bool:
    """Whether this module's package was started with these words, and not a server that loads it."""
    return Path(words[0]).parts[-2:] == ("serve_app", "main.py")


def parse_arguments(words: Sequence[str]) -> tuple[argparse.Namespace | None, bool]:
    """The arguments, and whether there are any: a server that starts the app has its own."""
    if not is_command_line(words):
        return None, False
    parser = argparse.ArgumentParser("python -m serve_app.main", description="Serve HRDA without a platform")
    add = parser.add_argument
    add("mode", choices=MODES, help="deploy: answer requests; predict: predict INPUT and end")
    add("input", nargs="?", help="an image, or a folder of images")
    add("--checkpoint", "--model", dest="model", required=True, help="a .pth file, or the name of a published model")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    add("--precision", default="auto", help="auto, fp32 or bf16")
    add("--class-names", type=lambda text: [name.strip() for name in text.split(",")], help="of a published checkpoint: a,b,c")
    add("--settings", nargs="*", default=[], help="name=value ..., or a .yaml or .json file; see inference_settings.yaml")
    add("--output", default="./predictions", help="folder for the annotations")
    add("--draw", action="store_true", help="also write the images with the objects drawn on them")
    add("--host", default="0.0.0.0", help="address to listen at; 127.0.0.1: for this machine alone")
    add("--port", type=_port, default=8000)
    add("--project_id", type=int, help="instead of INPUT: a project of the platform")
    add("--dataset_id", type=lambda text: [int(number) for number in text.split(",")], help="data sets of the platform: 5,6")
    add("--image_id", type=int, help="an image of the platform")
    add("--upload", action="store_true", help="upload what was predicted of the platform's images")
    arguments = parser.parse_args(words[1:])
    arguments.runtime = "PyTorch"
    if arguments.mode == "predict":
        given = (arguments.input, arguments.project_id, arguments.dataset_id, arguments.image_id)
        if all(one is None for one in given):
            parser.error("predict: give INPUT, an image or a folder")
        arguments.settings = _settings(arguments.settings)
    return arguments, True


def notice(arguments: argparse.Namespace | None) -> str:
    """What to know before the first request, or ""."""
    if arguments is None or arguments.mode != "deploy" or arguments.host not in ("0.0.0.0", "::"):
        return ""
    return "every machine that reaches this one may ask; --host 127.0.0.1 answers this machine alone"


def predict_files(model: BridgedServing, arguments: argparse.Namespace) -> bool:
    """Writes OUTPUT/{image}.json, an annotation each, and with --draw OUTPUT/drawn/{image}.jpg; one image at a time.

    True where all could be predicted; what could not is told, and the others go on.

    Raises:
        RequestError: wrong settings, no such input, or no image in it.
    """
    source, output = Path(arguments.input), Path(arguments.output)
    checked = model.read_settings(arguments.settings)
    photos = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not photos:
        there = "holds no image" if source.is_dir() else "does not exist"
        raise RequestError(f"{source} {there}: give an image, or a folder of {', '.join(IMAGE_SUFFIXES)}")
    root, failed = (source.parent if source.is_file() else source), 0
    for number, photo in enumerate(photos, start=1):
        name = photo.relative_to(root)
        try:
            image = decode(Upload.of_path(photo), model.limits)
        except RequestError as error:
            failed += 1
            print(f"{number}/{len(photos)} {name}: left out: {error}", file=sys.stderr)
            continue
        annotation, facts = model.annotate(image, checked, None, None)
        write_whole(output / f"{name}.json", json.dumps(annotation.to_json()).encode())
        if arguments.draw:
            write_whole(output / "drawn" / f"{name}.jpg", drawn(image, annotation))
        print(f"{number}/{len(photos)} {name}: {len(annotation.labels)} objects, doubt {facts['doubt']:.2f}")
    print(f"{len(photos) - failed} of {len(photos)} images predicted into {output}")
    return failed == 0


def drawn(image: Image, annotation: sly.Annotation) -> bytes:
    """JPEG: the objects in their colours, half transparent."""
    canvas = image.copy()
    for label in annotation.labels:
        label.geometry.draw(canvas, label.obj_class.color)
    mixed: np.ndarray[Any, Any] = cv2.addWeighted(image, 0.5, canvas, 0.5, 0)
    good, content = cv2.imencode(".jpg", mixed[..., ::-1])
    assert good
    return bytes(content)


def _port(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 65535:
        raise argparse.ArgumentTypeError(f"{word!r} is no port: use 1 to 65535")
    return int(word)


def _settings(words: Sequence[str]) -> dict[str, Any]:
    """Raises RequestError."""
    if len(words) == 1 and Path(words[0]).suffix in (".json", ".yaml", ".yml"):
        try:
            content = yaml.safe_load(Path(words[0]).read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise RequestError(f"--settings {words[0]}: {error}") from error
        if not isinstance(content, dict):
            raise RequestError(f"--settings {words[0]}: must hold names and values")
        return content
    pairs = [word.split("=", 1) for word in words]
    if any(len(pair) != 2 for pair in pairs):
        raise RequestError(f"--settings {' '.join(words)}: give name=value, such as threshold=0.5")
    return {name: yaml.safe_load(value) for name, value in pairs}
