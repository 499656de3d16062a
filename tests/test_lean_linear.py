"""Linear layers that keep no bfloat16 copies: equal to autocast bit for bit, with less memory."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from layers.lean_linear import GRAD_DTYPE, LeanLinear, coarsen_gradients, make_lean


def block(lean: bool, width: int = 13) -> nn.Module:
    """A transformer's MLP, with the same weights every time."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 29), nn.GELU(), nn.Linear(29, width, bias=False)
    )
    if lean:
        make_lean(module)
    return module


def trained(module: nn.Module, shape: tuple[int, ...], recompute: bool = False) -> list[Tensor]:
    """Output and gradients of the input and every parameter, under bfloat16 autocast."""
    torch.manual_seed(1)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(shape)
    with torch.autocast("cpu", torch.bfloat16):
        y = checkpoint(module, x, use_reentrant=False) if recompute else module(x)
    (y * weight).sum().backward()
    return [y, x.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("shape", [(13,), (7, 13), (3, 7, 13), (2, 3, 5, 13)])
def test_result_and_gradients_equal_autocasts_bit_for_bit(shape: tuple[int, ...]) -> None:
    expected = trained(block(False), shape)
    for actual in (trained(block(True), shape), trained(block(True), shape, recompute=True)):
        for one, other in zip(actual, expected, strict=True):
            assert one.dtype == other.dtype and torch.equal(one, other)


def test_no_bfloat16_weight_is_kept_for_the_backward_pass() -> None:
    def saved_dtypes(module: nn.Module) -> list[torch.dtype]:
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x), lambda x: x):
            x = torch.randn(2, 13, requires_grad=True)
            with torch.autocast("cpu", torch.bfloat16):
                module(x)
        weights = {p.shape for p in module.parameters() if p.ndim == 2}
        weights |= {shape[::-1] for shape in weights}
        return [x.dtype for x in saved if x.shape in weights]

    assert torch.bfloat16 in saved_dtypes(block(False))
    assert set(saved_dtypes(block(True))) == {torch.float32}  # the weights themselves


def test_gradients_stored_in_bfloat16_equal_those_in_float32() -> None:
    coarse = block(True)
    coarsen_gradients(coarse)
    for one, other in zip(trained(coarse, (5, 13)), trained(block(True), (5, 13)), strict=True):
        assert torch.equal(one.float(), other.float())
    dtype = torch.bfloat16 if GRAD_DTYPE else torch.float32
    assert [p.grad.dtype for p in coarse.parameters() if p.ndim == 2] == [dtype] * 2
    assert all(p.grad.dtype == torch.float32 for p in coarse.parameters() if p.ndim == 1)


def test_without_bfloat16_autocast_it_equals_a_plain_layer() -> None:
    x = torch.randn(3, 13)
    assert torch.equal(block(True)(x), block(False)(x))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(block(True)(x), block(False)(x))
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(block(True)(x), block(False)(x))


