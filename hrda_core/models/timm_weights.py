"""Pretrained weights into a timm backbone: from the Hugging Face hub, or from a local file in any of the public namings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import timm
from huggingface_hub import model_info, try_to_load_from_cache
from torch import Tensor, nn

from hrda_core.models.load_report import LoadReport
from hrda_core.models.weights import read_state_dict

_WRAPPERS = ("state_dict", "model")
_PREFIXES = ("module.", "backbone.", "encoder.")
WITHOUT_HUB = "Set model.pretrained_file to the path of a file, or model.pretrained=false"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def create_from_hub(name: str, **options: Any) -> nn.Module:
    """`timm.create_model` with its ImageNet weights (cached by the hub's client after the first time).

    Raises:
        RuntimeError: the weights could not be fetched; the message names the repository and the way around it.
    """
    source = timm.get_pretrained_cfg(name)
    if source is None or not source.has_weights:
        raise ValueError(f"encoder {name!r} has no public pretrained weights: {WITHOUT_HUB}")
    repository, _, revision = (source.hf_hub_id or "").partition("@")
    try:
        if repository and not any(isinstance(try_to_load_from_cache(repository, file), str) for file in _HUB_FILES):
            model_info(repository, revision=revision or None, timeout=5)  # fails at once; timm's loader retries for 46 s
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # hub, http client and url library raise a dozen unrelated types; the cause is chained
        places = [f"{_HUB_FILES[0]} of https://huggingface.co/{repository}"] if repository else []
        places += [source.url] if isinstance(source.url, str) and source.url else []
        raise RuntimeError(
            f"pretrained weights of encoder {name!r} could not be loaded ({type(error).__name__}): check the connection, or "
            f"download {' or '.join(places)}. {WITHOUT_HUB}"
        ) from error


def load_timm_file(backbone: nn.Module, plain: Any, path: str, name: str) -> LoadReport:
    """Loads a local file into `backbone`.

    Names may be timm's (of the whole classifier or of a features_only model) or the authors' where timm can convert
    them (DINOv2, Swin, ConvNeXt, PVTv2, ...), inside {"state_dict": ...} or {"model": ...}, behind `module.`,
    `backbone.` or `encoder.`. Classifiers are dropped; position embeddings are resized.

    Args:
        backbone: what timm made of the architecture with features_only, or the architecture itself.
        plain: the whole architecture, for timm's conversion and to know which names may be dropped.
        path: .pth, .pt, .bin or .safetensors.
        name: the encoder's name, for messages.

    Raises:
        ValueError: the file cannot be read, or less than half of the backbone is in it.
    """
    target = backbone.state_dict()
    tensors = _without_prefixes(_unwrapped(read_state_dict(path)))
    fits_as_it_is = all(key in tensors and tensors[key].shape == value.shape for key, value in target.items())
    converted = tensors if fits_as_it_is else _converted(tensors, plain)

    fitting: dict[str, Tensor] = {}
    unexpected, mismatched = [], []
    for key, value in converted.items():
        ours = _name_in(target, key)
        if ours is None:
            if not _is_left_out(key, plain):
                unexpected.append(key)
        elif target[ours].shape != value.shape:
            mismatched.append(ours)
        else:
            fitting[ours] = value

    wanted = [key for key in target if not key.endswith("num_batches_tracked")]  # a counter, absent in old files
    report = LoadReport(
        loaded=sum(key in fitting for key in wanted),
        missing=tuple(key for key in wanted if key not in fitting and key not in mismatched),
        unexpected=tuple(unexpected),
        mismatched=tuple(mismatched),
    )
    if report.loaded < len(wanted) / 2:
        raise ValueError(
            f"weights file {path} is not for encoder {name!r}: {report.loaded} of {len(wanted)} tensors fit. The file has "
            f"names such as {_examples(tensors)}, expected are names such as {_examples(plain.state_dict())}"
            f"{' in the same shapes' if mismatched else ''}: choose the encoder that the file was made for"
        )
    backbone.load_state_dict(fitting, strict=False)
    return report


def _unwrapped(content: Mapping[str, Any]) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return {key: value for key, value in content.items() if isinstance(value, Tensor)}


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _converted(tensors: dict[str, Tensor], plain: Any) -> dict[str, Tensor]:
    """The tensors under timm's names and in its shapes, by the conversion that timm keeps beside the architecture."""
    module = sys.modules[type(plain).__module__]
    convert: Callable[..., dict[str, Tensor]] | None = getattr(module, "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    try:
        return dict(convert(tensors, plain))
    except (LookupError, AttributeError, RuntimeError, ValueError, TypeError, AssertionError):
        return tensors  # the conversion stumbles over a file of another architecture: the names tell the user more


def _name_in(target: Mapping[str, Tensor], key: str) -> str | None:
    """The name that timm's features_only wrappers give to `key` of the plain architecture."""
    for candidate in (key, f"model.{key}", f"body.{key}", key.replace(".", "_", 1)):
        if candidate in target:
            return candidate
    return None


def _is_left_out(key: str, plain: Any) -> bool:
    """Whether `key` belongs to a part of the architecture that no feature needs, such as the classifier."""
    classifier = plain.pretrained_cfg.get("classifier") or ()
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    return key in plain.state_dict() or key.startswith(tuple(f"{name}." for name in names))


def _examples(tensors: Mapping[str, Tensor]) -> str:
    return " and ".join(repr(f"{key} {tuple(value.shape)}") for key, value in list(tensors.items())[:2])
