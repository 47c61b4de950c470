"""Several processes train what one process trains, go on where another number of them was, and end together."""

from __future__ import annotations

import copy
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from ranks import on_ranks
from timm.layers.drop import DropPath
from timm.layers.norm_act import BatchNormAct2d
from tiny_runs import BACKGROUND, CRACK, tiny, write_folder
from torch import Tensor, nn

from hrda_core.adaptation.draws import StepDraws
from hrda_core.adaptation.losses import IGNORE, dice_loss
from hrda_core.adaptation.pseudo_labels import confident_fraction
from hrda_core.adaptation.step import Learner, step
from hrda_core.adaptation.whole_batch import ALONE, WholeBatch
from hrda_core.config import AdaptationConfig, TrainConfig
from hrda_core.data.samples import ClassInfo, Dataset
from hrda_core.models.checkpoints import load_checkpoint
from hrda_core.training import run as run_module
from hrda_core.training.distributed import Ranks, joined
from hrda_core.training.events import Event, Failed, Finished, Labelling, Metrics
from hrda_core.training.loop import train
from hrda_core.training.shared_layers import share_layers

CLASSES = (BACKGROUND, CRACK, ClassInfo("patch", (0, 120, 200), 100))


def photos(count: int, seed: int) -> Dataset:
    """Noise with a dark line, a bright patch that is smaller in every further photo, and a corner without a label."""
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for i in range(count):
        image, mask = rng.integers(90, 160, (144, 160, 3), dtype=np.uint8), np.zeros((144, 160), np.uint8)
        mask[20 + 10 * i : 26 + 10 * i] = 1
        mask[60 : 140 - 20 * i, 30:130] = 2
        image[mask == 1] //= 4
        image[mask == 2] += 80
        mask[:20, :30] = IGNORE
        images.append(image)
        masks.append(mask)
    return Dataset(tuple(images), tuple(masks), CLASSES)


SOURCE, TARGET, VALIDATION = photos(4, 1), replace(photos(3, 2), masks=None), photos(3, 3)
# everything that looks at the whole batch is on
EVERYTHING: dict[str, Any] = {
    "model": {"multi_resolution": True, "head_channels": 8, "context_loss_weight": 0.1},
    "data": {"crop_height": 128, "crop_width": 128},
    "adaptation": {
        **{"source_warmup": 1, "pseudo_labels": "confident-fraction", "pseudo_threshold": 0.47, "mixing": "class-mix"},
        **{"mask_weight": 1.0, "mask_block": 32, "feature_distance_weight": 0.05, "feature_distance_min_ratio": 0.3},
    },
    "optimisation": {"iterations": 6, "learning_rate": 1e-4, "dice_weight": 0.5, "clip_gradient_norm": 5.0},
    "schedule": {"validate_every": 6, "checkpoint_every": 3, "preview_every": 6, "log_every": 1, "label_free_photos": 3},
}


def run(directory: Path, config: TrainConfig, stop_after: int = 0, resume: bool = False) -> list[Event]:
    """Trains; the events that were heard."""
    heard: list[Event] = []
    directory.parent.mkdir(parents=True, exist_ok=True)

    def stop() -> bool:
        return bool(stop_after) and bool(heard) and heard[-1].iteration >= stop_after

    train(config, SOURCE, TARGET, VALIDATION, heard.append, directory=directory, stop=stop, resume=resume)
    return heard


def failing_run(directory: Path, config: TrainConfig, fault: Any = None) -> tuple[str, str, list[str]]:
    """The kind of error that a run ends with, its text, and the reasons that the listener heard; `fault` in iteration 2."""
    if fault is not None:
        run_module.step = fault
    heard: list[Event] = []
    try:
        train(config, SOURCE, TARGET, VALIDATION, heard.append, directory=directory)
    except Exception as error:
        return type(error).__name__, str(error), [event.reason for event in heard if isinstance(event, Failed)]
    raise AssertionError("nothing failed")


def out_of_memory(learner: Learner, iteration: int, *rest: Any) -> dict[str, Tensor]:
    if iteration == 2 and os.environ["RANK"] == "1":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return step(learner, iteration, *rest)


def broken(learner: Learner, iteration: int, *rest: Any) -> dict[str, Tensor]:
    if iteration == 2 and os.environ["RANK"] == "1":
        raise RuntimeError("an illegal memory access")
    return step(learner, iteration, *rest)


