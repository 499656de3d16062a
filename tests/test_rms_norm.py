"""The root mean square norm by numba kernels, against torch's in float64."""

import pytest
import torch
import torch.nn.functional as F

from layers.rms_norm import RMSNorm

EPS = 1e-3


def norm_of(width: int) -> RMSNorm:
    torch.manual_seed(0)
    norm = RMSNorm(width, eps=EPS)
    torch.nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(3, 5, 37), (2, 600, 128), (1, 16), (0, 16)])
def test_values_and_gradients(shape: tuple[int, ...], threads: int) -> None:
    norm, before = norm_of(shape[-1]), torch.get_num_threads()
    x, outer = torch.randn(shape, requires_grad=True), torch.randn(shape)
    exact_x, exact_weight = (t.detach().double().requires_grad_() for t in (x, norm.weight))
    expected = F.rms_norm(exact_x, shape[-1:], exact_weight, EPS)
    torch.set_num_threads(threads)
    try:
        y = norm(x)
        gradients = torch.autograd.grad(y, [x, norm.weight], outer)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(y, expected.float())
    exact = torch.autograd.grad(expected, [exact_x, exact_weight], outer.double())
    for ours, theirs in zip(gradients, exact, strict=True):
        torch.testing.assert_close(ours, theirs.float(), atol=2e-5, rtol=2e-5)


def test_strides_and_numbers_near_zero() -> None:
    norm = norm_of(4)
    wide = torch.randn(4, 6, requires_grad=True)
    y = norm(wide.T * 1e-20)  # (6, 4), not contiguous; eps keeps it finite
    y.sum().backward()
    expected = (1e-20 / EPS**0.5) * norm.weight.detach()[:, None].expand(4, 6)
    torch.testing.assert_close(wide.grad, expected, atol=0, rtol=1e-5)


def test_it_is_torchs_without_gradient_and_in_other_types() -> None:
    norm, x = norm_of(8), torch.randn(2, 8)
    assert torch.equal(norm(x), torch.nn.RMSNorm.forward(norm, x))
    double, given = norm_of(8).double(), x.double().requires_grad_()
    assert torch.equal(double(given), torch.nn.RMSNorm.forward(double, given))
