"""Public checkpoints in: MiT encoders in three namings, whole HRDA / DAFormer / MIC checkpoints.

The names were read from the public files; every naming is first brought to the original one
(`backbone.block1.0.attn.q`, `decode_head.head.conv_seg`), then to ours (`encoder.stages.0.blocks.0.attn.q`).
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hrda_core.models.load_report import LoadReport
from hrda_core.models.mit import MIT_VARIANTS

_HUGGING_FACE = (
    (r"^patch_embeddings\.(\d+)\.proj\.", lambda m: f"patch_embed{int(m[1]) + 1}.proj."),
    (r"^patch_embeddings\.(\d+)\.layer_norm\.", lambda m: f"patch_embed{int(m[1]) + 1}.norm."),
    (r"^block\.(\d+)\.", lambda m: f"block{int(m[1]) + 1}."),
    (r"^layer_norm\.(\d+)\.", lambda m: f"norm{int(m[1]) + 1}."),
    (r"\.layer_norm_([12])\.", r".norm\1."),
    (r"\.attention\.self\.query\.", ".attn.q."),
    (r"\.attention\.self\.sr\.", ".attn.sr."),
    (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
)
_OURS = (
    (r"^backbone\.patch_embed(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.patch_embed."),
    (r"^backbone\.block(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.blocks."),
    (r"^backbone\.norm(\d)\.", lambda m: f"encoder.stages.{int(m[1]) - 1}.norm."),
    (r"\.mlp\.dwconv\.dwconv\.", ".mlp.dwconv."),
    (r"^decode_head\.scale_attention\.", "scale_attention."),
    (r"^decode_head\.(head\.)?", "head."),
    (r"\.conv_seg\.", ".classifier."),
    (r"\.embed_layers\.(\d)\.proj\.", r".embed.\1."),
    (r"\.fuse_layer\.aspp_modules\.(\d)\.depthwise_conv\.", r".fuse.branches.\1.0."),
    (r"\.fuse_layer\.aspp_modules\.(\d)\.pointwise_conv\.", r".fuse.branches.\1.1."),
    (r"\.fuse_layer\.aspp_modules\.(\d)\.", r".fuse.branches.\1."),
    (r"\.fuse_layer\.", ".fuse."),
)
_KEY = re.compile(r"^(.*)\.attention\.self\.key\.(weight|bias)$")
_BLOCK = re.compile(r"^(?:encoder\.)?stages\.(\d)\.blocks\.(\d+)\.")


def load_reference_weights(model: nn.Module, state_dict: Mapping[str, Any], which: str = "student") -> LoadReport:
    """Loads a public checkpoint into an HRDA network (`build_model`) or a bare MiT encoder.

    Accepts: the original `mit_b*.pth` and segmentation_models_pytorch names, Hugging Face `nvidia/mit-b*`, and whole
    published HRDA, DAFormer and MIC checkpoints (also inside {"state_dict": ...}), of which `which` picks the
    "student" or the "teacher". Tensors of another shape (say, a classifier for other classes) are left out and reported.

    Raises:
        ValueError: `which` is neither, the encoder is another one than the model's, or nothing in `state_dict` fits.
    """
    if which not in ("student", "teacher"):
        raise ValueError(f"which={which!r}: use 'student' or 'teacher'")
    tensors = _to_ours(_to_original(_select(state_dict, which)))
    own = model.state_dict()
    if not any(key.startswith("encoder.") for key in own):  # a bare encoder
        tensors = {key.removeprefix("encoder."): value for key, value in tensors.items()}
    _check_variant(_variant(tensors), _variant(own))
    mismatched = {key for key, value in tensors.items() if key in own and own[key].shape != value.shape}
    fitting = {key: value for key, value in tensors.items() if key in own and key not in mismatched}
    if not fitting:
        raise ValueError(
            f"the weights do not belong to this network: none of {len(tensors)} tensors fits, the first being "
            f"{_first(tensors)}; expected names such as {_first(own)}. Choose the encoder of the file"
        )
    model.load_state_dict(fitting, strict=False)
    return LoadReport(
        loaded=len(fitting),
        missing=tuple(key for key in own if key not in tensors),
        unexpected=tuple(key for key in tensors if key not in own),
        mismatched=tuple(sorted(mismatched)),
    )


def read_state_dict(path: str | Path) -> dict[str, Any]:
    """Reads a `.pth`, `.pt`, `.bin` or `.safetensors` file without executing anything in it.

    Raises:
        ValueError: the file is missing, broken, or holds more than tensors and plain types.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights file {path} does not exist")
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise a dozen unrelated types, KeyError and struct.error among them
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:  # torch's own message advises to load it all the same, which would run the code
            raise ValueError(
                f"weights file {path} cannot be read safely: beside tensors it holds {code[1]}; save the state dict alone"
            ) from error
        raise ValueError(
            f"weights file {path} cannot be read ({type(error).__name__}): it is damaged, incomplete or no file of "
            "tensors; download or copy it again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"weights file {path} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def _select(state_dict: Mapping[str, Any], which: str) -> dict[str, Tensor]:
    """The tensors of one network, without wrappers and prefixes."""
    for wrapper in ("state_dict", "model"):
        if isinstance(state_dict.get(wrapper), Mapping):
            state_dict = state_dict[wrapper]
    tensors = {str(key).removeprefix("module."): value for key, value in state_dict.items() if isinstance(value, Tensor)}
    if any(key.startswith(("model.backbone.", "ema_model.backbone.")) for key in tensors):
        prefix = "model." if which == "student" else "ema_model."
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if not tensors:
            raise ValueError(f"the checkpoint holds no {which}: choose the other one")
    return tensors


def _to_original(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names to the original ones; keys and values of the attention joined, as in `attn.kv`."""
    renamed: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if not key.startswith(("segformer.encoder.", "encoder.patch_embeddings.", "encoder.block.", "encoder.layer_norm.")):
            renamed[key] = value
            continue
        name = key.removeprefix("segformer.").removeprefix("encoder.")
        if match := _KEY.match(name):
            other = tensors.get(key.replace(".self.key.", ".self.value."))
            if other is None:
                continue
            value = torch.cat([value, other])
            name = f"{match[1]}.attn.kv.{match[2]}"
        elif ".attention.self.value." in name:
            continue
        renamed[_rename(name, _HUGGING_FACE)] = value
    return renamed


def our_name(reference_name: str) -> str:
    """`backbone.block1.0.attn.q.weight` or `block1.0.attn.q.weight` -> `encoder.stages.0.blocks.0.attn.q.weight`."""
    bare = re.match(r"^(patch_embed\d|block\d|norm\d)\.", reference_name)
    return _rename(f"backbone.{reference_name}" if bare else reference_name, _OURS)


def _to_ours(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    imagenet_classifier = re.compile(r"^(head|classifier)\.(weight|bias)$")
    return {our_name(key): value for key, value in tensors.items() if not imagenet_classifier.match(key)}


def _variant(tensors: Mapping[str, Tensor]) -> str | None:
    """Which Mix Transformer the tensors (under our names) are of, None where they hold no whole one."""
    depths = [len({m[2] for key in tensors if (m := _BLOCK.match(key)) and m[1] == stage}) for stage in "0123"]
    width = next((value.shape[0] for key, value in tensors.items() if key.endswith("stages.0.norm.weight")), 0)
    matching = (name for name, v in MIT_VARIANTS.items() if (*v.depths, v.channels[0]) == (*depths, width))
    return next(matching, None)


def _check_variant(theirs: str | None, ours: str | None) -> None:
    """The larger MiT contain the smaller ones' names and shapes: loaded unchecked, such a file would fit in part."""
    if theirs is not None and theirs != ours:
        raise ValueError(
            f"the weights are of encoder {theirs!r}, the network has {ours or 'another kind'!r}: build it with "
            f"encoder {theirs!r}, or choose the file made for its encoder"
        )


def _first(tensors: Mapping[str, Tensor]) -> str:
    return next((f"{key} {tuple(value.shape)}" for key, value in tensors.items()), "none")


def _rename(name: str, rules: Any) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
