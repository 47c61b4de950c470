"""The default order of operations is the same function as the published one, also in its gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrda_core.models import dilated
from hrda_core.models.build import build_model
from hrda_core.models.convolutions import convolve, winograd
from hrda_core.models.daformer_head import NARROW, SegmentationHead, resize, resize_by_products
from hrda_core.models.dilated import dilated_depthwise
from hrda_core.models.hrda import HRDA, Box
from hrda_core.models.mit import attend
from hrda_core.models.published_order import use_published_order


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_same(one: Callable[..., Tensor], two: Callable[..., Tensor], *inputs: Tensor) -> None:
    """Outputs and the gradients of all inputs, in double precision."""
    inputs = tuple(x.requires_grad_() for x in inputs)
    first, second = one(*inputs), two(*inputs)
    torch.testing.assert_close(first, second, rtol=0, atol=1e-10)
    upstream = noise(*first.shape, seed=9)
    for ours, theirs in zip(
        torch.autograd.grad(first, inputs, upstream), torch.autograd.grad(second, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


# --- convolutions


@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 5), (1, 1), (4, 9)])
def test_winograd_is_the_3x3_convolution(height: int, width: int) -> None:
    feature, weight = noise(2, 6, height, width), noise(5, 6, 3, 3, seed=1)
    assert_same(winograd, lambda x, w: F.conv2d(x, w, padding=1), feature, weight)


@pytest.mark.parametrize("dilation", [6, 12, 18])
@pytest.mark.parametrize(("height", "width"), [(24, 36), (17, 40), (5, 3)])
def test_dilated_depthwise_is_the_dilated_convolution(dilation: int, height: int, width: int) -> None:
    def plain(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, padding=dilation, dilation=dilation, groups=4)

    assert_same(lambda x, w: dilated_depthwise(x, w, dilation), plain, noise(2, 4, height, width), noise(4, 1, 3, 3, seed=1))


@pytest.mark.parametrize(("dilation", "height", "width"), [(2, 8, 8), (3, 10, 13), (6, 32, 20), (12, 16, 40)])
def test_dilated_depthwise_of_a_gpu_has_the_gradients_of_the_plain_one(
    dilation: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own backward pass, and copies in whole words."""
    monkeypatch.setattr(dilated, "_words_pay", lambda pixels: not (torch.is_grad_enabled() and pixels.requires_grad))

    def plain(x: Tensor, w: Tensor) -> Tensor:
        return F.conv2d(x, w, None, 1, dilation, dilation, 8)

    def ours(x: Tensor, w: Tensor) -> Tensor:
        return dilated._Depthwise.apply(x, w, dilation)  # type: ignore[no-any-return]

    assert_same(ours, plain, noise(2, 8, height, width), noise(8, 1, 3, 3, seed=1))


