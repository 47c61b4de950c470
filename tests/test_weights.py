"""Public checkpoints load under every naming; what does not fit is reported, what is dangerous is refused."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_formulas import golden_json, hrda_state, parameter, reference_state
from safetensors.torch import save_file
from torch import Tensor, nn

from hrda_core.models import build
from hrda_core.models.build import build_encoder, build_model
from hrda_core.models.load_report import LoadReport
from hrda_core.models.weights import load_reference_weights, our_name, read_state_dict


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    """A published HRDA network (MiT-B0, 19 classes) in the reference's names."""
    return hrda_state()


@pytest.fixture(scope="module")
def original() -> dict[str, Tensor]:
    """`mit_b0.pth` as published: an encoder and its classifier."""
    state = reference_state(golden_json("mit_b0_keys"))
    return {**state, "head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}


def hugging_face(original: dict[str, Tensor], variant: str, prefix: str = "segformer.encoder.") -> dict[str, Tensor]:
    """The same tensors as in nvidia/mit-b*: key and value apart."""
    state = {}
    for key, names in golden_json(f"{variant}_hf_key_map").items():
        for name, part in zip(names, original[key].chunk(len(names)), strict=True):
            state[name.replace("segformer.encoder.", prefix)] = part
    return {**state, "classifier.weight": torch.zeros(1000, 256), "classifier.bias": torch.zeros(1000)}


def assert_whole(report: LoadReport, model: nn.Module) -> None:
    assert report == LoadReport(len(model.state_dict()), (), (), ())


def assert_holds(model: nn.Module, state: dict[str, Tensor]) -> None:
    own = model.state_dict()
    bare = not any(key.startswith("encoder.") for key in own)
    for key, value in state.items():
        name = our_name(key).removeprefix("encoder.") if bare else our_name(key)
        assert torch.equal(own[name], value), key


# --- encoders


def test_original_names_with_a_classification_head(original: dict[str, Tensor]) -> None:
    encoder = build_encoder("mit_b0")
    assert_whole(load_reference_weights(encoder, original), encoder)
    assert_holds(encoder, reference_state(golden_json("mit_b0_keys")))


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s, "meta": {"iter": 3}}, lambda s: {"model": s}], ids=["mm", "timm"])
def test_wrapped_files(wrap: Any, original: dict[str, Tensor]) -> None:
    encoder = build_encoder("mit_b0")
    assert_whole(load_reference_weights(encoder, wrap({f"module.{key}": value for key, value in original.items()})), encoder)


@pytest.mark.parametrize("prefix", ["segformer.encoder.", "encoder."])
def test_hugging_face_names(prefix: str, original: dict[str, Tensor]) -> None:
    encoder = build_encoder("mit_b0")
    assert_whole(load_reference_weights(encoder, hugging_face(original, "mit_b0", prefix)), encoder)
    assert_holds(encoder, reference_state(golden_json("mit_b0_keys")))


def test_hugging_face_names_of_the_largest_encoder() -> None:
    with torch.device("meta"):
        encoder = build_encoder("mit_b5")
    own = encoder.state_dict()
    keys = golden_json("mit_b5_hf_key_map")
    original = {key: own[our_name(key).removeprefix("encoder.")] for key in keys}
    assert len(original) == len(own)  # one tensor each, none twice
    state = hugging_face(original, "mit_b5")
    assert len(state) > len(original)
    assert_whole(load_reference_weights(encoder, state), encoder)


def test_hugging_face_key_without_its_value_is_missing(original: dict[str, Tensor]) -> None:
    state = hugging_face(original, "mit_b0")
    del state["segformer.encoder.block.0.0.attention.self.value.weight"]
    report = load_reference_weights(build_encoder("mit_b0"), state)
    assert report.missing == ("stages.0.blocks.0.attn.kv.weight",) and report.unexpected == ()


def test_encoder_file_into_a_whole_network(original: dict[str, Tensor]) -> None:
    model = build_model("mit_b0", 3, head_channels=8)
    report = load_reference_weights(model, original)
    assert report.loaded == len(model.encoder.state_dict())
    assert report.missing and all(key.startswith(("head.", "scale_attention.")) for key in report.missing)
    assert_holds(model, reference_state(golden_json("mit_b0_keys")))


