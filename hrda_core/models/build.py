"""`build_model`: the one place where an encoder name becomes a network."""

from __future__ import annotations

from huggingface_hub import hf_hub_download, model_info, try_to_load_from_cache

from hrda_core.models.encoder import Encoder
from hrda_core.models.hrda import HRDA
from hrda_core.models.load_report import LoadReport
from hrda_core.models.mit import MIT_VARIANTS, MixTransformer
from hrda_core.models.timm_encoders import create_timm_encoder
from hrda_core.models.weights import load_reference_weights, read_state_dict


def build_model(
    encoder: str = "mit_b0",
    num_classes: int = 19,
    *,
    pretrained: bool | str = False,
    drop_path_rate: float = 0.1,
    head_channels: int = 256,
    dropout: float = 0.1,
    attention: str = "class",
    detail_size: int | tuple[int, int] = 512,
    detail_overlap: float = 0.5,
    multi_resolution: bool = True,
) -> HRDA:
    """Builds the network.

    Args:
        encoder: `mit_b0` to `mit_b5`, or any timm model with a feature pyramid or a ViT (`timm.list_models()`).
        num_classes: classes including background, 1 to 255.
        pretrained: True fetches ImageNet weights from the Hugging Face hub; a path reads a local file; False is random.
        drop_path_rate: stochastic depth of the encoder's last block.
        head_channels, dropout, attention, detail_size, detail_overlap, multi_resolution: see `HRDA`.

    Raises:
        ValueError: an unknown encoder, an option out of range, or weights that do not fit.
        RuntimeError: pretrained weights could not be fetched; the message names the file that would serve.
    """
    return HRDA(
        build_encoder(encoder, pretrained, drop_path_rate),
        num_classes,
        head_channels,
        dropout,
        attention,
        detail_size,
        detail_overlap,
        multi_resolution,
    )


def build_encoder(name: str, pretrained: bool | str = False, drop_path_rate: float = 0.1) -> Encoder:
    """The encoder alone; also the frozen ImageNet encoder of the feature distance."""
    if name not in MIT_VARIANTS:
        timm_encoder = create_timm_encoder(name, pretrained, drop_path_rate)
        _check_whole(timm_encoder.load_report, pretrained, name)
        return timm_encoder
    encoder = MixTransformer(name, drop_path_rate)
    if pretrained:
        path = pretrained if isinstance(pretrained, str) else _download_mit(name)
        _check_whole(load_reference_weights(encoder, read_state_dict(path)), path, name)
    return encoder


def _check_whole(report: LoadReport | None, path: bool | str, name: str) -> None:
    """A partly random encoder trains and disappoints, so it is refused."""
    if report is not None and (report.missing or report.mismatched):
        raise ValueError(f"the weights in {path} are not whole for encoder {name!r}, use another file: {report}")


def _download_mit(name: str) -> str:
    """MiT weights from the hub (NVIDIA's licence: research and evaluation only, not commercial use)."""
    repository, file = f"nvidia/{name.replace('_', '-')}", "pytorch_model.bin"
    cached = try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        return cached
    try:
        model_info(repository, timeout=5)  # fails at once; the download retries for 23 s
        return str(hf_hub_download(repository, file))
    except Exception as error:  # the hub raises a dozen unrelated types when it cannot be reached
        raise RuntimeError(
            f"ImageNet weights of {name} could not be fetched from huggingface.co/{repository}: check the connection, or "
            f"download its pytorch_model.bin (the original {name}.pth serves too) and give its path as the encoder weights"
        ) from error
