"""Checkpoints survive a round trip, a failed save and re-saving by others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from hrda_core.models import checkpoints
from hrda_core.models.build import build_model
from hrda_core.models.checkpoints import load_checkpoint, model_of, save_checkpoint, weights_version
from hrda_core.models.hrda import HRDA

OPTIONS: dict[str, Any] = {"encoder": "mobilenetv3_small_050", "num_classes": 2, "head_channels": 8, "detail_size": (64, 96)}


def network(seed: int) -> HRDA:
    torch.manual_seed(seed)
    return build_model(**OPTIONS)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return {
        "model_config": OPTIONS,
        "classes": [{"name": "background", "color": [0, 0, 0], "value": 0}, {"name": "crack", "color": [255, 0, 0], "value": 1}],
        "preprocessing": {"mean": [0.5, 0.5, 0.5], "window": [128, 128]},
        "student": network(1).state_dict(),
        "teacher": network(2).state_dict(),
        "selected": "teacher",
        "thresholds": {"teacher": [0.4]},
        "metrics": {"teacher": {"mean_iou": 0.5}},
        "provenance": {"iteration": 7},
    }


def test_round_trip(content: dict[str, Any], tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "run" / "best.pth", content)
    assert path == tmp_path / "run" / "best.pth"
    loaded = load_checkpoint(str(path))
    assert loaded.pop("format_version") == checkpoints.FORMAT_VERSION
    assert loaded.keys() == content.keys()
    for key, value in content.items():
        if key in ("student", "teacher"):
            assert all(torch.equal(loaded[key][name], tensor) for name, tensor in value.items())
        else:
            assert loaded[key] == value
    assert torch.load(path, weights_only=True).keys() >= set(checkpoints.KEYS)  # no code in the file


def test_a_failed_save_keeps_the_old_file(content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_checkpoint(tmp_path / "last.pth", content)
    before = path.read_bytes()

    def full_disk(content: object, file: Any) -> None:
        file.write(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, content)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pth"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_checkpoint(tmp_path / "last.pth", content)
    seen = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (seen.append(load_checkpoint(path)["provenance"]), fsync(handle))[1])
    save_checkpoint(path, {**content, "provenance": {"iteration": 8}})
    assert seen == [{"iteration": 7}]
    assert load_checkpoint(path)["provenance"] == {"iteration": 8}


def test_other_users_can_read_a_checkpoint(content: dict[str, Any], tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    assert save_checkpoint(tmp_path / "best.pth", content).stat().st_mode == plain.stat().st_mode


def test_errors_name_the_file_and_the_fix(content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "best.pth"
    with pytest.raises(ValueError, match=r"best\.pth does not exist"):
        load_checkpoint(path)
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match=r"best\.pth is not a checkpoint of this project.*load_reference_weights"):
        load_checkpoint(path)
    save_checkpoint(path, {**content, "format_version": 99})
    with pytest.raises(ValueError, match="format_version=99, this version of hrda_core reads 1; update hrda_core"):
        load_checkpoint(path)
    save_checkpoint(path, {key: value for key, value in content.items() if key not in ("teacher", "classes")})
    with pytest.raises(ValueError, match="lacks classes, teacher: the file is damaged"):
        load_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"best\.pth cannot be read"):
        load_checkpoint(path)


# --- networks


def test_student_teacher_and_selected(content: dict[str, Any], tmp_path: Path) -> None:
    loaded = load_checkpoint(save_checkpoint(tmp_path / "best.pth", content))
    for which, expected in (("student", "student"), ("teacher", "teacher"), ("selected", "teacher")):
        model = model_of(loaded, which)
        assert not model.training and model.detail_size == (64, 96)
        assert all(torch.equal(value, content[expected][key]) for key, value in model.state_dict().items())
    assert torch.equal(
        model_of({**loaded, "selected": "student"}).head.classifier.weight, content["student"]["head.classifier.weight"]
    )
    with pytest.raises(ValueError, match="network='ema': use 'selected', 'student' or 'teacher'"):
        model_of(loaded, "ema")


# --- version


def test_version_survives_re_saving(content: dict[str, Any], tmp_path: Path) -> None:
    version = weights_version(content)
    assert len(version) == 64 and int(version, 16)
    first = save_checkpoint(tmp_path / "a.pth", content)
    changed = {**load_checkpoint(first), "metrics": {}, "provenance": {"note": "saved by the platform"}}
    changed["teacher"] = dict(reversed(changed["teacher"].items()))
    second = save_checkpoint(tmp_path / "b.pth", changed)
    assert first.read_bytes() != second.read_bytes()
    assert weights_version(load_checkpoint(first)) == weights_version(load_checkpoint(second)) == version


def test_version_ignores_memory_layout(content: dict[str, Any]) -> None:
    strided = {k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in content["teacher"].items()}
    assert weights_version({**content, "teacher": strided}) == weights_version(content)


def test_version_changes_with_the_selected_weights_only(content: dict[str, Any]) -> None:
    version = weights_version(content)
    assert weights_version({**content, "selected": "student"}) != version
    assert weights_version({**content, "student": content["teacher"]}) == version
    teacher = {key: value.clone() for key, value in content["teacher"].items()}
    flat = teacher["head.classifier.weight"].flatten()
    flat[0] = torch.nextafter(flat[0], torch.tensor(1e9))  # the smallest change that float32 knows
    teacher["head.classifier.weight"] = flat.reshape(teacher["head.classifier.weight"].shape)
    assert weights_version({**content, "teacher": teacher}) != version


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3),
        torch.tensor([True, False]),
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.ones(0, 4),
        torch.ones(3).half(),
    ],
    ids=["scalar", "bool", "bfloat16", "empty", "half"],
)
def test_version_of_every_type(tensor: torch.Tensor) -> None:
    def version(value: torch.Tensor) -> str:
        return weights_version({"selected": "student", "student": {"a": value}})

    assert version(tensor) == version(tensor.clone())
    if tensor.is_floating_point():
        assert version(tensor) != version(tensor.double())  # other bytes, other version