# --- whole checkpoints


@pytest.mark.parametrize("which", ["student", "teacher"])
def test_student_and_teacher_of_a_published_checkpoint(which: str, whole: dict[str, Tensor]) -> None:
    teacher = {key: value + 1 for key, value in whole.items()}
    content = {
        "meta": {"CLASSES": ("road",)},
        "state_dict": {
            **{f"model.{key}": value for key, value in whole.items()},
            **{f"ema_model.{key}": value for key, value in teacher.items()},
            **{f"imnet_model.{key}": torch.zeros_like(value) for key, value in whole.items()},
        },
    }
    model = build_model("mit_b0", 19)
    assert_whole(load_reference_weights(model, content, which), model)
    assert_holds(model, whole if which == "student" else teacher)


def test_a_checkpoint_without_teacher_says_so(whole: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match="holds no teacher: choose the other one"):
        load_reference_weights(build_model("mit_b0", 19), {f"model.{k}": v for k, v in whole.items()}, "teacher")
    with pytest.raises(ValueError, match="which='ema': use 'student' or 'teacher'"):
        load_reference_weights(build_model("mit_b0", 19), whole, "ema")


def test_daformer_checkpoint(whole: dict[str, Tensor]) -> None:
    state = {k.replace("decode_head.head.", "decode_head."): v for k, v in whole.items() if "scale_attention" not in k}
    model = build_model("mit_b0", 19, multi_resolution=False)
    assert_whole(load_reference_weights(model, {"state_dict": {f"model.{k}": v for k, v in state.items()}}), model)
    assert_holds(model, state)


def test_classifier_of_other_classes_is_left_out_and_reported(whole: dict[str, Tensor]) -> None:
    model = build_model("mit_b0", 5)
    before = model.head.classifier.weight.clone()
    report = load_reference_weights(model, whole)
    assert report.mismatched == tuple(f"{h}.classifier.{p}" for h in ("head", "scale_attention") for p in ("bias", "weight"))
    assert (report.loaded, report.missing, report.unexpected) == (len(model.state_dict()) - 4, (), ())
    assert torch.equal(model.head.classifier.weight, before)
    assert_holds(model, {key: value for key, value in whole.items() if "conv_seg" not in key})
    assert str(report).endswith(
        "4 of another shape (head.classifier.bias, head.classifier.weight, scale_attention.classifier.bias, ...)."
    )


# --- files for something else


def as_original(encoder: nn.Module) -> dict[str, Tensor]:
    names = golden_json("mit_b5_hf_key_map")
    own = encoder.state_dict()
    return {key: own[name] for key in names if (name := our_name(key).removeprefix("encoder.")) in own}


@pytest.mark.parametrize(("file_of", "loaded_into"), [("mit_b2", "mit_b1"), ("mit_b1", "mit_b2"), ("mit_b1", "mit_b0")])
def test_another_encoder_is_refused(file_of: str, loaded_into: str) -> None:
    with torch.device("meta"):
        other, encoder = build_encoder(file_of), build_encoder(loaded_into)
    state = as_original(other)
    assert len(state) == len(other.state_dict())
    with pytest.raises(
        ValueError, match=f"of encoder '{file_of}', the network has '{loaded_into}': build it with encoder '{file_of}'"
    ):
        load_reference_weights(encoder, state)


@pytest.mark.parametrize("encoder", ["mit_b1", "mobilenetv3_small_050"])
def test_a_whole_checkpoint_of_another_encoder_is_refused(encoder: str, whole: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"of encoder 'mit_b0', the network has .*: build it with encoder 'mit_b0'"):
        load_reference_weights(build_model(encoder, 19), whole)


@pytest.mark.parametrize("state", [{}, {"conv1.weight": torch.zeros(3)}, {0: torch.zeros(3)}, {"epoch": 3}])
def test_foreign_content_is_refused(state: dict[Any, Any]) -> None:
    with pytest.raises(
        ValueError, match=r"do not belong to this network.* expected names such as .*Choose the encoder of the file"
    ):
        load_reference_weights(build_encoder("mit_b0"), state)