def not_a_number(learner: Learner, iteration: int, *rest: Any) -> dict[str, Tensor]:
    values = step(learner, iteration, *rest)
    return {**values, "loss/source": values["loss/source"] * math.nan} if os.environ["RANK"] == "1" else values


def stopped_at_once(directory: Path, config: TrainConfig) -> str:
    return train(config, SOURCE, TARGET, VALIDATION, directory=directory, stop=lambda: os.environ["RANK"] == "0").stopped


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Starts from a network of its own, so that the encoder's norms are frozen and features have a distance."""
    directory = tmp_path_factory.mktemp("start")
    first = tiny(EVERYTHING, {"optimisation": {"iterations": 8, "learning_rate": 3e-3}}, mode="source-only")
    train(first, SOURCE, None, directory=directory / "run")
    return tiny(EVERYTHING, {"model": {"start_from": str(directory / "run" / "checkpoints" / "last.pth")}})


@pytest.fixture(scope="module")
def alone(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run on one process."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    run(directory, config)
    return directory


def log(directory: Path) -> dict[str, list[float]]:
    """Every scalar of the run: name -> values, iteration by iteration."""
    values: dict[str, list[float]] = {}
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        for name, value in json.loads(line).items():
            values.setdefault(name, []).append(value)
    return values


def assert_same_run(directory: Path, alone: Path) -> None:
    """Losses within 1e-5, and shares of pixels, of which rounding may turn one, within 1e-3."""
    ours, theirs = log(directory), log(alone)
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        assert ours[name] == pytest.approx(values, abs=1e-5 if name.startswith("loss/") else 1e-3), name


# -- runs ---------------------------------------------------------------------------------------------------------------


def test_two_processes_train_what_one_does(config: TrainConfig, alone: Path, tmp_path: Path) -> None:
    """Batch 1 each against batch 2: class mix, feature distance, masked consistency, Dice, clipping and dropout included."""
    directory = tmp_path / "run"
    heard, silent = on_ranks(2, tmp_path / "ranks", run, directory, config)
    assert_same_run(directory, alone)
    losses = log(directory)
    assert max(losses["loss/feature_distance"]) > 0
    assert all(0 < share < 1 for share in losses["pseudo/confident"])
    assert {"loss/mixed", "loss/masked", "loss/source_context"} <= losses.keys()
    assert not silent
    assert isinstance(heard[-1], Finished)
    assert len([event for event in heard if isinstance(event, Metrics)]) == 7
    assert len(list((directory / "tensorboard").iterdir())) == 1


def test_another_number_of_processes_goes_on(config: TrainConfig, alone: Path, tmp_path: Path) -> None:
    """One process, then two, then one: as if nothing had been."""
    directory = tmp_path / "run"
    assert run(directory, config, stop_after=2)[-1].iteration == 2
    heard, _ = on_ranks(2, tmp_path / "ranks", run, directory, config, 4, True)
    assert heard[-1].stopped == "stop requested"
    assert heard[-1].iteration == 4
    run(directory, config, resume=True)
    assert_same_run(directory, alone)


def test_two_processes_share_the_photos_of_a_round(config: TrainConfig, tmp_path: Path) -> None:
    """Bands of the source's share, which look at the whole batch, and Dice on pseudo-labels included."""
    rules = ["rounds=2", "source_warmup=2", "pseudo_labels=prior-band", "foreground_share=0.3", "dice_weight=1.0"]
    config = config.changed([f"adaptation.{rule}" for rule in rules])
    run(tmp_path / "alone", config)
    heard, _ = on_ranks(2, tmp_path / "ranks", run, tmp_path / "run", config)
    assert_same_run(tmp_path / "run", tmp_path / "alone")
    assert [event.done for event in heard if isinstance(event, Labelling)] == [0, 1, 2] * 2  # two of three photos
    assert max(log(tmp_path / "run")["loss/mixed"]) > 0


def test_two_processes_share_more_crops_of_photos_than_of_labelled_images(config: TrainConfig, tmp_path: Path) -> None:
    """Twice a batch of them, which pass in two parts: in each part a process has its share, augmentation included."""
    rules = ["rounds=1", "source_warmup=2", "pseudo_labels=prior-band", "foreground_share=0.3", "dice_weight=1.0"]
    rules += ["mixing=none", "mask_weight=0.5", "round_crops=2"]
    config = config.changed([f"adaptation.{rule}" for rule in rules])
    run(tmp_path / "alone", config)
    on_ranks(2, tmp_path / "ranks", run, tmp_path / "run", config)
    assert_same_run(tmp_path / "run", tmp_path / "alone")
    assert max(log(tmp_path / "run")["loss/mixed"]) > 0


def test_a_batch_that_cannot_be_shared_out(config: TrainConfig, tmp_path: Path) -> None:
    said = on_ranks(2, tmp_path / "ranks", failing_run, tmp_path / "run", config.changed(["optimisation.batch_size=3"]))
    assert sum(heard is not None and heard[0] == "ValueError" for heard in said) == 1
    assert "batch_size=3: is the batch of all 2 processes together; use a multiple of 2" in str(said)


def test_a_stop_during_the_checks_stops_all(config: TrainConfig, tmp_path: Path) -> None:
    ends = on_ranks(2, tmp_path / "ranks", stopped_at_once, tmp_path / "run", config)
    assert ends == ["stop requested"] * 2
    assert not (tmp_path / "run" / "checkpoints").exists()


# -- parts --------------------------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """Every layer that looks at the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        frozen = nn.BatchNorm2d(4).eval().requires_grad_(False)
        self.parts = nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), DropPath(0.3), frozen, BatchNormAct2d(4), nn.Dropout2d(0.4)),
            nn.Conv2d(4, 3, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.parts(image)  # type: ignore[no-any-return]


def passes_of(model: Layers, image: Tensor, label: Tensor, batch: WholeBatch) -> dict[str, Tensor]:
    """Two training passes and one of a copy in eval mode."""
    torch.manual_seed(1)
    for _ in range(2):
        output = model(image)
        (dice_loss(output, label, None, batch) + output.square().mean()).backward()
    average = copy.deepcopy(model).eval()(image)
    return {"training": output.detach(), "eval": average.detach(), **model.state_dict()}


def layers_on_a_rank(image: Tensor, label: Tensor) -> dict[str, Tensor]:
    with joined(TrainConfig(device="cpu"), print) as ranks:
        model, own = Layers(), slice(2 * ranks.rank, 2 * ranks.rank + 2)
        share_layers(model)
        values = passes_of(model, image[own], label[own], ranks.batch)
        ranks.average_gradients(model.parameters())
        gradients = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {**values, **gradients}


def test_layers_and_dice_of_a_shared_batch(tmp_path: Path) -> None:
    """Outputs, running statistics and gradients are those of the whole batch; class 2 is only in the first part."""
    image = torch.randn(4, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(4, 10, 8, dtype=torch.int64)
    label[:, 2:4], label[0, 5:] = 1, 2
    model = Layers()
    whole = passes_of(model, image, label, ALONE)
    whole |= {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    first, second = on_ranks(2, tmp_path / "ranks", layers_on_a_rank, image, label)
    for name, value in whole.items():
        both = [first[name], second[name]]
        parts = [torch.cat(both)] if name in ("training", "eval") else both
        for part in parts:
            torch.testing.assert_close(part, value, msg=name)


def figures_on_a_rank(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    with joined(TrainConfig(device="cpu"), print) as ranks:
        own = ranks.share(2)
        return confident_fraction(logits[own], 0.6, ranks.batch).weight, ranks.batch.present(label[own])


def test_pseudo_weight_and_classes_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    label = torch.stack([torch.full((8, 8), 3), torch.full((8, 8), 1)])
    label[1, 0] = IGNORE
    whole = confident_fraction(logits, 0.6)
    weights, present = zip(*on_ranks(2, tmp_path / "ranks", figures_on_a_rank, logits, label), strict=True)
    torch.testing.assert_close(torch.cat(weights), whole.weight)
    assert [classes.tolist() for classes in present] == [[1, 3, IGNORE]] * 2


def test_draws_go_by_the_position_in_the_whole_batch() -> None:
    whole = StepDraws(5, 7, AdaptationConfig(jitter_probability=1.0, blur_probability=1.0))
    part = replace(whole, samples=[2, 3, 4])
    present = torch.arange(9)
    for sample in range(3):
        assert torch.equal(part.mixed_classes(present, sample), whole.mixed_classes(present, sample + 2))
        assert part.pastes(sample) == whole.pastes(sample + 2)
        assert part.jitter("mixed", sample) == whole.jitter("mixed", sample + 2)
        assert part.blur_sigma("mixed", sample) == whole.blur_sigma("mixed", sample + 2)
    assert torch.equal(part.mask_noise(2, 128, 128), whole.mask_noise(4, 128, 128)[2:])
    assert part.detail_box("source", 512, 512) == whole.detail_box("source", 512, 512)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda:0", "each of the 2 processes takes a GPU of its own; use 'cuda'"),
        ("cuda", "this machine has 1 GPUs; start at most 1 processes on it"),
    ],
)
def test_every_process_needs_a_gpu_of_its_own(device: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=re.escape(said)):
        Ranks(1, 2).device(device)
    assert Ranks(1, 2).device("cpu") == torch.device("cpu")


# -- failures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "reason"),
    [
        (out_of_memory, "MemoryError", "with optimisation.batch_size=2 and crops of data.crop_height=128 x data.crop_width=128: "
         "a batch is shared by 2 processes; use smaller crops or a smaller model.encoder"),
        (broken, "RuntimeError", "an illegal memory access"),
    ],
)  # fmt: skip
def test_what_fails_on_one_rank_ends_all(fault: Any, kind: str, reason: str, config: TrainConfig, tmp_path: Path) -> None:
    """The rank that knows the reason tells it, and nobody else."""
    other, broken_one = on_ranks(2, tmp_path / "ranks", failing_run, tmp_path / "run", config, fault)
    assert broken_one[0] == kind
    assert reason in broken_one[1]
    assert broken_one[2] == [broken_one[1]]
    assert other is None or (other[0], other[2]) == ("AnotherRankFailed", [])


def test_a_loss_that_is_no_number_on_one_rank(config: TrainConfig, tmp_path: Path) -> None:
    said = on_ranks(2, tmp_path / "ranks", failing_run, tmp_path / "run", config, not_a_number)
    told = [reason for heard in said if heard is not None for reason in heard[2]]
    assert len(told) == 1
    assert told[0].startswith("loss/source became nan at iteration 1: lower optimisation.learning_rate")


# -- started by torchrun -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_folder(root / "source", 4, seed=1)
    write_folder(root / "target", 3, seed=2, masks=False)
    changes: dict[str, Any] = {
        "data": {"workers": 1, "cache": str(root / "cache")},
        "optimisation": {"iterations": 5000},
        "schedule": {"validate_every": 5000, "checkpoint_every": 10, "preview_every": 5000, "log_every": 1},
    }
    (root / "config.yaml").write_text(tiny(changes).to_yaml())
    return root


def start(folders: Path, directory: Path) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = [f"--source={folders / 'source'}", f"--target={folders / 'target'}", f"--config={folders / 'config.yaml'}"]
    command = [*launcher, "-m", "hrda_core", "train", str(directory), *options, f"--events={directory}.jsonl"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def wait_for(directory: Path, iteration: int, process: subprocess.Popen[str]) -> None:
    path = directory / "metrics.jsonl"
    while process.poll() is None and (not path.is_file() or len(path.read_text().splitlines()) < iteration):
        time.sleep(0.01)


def test_a_killed_rank_ends_the_others(folders: Path, tmp_path: Path) -> None:
    """They say which one, and what to do; one process goes on from the last checkpoint."""
    directory = tmp_path / "run"
    process = start(folders, directory)
    wait_for(directory, 12, process)
    ranks = [child for child in psutil.Process(process.pid).children() if child.environ().get("RANK") == "1"]
    ranks[0].kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert f"error: rank 1 of 2 (process {ranks[0].pid} on " in output
    last = json.loads(Path(f"{directory}.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "Failed"
    assert "give the same command again with --resume: it goes on from the last checkpoint" in last["reason"]

    before = int(load_checkpoint(directory / "checkpoints" / "last.pth")["provenance"]["iteration"])
    heard: list[Event] = []
    train(
        TrainConfig.load(directory / "config.yaml"),
        Dataset.from_folder(folders / "source"),
        Dataset.from_folder(folders / "target"),
        listener=heard.append,
        directory=directory,
        resume=True,
        stop=lambda: heard[-1].iteration > before,
    )
    assert heard[-1].iteration == before + 1


def test_a_stop_of_torchrun_saves(folders: Path, tmp_path: Path) -> None:
    """SIGTERM reaches loading processes, too, which must not die of it."""
    directory = tmp_path / "run"
    process = start(folders, directory)
    wait_for(directory, 12, process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    saved = int(load_checkpoint(directory / "checkpoints" / "last.pth")["resume"]["iteration"])
    assert f"stop requested: saved at iteration {saved}" in output
    assert len((directory / "metrics.jsonl").read_text().splitlines()) == saved
