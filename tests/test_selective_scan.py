"""The selective scan: backends against the definition, by hand and in every gradient."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from common.errors import UserError
from layers import scan_chunked, scan_numba, scan_numba_kernels
from layers import selective_scan as scan
from layers.selective_scan import resolve_backend, selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")


def make_inputs(batch=3, d_inner=5, d_state=2, frames=29, dtype=torch.float64, seed=0):
    """Random inputs of selective_scan in the order of NAMES, A negative."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    sequence = (batch, d_inner, frames)
    per_frame = (batch, d_state, frames)
    inputs = (
        randn(*sequence),
        randn(*sequence),
        -randn(d_inner, d_state).exp(),
        randn(*per_frame),
        randn(*per_frame),
        randn(d_inner),
        randn(*sequence),
        randn(d_inner) - 2,
    )
    return [tensor.requires_grad_() for tensor in inputs]


def run_with_gradients(inputs, backend, weight_dtype=None):
    """Output, last state and the gradient of a random weighting of both, per input."""
    y, last = selective_scan(*inputs, delta_softplus=True, return_last_state=True, backend=backend)
    generator = torch.Generator().manual_seed(1)
    dtype = weight_dtype or y.dtype
    w_y, w_last = (torch.randn(x.shape, generator=generator, dtype=dtype) for x in (y, last))
    return y, last, torch.autograd.grad((w_y * y).sum() + (w_last * last).sum(), inputs)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 8 frames and groups of 2 clips, so that tiny inputs cross every boundary."""
    monkeypatch.setattr(scan_chunked, "MAX_CHUNK", 8)
    monkeypatch.setattr(scan_chunked, "GROUP_ELEMENTS", 2 * 5 * 2)


def test_reference_equals_two_frames_by_hand():
    halving = -torch.log(torch.tensor(2.0)).item()
    u = torch.tensor([[[3.0, 5.0]]])
    delta = torch.tensor([[[1.0, 2.0]]])
    A = torch.tensor([[halving, 0.0]])
    B = torch.tensor([[[1.0, 1.0], [2.0, -1.0]]])
    C = torch.tensor([[[1.0, 2.0], [1.0, 3.0]]])
    y, last = selective_scan(
        u, delta, A, B, C, torch.tensor([0.5]), return_last_state=True, backend="reference"
    )
    # h0 = (1·1·3, 1·2·3) = (3, 6);  h1 = (3/4 + 2·1·5, 6 + 2·(-1)·5) = (10.75, -4)
    # y0 = 3 + 6 + 0.5·3 = 10.5;     y1 = 2·10.75 - 3·4 + 0.5·5 = 12
    torch.testing.assert_close(y, torch.tensor([[[10.5, 12.0]]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(last, torch.tensor([[[10.75, -4.0]]]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("frames", [1, 7, 8, 29])
def test_scan_backends_agree_forward_and_on_gradients(small_chunks, frames):
    inputs = make_inputs(frames=frames)
    y, last, gradients = run_with_gradients(inputs, "chunked")
    y_expected, last_expected, expected = run_with_gradients(inputs, "reference")
    torch.testing.assert_close(y, y_expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(last, last_expected, rtol=1e-12, atol=1e-12)
    for name, gradient, gradient_expected in zip(NAMES, gradients, expected, strict=True):
        torch.testing.assert_close(
            gradient, gradient_expected, rtol=1e-11, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_chunked_gradients_equal_finite_differences(monkeypatch):
    monkeypatch.setattr(scan_chunked, "MIN_CHUNK", 2)
    monkeypatch.setattr(scan_chunked, "MAX_CHUNK", 2)
    inputs = make_inputs(batch=2, d_inner=2, d_state=3, frames=5)

    def run(*tensors):
        return selective_scan(
            *tensors, delta_softplus=True, return_last_state=True, backend="chunked"
        )

    assert torch.autograd.gradcheck(run, inputs)


@pytest.mark.parametrize("backend", ["chunked", "numba"])
def test_backends_agree_in_single_precision_over_long_clips(backend):
    inputs = make_inputs(batch=1, d_inner=3, d_state=4, frames=3001, dtype=torch.float32)
    y, _, gradients = run_with_gradients(inputs, backend)
    y_expected, _, expected = run_with_gradients(inputs, "reference")
    torch.testing.assert_close(y, y_expected, rtol=1e-4, atol=1e-4)
    for gradient, gradient_expected in zip(gradients, expected, strict=True):
        scale = gradient_expected.abs().max().item()
        torch.testing.assert_close(gradient, gradient_expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("size", [1e-9, 50.0, 1e4, 1e30])
def test_extreme_steps_stay_finite_and_agree(small_chunks, size):
    inputs = make_inputs(dtype=torch.float32)[:5]
    inputs[1] = (inputs[1].detach().abs() * size).requires_grad_()
    results = {}
    for backend in ("reference", "chunked", "numba"):
        y = selective_scan(*inputs, backend=backend)
        results[backend] = (y, *torch.autograd.grad(y.mean() / size, inputs))
    for backend in ("chunked", "numba"):
        for result, expected in zip(results[backend], results["reference"], strict=True):
            assert torch.isfinite(result).all()
            scale = expected.abs().max().item()
            torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5 * scale)


def test_doubling_equals_stepping_in_both_directions(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    for frames in (1, 2, 7, 16, 23):
        decay = torch.rand(frames, 2, 3, 5, generator=generator, dtype=torch.float64)
        states = torch.randn(frames + 1, 2, 3, 5, generator=generator, dtype=torch.float64)
        stepped, doubled = states.clone(), states.clone()
        scan_chunked.recur(decay, stepped)
        scan_chunked.recur_doubling(decay, doubled)
        torch.testing.assert_close(doubled, stepped, rtol=1e-12, atol=1e-12)

        grads, grads_doubled = states[1:].clone(), states[1:].clone()
        scan_chunked.recur_back(decay, grads)
        monkeypatch.setattr(scan_chunked, "_on_cpu", lambda tensor: False)
        scan_chunked.recur_back(decay, grads_doubled)
        monkeypatch.undo()
        torch.testing.assert_close(grads_doubled, grads, rtol=1e-12, atol=1e-12)


def test_gpu_plan_gives_the_reference_result(monkeypatch):
    monkeypatch.setattr(scan_chunked, "_on_cpu", lambda tensor: False)
    inputs = make_inputs()
    _, _, gradients = run_with_gradients(inputs, "chunked")
    _, _, expected = run_with_gradients(inputs, "reference")
    torch.testing.assert_close(gradients, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", ["chunked", "numba"])
def test_backward_keeps_linear_and_small_memory(backend):
    def saved_elements(frames):
        inputs = make_inputs(batch=1, d_inner=64, d_state=16, frames=frames, dtype=torch.float32)
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            selective_scan(*inputs, delta_softplus=True, backend=backend)
        return total

    states = 64 * 16 * 1024
    assert saved_elements(1024) < states / 3
    assert saved_elements(4096) < 4.1 * saved_elements(1024)


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 67])
@pytest.mark.parametrize("d_inner", [5, 256, 300])
def test_the_numba_scan_agrees_with_the_definition_in_double_precision(frames, d_inner):
    """Frames about the chunks of 16, channels about the blocks of 256."""
    inputs = make_inputs(batch=2, d_inner=d_inner, d_state=3, frames=frames, dtype=torch.float32)
    assert (scan_numba_kernels.CHUNK, scan_numba_kernels.LANES) == (16, 256)
    y, last, gradients = run_with_gradients(inputs, "numba")
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected_y, expected_last, expected = run_with_gradients(exact, "reference", torch.float32)
    for name, result, right in zip(
        ("y", "last", *NAMES),
        (y, last, *gradients),
        (expected_y, expected_last, *expected),
        strict=True,
    ):
        scale = right.abs().max().item()
        torch.testing.assert_close(
            result.double(), right, rtol=1e-5, atol=3e-6 * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("missing", [(5,), (6,), (7,), (5, 6, 7)])
@pytest.mark.parametrize("softplus", [True, False])
@pytest.mark.parametrize("backend", ["chunked", "numba"])
def test_skip_gate_bias_and_softplus_may_be_left_out(backend, softplus, missing):
    inputs = make_inputs(frames=19, dtype=torch.float32)
    if not softplus:
        inputs[1], inputs[7] = (inputs[i].detach().abs().requires_grad_() for i in (1, 7))
    given = [None if i in missing else x for i, x in enumerate(inputs)]
    present = [x for x in given if x is not None]
    results = []
    for way in (backend, "reference"):
        y = selective_scan(*given, delta_softplus=softplus, backend=way)
        results.append((y, *torch.autograd.grad(y.square().sum(), present)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


def test_threads_share_the_numba_scan(monkeypatch):
    """Three blocks of two clips on four threads: two threads add to the sums of one block."""
    inputs = make_inputs(batch=2, d_inner=600, d_state=3, frames=40, dtype=torch.float32)
    expected = run_with_gradients(inputs, "numba")
    monkeypatch.setattr(scan_numba, "THREAD_STATES", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    y, last, gradients = run_with_gradients(inputs, "numba")
    assert torch.equal(y, expected[0]) and torch.equal(last, expected[1])
    torch.testing.assert_close(gradients, expected[2], rtol=1e-5, atol=1e-4)
    again = run_with_gradients(inputs, "numba")[2]
    assert all(torch.equal(one, other) for one, other in zip(gradients, again, strict=True))


@pytest.mark.parametrize("backend", ["chunked", "numba"])
def test_nan_propagates_in_its_channel_from_its_frame_on(backend):
    """Otherwise a diverged run would go unnoticed."""
    inputs = [x.detach() for x in make_inputs(batch=1, frames=23, dtype=torch.float32)]
    for i in (0, 1):
        with_nan = [x.clone() for x in inputs]
        with_nan[i][0, 2, 11] = torch.nan
        y = selective_scan(*with_nan, delta_softplus=True, backend=backend)
        assert y[0, 2, 11:].isnan().all()
        assert y[0, :, :11].isfinite().all() and y[0, 3].isfinite().all()


def test_exponential_softplus_and_sigmoid_of_the_kernels_are_exact_to_float32():
    x = np.linspace(-126.0, 127.0, 4001).astype(np.float32)
    actual = np.array([scan_numba_kernels.exp2(v) for v in x], np.float64)
    np.testing.assert_allclose(actual, np.exp2(x.astype(np.float64)), rtol=3e-7)
    near = [scan_numba_kernels.near_exp2(v, np.float32(1.0)) for v in x[4:-40]]
    np.testing.assert_allclose(np.array(near), np.exp2(x[4:-40].astype(np.float64)), rtol=3e-7)
    x = np.linspace(-30.0, 30.0, 4001).astype(np.float32)
    wide = x.astype(np.float64)
    actual = np.array([scan_numba_kernels.softplus(v) for v in x], np.float64)
    np.testing.assert_allclose(actual, np.logaddexp(0.0, wide), rtol=3e-6)
    actual = np.array([scan_numba_kernels.sigmoid(v) for v in x], np.float64)
    np.testing.assert_allclose(actual, 1.0 / (1.0 + np.exp(-wide)), rtol=3e-6)
    ends = [scan_numba_kernels.exp2(np.float32(v)) for v in (-np.inf, -1e9, 0.0, 1e9, np.inf)]
    assert ends == [0.0, 0.0, 1.0, np.inf, np.inf]


@pytest.mark.parametrize("backend", ["chunked", "numba"])
def test_half_precision_input_accumulates_in_float32(backend):
    inputs = make_inputs(frames=200, dtype=torch.float32)
    rounded = [(x.detach().bfloat16() if x.ndim == 3 else x.detach()) for x in inputs]
    rounded = [x.requires_grad_() for x in rounded]
    exact = [x.detach().float().requires_grad_() for x in rounded]
    y = selective_scan(*rounded, delta_softplus=True, backend=backend)
    expected = selective_scan(*exact, delta_softplus=True, backend="reference")
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), expected, rtol=2**-7, atol=1e-3)
    right = torch.autograd.grad(expected.sum(), exact)
    for actual, true, x in zip(
        torch.autograd.grad(y.float().sum(), rounded), right, rounded, strict=True
    ):
        assert actual.dtype == x.dtype
        atol = 2**-8 * true.abs().max().item()
        torch.testing.assert_close(actual.float(), true, rtol=2**-6, atol=atol)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # must round nothing inside, nor in backward
        wide = selective_scan(*exact, delta_softplus=True, backend=backend)
        gradients = torch.autograd.grad(wide.sum(), exact)
    assert wide.dtype == torch.float32
    torch.testing.assert_close(wide, expected, rtol=1e-5, atol=1e-5)
    for actual, true in zip(gradients, right, strict=True):
        torch.testing.assert_close(actual, true, rtol=1e-4, atol=1e-5 * true.abs().max().item())


def test_absent_cuda_backend_names_the_install_line(monkeypatch):
    monkeypatch.setattr(scan, "_fused_scan", lambda: None)
    with pytest.raises(UserError, match="pip install causal-conv1d mamba-ssm"):
        selective_scan(*make_inputs(), backend="cuda")


def test_cuda_backend_on_cpu_tensors_is_a_user_error(monkeypatch):
    monkeypatch.setattr(scan, "_fused_scan", lambda: print)
    with pytest.raises(UserError, match="expected tensors on an NVIDIA GPU, got cpu"):
        selective_scan(*make_inputs(), backend="cuda")


def test_auto_takes_the_cuda_kernel_only_on_a_gpu(monkeypatch):
    monkeypatch.setattr(scan, "_fused_scan", lambda: print)
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.float32, device=torch.device("cuda"))
    assert resolve_backend("auto", on_gpu) == "cuda"
    assert resolve_backend("auto", torch.zeros(1)) == "numba"
    assert resolve_backend("auto", torch.zeros(1, dtype=torch.float64)) == "chunked"
    monkeypatch.setattr(scan, "_fused_scan", lambda: None)
    assert resolve_backend("auto", on_gpu) == "chunked"


def test_wrong_shapes_and_names_report_expected_and_got():
    u, delta, A, B, C, *_ = make_inputs()
    with pytest.raises(ValueError, match=r"B: expected shape \(3, 2, 29\), got \(3, 5, 29\)"):
        selective_scan(u, delta, A, u, C)
    with pytest.raises(ValueError, match="scan backend 'fast': expected one of auto"):
        selective_scan(u, delta, A, B, C, backend="fast")
    with pytest.raises(ValueError, match="u: expected at least one element"):
        selective_scan(*(x[..., :0] for x in (u, delta)), A, B[..., :0], C[..., :0])