def trained_in_float32(
    module: nn.Module, shape: tuple[int, ...]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output, gradient of the input and those of the parameters."""
    torch.manual_seed(1)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(shape)
    y = module(x)
    (y * weight).sum().backward()
    return y, x.grad, [p.grad for p in module.parameters()]


@pytest.mark.parametrize("width", [13, 800])  # small layers and large ones take other ways
@pytest.mark.parametrize("n_rows", [(7,), (2, 5)])
def test_a_float32_step_is_that_of_a_plain_layer(width: int, n_rows: tuple[int, ...]) -> None:
    shape = (*n_rows, width)
    lean, plain = (trained_in_float32(wide_block(kind, width), shape) for kind in (True, False))
    torch.testing.assert_close(lean, plain, rtol=1e-4, atol=1e-5)


def wide_block(lean: bool, width: int) -> nn.Module:
    """Linear layers of width² and about width² / 8 weights; the first has a bias."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width // 8 + 1, bias=False),
        nn.Tanh(), nn.Linear(width // 8 + 1, width),
    )  # fmt: skip
    if lean:
        make_lean(module)
    return module


@pytest.mark.skipif(not GRAD_DTYPE, reason="this torch stores gradients in their weights' dtype")
def test_the_memory_of_a_coarse_gradient_is_used_again_once_it_is_let_go() -> None:
    coarse, plain = block(True), block(False)
    coarsen_gradients(coarse)
    places, expected = [], trained_in_float32(plain, (5, 13))[2][-1]
    for _ in range(3):
        coarse.zero_grad()
        trained_in_float32(coarse, (5, 13))
        gradient = coarse[3].weight.grad
        places.append(gradient.data_ptr())
        torch.testing.assert_close(gradient.float(), expected, rtol=2**-8, atol=1e-6)
        del gradient
    assert len(set(places)) == 1
    trained_in_float32(coarse, (5, 13))  # without zero_grad: it is added
    torch.testing.assert_close(coarse[3].weight.grad.float(), 2 * expected, rtol=2**-7, atol=1e-6)


@pytest.mark.skipif(not GRAD_DTYPE, reason="this torch stores gradients in their weights' dtype")
def test_gradients_of_a_layer_that_is_used_twice_and_those_that_a_caller_keeps() -> None:
    """Both come before the first one is let go: no memory may be used again."""
    layer = nn.Linear(6, 6)
    make_lean(layer)
    coarsen_gradients(layer)
    x = torch.randn(4, 6)
    layer(layer(x)).sum().backward()
    plain = nn.Linear(6, 6)
    plain.load_state_dict(layer.state_dict())
    plain(plain(x)).sum().backward()
    torch.testing.assert_close(layer.weight.grad.float(), plain.weight.grad, rtol=0.02, atol=0.02)
    one, two = (torch.autograd.grad(layer(k * x).sum(), layer.weight)[0] for k in (1, 2))
    torch.testing.assert_close(2 * one.float(), two.float())


@pytest.mark.skipif(not GRAD_DTYPE, reason="this torch stores gradients in their weights' dtype")
@pytest.mark.parametrize("shape", [(7, 13), (2, 3, 5, 13)])
def test_gradients_of_a_float32_step_are_those_of_a_plain_layer_rounded_once(
    shape: tuple[int, ...],
) -> None:
    coarse = block(True)
    coarsen_gradients(coarse)
    (y, by_x, gradients), (plain_y, plain_by_x, expected) = (
        trained_in_float32(module, shape) for module in (coarse, block(False))
    )
    torch.testing.assert_close((y, by_x), (plain_y, plain_by_x))
    for one, other in zip(gradients, expected, strict=True):
        assert one.dtype == (torch.bfloat16 if one.ndim == 2 else torch.float32)
        torch.testing.assert_close(one.float(), other, rtol=2**-8, atol=1e-6)


def test_state_dict_and_copies_are_those_of_a_plain_layer() -> None:
    lean, plain = block(True), block(False)
    assert list(lean.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(lean.state_dict())
    for module in (copy.deepcopy(lean), AveragedModel(lean).module):
        assert type(module[1]) is LeanLinear and module[1].weight is not lean[1].weight
        assert torch.equal(trained(module, (2, 13))[0], trained(lean, (2, 13))[0])


@pytest.mark.parametrize("width", [13, 800])
@pytest.mark.parametrize("autocast", [False, True])
def test_its_result_may_be_modified_in_place(width: int, autocast: bool) -> None:
    """SpecAugment does so to the output of the feature projection."""
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = wide_block(True, width)[0](torch.randn(2, 5, width))
    y[:, 1] = 0.0
    y.sum().backward()


def test_an_input_without_gradient_is_accepted() -> None:
    layer = block(True)[1]
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(2, 13)).sum().backward()
    assert layer.weight.grad.shape == layer.weight.shape
