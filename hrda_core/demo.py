"""The demo: train on labelled synthetic images, adapt to unlabelled photos, compare; one report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hrda_core.config import TrainConfig
from hrda_core.data.folders import labelled_folder
from hrda_core.data.samples import Dataset
from hrda_core.data.synthetic_cracks import CrackSynthesis, synthesize
from hrda_core.inference.predictor import Predictor
from hrda_core.presets import preset
from hrda_core.training.comparison import Arm, write_comparison
from hrda_core.training.events import BASELINE, Event, Stage, broadcast
from hrda_core.training.listeners import ProgressBar
from hrda_core.training.loop import train
from hrda_core.training.run_directory import RunDirectory
from hrda_core.training.validation import evaluate
from hrda_core.whole_file import write_whole

# Source and target are two appearances of our own crack generator: asphalt, and rusty metal or old wood.
SOURCE = CrackSynthesis(count=240, size=256, look="asphalt")
TARGET = CrackSynthesis(count=240, size=256, look="rusty")
HELD_OUT = CrackSynthesis(count=32, size=256, look="rusty")


@dataclass(frozen=True)
class DemoData:
    source: Dataset
    target: Dataset
    validation: Dataset | None


def demo(
    directory: Path,
    source: str = "",
    target: str = "",
    validation: str = "",
    seed: int = 0,
    changes: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Trains source-only and adapted with the preset `quick`, and returns the path of report.html.

    Without folders it makes its own data. With `source` and `target` it runs on a user's; `validation` (labelled, of the
    target's appearance) is what the comparison is measured on, without it the report shows pictures and curves only.
    `changes` alter settings of both runs, as in "optimisation.iterations=300". An earlier demo of the same folders in
    `directory` is replaced, another run only with `overwrite`.

    Raises:
        ValueError: such a run lies there; SOURCE or TARGET is missing; and as `train`.
    """
    started = time.monotonic()
    mark, folders = RunDirectory(directory).demo, "\n".join((source, target, validation)).encode()
    if RunDirectory(directory).holds_a_run() and not overwrite and not (mark.is_file() and mark.read_bytes() == folders):
        raise ValueError(
            f"directory {directory} holds another run: choose another directory, or overwrite it (--overwrite; "
            f"make demo DIRECTORY=..., or OVERWRITE=1)"
        )
    if source or target or validation:
        data, config = _folders(source, target, validation), preset("quick")
    else:
        data, config = _synthesized(directory / "data", seed), _offline(preset("quick"))
    config = config.updated({"seed": seed}).changed(changes)
    config = config.updated({"baseline": True})  # both arms share the warm-up, so that they differ by adaptation alone

    def leave_mark(event: Event) -> None:
        if isinstance(event, Stage) and event.name == BASELINE:  # the directory is cleared by now
            write_whole(mark, folders)

    tell = broadcast(ProgressBar(), leave_mark)
    result = train(config, data.source, data.target, data.validation, tell, directory=directory, overwrite=True)
    assert result.baseline is not None
    arms = []
    for name, run in (("source-only", result.baseline), ("adapted", result.directory)):
        # the last checkpoint, not the best on the validation set, so that the comparison flatters neither
        predictor = Predictor(run / "checkpoints" / "last.pth", thresholds="argmax")
        figures = evaluate(predictor.probabilities, data.validation) if data.validation is not None else None
        arms.append(Arm(name, run, predictor, figures))
    photos = data.validation if data.validation is not None else data.target
    return write_comparison(
        directory / "report.html", arms, photos, len(data.source), len(data.target), time.monotonic() - started
    )


def _folders(source: str, target: str, validation: str) -> DemoData:
    for name, folder in (("SOURCE", source), ("TARGET", target)):
        if not folder:
            raise ValueError(f"{name} is missing: give SOURCE (labelled) and TARGET (photos) together, or none of them")
    labelled = labelled_folder(source, "SOURCE")
    return DemoData(
        labelled,
        replace(Dataset.from_folder(target, labelled.classes), masks=None),  # never to be seen, nor shown
        labelled_folder(validation, "VALIDATION", labelled.classes) if validation else None,
    )


def _synthesized(directory: Path, seed: int) -> DemoData:
    for i, (name, settings) in enumerate((("source", SOURCE), ("target", TARGET), ("validation", HELD_OUT))):
        synthesize(directory / name, replace(settings, seed=3 * seed + i))
    unlabelled = replace(Dataset.from_folder(directory / "target"), masks=None)
    return DemoData(Dataset.from_folder(directory / "source"), unlabelled, Dataset.from_folder(directory / "validation"))


def _offline(config: TrainConfig) -> TrainConfig:
    """Without ImageNet weights, which would be a download: everything learns at one, higher rate."""
    return config.updated(
        {
            "model": {"pretrained": False},
            "optimisation": {
                "learning_rate": config.optimisation.learning_rate * config.optimisation.head_factor,
                "head_factor": 1.0,
            },
        }
    )
