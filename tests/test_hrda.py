"""The multi-resolution network: any size, every option, and the fusion computed a second time from its formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from golden_formulas import hrda_state, image, label
from torch import Tensor

from hrda_core.adaptation.losses import multi_resolution_loss
from hrda_core.models.build import build_model
from hrda_core.models.hrda import HRDA, Box, window_boxes
from hrda_core.models.weights import load_reference_weights

ENCODERS = ("mit_b0", "mobilenetv3_small_100", "vit_tiny_patch16_224")
SMALL: dict[str, Any] = {"num_classes": 3, "head_channels": 16, "detail_size": 64, "dropout": 0.0, "drop_path_rate": 0.0}


def photo(height: int, width: int, count: int = 1) -> Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def small(encoder: str = "mit_b0", **options: Any) -> HRDA:
    """A network with a classifier strong enough that classes differ."""
    torch.manual_seed(0)
    model = build_model(encoder, **{**SMALL, **options}).eval()
    for head in (model.head, model.scale_attention):
        if head is not None:
            torch.nn.init.normal_(head.classifier.weight)
    return model


@pytest.fixture(scope="module")
def models() -> dict[str, HRDA]:
    return {name: small(name) for name in ENCODERS}


# --- any size


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(
    ("height", "width"),
    [(1, 1), (1, 70), (70, 1), (2, 3), (7, 13), (31, 33), (63, 127), (64, 64), (65, 129), (100, 96), (129, 31), (128, 192)],
)
def test_any_size_gives_logits_of_that_size(models: dict[str, HRDA], encoder: str, height: int, width: int) -> None:
    with torch.no_grad():
        logits = models[encoder].logits(photo(height, width))
    assert logits.shape == (1, 3, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_size_that_fits_is_not_padded(models: dict[str, HRDA], encoder: str) -> None:
    model = models[encoder]
    x = photo(128, 192)
    assert model.pad(x) is x
    with torch.no_grad():
        expected = F.interpolate(model(x).fused, size=(128, 192), mode="bilinear", align_corners=False)
        assert torch.equal(model.logits(x), expected)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_padding_is_cropped_away_again(models: dict[str, HRDA], encoder: str) -> None:
    model = models[encoder]
    x = photo(101, 143)
    padded = model.pad(x)
    assert padded.shape[2] % model.size_multiple == 0 and padded.shape[3] % model.size_multiple == 0
    with torch.no_grad():
        assert torch.equal(model.logits(x), model.logits(padded)[:, :, :101, :143])


@pytest.mark.parametrize(
    ("height", "width", "mode"), [(61, 70, "reflect"), (33, 64, "reflect"), (32, 64, "edge"), (1, 1, "edge"), (1, 200, "edge")]
)
def test_padding_reflects_or_replicates(models: dict[str, HRDA], height: int, width: int, mode: Any) -> None:
    x = photo(height, width)
    rows, columns = max(-(-height // 8) * 8, 64), max(-(-width // 8) * 8, 64)
    expected = np.pad(x.numpy(), ((0, 0), (0, 0), (0, rows - height), (0, columns - width)), mode=mode)
    assert np.array_equal(models["mit_b0"].pad(x).numpy(), expected)


def test_images_of_a_batch_do_not_influence_each_other(models: dict[str, HRDA]) -> None:
    x = photo(96, 136, count=3)  # detail windows of all images go through the network in one batch
    with torch.no_grad():
        together = models["mit_b0"].logits(x)
        for i in range(3):
            torch.testing.assert_close(together[i : i + 1], models["mit_b0"].logits(x[i : i + 1]), atol=1e-4, rtol=1e-4)


def test_windows_cover_everything_and_stay_inside() -> None:
    for height, width in ((64, 64), (72, 200), (136, 64), (24, 104)):
        for overlap in (0.0, 0.3, 0.5, 0.95):
            seen = np.zeros((height, width), int)
            boxes = window_boxes(height, width, (64, 48), overlap, step=8)
            for box in boxes:
                assert (box.bottom - box.top, box.right - box.left) == (min(64, height), min(48, width))
                assert box.top % 8 == box.left % 8 == 0
                seen[box.top : box.bottom, box.left : box.right] += 1
            assert seen.min() >= 1 and seen.shape == (height, width)
            assert len(set(boxes)) == len(boxes)
    assert len(window_boxes(1024, 1024, (512, 512), 0.5, 8)) == 9  # the published setting


# --- fusion and loss, recomputed from tests/golden/README.md without the network's own fusion


def naive_training_forward(model: HRDA, x: Tensor, box: Box) -> dict[str, Tensor]:
    def up(t: Tensor) -> Tensor:
        return F.interpolate(t, scale_factor=2, mode="bilinear", align_corners=False)

    features = model.encoder(F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False))
    lr = model.head(features)
    hr = model.head(model.encoder(x[:, :, box.top : box.bottom, box.left : box.right]))
    if model.attention == "fixed":
        attention = torch.full_like(lr, 0.5)
    else:
        attention = 1 / (1 + torch.exp(-model.scale_attention(features))).expand_as(lr)  # type: ignore[misc]
    masked, pasted = torch.zeros_like(lr), torch.zeros_like(up(lr))
    for i in range(lr.shape[2]):  # a context cell is 8 pixels
        for j in range(lr.shape[3]):
            if box.top <= 8 * i < box.bottom and box.left <= 8 * j < box.right:
                masked[:, :, i, j] = attention[:, :, i, j]
    for i in range(hr.shape[2]):  # a detail cell is 4 pixels
        for j in range(hr.shape[3]):
            pasted[:, :, box.top // 4 + i, box.left // 4 + j] = hr[:, :, i, j]
    weighted = lr * (1 - masked)
    return {"fused": up(masked) * pasted + up(weighted), "detail": hr, "context": weighted}


def naive_cross_entropy(logits: Tensor, truth: Tensor) -> float:
    logits = F.interpolate(logits, size=truth.shape[1:], mode="bilinear", align_corners=False).double()
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    total = 0.0
    for c in range(logits.shape[1]):
        total -= float(shares[:, c][truth == c].log().sum())
    return total / truth.numel()  # ignored pixels count in the denominator


@pytest.mark.parametrize(
    ("attention", "box", "context_weight"),
    [
        ("class", Box(64, 192, 96, 224), 0.0),
        ("single", Box(64, 192, 96, 224), 0.0),
        ("fixed", Box(64, 192, 96, 224), 0.0),
        ("class", Box(0, 256, 0, 256), 0.1),  # the "full" detail crop, with its loss on the context
    ],
    ids=["class", "single", "fixed", "full crop"],
)
def test_variants_of_the_reference(attention: str, box: Box, context_weight: float) -> None:
    state = hrda_state(5)
    if attention == "single":
        key = "decode_head.scale_attention.conv_seg."
        state |= {key + "weight": state[key + "weight"][:1], key + "bias": state[key + "bias"][:1]}
    if attention == "fixed":
        state = {key: value for key, value in state.items() if "scale_attention" not in key}
    model = build_model("mit_b0", 5, detail_size=128, attention=attention).eval()
    report = load_reference_weights(model, state)
    assert (report.missing, report.unexpected, report.mismatched) == ((), (), ())

    x, truth = image(1, 256, 256, 21), label(1, 256, 256, 5, 16, 24)
    assert (truth == 255).any()
    with torch.no_grad():
        output, expected = model(x, box), naive_training_forward(model, x, box)
        for name, value in expected.items():
            torch.testing.assert_close(getattr(output, name), value, atol=1e-6, rtol=1e-6)
        loss = multi_resolution_loss(output, truth, None, box, context_weight=context_weight)
    detail = 0.1 * naive_cross_entropy(expected["detail"], truth[:, box.top : box.bottom, box.left : box.right])
    context = context_weight * naive_cross_entropy(expected["context"], truth)
    fused = (0.9 - context_weight) * naive_cross_entropy(expected["fused"], truth)
    assert [v.item() for v in loss] == pytest.approx([fused + detail + context, fused, detail, context], abs=1e-6)


@pytest.mark.parametrize("attention", ["class", "single", "fixed"])
def test_inference_fuses_averaged_windows_everywhere(attention: str) -> None:
    model = small(attention=attention)
    x = photo(64, 96)
    with torch.no_grad():
        left, right = (model.head(model.encoder(x[..., start : start + 64])) for start in (0, 32))
        detail = torch.cat([left[..., :8], (left[..., 8:] + right[..., :8]) / 2, right[..., 8:]], dim=3)
        features = model.encoder(F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False))
        lr = model.head(features)
        a = torch.tensor(0.5) if attention == "fixed" else model.scale_attention(features).sigmoid()
        a_up = F.interpolate(a.expand_as(lr), scale_factor=2, mode="bilinear", align_corners=False)
        up = F.interpolate((1 - a) * lr, scale_factor=2, mode="bilinear", align_corners=False)
        output = model(x)
    torch.testing.assert_close(output.fused, a_up * detail + up, atol=1e-5, rtol=1e-5)
    assert output.detail is None and output.fused.shape == (1, 3, 16, 24)


def test_attention_maps() -> None:
    assert small(attention="class").scale_attention.classifier.out_channels == 3
    assert small(attention="single").scale_attention.classifier.out_channels == 1
    assert small(attention="fixed").scale_attention is None


def test_outside_the_detail_box_only_the_context_counts() -> None:
    model = small()
    x = photo(128, 128)
    with torch.no_grad():
        first, second = model(x, Box(0, 64, 0, 64)).fused, model(x, Box(64, 128, 64, 128)).fused
    assert torch.equal(first[:, :, 20:, :12], second[:, :, 20:, :12])  # outside both boxes
    assert not torch.allclose(first[:, :, :12, :12], second[:, :, :12, :12], atol=1e-3)


@pytest.mark.parametrize("multi_resolution", [True, False])
def test_a_head_without_features_says_the_shares_that_it_began_at(multi_resolution: bool) -> None:
    model = small(multi_resolution=multi_resolution)
    model.head.begin_at([0.9, 0.1, 0.0])
    torch.nn.init.zeros_(model.head.classifier.weight)
    with torch.no_grad():
        said = model.logits(photo(128, 128)).softmax(dim=1).mean(dim=(0, 2, 3))
    assert said[:2].tolist() == pytest.approx([0.9, 0.1], abs=1e-3)
    assert 0 < said[2] < 2e-3  # a class that no label has is unlikely, not impossible


def test_single_resolution_is_encoder_and_head() -> None:
    model = small(multi_resolution=False)
    assert model.scale_attention is None
    x = photo(64, 96)
    with torch.no_grad():
        output = model(x)
        assert torch.equal(output.fused, model.head(model.encoder(x)))
        assert model.logits(photo(45, 77)).shape == (1, 3, 45, 77)
    assert output.detail is None and output.context is None
    truth = torch.zeros(1, 64, 96, dtype=torch.int64)
    loss = multi_resolution_loss(output, truth, None, None, detail_weight=0.1, context_weight=0.1)
    assert loss.total.item() == pytest.approx(naive_cross_entropy(output.fused, truth), abs=1e-6)


def test_full_detail_crop_sees_the_whole_image_twice() -> None:
    model = small()
    x = photo(64, 64)
    with torch.no_grad():
        output, sliding = model(x, Box(0, 64, 0, 64)), model(x)
    torch.testing.assert_close(output.fused, sliding.fused)  # one window covers everything
    assert output.detail.shape == output.fused.shape == (1, 3, 16, 16) and output.context.shape == (1, 3, 8, 8)


# --- training and precision


@pytest.mark.parametrize("encoder", ENCODERS)
def test_gradient_reaches_every_parameter(encoder: str) -> None:
    model = small(encoder).train()
    box = Box(64, 128, 0, 64)
    output = model(photo(128, 128, count=2), box)
    truth = torch.randint(0, 3, (2, 128, 128), generator=torch.Generator().manual_seed(1))
    multi_resolution_loss(output, truth, None, box).total.backward()
    unreached = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert unreached == []
    assert [n for n, p in model.named_parameters() if p.ndim > 1 and not p.grad.any()] == []


@pytest.mark.parametrize("encoder", ENCODERS)
def test_bfloat16_is_close_to_float32(models: dict[str, HRDA], encoder: str) -> None:
    x = photo(100, 130)
    with torch.no_grad():
        exact = models[encoder].logits(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = models[encoder].logits(x)
    assert rounded.isfinite().all()
    assert (rounded.float() - exact).norm() < 0.05 * exact.norm()


# --- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes=0: .* use 1 to 255"),
        ({"num_classes": 256}, "num_classes=256: .* use 1 to 255"),
        ({"attention": "both"}, "attention='both': use 'class', 'single' or 'fixed'"),
        ({"detail_size": 100}, r"detail_size=\(100, 100\): use multiples of 8, at least 32"),
        ({"detail_size": (64, 24)}, r"detail_size=\(64, 24\): use multiples of 8, at least 32"),
        ({"detail_size": (64,)}, r"detail_size=\(64,\): use one side, or \(height, width\)"),
        ({"detail_overlap": 1.0}, "detail_overlap=1.0: use a share from 0 up to, not including, 1"),
        ({"detail_overlap": -0.1}, "detail_overlap=-0.1: use a share"),
        ({"encoder": "mobilenetv3_small_100", "detail_size": 48}, r"detail_size=\(48, 48\): use multiples of 32, at least 64"),
        ({"encoder": "mit_b9"}, "encoder 'mit_b9' is neither a Mix Transformer nor known to timm"),
    ],
)
def test_errors_name_the_field_the_value_and_the_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(**{"encoder": "mit_b0", **SMALL, **options})


def test_a_detail_box_off_the_grid_is_refused() -> None:
    with pytest.raises(ValueError, match=r"detail_box=\(4, 36, 0, 32\): use multiples of 8"):
        small()(photo(64, 64), Box(4, 36, 0, 32))


# --- memory


def test_many_detail_windows_are_split_outside_training_with_the_same_result(
    models: dict[str, HRDA], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pass sees more than it may; batch norms on batch statistics and gradients still see all windows."""
    model, seen = models["mobilenetv3_small_100"], []
    handle = model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[0] * 64 * 64))
    x = photo(192, 256, 2)
    with torch.no_grad():
        whole = model.logits(x)
        assert seen[1:] == [2 * len(window_boxes(192, 256, (64, 64), 0.5)) * 64 * 64]
        monkeypatch.setattr("hrda_core.models.hrda.DETAIL_PIXELS", 0)
        seen.clear()
        parts = model.logits(x)
        assert len(seen) > 2
        assert max(seen[1:]) <= 2 * 192 * 256
    assert torch.allclose(whole, parts, atol=1e-5)
    seen.clear()
    model.logits(x)
    assert len(seen) == 2  # context, and all detail windows
    handle.remove()
