"""A checkpoint as one ONNX file, for programs without PyTorch. `examples/predict_onnx.py` shows how to use it.

The graph is one window of the sliding window. Everything else that full images need (classes, thresholds, scale, overlap,
blending) lies in the file's metadata, as JSON.
"""

from __future__ import annotations

import importlib
import io
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hrda_core.inference.export_network import WindowProbabilities
from hrda_core.inference.preprocessing import Preprocessing
from hrda_core.models.checkpoints import KEYS, load_checkpoint, model_of, weights_version
from hrda_core.models.hrda import HRDA
from hrda_core.models.published_order import use_published_order
from hrda_core.whole_file import write_whole

EXPORT_VERSION = 1  # of the metadata
OPSETS = range(18, 21)  # 18 brought anti-aliased Resize, which ViTs need; 20 is the newest that the exporter writes
MAX_DIFFERENCE = 1e-3  # of a probability, against PyTorch; thresholds are tuned in steps of 1/256
MAX_BYTES = 2**31 - 2**24  # a protobuf message holds 2 GB; the graph itself needs some of it


def export_onnx(
    checkpoint: str | Path | Mapping[str, Any],
    path: str | Path,
    *,
    network: str = "selected",
    window: tuple[int, int] | None = None,
    opset: int = 18,
    check: bool = True,
) -> Path:
    """Writes a checkpoint's network for windows of one size as ONNX, atomically, and returns the path.

    Input `image`: float32 (N, 3, h, w), RGB 0..255; normalisation is inside. Output `probabilities`: float32 (N, C, h, w),
    softmax over C. N is free, h and w are not: a smaller image has to be padded, where `Predictor` takes a smaller window.
    Windows are blended as logits, and log(probabilities) serves for them: it differs from the logits by a number per pixel
    that the softmax after blending takes out again.

    Args:
        checkpoint: path of a `.pth` of this project, or its loaded content.
        path: of the file to write.
        network: "selected", "student" or "teacher".
        window: (height, width) in pixels, multiples of the network's `size_multiple`. None is the checkpoint's, whatever its
            size: the graph then pads as the network does.
        opset: of ONNX, 18 to 20.
        check: compare with PyTorch in ONNX Runtime; the largest difference goes into the metadata (`verification`).

    Raises:
        ValueError: no checkpoint of this project, an unknown network, a window or opset that does not fit, or weights beyond
            2 GB, which one ONNX file cannot hold (no external data is written).
        RuntimeError: a package is missing, the encoder has an operation that ONNX lacks, or the exported graph does not run
            or computes something else than PyTorch. No file is written.
    """
    if opset not in OPSETS:
        raise ValueError(f"opset={opset}: use {OPSETS.start} to {OPSETS.stop - 1}")
    onnx = _package("onnx")
    runtime = _package("onnxruntime") if check else None
    content = checkpoint if isinstance(checkpoint, Mapping) else load_checkpoint(checkpoint)
    missing = [key for key in KEYS if key not in content]
    if missing:
        raise ValueError(f"the checkpoint lacks {', '.join(missing)}: give one of this project, or its path")
    model = use_published_order(model_of(content, network))  # plain convolutions: other programs have their own fast ones
    preprocessing = _preprocessing(content, model, window)
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > MAX_BYTES:
        raise ValueError(f"the weights have {size / 2**30:.1f} GB, and one ONNX file holds 2 GB: use a smaller encoder")
    module = WindowProbabilities(model, preprocessing.mean, preprocessing.std, preprocessing.window).eval()
    graph = _graph(module, opset, str(content["model_config"].get("encoder", "")))
    metadata = _metadata(content, content["selected"] if network == "selected" else network, model, preprocessing)
    if runtime is not None:
        difference = largest_difference(runtime, graph, model, preprocessing)
        if not difference <= MAX_DIFFERENCE:  # so written, NaN is refused too
            raise RuntimeError(
                f"the exported graph differs from PyTorch by {difference:.2g} in a probability, at most {MAX_DIFFERENCE:g} is "
                f"allowed: use another window (Swin needs larger ones) or encoder; check=False writes it all the same"
            )
        metadata["verification"] = {"max_difference": difference, "onnxruntime": runtime.__version__}
    proto = onnx.load_model_from_string(graph)
    onnx.helper.set_model_props(proto, {key: json.dumps(value, ensure_ascii=False) for key, value in metadata.items()})
    shape = proto.graph.output[0].type.tensor_type.shape.dim
    for position, side in enumerate((model.num_classes, *preprocessing.window), start=1):  # not every graph's is inferred
        shape[position].dim_value = side
    write_whole(Path(path), proto.SerializeToString())
    return Path(path)


def onnx_metadata(path: str | Path) -> dict[str, Any]:
    """What `export_onnx` wrote about the network: format_version, network, encoder, weights_version, classes,
    has_background, thresholds (null means argmax), preprocessing and, where it was checked, verification.
    """
    proto = _package("onnx").load(str(path), load_external_data=False)
    return {entry.key: json.loads(entry.value) for entry in proto.metadata_props}


