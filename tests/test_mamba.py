"""The Mamba block against mamba_ssm's names, a plain loop over its definition, and causality."""

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from common.errors import UserError
from layers.mamba import Mamba, MambaLayer, set_scan_backend


def make(module, seed=0):
    torch.manual_seed(seed)
    return module()


def test_parameters_are_named_and_shaped_as_in_mamba_ssm():
    shapes = {name: tuple(p.shape) for name, p in Mamba(40, d_state=7, d_conv=5).named_parameters()}
    assert shapes == {
        "in_proj.weight": (160, 40),
        "conv1d.weight": (80, 1, 5),
        "conv1d.bias": (80,),
        "x_proj.weight": (3 + 7 + 7, 80),  # dt_rank = ceil(40 / 16) = 3
        "dt_proj.weight": (80, 3),
        "dt_proj.bias": (80,),
        "A_log": (80, 7),
        "D": (80,),
        "out_proj.weight": (40, 80),
    }


def test_initial_state_matrix_and_steps_follow_mamba_ssm():
    mamba = Mamba(128, d_state=5)
    rates = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).expand(256, 5)
    assert_close(mamba.A_log.exp(), rates, rtol=1e-6, atol=0)
    assert (mamba.D == 1).all()
    steps = torch.nn.functional.softplus(mamba.dt_proj.bias)
    assert steps.min() >= 0.99e-3 and steps.max() <= 1.01e-1
    assert 0.4 < (steps < 1e-2).float().mean() < 0.6  # log-uniform: half below the middle decade
    assert mamba.dt_proj.weight.abs().max() <= 8**-0.5


def test_block_equals_the_definition_in_plain_loops():
    mamba = make(lambda: Mamba(6, d_state=3, d_conv=4)).double()
    torch.nn.init.normal_(mamba.D)
    x = torch.randn(1, 9, 6, dtype=torch.float64)
    p = {name: value.detach() for name, value in mamba.named_parameters()}
    u_in, z = (p["in_proj.weight"] @ x[0].T).chunk(2)  # (12, 9) each
    u = torch.zeros_like(u_in)
    for d in range(12):
        for t in range(9):
            taps = [p["conv1d.weight"][d, 0, 3 - k] * u_in[d, t - k] for k in range(min(4, t + 1))]
            value = p["conv1d.bias"][d] + sum(taps)
            u[d, t] = value / (1 + math.exp(-value))
    expected = torch.zeros(9, 6, dtype=torch.float64)
    h = torch.zeros(12, 3, dtype=torch.float64)
    for t in range(9):
        rank, B, C = (p["x_proj.weight"] @ u[:, t]).split([1, 3, 3])
        step = (p["dt_proj.weight"] @ rank + p["dt_proj.bias"]).exp().log1p()
        h = torch.exp(-step[:, None] * p["A_log"].exp()) * h + (step * u[:, t])[:, None] * B
        y = h @ C + p["D"] * u[:, t]
        expected[t] = p["out_proj.weight"] @ (y * z[:, t] / (1 + torch.exp(-z[:, t])))
    assert_close(mamba(x)[0], expected, rtol=1e-12, atol=1e-12)


def test_block_is_causal():
    mamba = make(lambda: Mamba(12))
    x = torch.randn(1, 23, 12)
    changed = x.clone()
    changed[:, 17:] += 1
    before, after = mamba(x), mamba(changed)
    assert_close(after[:, :17], before[:, :17], rtol=0, atol=0)
    assert (after[:, 17] != before[:, 17]).all()


@pytest.mark.parametrize("frames", [1, 2, 31])
def test_padded_batch_gives_each_clip_the_values_it_gets_alone(frames):
    layer = make(lambda: MambaLayer(12, 17))
    x = torch.randn(2, 41, 12)
    mask = torch.ones(2, 41, dtype=torch.bool)
    mask[1, frames:] = False
    together = layer(x, mask)
    assert_close(together[1, :frames], layer(x[1:, :frames])[0], rtol=1e-5, atol=1e-6)
    assert_close(together[:1], layer(x[:1]), rtol=1e-5, atol=1e-6)


def test_padding_sends_no_gradient_into_real_frames():
    layer = make(lambda: MambaLayer(12, 17))
    x = torch.randn(1, 19, 12, requires_grad=True)
    layer(x)[:, :11].sum().backward()
    assert (x.grad[:, 11:] == 0).all() and (x.grad[:, :11] != 0).any()


def test_scan_backend_is_set_on_every_block_and_stays_out_of_the_state_dict():
    layers = make(lambda: torch.nn.Sequential(MambaLayer(8, 9), MambaLayer(8, 9)))
    reference = copy.deepcopy(layers)
    set_scan_backend(reference, "reference")
    assert [layer.mamba.backend for layer in reference] == ["reference", "reference"]
    assert reference.state_dict().keys() == layers.state_dict().keys()
    x = torch.randn(2, 13, 8)
    assert_close(reference(x), layers(x), rtol=1e-5, atol=1e-6)


def test_setting_an_unavailable_backend_is_refused(monkeypatch):
    monkeypatch.setattr("layers.selective_scan._fused_scan", lambda: None)
    with pytest.raises(UserError, match="mamba_ssm cannot be imported"):
        set_scan_backend(Mamba(8), "cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_fused_convolution_agrees_forward_and_backward():
    pytest.importorskip("causal_conv1d")
    block = make(lambda: Mamba(64)).cuda()
    results = []
    for backend in ("auto", "reference"):  # the second convolves with torch
        block.backend = backend
        u = torch.linspace(-2, 2, 2 * 37 * 128, device="cuda").view(2, 37, 128).requires_grad_()
        y = block.convolve(u)
        inputs = (u, block.conv1d.weight, block.conv1d.bias)
        results.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    assert_close(*results, rtol=1e-4, atol=1e-4)


def test_layer_whose_branches_are_zero_is_the_identity():
    layer = MambaLayer(8, 9)
    torch.nn.init.zeros_(layer.mamba.out_proj.weight)
    torch.nn.init.zeros_(layer.mlp.down.weight)
    torch.nn.init.zeros_(layer.mlp.down.bias)
    x = torch.randn(2, 5, 8)
    assert_close(layer(x), x, rtol=0, atol=0)
