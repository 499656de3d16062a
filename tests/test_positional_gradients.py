"""Weight norm and grouped convolution in training, against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from layers.fast_gelu import trains_fast
from layers.positional_gradients import GroupedConvolution, NormedWeight
from speech.encoder_config import EncoderConfig
from speech.positional_convolution import PositionalConvolution


def same(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Equal to 1e-5 of the largest value of each."""
    for one, other in zip(actual, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        torch.testing.assert_close(
            one, other, rtol=0, atol=1e-5 * other.detach().abs().max().item()
        )


def test_normed_weight_has_torchs_gradients_of_weight_norm() -> None:
    """Also with more rows than are summed at once in float32."""
    generator = torch.Generator().manual_seed(0)
    norms = torch.rand(1, 1, 5, generator=generator, requires_grad=True)
    directions = torch.randn(24, 30, 5, generator=generator, requires_grad=True)
    outer = torch.randn(24, 30, 5, generator=generator)
    expected = torch._weight_norm(directions, norms, 2)
    actual = NormedWeight.apply(norms, directions)
    same(
        (actual, *torch.autograd.grad(actual, (norms, directions), outer)),
        (expected, *torch.autograd.grad(expected, (norms, directions), outer)),
    )


@pytest.mark.parametrize("taps", [5, 8])  # an even number gives one frame more
@pytest.mark.parametrize("clips, frames", [(1, 1), (1, 9), (3, 20)])
def test_grouped_convolution_has_torchs_gradients(clips: int, frames: int, taps: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(clips, 12, frames, generator=generator, requires_grad=True)
    weight = torch.randn(12, 4, taps, generator=generator, requires_grad=True)
    bias = torch.randn(12, generator=generator, requires_grad=True)
    expected = F.conv1d(x, weight, bias, padding=taps // 2, groups=3)
    actual = GroupedConvolution.apply(x, weight, bias, 3)
    outer = torch.randn(expected.shape, generator=generator)
    same(
        (actual, *torch.autograd.grad(actual, (x, weight, bias), outer)),
        (expected, *torch.autograd.grad(expected, (x, weight, bias), outer)),
    )


def test_an_input_without_gradient_and_one_with_other_strides() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 11, 6, generator=generator).transpose(1, 2)  # (B, C, T), as in the network
    weight = torch.randn(6, 3, 4, generator=generator, requires_grad=True)
    bias = torch.zeros(6, requires_grad=True)
    y = GroupedConvolution.apply(x, weight, bias, 2)
    outer = torch.randn(2, 12, 6, generator=generator).transpose(1, 2)
    same(
        torch.autograd.grad(y, (weight, bias), outer),
        torch.autograd.grad(F.conv1d(x, weight, bias, padding=2, groups=2), (weight, bias), outer),
    )


def test_the_positional_convolution_trains_by_them_and_equals_itself_without() -> None:
    """float64 takes torch's way, as autocast does."""
    config = EncoderConfig(
        hidden_size=12, num_conv_pos_embeddings=6, num_conv_pos_embedding_groups=3,
        feat_extract_activation="gelu",
    )  # fmt: skip
    torch.manual_seed(3)
    module = PositionalConvolution(config)
    x = torch.randn(2, 17, 12, requires_grad=True)
    assert trains_fast(x) and not trains_fast(x.double())
    results = []
    for kind in (torch.float32, torch.float64):
        module.to(kind).zero_grad()
        y = module(x.to(kind))
        gradients = torch.autograd.grad(y.square().sum(), (x, *module.parameters()))
        results.append([value.float() for value in (y, *gradients)])
    same(*results)
