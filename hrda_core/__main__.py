"""Command line: python -m hrda_core demo | synthesize | train | evaluate | predict | export."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from hrda_core.config import TrainConfig
from hrda_core.data.folders import labelled_folder
from hrda_core.data.samples import Dataset, join
from hrda_core.data.synthetic_cracks import LOOKS, CrackSynthesis, synthesize
from hrda_core.demo import demo
from hrda_core.inference.export import export_onnx, onnx_metadata
from hrda_core.inference.folder import predict_folder
from hrda_core.inference.predictor import Predictor
from hrda_core.inference.tiling import BLENDINGS
from hrda_core.presets import PRESETS, preset
from hrda_core.training.distributed import AnotherRankFailed, rank_of_environment
from hrda_core.training.events import Listener, broadcast
from hrda_core.training.listeners import EventFile, ProgressBar
from hrda_core.training.loop import train
from hrda_core.training.run_directory import RunDirectory
from hrda_core.training.run_report import write_run_report
from hrda_core.training.safety import in_words
from hrda_core.training.stopping import stop_on_signals, stop_with_stdin
from hrda_core.training.validation import evaluate


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)  # images are handled side by side; threads within one image would only compete
    try:
        options.run(options)
    except AnotherRankFailed:
        return 1  # the one that failed says why
    except (ValueError, RuntimeError, FloatingPointError, MemoryError, OSError) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    return 0


def _demo(options: argparse.Namespace) -> None:
    folders = options.source, options.target, options.validation
    report = demo(Path(options.directory), *folders, options.seed, options.set, options.overwrite)
    print(f"Report: {report.resolve()}")


def _synthesize(options: argparse.Namespace) -> None:
    settings = CrackSynthesis(
        count=options.count,
        size=options.size,
        seed=options.seed,
        textures=options.textures,
        look=options.look,
        label_width=options.label_width,
        label_margin=options.label_margin,
        crack_free=options.crack_free,
        distractors=options.distractors,
    )
    with _progress("synthesize") as progress:
        synthesize(options.directory, settings, workers=options.workers, progress=progress)
    print(f"{settings.count} images and masks in {options.directory}")


def _train(options: argparse.Namespace) -> None:
    """The named preset or file, else config.yaml of the run directory, else "standard"; folders and --set override."""
    directory = Path(options.directory)
    here = RunDirectory(directory)
    config, origin = _settings(options, here)
    folders = {name: value for name in ("source", "target", "validation") if (value := getattr(options, name))}
    config = config.updated({"data": folders})
    config = config.changed(options.set)
    source, target, validation = _datasets(config)
    rank = rank_of_environment()
    if rank == 0:
        print(_in_short(config, origin), file=sys.stderr)
    listeners: list[Listener] = [ProgressBar()] if rank == 0 else []
    if options.events:
        listeners.append(EventFile(Path(options.events), here))
    with stop_on_signals() as stop:
        if options.stop_when_stdin_closes:
            stop_with_stdin()
        result = train(
            config,
            source,
            target,
            validation,
            broadcast(*listeners),
            directory=directory,
            resume=options.resume,
            overwrite=options.overwrite,
            stop=stop,
        )
    if rank > 0:
        return
    if not result.best.is_file():
        print("Nothing was trained yet")
        return
    score = "" if result.score is None else f", validation score {result.score:.4f}"
    print(f"Best checkpoint: {result.best}{score}")
    if result.stopped:
        print(f"Stopped early ({result.stopped}); --resume goes on")
    if target is not None and config.mode in ("adapt", "source-only"):
        target = replace(target, masks=None)  # never to be seen, nor shown
    trained = result.best.parents[1]  # the baseline's directory where adapting had not begun
    print(f"Report: {write_run_report(trained, source, target, validation).resolve()}")


def _settings(options: argparse.Namespace, here: RunDirectory) -> tuple[TrainConfig, str]:
    """And where they are from."""
    if options.resume and (options.preset or options.config) and here.config.is_file():
        raise ValueError(
            f"--resume goes on with {here.config}: leave out --preset and --config; --set may change single settings"
        )
    if options.preset:
        return preset(options.preset), f"preset {options.preset}"
    if options.config:
        return TrainConfig.load(options.config), str(options.config)
    if not here.config.is_file():
        return preset("standard"), "preset standard"
    goes_on = options.resume and (here.last.is_file() or here.holds_a_baseline())
    return TrainConfig.load(here.config) if goes_on else here.to_start_anew(), str(here.config)


def _in_short(config: TrainConfig, origin: str) -> str:
    """Where the settings are from, and those that tell trainings apart at first sight."""
    data, steps = config.data, config.optimisation
    return (
        f"{config.mode}, settings of {origin}: {config.model.encoder}, crops of {data.crop_height} x {data.crop_width}, "
        f"{steps.iterations} iterations of batch {steps.batch_size}, device {config.device}"
    )


def _evaluate(options: argparse.Namespace) -> None:
    predictor = Predictor(options.checkpoint, options.device, network=options.network)
    dataset = labelled_folder(options.data, "data", predictor.classes)
    if [c.name for c in dataset.classes] != [c.name for c in predictor.classes]:
        raise ValueError(
            f"classes of {options.data} ({', '.join(c.name for c in dataset.classes)}) differ from the checkpoint's "
            f"({', '.join(c.name for c in predictor.classes)}): give both the same, in the same order"
        )
    with _progress("evaluate") as progress:
        result = evaluate(predictor.probabilities, dataset, predictor.thresholds, options.tolerance, progress)
    figures: dict[str, Any] = {
        "classes": [c.name for c in predictor.classes],
        "argmax": result.argmax.as_dict(),
        "thresholds": predictor.thresholds,
        "at_thresholds": result.thresholded.as_dict(),
        "best_thresholds_here": result.tuned,
        "iou_at_best_thresholds_here": [None if math.isnan(iou) else iou for iou in result.tuned_iou],
    }
    text = json.dumps(figures, indent=1)
    if options.json:
        Path(options.json).write_text(text, encoding="utf-8")
    print(text)


def _predict(options: argparse.Namespace) -> None:
    thresholds: str | list[float] = options.thresholds
    with contextlib.suppress(ValueError):  # a name, then, which the predictor checks
        thresholds = [float(part) for part in options.thresholds.split(",")]
    predictor = Predictor(
        options.checkpoint,
        options.device,
        network=options.network,
        thresholds=thresholds,
        blending=options.blending,
        flips=options.flips,
        tile_batch=options.tile_batch,
        compile=options.compile,
        zooms=options.zooms,
    )
    with _progress("predict") as progress:
        result = predict_folder(
            predictor,
            options.input,
            options.output,
            progress,
            confidence=options.confidence,
            probabilities=options.probabilities,
            overwrite=options.overwrite,
        )
    skipped = f", {result.skipped} were there already" if result.skipped else ""
    print(f"{result.written} predictions in {options.output}{skipped}")
    if result.failed:
        reasons = "\n".join(f"  {reason if str(path) in reason else f'{path}: {reason}'}" for path, reason in result.failed)
        raise ValueError(
            f"{len(result.failed)} photos could not be read, the others are done; replace or remove them:\n{reasons}"
        )


def _export(options: argparse.Namespace) -> None:
    window = None
    if options.window:
        sides = options.window.lower().split("x")
        if len(sides) != 2 or not all(side.isdecimal() for side in sides):
            raise ValueError(f"--window {options.window}: use HEIGHTxWIDTH in pixels, such as 512x512")
        window = (int(sides[0]), int(sides[1]))
    path = export_onnx(options.checkpoint, options.output, network=options.network, window=window)
    about = onnx_metadata(path)
    height, width = about["preprocessing"]["window"]
    difference = about["verification"]["max_difference"]
    print(f"{path}: windows of {height}x{width}, differs from PyTorch by at most {difference:.1e} in a probability")


def _datasets(config: TrainConfig) -> tuple[Dataset | None, Dataset | None, Dataset | None]:
    """Source, target, validation. Labelled folders without classes.json have the source's classes."""
    read = partial(labelled_folder, role="source") if config.mode != "supervised" else Dataset.from_folder
    source = join([read(folder) for folder in config.data.source]) if config.data.source else None
    classes = None if source is None else source.classes
    learned_from = classes if config.mode == "semi-supervised" else None
    target = [Dataset.from_folder(folder, learned_from) for folder in config.data.target]
    validation = [labelled_folder(folder, "validation", classes) for folder in config.data.validation]
    return source, join(target) if target else None, join(validation) if validation else None