@pytest.mark.parametrize(("size", "wanted"), [((8, 8), (16, 16)), ((5, 7), (20, 27)), ((16, 4), (16, 32)), ((9, 9), (9, 9))])
def test_resizing_by_products_is_resizing(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    assert_same(lambda x: resize_by_products(x, wanted), lambda x: resize(x, wanted), noise(2, 3, *size))


def test_winograd_in_single_precision_errs_little() -> None:
    feature, weight = noise(2, 256, 32, 32), noise(128, 256, 3, 3, seed=1)
    exact = F.conv2d(feature, weight, padding=1)
    error = (winograd(feature.float(), weight.float()) - exact).abs().max() / exact.abs().max()
    assert error < 3e-5


def test_small_convolutions_and_bf16_are_left_alone() -> None:
    """There the transforms cost more than they save, or are too coarse: the results are those of the plain convolution."""
    small = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    x = noise(1, 8, 32, 32, dtype=torch.float32)
    assert torch.equal(convolve(small, x, small.weight), F.conv2d(x, small.weight, padding=1))
    large = nn.Conv2d(128, 128, 3, padding=1, bias=False)
    x = noise(1, 128, 32, 32, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(convolve(large, x, large.weight), F.conv2d(x, large.weight, padding=1))


# --- the parts of the network


@pytest.mark.parametrize("context_aware", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_head(context_aware: bool, training: bool) -> None:
    """1x1 convolutions and linear maps before upsampling, folded into one; norms on batch and on running statistics."""
    torch.manual_seed(0)
    head = SegmentationHead((4, 6, 8, 10), 3, NARROW, dropout=0.0, context_aware=context_aware).double().train(training)
    published = use_published_order(copy.deepcopy(head))
    features = [noise(2, c, 24 // 2**i, 36 // 2**i, seed=i) for i, c in enumerate((4, 6, 8, 10))]
    assert_same(lambda *x: head(x), lambda *x: published(x), *features)
    assert_gradients_of_parameters_agree(head, published, features)


@pytest.mark.parametrize("training", [True, False])
def test_head_in_single_precision(training: bool) -> None:
    """Wide and large enough for every rewrite of a convolution."""
    torch.manual_seed(0)
    head = SegmentationHead((4, 6, 8, 10), 3, 128, dropout=0.0).train(training)
    published = use_published_order(copy.deepcopy(head))
    features = [noise(2, c, 24 // 2**i, 32 // 2**i, seed=i, dtype=torch.float32) for i, c in enumerate((4, 6, 8, 10))]
    torch.testing.assert_close(head(features), published(features), rtol=0, atol=1e-5)


def assert_gradients_of_parameters_agree(one: SegmentationHead, two: SegmentationHead, features: list[Tensor]) -> None:
    for head in (one, two):
        head(features).square().mean().backward()
    for (name, ours), theirs in zip(one.named_parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-9, msg=name)
    for ours, theirs in zip(one.buffers(), two.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_attention() -> None:
    query, key, value = (noise(2, 3, length, 8, seed=i) for i, length in enumerate((20, 7, 7)))
    assert_same(attend, lambda q, k, v: attend(q, k, v, published_order=True), query, key, value)


# --- the whole network


def network(encoder: str = "mit_b0") -> HRDA:
    torch.manual_seed(0)
    model = build_model(encoder, 3, head_channels=NARROW, detail_size=64, dropout=0.0, drop_path_rate=0.0)
    return model.double()


@pytest.mark.parametrize("encoder", ["mit_b0", "test_efficientnet"])
def test_a_training_step_of_the_network(encoder: str) -> None:
    model = network(encoder).train()
    published = use_published_order(copy.deepcopy(model))
    image, box = noise(2, 3, 128, 128), Box(64, 128, 0, 64)
    outputs = [m(image, box) for m in (model, published)]
    torch.testing.assert_close(outputs[0].fused, outputs[1].fused, rtol=0, atol=1e-9)
    torch.testing.assert_close(outputs[0].detail, outputs[1].detail, rtol=0, atol=1e-9)
    for output in outputs:
        (output.fused.square().mean() + output.detail.square().mean()).backward()
    for (name, ours), theirs in zip(model.named_parameters(), published.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_sliding_detail_windows() -> None:
    model = network().eval()
    published = use_published_order(copy.deepcopy(model))
    with torch.no_grad():
        ours, theirs = model.logits(noise(1, 3, 120, 150)), published.logits(noise(1, 3, 120, 150))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_the_order_is_no_part_of_the_weights_and_copies_keep_it() -> None:
    model = network()
    names = list(model.state_dict())
    published = copy.deepcopy(use_published_order(model))
    assert list(published.state_dict()) == names
    assert published.published_order and published.head.fuse.bottleneck.published_order
    assert not use_published_order(published, False).head.published_order


def test_narrow_heads_keep_the_published_order() -> None:
    model = build_model("test_efficientnet", 2, head_channels=NARROW - 8, detail_size=64, pretrained=False)
    assert model.published_order and model.head.published_order and model.head.fuse.bottleneck.published_order
    assert use_published_order(model, False).head.published_order