# --- reading files


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.target),)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    path, target = tmp_path / "w.pth", tmp_path / "made_by_the_pickle"
    for legacy in (True, False):
        torch.save({"a": Malicious(target)}, path, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(ValueError, match=r"w\.pth cannot be read safely: beside tensors it holds \w+\.mkdir") as error:
            read_state_dict(path)
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)  # torch advises to load it all the same
        assert not target.exists()
    path.write_bytes(pickle.dumps({"a": Malicious(target)}, protocol=2))
    with pytest.raises(ValueError, match="cannot be read"):
        read_state_dict(path)
    assert not target.exists()


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_are_one_kind_of_error(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(20, 20), "b": {"c": [1, 2]}}, path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"w\.pth cannot be read"):
            read_state_dict(path)
    for place in range(0, 400, 3):  # any flipped byte: readable or a ValueError, never a KeyError from torch's depths
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            assert isinstance(read_state_dict(path), dict)
        except ValueError as error:
            assert "w.pth" in str(error)


def test_other_contents_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    with pytest.raises(ValueError, match=r"w\.pth does not exist"):
        read_state_dict(path)
    path.write_text("<html>404 Not Found</html>")
    with pytest.raises(
        ValueError,
        match=r"cannot be read \(UnpicklingError\): it is damaged, incomplete or no file of tensors; download or copy it again",
    ):
        read_state_dict(path)
    for content, name in (([1, 2], "list"), (torch.zeros(2), "Tensor")):
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"holds a {name}, not a dictionary of tensors"):
            read_state_dict(path)


def test_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.arange(4.0)}, path)
    assert read_state_dict(str(path))["a"].tolist() == [0, 1, 2, 3]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read"):
        read_state_dict(path)


# --- building with weights


def test_build_model_from_a_local_file(original: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(original, tmp_path / "mit_b0.pth")
    save_file({k: v.contiguous() for k, v in hugging_face(original, "mit_b0").items()}, tmp_path / "model.safetensors")
    for name in ("mit_b0.pth", "model.safetensors"):
        model = build_model("mit_b0", 3, head_channels=8, pretrained=str(tmp_path / name))
        assert_holds(model, reference_state(golden_json("mit_b0_keys")))


def test_an_incomplete_file_is_refused(original: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    key = "block2.1.mlp.fc1.weight"
    torch.save({k: v for k, v in original.items() if k != key}, path)
    with pytest.raises(ValueError, match=rf"{path} are not whole for encoder 'mit_b0'.*1 missing in the file .*stages\.1"):
        build_encoder("mit_b0", str(path))
    torch.save({**original, key: parameter(key, [3, 3])}, path)
    with pytest.raises(ValueError, match=r"not whole .* 1 of another shape"):
        build_encoder("mit_b0", str(path))

    state = build_encoder("mobilenetv3_small_050").backbone.state_dict()
    torch.save({k: v for k, v in state.items() if k != "conv_stem.weight"}, path)
    with pytest.raises(
        ValueError, match=r"not whole for encoder 'mobilenetv3_small_050'.*missing in the file \(conv_stem.weight\)"
    ):
        build_encoder("mobilenetv3_small_050", str(path))
    torch.save(state, path)
    assert torch.equal(build_encoder("mobilenetv3_small_050", str(path)).backbone.conv_stem.weight, state["conv_stem.weight"])


def test_unreachable_hub_gives_one_sentence_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(build, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(build, "model_info", unreachable)
    monkeypatch.setattr(build, "hf_hub_download", lambda *args: pytest.fail("would retry for 23 s"))
    start = time.monotonic()
    with pytest.raises(RuntimeError, match="ImageNet weights of mit_b0 could not be fetched") as error:
        build_model("mit_b0", 3, pretrained=True)
    assert time.monotonic() - start < 5
    message = str(error.value)
    assert "huggingface.co/nvidia/mit-b0" in message and "pytorch_model.bin" in message and "mit_b0.pth" in message
    assert "\n" not in message


def test_weights_in_the_hubs_cache_are_used_without_asking(
    original: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(hugging_face(original, "mit_b0"), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(build, "try_to_load_from_cache", lambda *args: str(tmp_path / args[1]))
    monkeypatch.setattr(build, "model_info", lambda *args, **kwargs: pytest.fail("asked the hub"))
    assert_holds(build_encoder("mit_b0", True), reference_state(golden_json("mit_b0_keys")))