class _progress:
    """A bar that takes (done, total)."""

    def __init__(self, label: str) -> None:
        self.bar = tqdm(desc=label, unit="image", file=sys.stderr)

    def __enter__(self) -> Callable[[int, int], None]:
        return self._advance

    def __exit__(self, *error: object) -> None:
        self.bar.close()

    def _advance(self, done: int, total: int) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hrda_core", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    command = commands.add_parser("demo", help="compare source-only with adapted training; writes report.html")
    command.add_argument("directory", nargs="?", default="runs/demo")
    command.add_argument(
        "--source", default="", help="labelled folder (images/, masks/, classes.json); default: synthesized cracks"
    )
    command.add_argument("--target", default="", help="folder of unlabelled photos")
    command.add_argument("--validation", default="", help="labelled folder of the target's appearance")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="model.pretrained=false")
    command.add_argument("--overwrite", action="store_true", help="also where a run of other data lies")
    command.set_defaults(run=_demo)

    command = commands.add_parser("synthesize", help="make a labelled synthetic crack set")
    defaults = CrackSynthesis()
    command.add_argument("directory")
    command.add_argument("--count", type=int, default=defaults.count)
    command.add_argument("--size", type=int, default=defaults.size, help="side in pixels")
    command.add_argument("--seed", type=int, default=defaults.seed)
    command.add_argument("--textures", default=defaults.textures, help="folder of crack-free photos; default: procedural")
    command.add_argument("--look", default=defaults.look, choices=["any", *(look for look in LOOKS if look != "any")])
    command.add_argument("--label-width", type=float, default=defaults.label_width, help="label width over crack width")
    command.add_argument(
        "--label-margin", type=float, default=defaults.label_margin, help="pixels added on each side at size 512"
    )
    command.add_argument("--crack-free", type=float, default=defaults.crack_free, help="share of images without a crack")
    command.add_argument("--distractors", type=float, default=defaults.distractors, help="how many things that are no cracks")
    command.add_argument("--workers", type=int, default=None, help="processes; default: all cores")
    command.set_defaults(run=_synthesize)

    command = commands.add_parser("train", help="train; without --preset or --config it reads config.yaml of the run directory")
    command.add_argument("directory", help="of the run")
    command.add_argument("--config", help="a YAML file")
    command.add_argument("--preset", choices=list(PRESETS), help="default: the run directory's settings, else standard")
    for name in ("source", "target", "validation"):
        command.add_argument(f"--{name}", action="append", default=[], metavar="FOLDER", help="may be given several times")
    command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="optimisation.iterations=300")
    command.add_argument("--resume", action="store_true", help="go on from checkpoints/last.pth")
    command.add_argument("--overwrite", action="store_true", help="start anew where an earlier run lies in the directory")
    command.add_argument("--events", metavar="FILE", help="append every event as a line of JSON, for a program that follows")
    command.add_argument("--stop-when-stdin-closes", action="store_true", help="save and end with the program that started this")
    command.set_defaults(run=_train)

    command = commands.add_parser("evaluate", help="figures of a checkpoint on a labelled folder, as JSON")
    command.add_argument("checkpoint")
    command.add_argument("data")
    command.add_argument("--tolerance", type=int, default=2, help="pixels, of the tolerant F1")
    command.add_argument("--json", help="also write the figures to this file")
    _add_network(command)
    command.set_defaults(run=_evaluate)

    command = commands.add_parser("predict", help="masks and overlays of a photo or a folder")
    command.add_argument("checkpoint")
    command.add_argument("input", help="a photo or a folder of them")
    command.add_argument("output", help="folder for masks/ and overlays/; a run that was interrupted goes on there")
    command.add_argument("--thresholds", default="tuned", help="tuned, argmax, or numbers such as 0.4 or 0.4,0.6")
    command.add_argument("--confidence", action="store_true", help="also write confidence/ (PNG, 0..255)")
    command.add_argument("--probabilities", action="store_true", help="also write probabilities/ (npz, float16)")
    command.add_argument("--overwrite", action="store_true", help="make predictions that exist anew")
    command.add_argument("--flips", action="store_true", default=None, help="average with the mirrored photo; twice the time")
    command.add_argument("--blending", choices=BLENDINGS, help="of overlapping windows; default: the checkpoint's")
    command.add_argument("--tile-batch", type=int, help="windows at once; default: the checkpoint's")
    zooms = "sizes to look at each photo at, such as 0.35 0.5 0.7 1 1.4; the two surest are averaged; default: the checkpoint's"
    command.add_argument("--zooms", type=float, nargs="+", help=zooms)
    command.add_argument("--compile", action="store_true", help="torch.compile: slow at first, then faster")
    _add_network(command)
    command.set_defaults(run=_predict)

    command = commands.add_parser("export", help="an ONNX file of one window, for programs without PyTorch")
    command.add_argument("checkpoint")
    command.add_argument("output", help="such as network.onnx; examples/predict_onnx.py shows how to use it")
    command.add_argument("--window", metavar="HxW", help="height and width in pixels; default: the checkpoint's")
    command.add_argument("--network", default="selected", choices=["selected", "student", "teacher"])
    command.set_defaults(run=_export)
    return parser


def _add_network(command: argparse.ArgumentParser) -> None:
    command.add_argument("--network", default="selected", choices=["selected", "student", "teacher"])
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")


if __name__ == "__main__":
    sys.exit(main())
