"""Runs that start from a whole trained network, and what does not suit them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import CRACK, CRACKS, cracks, tiny

from hrda_core import ClassInfo, build_model, load_checkpoint, train
from hrda_core.models.checkpoints import model_of
from hrda_core.models.weights import our_name
from hrda_core.training import networks
from hrda_core.training.events import Event, Notice

NAMES = [c.name for c in CRACKS]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("trained")
    return train(tiny(mode="source-only"), cracks(3, 1), None, directory=directory).best


def test_a_run_starts_from_the_selected_network_of_a_checkpoint(trained: Path) -> None:
    student = networks.build_student(tiny({"model": {"start_from": str(trained)}}), NAMES)
    expected = model_of(load_checkpoint(trained)).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in student.state_dict().items())


def test_outputs_of_known_classes_are_taken_over_by_name(trained: Path) -> None:
    told: list[str] = []
    config = tiny({"model": {"start_from": str(trained)}})
    student = networks.build_student(config, ["background", "joint", "crack"], told.append)
    old, new = model_of(load_checkpoint(trained)).head.classifier.weight, student.head.classifier.weight
    assert torch.equal(new[0], old[0])
    assert torch.equal(new[2], old[1])
    assert told == ["model.start_from: the checkpoint does not know joint, whose outputs start at random"]


def test_the_notice_reaches_the_listener_of_a_run(trained: Path, tmp_path: Path) -> None:
    told: list[Event] = []
    classes = (*CRACKS, ClassInfo("joint", (0, 0, 255), 128))
    config = tiny({"model": {"start_from": str(trained)}, "optimisation": {"iterations": 1}}, mode="source-only")
    train(config, cracks(3, 1, classes=classes), None, listener=told.append, directory=tmp_path)
    assert any("does not know joint" in event.text for event in told if isinstance(event, Notice))


def test_another_architecture_is_refused_in_words(trained: Path) -> None:
    config = tiny({"model": {"start_from": str(trained), "head_channels": 24}})
    with pytest.raises(
        ValueError, match=r"was trained with model\.head_channels=16, this run has 24: set model\.head_channels=16"
    ):
        networks.build_student(config, NAMES)


def test_a_published_checkpoint_of_other_classes_keeps_all_but_its_outputs(tmp_path: Path) -> None:
    """A whole HRDA in the published names: here the golden list of names with our own shapes."""
    published = build_model("mit_b0", 19, head_channels=32)
    tensors = {f"ema_model.{name}": value for name, value in _published_names(published.state_dict()).items()}
    torch.save({"state_dict": tensors}, tmp_path / "hrda.pth")
    told: list[str] = []
    config = tiny({"model": {"encoder": "mit_b0", "head_channels": 32, "multi_resolution": True}}).updated(
        {"model": {"start_from": str(tmp_path / "hrda.pth")}, "data": {"crop_height": 128, "crop_width": 128}}
    )
    student = networks.build_student(config, NAMES, told.append)
    assert torch.equal(
        student.encoder.state_dict()["stages.0.norm.weight"], published.encoder.state_dict()["stages.0.norm.weight"]
    )
    assert "other classes" in told[0]
    assert "head.classifier.bias" in told[0]


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    encoder = build_model("mit_b0", 2, head_channels=32).encoder
    torch.save({f"encoder.{k}": v for k, v in encoder.state_dict().items()}, tmp_path / "encoder.pth")
    config = tiny({"model": {"encoder": "mit_b0", "head_channels": 32, "start_from": str(tmp_path / "encoder.pth")}})
    with pytest.raises(ValueError, match=r"start_from=.*not a whole network.*model\.pretrained_file"):
        networks.build_student(config, NAMES)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "notes.pth").write_text("hello")
    with pytest.raises(ValueError, match=r"notes\.pth cannot be read"):
        networks.build_student(tiny({"model": {"start_from": str(tmp_path / "notes.pth")}}), [CRACK.name])


def _published_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names back to the published ones, through the key list of the goldens."""
    keys = json.loads((Path(__file__).parent / "golden" / "hrda_b0_keys.json").read_text())
    names = {our_name(key): key for key in keys}
    return {names[name]: value for name, value in state.items()}
