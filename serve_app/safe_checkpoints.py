"""Checkpoints from strangers: refused where they carry code, name files outside their folder, or are larger than they say.

A `.pth` is a pickle, and a pickle can run anything when it is loaded. Nothing here unpickles with code, nor lets the SDK.
"""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hrda_core.models.build import build_model
from hrda_core.models.weights import read_state_dict

MAX_BYTES = 16 * 2**30  # of a checkpoint file, unless HRDA_MAX_CHECKPOINT_MB says otherwise
MAX_PICKLE = 64 * 2**20  # of the part that is not tensors; that of the largest network here is 1 MB
LARGEST = {"window": 8192, "tile_batch": 256, "scale": 16.0}  # of what a checkpoint says about its preprocessing
SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


class UnsafeCheckpoint(ValueError):
    """The file is refused; the message tells why and what to do."""


def check_checkpoint(path: str | Path) -> Path:
    """Refuses a file that is not safe to load, before anything in it is executed, and returns its path.

    Tensors are mapped, not read, so that this takes a fraction of a second. Public weights pass as well as our checkpoints.

    Raises:
        UnsafeCheckpoint: no such file, code inside, an archive that unpacks to more than it is, embedded files with paths for
            names, or a network or preprocessing that does not belong to the tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UnsafeCheckpoint(f"{path}: there is no such file; check the path")
    if path.suffix.lower() not in SUFFIXES:
        raise UnsafeCheckpoint(f"{path}: is no checkpoint by its name; use a file that ends in {', '.join(SUFFIXES)}")
    size, limit = path.stat().st_size, _max_bytes()
    if size > limit:
        raise UnsafeCheckpoint(f"{path}: {size / 2**20:.0f} MB are more than {limit / 2**20:.0f}; raise HRDA_MAX_CHECKPOINT_MB")
    _check_archive(path, size)
    content = _structure(path)
    _check_tensors(path, content, size)
    _check_embedded_files(path, content)
    if "model_config" in content:
        _check_network(path, content)
    return path


def forbid_unsafe_unpickling() -> None:
    """From now on `torch.load` in this process reads tensors and plain types only, whatever its caller asks for.

    The SDK's `torch_load_safe` tries `weights_only=True` and then `weights_only=False`; both now refuse code. Call it before
    anything is loaded; twice does no harm.
    """
    if getattr(torch.load, "only_weights", False):
        return
    load = torch.load

    def load_weights_only(*arguments: Any, **options: Any) -> Any:
        source = arguments[0] if arguments else options.get("f")
        if isinstance(source, str | os.PathLike):
            _check_archive(Path(source), Path(source).stat().st_size)
        # pickle_module is meant for code, and is refused beside weights_only
        return load(*arguments[:2], **{**options, "weights_only": True, "pickle_module": None})

    guarded: Callable[..., Any] = load_weights_only
    guarded.only_weights = True  # type: ignore[attr-defined]
    torch.load = guarded


def _max_bytes() -> int:
    text = os.environ.get("HRDA_MAX_CHECKPOINT_MB", "")
    return int(float(text) * 2**20) if text else MAX_BYTES


def _check_archive(path: Path, size: int) -> None:
    """What PyTorch's reader would unpack or hand on to another loader than the one for tensors."""
    if not zipfile.is_zipfile(path):
        # Loading the old tar format with weights_only=True ran code up to PyTorch 2.5 (CVE-2025-32434).
        if path.suffix.lower() != ".safetensors" and tarfile.is_tarfile(path):
            raise UnsafeCheckpoint(f"{path}: is a tar archive, which no checkpoint has been since 2017; save it anew")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise UnsafeCheckpoint(f"{path}: the archive is damaged; copy or download it again") from error
    # PyTorch stores tensors as they are. Compressed entries, or ones that share bytes, unpack to more than the file.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or sum(e.file_size for e in entries) > size:
        raise UnsafeCheckpoint(f"{path}: the archive unpacks to more than it is; save the checkpoint with torch.save")
    if any(Path(entry.filename).name == "constants.pkl" for entry in entries):
        raise UnsafeCheckpoint(f"{path}: is a TorchScript program; use the checkpoint that it was made from")
    if any(entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE for entry in entries):
        raise UnsafeCheckpoint(f"{path}: holds {MAX_PICKLE >> 20} MB beside its tensors; save the network alone")


def _structure(path: Path) -> dict[str, Any]:
    """The content, with tensors mapped from the file where its format allows that."""
    if path.suffix.lower() != ".safetensors" and zipfile.is_zipfile(path):
        with suppress(Exception):  # read_state_dict puts into words what PyTorch raises for code and for damage
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            if isinstance(content, dict):
                return content
    try:
        return read_state_dict(path)
    except ValueError as error:
        raise UnsafeCheckpoint(str(error)) from error


def _check_tensors(path: Path, content: Mapping[str, Any], size: int) -> None:
    """A view can claim any shape on a few bytes: each must fit into the file."""
    for key, tensor in _tensors(content):
        if tensor.numel() * tensor.element_size() > size:
            raise UnsafeCheckpoint(f"{path}: tensor {key} claims {tuple(tensor.shape)} and is not in the file; it is damaged")


def _tensors(content: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    found = []
    for key, value in content.items():
        entries = value.items() if isinstance(value, Mapping) else [("", value)]
        found += [(f"{key}.{name}".rstrip("."), entry) for name, entry in entries if isinstance(entry, Tensor)]
    return found


def _check_embedded_files(path: Path, content: Mapping[str, Any]) -> None:
    """The platform embeds files as {"name", "content"}, and its SDK writes them under that name before our code runs."""
    files = content.get("model_files")
    for key, entry in files.items() if isinstance(files, Mapping) else ():
        name = entry.get("name", f"{key}.txt") if isinstance(entry, Mapping) else key
        if not isinstance(name, str) or not re.fullmatch(r"[\w\- ()+][\w\-. ()+]{0,199}", name):
            raise UnsafeCheckpoint(f"{path}: the embedded file {str(name)[:80]!r} has no plain name; save the checkpoint anew")


def _check_network(path: Path, content: Mapping[str, Any]) -> None:
    """The network is built without memory first: it must be that of the tensors, and ask for nothing from outside."""
    options, preprocessing = content["model_config"], content.get("preprocessing")
    if not isinstance(options, Mapping) or not isinstance(preprocessing, Mapping):
        raise UnsafeCheckpoint(f"{path}: model_config and preprocessing must be dictionaries; use another checkpoint of the run")
    if options.get("pretrained"):
        raise UnsafeCheckpoint(f"{path}: model_config.pretrained={options['pretrained']!r} would fetch weights; save it as False")
    for name, limit in LARGEST.items():
        value = preprocessing.get(name, 0)
        numbers = value if isinstance(value, list | tuple) else [value]
        if not all(isinstance(number, int | float) and 0 <= number <= limit for number in numbers):
            raise UnsafeCheckpoint(f"{path}: preprocessing.{name}={str(value)[:80]}: at most {limit} is served")
    try:
        with torch.device("meta"):
            expected = build_model(**options).state_dict()
    except Exception as error:
        raise UnsafeCheckpoint(f"{path}: its network cannot be built ({str(error)[:300]}); use another checkpoint") from error
    tensors = content.get(content.get("selected", ""), None)
    if not isinstance(tensors, Mapping) or {k: tuple(v.shape) for k, v in expected.items()} != {
        key: tuple(value.shape) for key, value in tensors.items() if isinstance(value, Tensor)
    }:
        raise UnsafeCheckpoint(f"{path}: its tensors are not those of its network; use another checkpoint of the run")
