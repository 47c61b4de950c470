"""The network gives the numbers of the published implementation (tests/golden/README.md)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from golden_formulas import golden, golden_json, hrda_state, image, label, reference_state, weight
from torch import Tensor, nn

from hrda_core.adaptation.losses import multi_resolution_loss
from hrda_core.inference.tiling import slide_logits
from hrda_core.models.build import build_encoder, build_model
from hrda_core.models.daformer_head import resize
from hrda_core.models.hrda import HRDA, Box
from hrda_core.models.published_order import use_published_order
from hrda_core.models.weights import load_reference_weights, our_name


def reference_model(num_classes: int = 19, **options: object) -> HRDA:
    model = build_model("mit_b0", num_classes, detail_size=(128, 128), drop_path_rate=0.0, dropout=0.0, **options)
    report = load_reference_weights(model, hrda_state(num_classes))
    assert not report.missing and not report.unexpected and not report.mismatched
    return use_published_order(model.eval())


def assert_close(ours: Tensor, theirs: np.ndarray, atol: float) -> None:
    torch.testing.assert_close(ours.detach(), torch.from_numpy(theirs), atol=atol, rtol=0)


def test_formulas_are_those_of_the_reference() -> None:
    check = golden_json("formula_selfcheck")
    state = hrda_state()
    for key, first4 in check["first4"].items():
        assert np.allclose(state[key].flatten()[:4].numpy(), first4, atol=1e-7)
    assert np.allclose(image(1, 128, 192, 11)[0, 0, 0, :4].numpy(), check["image_1x3x128x192_seed11_c0_row0_first4"])
    assert label(1, 256, 256, 19, 16, 22)[0, 0, ::16].tolist() == check["label_row0_every16"]


def test_mit_features() -> None:
    encoder = use_published_order(build_encoder("mit_b0").eval())
    load_reference_weights(encoder, reference_state(golden_json("hrda_b0_keys")))
    expected = golden("mit_b0_features")
    with torch.no_grad():
        features = encoder(image(1, 128, 192, 11))
    for i, feature in enumerate(features):
        assert_close(feature, expected[f"f{i + 1}"], 6e-6)


def test_stochastic_depth_rises_linearly() -> None:
    rates = [block.drop_path.drop_prob for stage in build_encoder("mit_b0").stages for block in stage.blocks]
    assert np.allclose(rates, golden("mit_b0_features")["drop_path_rates"])


def test_norm_epsilons() -> None:
    encoder = build_encoder("mit_b0")
    expected = sorted(v for k, v in golden_json("hrda_b0_norm_eps").items() if k.startswith("backbone."))
    assert sorted(m.eps for m in encoder.modules() if isinstance(m, nn.LayerNorm)) == expected


@pytest.mark.parametrize(("encoder", "millions"), [("mit_b0", 7.30), ("mit_b5", 85.69)])
def test_parameter_count(encoder: str, millions: float) -> None:
    with torch.device("meta"):
        model = build_model(encoder, 19)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_training_forward_and_its_parts() -> None:
    expected = golden("hrda_b0_trainfwd_eval")
    y1, y2, x1, x2 = expected["crop_box"].tolist()
    model = reference_model()
    x = image(1, 256, 256, 21)
    with torch.no_grad():
        output = model(x, Box(y1, y2, x1, x2))
        context_features = model.encoder(resize(x, (128, 128)))
        assert_close(model.head(context_features), expected["lr_logits"], 5e-6)
        assert_close(torch.sigmoid(model.scale_attention(context_features)), expected["att_sigmoid_lr"], 5e-6)
    assert_close(output.fused, expected["fused"], 5e-6)
    assert_close(output.detail, expected["hr_logits"], 5e-6)
    assert_close(output.context, expected["lr_logits_weighted"], 5e-6)


@pytest.mark.parametrize("weighted", [True, False])
def test_loss_is_a_mean_over_all_pixels(weighted: bool) -> None:
    expected = golden("hrda_b0_trainfwd_eval")["loss_weighted" if weighted else "loss_unweighted"]
    box = Box(64, 192, 96, 224)
    with torch.no_grad():
        output = reference_model()(image(1, 256, 256, 21), box)
        pixel_weight = weight(1, 256, 256, 23) if weighted else None
        loss = multi_resolution_loss(output, label(1, 256, 256, 19, 16, 22), pixel_weight, box)
    assert loss.fused.item() == pytest.approx(expected[0], abs=1e-6)
    assert loss.detail.item() == pytest.approx(expected[1], abs=1e-6)


def test_training_step_gradients_and_norm_buffers() -> None:
    expected, numbers = golden("hrda_b0_train_step"), golden_json("hrda_b0_train_step")
    model = reference_model().train()
    box = Box(64, 192, 96, 224)
    output = model(image(2, 256, 256, 31), box)
    loss = multi_resolution_loss(output, label(2, 256, 256, 19, 16, 32), weight(2, 256, 256, 33), box)
    loss.total.backward()
    assert loss.fused.item() == pytest.approx(numbers["losses"]["decode.loss_seg"], abs=1e-6)
    assert loss.detail.item() == pytest.approx(numbers["losses"]["decode.hr.loss_seg"], abs=1e-6)
    assert_close(output.features, expected["feat_lr_stage4"], 2e-5)

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert len(numbers["grad_l2"]) == len(gradients)
    for key, theirs in numbers["grad_l2"].items():
        assert gradients[our_name(key)].norm().item() == pytest.approx(theirs, rel=1e-3, abs=1e-6), key
    for key in (key.removeprefix("grad:") for key in expected if key.startswith("grad:")):
        assert_close(gradients[our_name(key)], expected[f"grad:{key}"], 5e-5)
    bottleneck, attention = model.head.fuse.bottleneck.bn, model.scale_attention.fuse.bn
    for name, norm in (("head.fuse_layer.bottleneck", bottleneck), ("scale_attention.fuse_layer", attention)):
        for buffer in ("running_mean", "running_var"):
            assert_close(getattr(norm, buffer), expected[f"buffer_after:decode_head.{name}.bn.{buffer}"], 1e-5)
    assert (int(bottleneck.num_batches_tracked), int(attention.num_batches_tracked)) == (2, 1)


@pytest.mark.parametrize(
    ("name", "size", "seed", "overlap", "slide"),
    [
        ("whole", (256, 384), 41, 0.5, False),
        ("whole_nooverlap", (256, 384), 41, 0.0, False),
        ("slide", (256, 384), 41, 0.5, True),
        ("slide_288x344", (288, 344), 42, 0.5, True),
        ("slide_192x160", (192, 160), 43, 0.5, True),
    ],
)
def test_inference(name: str, size: tuple[int, int], seed: int, overlap: float, slide: bool) -> None:
    expected = golden("hrda_b0_inference")
    model = reference_model(5, detail_overlap=overlap)
    with torch.no_grad():
        x = image(1, *size, seed)
        logits = slide_logits(model, x, window=(256, 256), overlap=0.5) if slide else model.logits(x)
    assert_close(logits[:, :, ::4, ::4], expected[f"{name}_sub4"], 5e-6)
    assert (logits.argmax(1).numpy() == expected[f"{name}_argmax"]).mean() > 0.9999
    if name == "slide_288x344":
        small = resize(logits, (200, 300))
        assert_close(small[:, :, ::4, ::4], expected["slide_288x344_rescaled_200x300_sub4"], 5e-6)
