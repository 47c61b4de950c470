"""Encoders from timm: any hierarchical architecture (CNN, PVTv2, Swin, ConvNeXt) and plain ViTs (DINOv2, DINOv3)."""

from __future__ import annotations

import difflib
import inspect
from typing import Any, TypeAlias

import timm
import torch.nn.functional as F
from timm.layers.format import Format
from timm.layers.norm import LayerNorm2d
from timm.models import is_model_in_modules
from torch import Tensor, nn

from hrda_core.models.encoder import Encoder
from hrda_core.models.load_report import LoadReport
from hrda_core.models.timm_weights import create_from_hub, load_timm_file

STRIDES = (4, 8, 16, 32)
VIT_MODULES = ("vision_transformer", "eva")
VIT_STRIDE = 16
VIT_WIDTH = 256
# Their stages end in the raw residual stream; their authors' segmentation code puts a LayerNorm on every output.
MODULES_WITHOUT_STAGE_NORM = ("swin_transformer", "convnext")


def create_timm_encoder(name: str, pretrained: bool | str = False, drop_path_rate: float = 0.0) -> TimmEncoder:
    """The encoder for a timm name, with or without a weights tag: `resnet18`, `vit_small_patch14_dinov2.lvd142m`.

    Args:
        name: see `timm.list_models()`.
        pretrained: True fetches timm's weights from the hub, a path reads a local file, False is random.
        drop_path_rate: stochastic depth of the last block, where the architecture has it.

    Raises:
        ValueError: unknown name, no features at strides 4, 8, 16, 32, or a file that does not fit.
        RuntimeError: the weights could not be fetched.
    """
    _check_name(name)
    if is_model_in_modules(name, VIT_MODULES):
        return TimmViTEncoder(name, pretrained, drop_path_rate)
    return TimmPyramidEncoder(name, pretrained, drop_path_rate)


