"""GELU and norms by numba kernels, against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from layers.fast_gelu import Gelu, activated, finish, is_gelu


def rows(n: int, width: int = 37) -> torch.Tensor:
    return 2.5 * torch.randn(n, width, generator=torch.Generator().manual_seed(0))


def norm_of(width: int = 37) -> nn.LayerNorm:
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight, 1, 0.2)
    nn.init.normal_(norm.bias)
    return norm


def expected(x: torch.Tensor, norm: nn.LayerNorm | None) -> torch.Tensor:
    x = x.double()
    if norm is not None:
        x = F.layer_norm(x, x.shape[1:], norm.weight.double(), norm.bias.double(), norm.eps)
    return F.gelu(x)


@torch.no_grad()
def test_gelu_is_exact_to_the_rounding_of_float32() -> None:
    x = torch.linspace(-9, 9, 10_001)
    y = activated(F.gelu, x.clone())
    assert ((y.double() - F.gelu(x.double())).abs() <= 2.5e-7 * x.abs()).all()


@torch.no_grad()
def test_gelu_of_large_and_missing_numbers() -> None:
    x = torch.tensor([1e30, torch.nan, 0.0])
    torch.testing.assert_close(activated(F.gelu, x.clone()), x, equal_nan=True)


def test_gelu_overwrites_its_input_only_without_gradient() -> None:
    x = rows(3)
    kept = x.clone()
    Gelu()(x)
    assert torch.equal(x, kept)
    with torch.no_grad():
        assert Gelu()(x) is x
        assert not torch.equal(x, kept)


@torch.no_grad()
def test_other_activations_and_strides_are_torchs() -> None:
    x = rows(4)
    assert torch.equal(activated(F.silu, x), F.silu(x))
    assert torch.equal(activated(F.gelu, x.T), F.gelu(x.T))
    assert is_gelu(nn.GELU()) and not is_gelu(nn.GELU(approximate="tanh"))


@pytest.mark.parametrize("norm", [None, norm_of()])
@torch.no_grad()
def test_a_sum_is_normed_activated_and_written_to_every_second_row(
    norm: nn.LayerNorm | None,
) -> None:
    x, other = rows(5), rows(10)[5:]
    out = torch.zeros(11, 37)
    finish(x, norm, other, out, first=1, step=2)
    torch.testing.assert_close(out[1::2].double(), expected(x + other, norm), atol=2e-6, rtol=0)
    assert not out[0::2].any()


@pytest.mark.parametrize("norm", [None, norm_of()])
@torch.no_grad()
def test_bfloat16_rows_are_rounded_once(norm: nn.LayerNorm | None) -> None:
    x = rows(7)
    coarse = x.bfloat16()
    from_coarse = finish(coarse.clone(), norm)
    from_fine = finish(x, norm, out=torch.empty_like(coarse))
    for y, source in ((from_coarse, coarse), (from_fine, x)):
        error = (y.double() - expected(source, norm)).abs()
        assert (error <= 2**-8 * expected(source, norm).abs() + 1e-6).all()