def largest_difference(runtime: Any, graph: bytes, model: HRDA, preprocessing: Preprocessing) -> float:
    """Largest difference of a probability between ONNX Runtime and `HRDA.logits`, on noise and on something like a photo."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    images = _test_images(*preprocessing.window)
    try:
        session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        (exported,) = session.run(["probabilities"], {"image": images})  # two at once, where one was traced: N is free
    except Exception as error:  # its types derive from nothing narrower
        sentence = str(error).strip().splitlines()[0]
        raise RuntimeError(f"the exported graph does not run: {sentence}; use another window or encoder") from error
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (preprocessing.mean, preprocessing.std))
    with torch.no_grad():
        expected = model.logits((torch.from_numpy(images) / 255 - mean) / std).softmax(dim=1)
    return float(np.abs(exported - expected.numpy()).max())


def _test_images(height: int, width: int) -> NDArray[np.float32]:
    """(2, 3, height, width) RGB 0..255: noise, and a shaded wall with grain and a dark crack."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, height, width))
    y, x = np.mgrid[:height, :width]
    wall = 170 - 60 * y / height + 25 * np.sin(x / 37) + rng.normal(0, 6, (height, width))
    crack = np.abs(x - width / 2 - width / 8 * np.sin(y / 23)) < 3
    photo = np.where(crack, 40, wall) * np.array([1.0, 0.93, 0.85])[:, None, None]
    return np.stack([noise, np.clip(photo, 0, 255).round()]).astype(np.float32)


def _preprocessing(content: Mapping[str, Any], model: HRDA, window: tuple[int, int] | None) -> Preprocessing:
    stored = Preprocessing.from_plain({k: v for k, v in content["preprocessing"].items() if k != "has_background"})
    if window is None:
        return stored
    wanted = replace(stored, window=(int(window[0]), int(window[1])))
    step = model.size_multiple
    least = -(-model.min_size // step) * step
    if any(side % step or side < least for side in wanted.window):
        nearest = tuple(max(round(side / step) * step, least) for side in wanted.window)
        raise ValueError(
            f"window={wanted.window}: this network takes multiples of {step}, at least {least}; use {nearest[0]}x{nearest[1]}"
        )
    return wanted


def _metadata(content: Mapping[str, Any], which: str, model: HRDA, preprocessing: Preprocessing) -> dict[str, Any]:
    thresholds = content["thresholds"].get(which)
    return {
        "format_version": EXPORT_VERSION,
        "network": which,
        "encoder": content["model_config"].get("encoder"),
        "weights_version": weights_version({"selected": "ours", "ours": model.state_dict()}),
        "classes": [{"name": c["name"], "color": list(c["color"]), "value": c["value"]} for c in content["classes"]],
        "has_background": bool(content["preprocessing"]["has_background"]),
        "thresholds": None if thresholds is None else list(thresholds),
        "preprocessing": {
            **{key: value for key, value in preprocessing.as_plain().items() if key != "tile_batch"},
            "normalisation": "inside the graph: the input is RGB 0..255, mean and std are not to be applied again",
        },
    }


def _graph(module: WindowProbabilities, opset: int, encoder: str) -> bytes:
    """The serialised ONNX model, by PyTorch's TorchScript exporter.

    The choice, measured with PyTorch 2.4, 2.6 and 2.14: this exporter takes 1 to 3 s for small encoders and works with all
    three. The one over `torch.export` (dynamo=True) takes 10 to 30 s, needs onnxscript, and works with 2.14 only. Its graphs
    have fewer nodes and it is the one that PyTorch develops: change when versions before it need not work any more.
    What this one gets wrong was found by the check: shapes that a tensor decides (floor division, empty slices of Swin).
    """
    file = io.BytesIO()
    try:
        with _quiet(), _antialiased_bicubic(opset), torch.no_grad():
            torch.onnx.export(
                module,
                (torch.zeros(1, 3, *module.window),),
                file,  # type: ignore[arg-type]
                input_names=["image"],
                output_names=["probabilities"],
                dynamic_axes={"image": {0: "N"}, "probabilities": {0: "N"}},
                opset_version=opset,
                dynamo=False,
            )
    except RuntimeError as error:  # the exporter's errors are RuntimeErrors, as are those of tracing
        sentence = str(error).strip().splitlines()[0]
        raise RuntimeError(f"encoder {encoder!r} does not export to ONNX: {sentence}; use another encoder") from error
    return file.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself, and on sizes that become numbers in the graph, which is what we want."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
        warnings.filterwarnings("ignore", "You are using the legacy TorchScript-based ONNX export", DeprecationWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.onnx\.")
        warnings.filterwarnings("ignore", "Constant folding - Only steps=1", UserWarning)
        yield


@contextmanager
def _antialiased_bicubic(opset: int) -> Iterator[None]:
    """The exporter does not know how ViTs resize their position embeddings; ONNX does, from opset 18 on."""

    def resize(g: Any, image: Any, size: Any, align_corners: Any, *scales: Any) -> Any:
        first, last = (g.op("Constant", value_t=torch.tensor([i])) for i in (0, 2))
        sizes = g.op("Concat", g.op("Slice", g.op("Shape", image), first, last), g.op("Cast", size, to_i=7), axis_i=0)
        unused = g.op("Constant", value_t=torch.tensor([], dtype=torch.float32))
        names = {"mode_s": "cubic", "coordinate_transformation_mode_s": "half_pixel"}
        numbers = {"antialias_i": 1, "exclude_outside_i": 1, "cubic_coeff_a_f": -0.5}  # as in PyTorch's kernel
        return g.op("Resize", image, unused, unused, sizes, **names, **numbers)

    name = "aten::_upsample_bicubic2d_aa"
    torch.onnx.register_custom_op_symbolic(name, resize, opset)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic(name, opset)  # type: ignore[attr-defined]


def _package(name: str) -> Any:
    """Imported here, not above: training and prediction need neither package."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise RuntimeError(f"ONNX export needs the package {name}, which is not installed: pip install {name}") from error
