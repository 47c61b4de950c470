"""Every encoder keeps one contract; timm's weights come in from the hub and from files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hrda_core.models import timm_weights
from hrda_core.models.encoder import Encoder
from hrda_core.models.load_report import LoadReport
from hrda_core.models.mit import MixTransformer
from hrda_core.models.timm_encoders import TimmPyramidEncoder, TimmViTEncoder, create_timm_encoder

ENCODERS: dict[str, Callable[[], Encoder]] = {
    "mit_b0": lambda: MixTransformer("mit_b0", drop_path_rate=0.0),
    **{
        name: lambda name=name: create_timm_encoder(name)
        for name in (
            "pvt_v2_b0",
            "convnext_atto",
            "swin_tiny_patch4_window7_224",
            "mobilenetv2_100",
            "mobilenetv3_small_100",
            "mobilenetv3_large_100",
            "resnet18",
            "vit_small_patch14_dinov2",
            "vit_small_patch14_reg4_dinov2",
            "vit_small_patch16_dinov3",
            "vit_tiny_patch16_224",
        )
    },
}
WITH_BATCH_NORM = ("mobilenetv2_100", "mobilenetv3_small_100", "mobilenetv3_large_100", "resnet18")
STRIDES = (4, 8, 16, 32)


def image(height: int, width: int, count: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def features_of(encoder: Encoder, batch: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return encoder(batch)


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.fixture(scope="module", params=ENCODERS)
def built(request: pytest.FixtureRequest) -> tuple[str, Encoder]:
    torch.manual_seed(0)
    return request.param, ENCODERS[request.param]().eval()


@pytest.fixture
def encoder(built: tuple[str, Encoder]) -> Encoder:
    """Shared by the tests of the contract: they leave it in eval mode and unchanged."""
    return built[1]


class TestContract:
    def test_shapes(self, encoder: Encoder) -> None:
        step = encoder.size_multiple
        smallest = -(-encoder.min_size // step) * step
        for height, width in ((smallest, smallest), (step * (96 // step + 1), smallest), (64, step * (128 // step + 3))):
            features = features_of(encoder, image(height, width, count=2))
            assert tuple(f.shape[1] for f in features) == encoder.channels
            for feature, stride in zip(features, STRIDES, strict=True):
                assert feature.shape[0] == 2
                assert abs(feature.shape[2] - height / stride) < 1 and abs(feature.shape[3] - width / stride) < 1
                assert feature.isfinite().all()

    def test_sizes_in_succession_do_not_influence_each_other(self, encoder: Encoder) -> None:
        first = features_of(encoder, image(96, 64))
        features_of(encoder, image(64, 128))
        assert_same(features_of(encoder, image(96, 64)), first)

    def test_images_of_a_batch_do_not_influence_each_other(self, encoder: Encoder) -> None:
        batch = image(64, 96, count=2)
        together = features_of(encoder, batch)
        for feature, alone in zip(together, features_of(encoder, batch[1:]), strict=True):
            torch.testing.assert_close(feature[1:], alone, rtol=1e-3, atol=1e-4)

    def test_smallest_single_image_in_training(self, encoder: Encoder) -> None:
        training = copy.deepcopy(encoder).train()
        assert all(f.isfinite().all() for f in features_of(training, image(encoder.min_size, encoder.min_size)))

    def test_gradient_reaches_every_parameter(self, encoder: Encoder) -> None:
        training = copy.deepcopy(encoder).train()
        for norm in batch_norms(training):
            nn.init.ones_(norm.weight)  # ResNet starts its residual branches at zero, where no gradient passes
        features = training(image(64, 96, count=2))
        sum((feature * torch.randn_like(feature)).sum() for feature in features).backward()
        unreached = [n for n, p in training.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert unreached == []
        weights = [n for n, p in training.named_parameters() if p.ndim > 1 and not p.grad.any()]
        assert weights == []

    def test_bfloat16_is_close_to_float32(self, encoder: Encoder) -> None:
        batch = image(64, 96)
        exact = features_of(encoder, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = features_of(encoder, batch)
        for a, b in zip(rounded, exact, strict=True):
            assert a.isfinite().all()
            assert (a.float() - b).norm() < 0.1 * b.norm()  # 8 bits of mantissa over up to 50 layers

    def test_copy_and_file_give_the_same_features(self, built: tuple[str, Encoder], tmp_path: Path) -> None:
        name, encoder = built
        expected = features_of(encoder, image(64, 96))
        assert_same(features_of(copy.deepcopy(encoder), image(64, 96)), expected)

        torch.save(encoder.state_dict(), tmp_path / "encoder.pth")
        torch.manual_seed(1)
        other = ENCODERS[name]().eval()
        other.load_state_dict(torch.load(tmp_path / "encoder.pth", weights_only=True))
        assert_same(features_of(other, image(64, 96)), expected)

    def test_eval_is_deterministic(self, encoder: Encoder) -> None:
        assert_same(features_of(encoder, image(64, 64)), features_of(encoder, image(64, 64)))

    def test_frozen_norms_stay_frozen(self, built: tuple[str, Encoder]) -> None:
        name, encoder = built
        student = copy.deepcopy(encoder)
        norms = batch_norms(student)
        assert bool(norms) == (name in WITH_BATCH_NORM)
        others = {n for n, p in student.named_parameters() if p.requires_grad}
        others -= {f"{n}.{p}" for n, m in student.named_modules() if m in norms for p in ("weight", "bias")}

        student.freeze_norms()
        before = {n: b.clone() for n, b in student.named_buffers()}
        for model in (student, copy.deepcopy(student)):
            network = nn.Sequential(model).train()  # the network around it is what gets .train()
            assert network.training and model.training
            assert not any(norm.training for norm in batch_norms(model))
            features_of(model, image(64, 64, count=2))
            assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
            assert {n for n, p in model.named_parameters() if p.requires_grad} == others

    def test_normalisation_is_of_rgb_in_unit_range(self, encoder: Encoder) -> None:
        assert len(encoder.mean) == len(encoder.std) == 3
        assert all(0.3 < value < 0.6 for value in encoder.mean) and all(0.15 < value < 0.6 for value in encoder.std)


def test_batch_norm_learns_unless_frozen() -> None:
    encoder = create_timm_encoder("mobilenetv3_small_100").train()
    before = batch_norms(encoder)[0].running_mean.clone()
    features_of(encoder, image(64, 64, count=2))
    assert not torch.equal(batch_norms(encoder)[0].running_mean, before)


def test_normalisation_comes_from_the_weights() -> None:
    assert create_timm_encoder("vit_tiny_patch16_224").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["pvt_v2_b0", "mobilenetv3_small_100", "vit_tiny_patch16_224"])
def test_drop_path_only_where_asked_for(name: str) -> None:
    def varies(rate: float) -> bool:
        encoder = create_timm_encoder(name, drop_path_rate=rate)
        encoder.freeze_norms()
        encoder.train()
        batch = image(64, 64, count=2)
        return not torch.equal(features_of(encoder, batch)[-1], features_of(encoder, batch)[-1])

    torch.manual_seed(0)
    assert varies(0.9) and not varies(0.0)


def test_architecture_without_drop_path_is_served() -> None:
    assert create_timm_encoder("efficientvit_b0", drop_path_rate=0.1).channels == (16, 32, 64, 128)


def test_swin_shifts_windows_in_its_last_stage_too() -> None:
    encoder = create_timm_encoder("swin_tiny_patch4_window7_224")
    assert [block.shift_size for block in encoder.backbone.layers_3.blocks] == [(0, 0), (3, 3)]


def test_plain_vits_get_a_pyramid_and_the_rest_their_own() -> None:
    assert isinstance(create_timm_encoder("vit_tiny_patch16_224.augreg_in21k"), TimmViTEncoder)
    assert isinstance(create_timm_encoder("convnext_atto.d2_in1k"), TimmPyramidEncoder)
    with pytest.raises(ValueError, match="'convnext_atto' is not a plain ViT"):
        TimmViTEncoder("convnext_atto")


def test_tokens_are_normalised_where_the_classifier_pools_before_its_norm() -> None:
    assert "fc_norm.weight" in timm.create_model("test_vit2").state_dict()  # timm's own: pool, then norm
    tokens = create_timm_encoder("test_vit2").eval().backbone.forward_features(image(64, 64))
    torch.testing.assert_close(tokens.mean(dim=-1), torch.zeros(1, tokens.shape[1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(tokens.std(dim=-1), torch.ones(1, tokens.shape[1]), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swin_tiny", "'swin_tiny'.*swin_tiny_patch4_window7_224"),
        ("resnet81", "'resnet81'.*did you mean.*resnet18"),
        ("xyzzy", "'xyzzy'.*timm.list_models"),
        ("resnet18.in22k", "'in22k'.*a1_in1k"),
        ("xcit_nano_12_p8_224", r"strides \[8\], but 4, 8, 16 and 32"),
        ("efficientformerv2_s0", "only on images of 224x224"),
    ],
)
def test_unusable_names_are_explained(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_timm_encoder(name)


# --- weights from files


def classifier(name: str, **options: Any) -> nn.Module:
    torch.manual_seed(7)
    return timm.create_model(name, **options).eval()


def saved(content: dict[str, Any], path: Path) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("name", ["pvt_v2_b0", "convnext_atto", "mobilenetv2_100", "mobilenetv3_small_100", "resnet18"])
def test_file_of_a_classifier_gives_its_features(name: str, tmp_path: Path) -> None:
    model = classifier(name)
    encoder = create_timm_encoder(name, pretrained=saved(model.state_dict(), tmp_path / "w.pth")).eval()
    tensors = [key for key in encoder.backbone.state_dict() if not key.endswith("num_batches_tracked")]
    assert encoder.load_report == LoadReport(len(tensors), (), (), ())
    with torch.no_grad():
        theirs = model.forward_intermediates(image(64, 96), intermediates_only=True)[-4:]
        ours = encoder.backbone(image(64, 96))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_swin_file_with_the_masks_of_old_timm(tmp_path: Path) -> None:
    weights = classifier("swin_tiny_patch4_window7_224").state_dict()
    weights["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    path = saved({"model": weights}, tmp_path / "w.pth")
    encoder = create_timm_encoder("swin_tiny_patch4_window7_224", pretrained=path)
    assert encoder.load_report.missing == encoder.load_report.unexpected == encoder.load_report.mismatched == ()
    table = "layers.3.blocks.1.attn.relative_position_bias_table"
    assert torch.equal(encoder.backbone.get_parameter(table.replace(".", "_", 1)), weights[table])


def test_dinov2_file_in_the_names_of_its_authors(tmp_path: Path) -> None:
    name = "vit_small_patch14_reg4_dinov2"
    model = classifier(name, dynamic_img_size=True)
    weights = dict(model.state_dict())
    cls_position = torch.randn(1, 1, 384)
    weights["mask_token"] = torch.zeros(1, 384)
    weights["register_tokens"] = weights.pop("reg_token")
    weights["cls_token"] = weights["cls_token"] - cls_position  # timm has added the position of the class token to it
    weights["pos_embed"] = torch.cat([cls_position, weights["pos_embed"]], dim=1)

    encoder = create_timm_encoder(name, pretrained=saved(weights, tmp_path / "w.pth")).eval()
    assert (encoder.load_report.missing, encoder.load_report.unexpected) == ((), ())
    with torch.no_grad():
        batch = image(56, 84)
        ours, theirs = encoder.backbone.forward_features(batch), model.forward_features(batch)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_position_embedding_is_resized(tmp_path: Path) -> None:
    path = saved(classifier("vit_tiny_patch16_224").state_dict(), tmp_path / "w.pth")
    encoder = create_timm_encoder("vit_tiny_patch16_384", pretrained=path)
    assert encoder.load_report.mismatched == ()
    assert encoder.backbone.pos_embed.shape == (1, 1 + 24 * 24, 192)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w, "epoch": 3},
        lambda w: {"model": w},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {f"backbone.{k}": v for k, v in w.items()},
        lambda w: {f"encoder.{k}": v for k, v in w.items()},
        lambda w: {"state_dict": {f"module.encoder.{k}": v for k, v in w.items()}},
        lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")},
        lambda w: {k: v.half() if v.is_floating_point() else v for k, v in w.items()},
    ],
    ids=["state_dict", "model", "module", "backbone", "encoder", "nested", "no counters", "half"],
)
def test_wrappers_and_prefixes(wrap: Callable[[dict[str, Tensor]], dict[str, Any]], tmp_path: Path) -> None:
    weights = classifier("mobilenetv3_small_100").state_dict()
    path = saved(wrap(weights), tmp_path / "w.pt")
    encoder = create_timm_encoder("mobilenetv3_small_100", pretrained=path)
    assert (encoder.load_report.missing, encoder.load_report.unexpected) == ((), ())
    torch.testing.assert_close(encoder.backbone.conv_stem.weight, weights["conv_stem.weight"], rtol=1e-3, atol=1e-4)


def test_features_only_names_and_safetensors(tmp_path: Path) -> None:
    weights = classifier("convnext_atto", features_only=True).state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    encoder = create_timm_encoder("convnext_atto", pretrained=str(tmp_path / "w.safetensors"))
    assert encoder.load_report == LoadReport(len(weights), (), (), ())
    assert all(torch.equal(value, weights[key]) for key, value in encoder.backbone.state_dict().items())


def test_what_does_not_fit_is_reported(tmp_path: Path) -> None:
    weights = classifier("resnet18").state_dict()
    del weights["layer1.0.conv1.weight"]
    weights["layer4.1.conv2.weight"] = torch.zeros(3, 3)
    weights["decode_head.weight"] = torch.zeros(2)
    report = create_timm_encoder("resnet18", pretrained=saved(weights, tmp_path / "w.pth")).load_report
    assert report.missing == ("layer1.0.conv1.weight",)
    assert report.mismatched == ("layer4.1.conv2.weight",)
    assert report.unexpected == ("decode_head.weight",)
    assert str(report) == (
        f"{report.loaded} tensors loaded; 1 missing in the file (layer1.0.conv1.weight); "
        "1 unknown to the network (decode_head.weight); 1 of another shape (layer4.1.conv2.weight)."
    )


@pytest.mark.parametrize(("made_for", "used_for"), [("resnet18", "convnext_atto"), ("convnext_femto", "convnext_atto")])
def test_file_of_another_encoder_is_refused(made_for: str, used_for: str, tmp_path: Path) -> None:
    weights = classifier(made_for).state_dict()
    path = saved(weights, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"not for encoder '{used_for}'") as error:
        create_timm_encoder(used_for, pretrained=path)
    assert path in str(error.value) and next(iter(weights)) in str(error.value) and "stem.0.weight" in str(error.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.pth does not exist"):
        create_timm_encoder("convnext_atto", pretrained=str(tmp_path / "absent.pth"))


# --- weights from the hub


def test_unreachable_hub_gives_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(timm_weights, "try_to_load_from_cache", lambda *args: None)
    monkeypatch.setattr(timm_weights, "model_info", unreachable)
    with pytest.raises(RuntimeError, match="encoder 'convnext_atto' could not be loaded") as error:
        create_timm_encoder("convnext_atto", pretrained=True)
    message = str(error.value)
    assert (
        "https://huggingface.co/timm/convnext_atto.d2_in1k" in message
        and "model.pretrained_file to the path of a file" in message
    )
    assert "\n" not in message


def test_weights_in_the_hubs_cache_are_used_without_asking_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = classifier("convnext_atto").state_dict()
    monkeypatch.setattr(timm_weights, "try_to_load_from_cache", lambda *args: "cached")
    monkeypatch.setattr(timm_weights, "model_info", lambda *args, **kwargs: pytest.fail("asked the hub"))
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **kwargs: dict(weights))
    encoder = create_timm_encoder("convnext_atto", pretrained=True)
    assert torch.equal(encoder.backbone.stem_0.weight, weights["stem.0.weight"])
    assert encoder.load_report is None


def test_encoder_without_public_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no public pretrained weights"):
        create_timm_encoder("convnext_atto_rms", pretrained=True)


@pytest.mark.data
def test_real_mobilenet_file(data_dir: Path) -> None:
    path = data_dir / "weights" / "mobilenet_v2_imagenet_encoder_timm_keys.pt"
    encoder = create_timm_encoder("mobilenetv2_100", pretrained=str(path)).eval()
    assert (encoder.load_report.missing, encoder.load_report.unexpected, encoder.load_report.mismatched) == ((), (), ())
    model = timm.create_model("mobilenetv2_100").eval()
    model.load_state_dict(torch.load(path, weights_only=True), strict=False)
    with torch.no_grad():
        theirs = model.forward_intermediates(image(64, 96), intermediates_only=True)[-4:]
    for a, b in zip(features_of(encoder, image(64, 96)), theirs, strict=True):
        torch.testing.assert_close(a, b)
