"""The causal depthwise convolution in numba, against torch's."""

import pytest
import torch
import torch.nn.functional as F

from layers.causal_conv import CausalConv
from layers.mamba import Mamba


@pytest.mark.parametrize("n_threads", [1, 2, 5])  # 5: more than there are clips
@pytest.mark.parametrize("taps", [1, 4, 8])
@pytest.mark.parametrize("frames", [2, 11])  # 2: fewer than taps
def test_result_and_gradients_equal_torchs(
    frames: int, taps: int, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    torch.manual_seed(0)
    both = torch.randn(3, frames, 2 * 19)
    weight, bias = torch.randn(19, taps), torch.randn(19)
    results = []
    for numba in (True, False):
        inputs = [x.clone().requires_grad_() for x in (both, weight, bias)]
        u = inputs[0].chunk(2, dim=-1)[0]  # with strides, as of a projection to u and z
        if numba:
            y = CausalConv.apply(u, *inputs[1:])
        else:
            before = F.pad(u.transpose(1, 2), (taps - 1, 0))
            y = F.silu(F.conv1d(before, inputs[1][:, None], inputs[2], groups=19)).transpose(1, 2)
        gradients = torch.autograd.grad((y.transpose(1, 2) * both[..., :19].mT).sum(), inputs)
        results.append((y.detach(), *gradients))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-5)


def test_a_named_backend_other_than_numba_convolves_with_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []
    monkeypatch.setattr(
        "layers.mamba._numba_convolution", lambda: lambda u, *_: calls.append(len(u)) or u
    )
    block, u = Mamba(8), torch.randn(2, 5, 16)
    for backend in ("reference", "chunked"):
        block.backend = backend
        block.convolve(u)
    block.backend = "auto"
    block.double().convolve(u.double())
    assert not calls
    block.float().convolve(u)
    assert calls == [2]
