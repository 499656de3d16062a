"""Dropout and GELU of float32 tensors in training on a CPU."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layers.fast_dropout import Dropout, Dropped, DroppedGelu, dropout
from layers.fast_gelu import TrainedGelu, activated

P = 0.3


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def run(function, x: Tensor, seed: int = 5) -> tuple[Tensor, Tensor]:
    """(result, gradient of x for a result whose gradient is `counted`)."""
    torch.manual_seed(seed)
    y = function(x)
    (gradient,) = torch.autograd.grad(y, x, counted(y))
    return y.detach(), gradient


def counted(y: Tensor) -> Tensor:
    """1, 2, 3, ... in the shape of y."""
    return torch.arange(1.0, y.numel() + 1).view(y.shape)


def test_elements_are_zero_or_scaled_and_so_are_their_gradients() -> None:
    x = noise(37, 113)
    y, gradient = run(lambda x: dropout(x, P), x)
    assert type(dropout(x, P).grad_fn).__name__ == Dropped.__name__ + "Backward"
    kept = y != 0
    torch.testing.assert_close(y, torch.where(kept, x / (1 - P), 0.0))
    torch.testing.assert_close(gradient, torch.where(kept, counted(y) / (1 - P), 0.0))


def test_masks_are_as_random_as_independent_numbers() -> None:
    """Shares of single places, of pairs a step apart, and of two masks: within 5 sigma."""
    n = 200_000
    x = torch.ones(n, requires_grad=True)
    torch.manual_seed(0)
    masks = [dropout(x, P) == 0 for _ in range(3)]
    sigma = (P * (1 - P) / n) ** 0.5
    for mask in masks:
        assert abs(mask.float().mean() - P) < 5 * sigma
        for step in (1, 2, 8, 64, 512, 1_024):
            both = (mask[step:] & mask[:-step]).float().mean()
            assert abs(both - P**2) < 5 * (P**2 * (1 - P**2) / n) ** 0.5, step
    for one, other in ((0, 1), (1, 2), (0, 2)):
        both = (masks[one] & masks[other]).float().mean()
        assert abs(both - P**2) < 5 * (P**2 * (1 - P**2) / n) ** 0.5


def test_a_seed_gives_the_same_mask_with_any_number_of_threads() -> None:
    x, before = noise(3, 100_000), torch.get_num_threads()
    results = []
    try:
        for n_threads in (1, 3):
            torch.set_num_threads(n_threads)
            results.append(run(lambda x: dropout(x, P), x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
    assert not torch.equal(run(lambda x: dropout(x, P), x, seed=6)[0], results[0][0])


def test_activations_that_are_computed_again_have_the_same_mask() -> None:
    x, layer = noise(50, 70), Dropout(P)
    once = run(layer, x)
    again = run(lambda x: checkpoint(layer, x, use_reentrant=False), x)
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))


@pytest.mark.parametrize("strided", [False, True])
def test_behind_gelu_it_is_the_same_in_one_pass(strided: bool) -> None:
    x, layer = noise(40, 50), Dropout(P)

    def changed(x: Tensor) -> Tensor:
        return x.T if strided else x

    both, gradient = run(lambda x: layer.activated(F.gelu, changed(x)), x)
    assert type(layer.activated(nn.GELU(), x).grad_fn).__name__ == DroppedGelu.__name__ + "Backward"
    alone, expected = run(lambda x: layer(F.gelu(changed(x))), x)
    torch.testing.assert_close(both, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=2e-6 * x.numel())


def test_gelu_and_its_derivative_are_torchs_in_float64() -> None:
    x = torch.linspace(-8, 8, 20_001).requires_grad_()
    assert type(activated(F.gelu, x).grad_fn).__name__ == TrainedGelu.__name__ + "Backward"
    y, gradient = run(lambda x: activated(F.gelu, x), x)
    exact, slope = run(F.gelu, x.detach().double().requires_grad_())
    assert (y - exact).abs().max() < 2e-6
    assert ((gradient - slope) / counted(y)).abs().max() < 2e-6


def test_other_tensors_have_torchs_dropout() -> None:
    layer = Dropout(P)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = layer(noise(4, 5).bfloat16())
    assert coarse.dtype == torch.bfloat16
    plain = torch.ones(10_000)  # without gradient
    torch.manual_seed(1)
    expected = F.dropout(plain, P)
    torch.manual_seed(1)
    assert torch.equal(layer(plain), expected)
    assert torch.equal(layer.eval()(plain), plain) and Dropout(0.0).train()(plain) is plain
    assert not Dropout(1.0)(noise(3, 3)).any()