class TimmPyramidEncoder(Encoder):
    """A hierarchical timm model; arguments and errors as in `create_timm_encoder`.

    `backbone` holds what is pretrained; `output_norms`, where the architecture needs them, are new.
    `load_report` tells how a local file fitted, None where none was read.
    """

    size_multiple = 32  # every stage then covers exactly the image; 2x2 strided convolutions would drop a border

    def __init__(self, name: str, pretrained: bool | str = False, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        _check_name(name)
        plain: Any = timm.create_model(name, num_classes=0)
        indices = _pyramid_indices(name, plain)
        options = _supported_options(name, plain, drop_path_rate) | {"features_only": True, "out_indices": indices}
        self.backbone = _create_backbone(name, pretrained, options)
        self.load_report = _load_if_file(self.backbone, plain, pretrained, name)
        self._channels_last = Format(getattr(self.backbone, "output_fmt", "NCHW")) is Format.NHWC

        c4, c8, c16, c32 = self.backbone.feature_info.channels()
        self.channels = (c4, c8, c16, c32)
        self.mean, self.std = plain.pretrained_cfg["mean"], plain.pretrained_cfg["std"]
        # BatchNorm in training needs more than one value per channel, also with one image at stride 32
        self.min_size = 64 if self._batch_norms() else 32
        needs_norm = is_model_in_modules(name, MODULES_WITHOUT_STAGE_NORM)
        self.output_norms = nn.ModuleList(LayerNorm2d(c) if needs_norm else nn.Identity() for c in self.channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four features at strides 4, 8, 16, 32."""
        features = self.backbone(image)
        if self._channels_last:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return [norm(feature) for norm, feature in zip(self.output_norms, features, strict=True)]

    def recompute_blocks(self) -> None:
        try:
            self.backbone.set_grad_checkpointing(True)
        except (AssertionError, AttributeError, NotImplementedError):  # how timm says that a model cannot
            super().recompute_blocks()

    def new_modules(self) -> list[nn.Module]:
        return [self.output_norms]


class TimmViTEncoder(Encoder):
    """A plain ViT with a simple feature pyramid (Li et al., ViTDet, arXiv 2203.16527, section 3).

    Only the last, normalised patch tokens are used: two transposed convolutions give stride 4, one stride 8, none
    stride 16, max-pooling stride 32; each level ends in a 1x1 convolution and LayerNorm. ViTDet's further 3x3
    convolution is left to the segmentation head. For other patch sizes than 16 the image is resized so that a token
    covers 16 pixels. `backbone` holds what is pretrained, `neck` is new. Arguments and errors as in
    `create_timm_encoder`; `load_report` tells how a local file fitted, None where none was read.
    """

    size_multiple = VIT_STRIDE
    last_feature_is_pretrained = False
    min_size = 2 * VIT_STRIDE
    channels = (VIT_WIDTH, VIT_WIDTH, VIT_WIDTH, VIT_WIDTH)

    def __init__(self, name: str, pretrained: bool | str = False, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        _check_name(name)
        if not is_model_in_modules(name, VIT_MODULES):
            raise ValueError(f"encoder {name!r} is not a plain ViT: use create_timm_encoder")
        # without pooling timm keeps the final norm on the tokens, whatever the classifier of these weights pools
        options = {"num_classes": 0, "global_pool": "", "dynamic_img_size": True, "drop_path_rate": drop_path_rate}
        self.backbone = _create_backbone(name, pretrained, options)
        self.load_report = _load_if_file(self.backbone, self.backbone, pretrained, name)
        self.patch_size = int(self.backbone.patch_embed.patch_size[0])
        self.mean, self.std = self.backbone.pretrained_cfg["mean"], self.backbone.pretrained_cfg["std"]

        width = self.backbone.embed_dim
        self.neck = nn.ModuleList(
            (
                nn.Sequential(
                    nn.ConvTranspose2d(width, width // 2, 2, stride=2),
                    LayerNorm2d(width // 2),
                    nn.GELU(),
                    nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2),
                    *_projection(width // 4),
                ),
                nn.Sequential(nn.ConvTranspose2d(width, width // 2, 2, stride=2), *_projection(width // 2)),
                nn.Sequential(*_projection(width)),
                nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), *_projection(width)),
            )
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> four features of 256 channels at strides 4, 8, 16, 32."""
        rows, columns = image.shape[2] // VIT_STRIDE, image.shape[3] // VIT_STRIDE
        if self.patch_size != VIT_STRIDE:
            size = (rows * self.patch_size, columns * self.patch_size)
            image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
        tokens = self.backbone.forward_features(image)[:, self.backbone.num_prefix_tokens :]
        feature = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        return [level(feature) for level in self.neck]

    def recompute_blocks(self) -> None:
        try:
            self.backbone.set_grad_checkpointing(True)
        except (AssertionError, AttributeError, NotImplementedError):  # how timm says that a model cannot
            super().recompute_blocks()

    def new_modules(self) -> list[nn.Module]:
        return [self.neck]


TimmEncoder: TypeAlias = TimmPyramidEncoder | TimmViTEncoder


def _projection(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, VIT_WIDTH, 1, bias=False), LayerNorm2d(VIT_WIDTH)


def _create_backbone(name: str, pretrained: bool | str, options: dict[str, Any]) -> Any:
    return create_from_hub(name, **options) if pretrained is True else timm.create_model(name, **options)


def _load_if_file(backbone: nn.Module, plain: Any, pretrained: bool | str, name: str) -> LoadReport | None:
    return load_timm_file(backbone, plain, pretrained, name) if isinstance(pretrained, str) else None


def _check_name(name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        similar = timm.list_models(f"{architecture}*")[:5] or difflib.get_close_matches(architecture, timm.list_models(), n=5)
        hint = f"did you mean {', '.join(similar)}?" if similar else "timm.list_models() lists them"
        raise ValueError(f"encoder {name!r} is neither a Mix Transformer nor known to timm {timm.__version__}: {hint}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ValueError(f"encoder {name!r}: {architecture} has no weights {tag!r}; use one of {', '.join(tags) or 'none'}")


def _pyramid_indices(name: str, plain: Any) -> tuple[int, ...]:
    """Which of the model's features are those at strides 4, 8, 16, 32 (the deepest, where a stride occurs twice)."""
    strides = [info["reduction"] for info in getattr(plain, "feature_info", None) or []]
    if not set(STRIDES) <= set(strides):
        similar = difflib.get_close_matches(name, [n for n in timm.list_models() if n != name], n=3)
        raise ValueError(
            f"encoder {name!r} has features at strides {sorted(set(strides)) or 'none'}, but 4, 8, 16 and 32 are needed: "
            f"use a hierarchical model such as pvt_v2_b2, convnext_tiny or resnet50, or a plain ViT "
            f"(similar names: {', '.join(similar)})"
        )
    return tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES)


def _supported_options(name: str, plain: Any, drop_path_rate: float) -> dict[str, Any]:
    """Of the options that we set, those that the architecture's constructor has."""
    parameters = inspect.signature(type(plain).__init__).parameters
    options = {
        "drop_path_rate": drop_path_rate,
        "strict_img_size": False,  # Swin: masks for any size, computed in the forward
        "always_partition": True,  # Swin: windows shift in the last stage too, which at 224 px is one window
    }
    if plain.pretrained_cfg.get("fixed_input_size") and "strict_img_size" not in parameters:
        size = plain.pretrained_cfg["input_size"][1:]
        raise ValueError(
            f"encoder {name!r} works only on images of {size[0]}x{size[1]}: use one for any size, such as pvt_v2_b2, "
            f"convnext_tiny or swin_tiny_patch4_window7_224"
        )
    return {key: value for key, value in options.items() if key in parameters}
