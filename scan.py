"""The selective scan, the heart of a Mamba block (Gu and Dao, 2023, arXiv 2312.00752).

One channel d of the scan keeps a state h of `d_state` numbers, driven by the input u:

    h[t] = exp(delta[t] · A) · h[t-1] + delta[t] · B[t] · u[t]      (paper, equation 2a)
    y[t] = C[t] · h[t] + D · u[t]

Three backends compute it, chosen at run time and never stored in a checkpoint:

    reference   the definition, frame by frame; what the others are tested against
    parallel    chunks of frames in pure PyTorch, with its own backward pass; CPU and GPU
    cuda        mamba_ssm's fused kernel, where it is installed and the tensors are on a GPU

Glossary, the paper's and mamba_ssm's names:
    d_inner     channels of the scan;  N = d_state, numbers of state a channel
    u           input of the scan;  z  its gate;  delta  step size, > 0 after softplus
    A, B, C, D  the state space's matrices; A is diagonal and negative
    decay       exp(delta · A), what is left of the state after a frame, in (0, 1]
    drive       delta · u
"""

import functools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from errors import UserError

BACKENDS = ("auto", "reference", "parallel", "cuda")
CHUNK_ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 23}  # a chunk's states: 1 MB, about the L2; 32 MB
GROUP_ELEMENTS = 1 << 15  # on a CPU, states of one frame stepped at once: enough to fill a call
MIN_CHUNK, MAX_CHUNK = 8, 256  # frames
LOG2_E = math.log2(math.e)


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the scan's output y (B, d_inner, T), in u's dtype, as mamba_ssm's selective_scan_fn.

    u, delta: (B, d_inner, T).  A: (d_inner, N).  B, C: (B, N, T).  D, delta_bias: (d_inner,).
    z: (B, d_inner, T), y is multiplied by silu(z).  delta_softplus: softplus after delta_bias.
    return_last_state: also return h[T-1], (B, d_inner, N), in the accumulation dtype.
    backend: one of `BACKENDS`; "auto" takes `cuda` where it can, else `parallel`.

    Accumulates in float32, or float64 for float64 input. Raises `UserError` for a backend that is
    named and absent, `ValueError` for shapes that do not fit.
    """
    _check_shapes(u, delta, A, B, C)
    if resolve_backend(backend, u) == "cuda":
        return _fused_scan()(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)

    accumulate = torch.float64 if u.dtype == torch.float64 else torch.float32
    out_dtype = u.dtype
    u, delta, A, B, C = (tensor.to(accumulate) for tensor in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(accumulate)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    scan = _reference_scan if backend == "reference" else _parallel_scan
    with torch.autocast(u.device.type, enabled=False):
        y, last_state = scan(u, delta, A, B, C)
    if D is not None:
        y = torch.addcmul(y, D.to(accumulate)[:, None], u)
    if z is not None:
        y = y * F.silu(z.to(accumulate))
    y = y.to(out_dtype)
    return (y, last_state) if return_last_state else y


def resolve_backend(backend: str, tensor: Tensor | None = None) -> str:
    """Return the backend that runs for `tensor`: "auto" resolved, a named one checked.

    Raises `ValueError` for an unknown name and `UserError` where mamba_ssm or the GPU is missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"scan backend {backend!r}, wanted one of {', '.join(BACKENDS)}")
    if backend == "auto":
        fits = tensor is not None and tensor.is_cuda and tensor.dtype != torch.float64
        return "cuda" if fits and _fused_scan() is not None else "parallel"
    if backend == "cuda":
        if _fused_scan() is None:
            raise UserError(
                "scan backend 'cuda' needs mamba_ssm, which is not importable here: "
                "pip install causal-conv1d mamba-ssm --no-build-isolation, or use 'auto'"
            )
        if tensor is not None and not tensor.is_cuda:
            raise UserError(
                f"scan backend 'cuda' got tensors on {tensor.device.type}: "
                "run on an NVIDIA GPU, or use 'auto'"
            )
    return backend


@functools.cache
def _fused_scan() -> Callable | None:
    """mamba_ssm's kernel, or None where it is not installed (it is an optional extra)."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


def _check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    batch, d_inner, frames = u.shape
    if not u.numel():
        raise ValueError(f"u has shape {tuple(u.shape)}: nothing to scan")
    d_state = A.shape[-1]
    wanted = {
        "delta": (delta, (batch, d_inner, frames)),
        "A": (A, (d_inner, d_state)),
        "B": (B, (batch, d_state, frames)),
        "C": (C, (batch, d_state, frames)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, wanted {shape}")


def _reference_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """The definition, one frame after the other; shapes as `selective_scan`."""
    decay = torch.exp(delta[..., None] * A[:, None])  # (B, d_inner, T, N)
    inject = (delta * u)[..., None] * B.transpose(1, 2)[:, None]  # (B, d_inner, T, N)
    h = torch.zeros_like(decay[:, :, 0])
    outputs = []
    for rate, drive, c in zip(decay.unbind(2), inject.unbind(2), C.unbind(2), strict=True):
        h = rate * h + drive
        outputs.append((h * c[:, None]).sum(-1))
    return torch.stack(outputs, dim=-1), h


def _parallel_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """`_ChunkedScan` behind mamba_ssm's layout, which is a transposed view of its own."""
    y, last_state = _ChunkedScan.apply(
        u.transpose(1, 2), delta.transpose(1, 2), A.T, B.transpose(1, 2), C.transpose(1, 2)
    )
    return y.transpose(1, 2), last_state.transpose(1, 2)


class _ChunkedScan(torch.autograd.Function):
    """The scan in chunks of frames: only the states between chunks are kept for backward.

    u, delta: (B, T, d_inner).  A: (N, d_inner).  B, C: (B, T, N).
    Returns y (B, T, d_inner) and the last state (B, N, d_inner).

    Within a chunk everything but the recurrence is one operation over all its frames, in a buffer
    (frames, batch rows, N, d_inner) that stays in the cache; the recurrence itself is one fused
    multiply-add a frame. Only exp(delta·A) is ever taken, never its inverse, so that any delta and
    any length are safe. Backward recomputes a chunk's states from the state at its start.
    """

    @staticmethod
    def forward(ctx, u, delta, A, B, C):
        A = A.contiguous()
        groups, spans = _plan(u, A)
        y = torch.empty_like(u)
        last_state = u.new_empty(len(u), *A.shape)
        starts = u.new_empty(len(spans) if any(ctx.needs_input_grad) else 0, *last_state.shape)
        buffers = _allocate(u, A, groups[0], spans[0], count=2)
        for rows in groups:
            state = u.new_zeros(last_state[rows].shape)
            for i, span in enumerate(spans):
                if len(starts):
                    starts[i, rows] = state
                part = (rows, span)
                _, states = _expand(u[part], delta[part], A, B[part], state, buffers)
                y[part] = _sum_states(_frames_first(C[part]), states[1:]).transpose(0, 1)
                state = states[-1]
            last_state[rows] = state
        ctx.save_for_backward(u, delta, A, B, C, starts)
        return y, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_last):
        u, delta, A, B, C, starts = ctx.saved_tensors
        groups, spans = _plan(u, A)
        grad_u, grad_delta, grad_B, grad_C = (torch.empty_like(x) for x in (u, delta, B, C))
        grad_A = torch.zeros_like(A)
        *buffers, third = _allocate(u, A, groups[0], spans[0], count=3)
        for rows in groups:
            grad_state = grad_last[rows]
            for i, span in reversed(list(enumerate(spans))):
                part = (rows, span)
                decay, states = _expand(u[part], delta[part], A, B[part], starts[i, rows], buffers)
                step, x, gy = (_frames_first(full[part]) for full in (delta, u, grad_y))
                grads = _view(third, decay.shape)  # d loss / d states[1:]
                torch.mul(_frames_first(C[part])[..., None], gy[:, :, None], out=grads)
                grads[-1] += grad_state
                _recur_back(decay, grads)
                grad_state = decay[0] * grads[0]
                # d loss / d (delta·A), with d exp(a) / da = exp(a)
                grad_power = decay.mul_(states[:-1]).mul_(grads)

                grad_C[part] = _sum_channels(gy, states[1:]).transpose(0, 1)
                grad_B[part] = _sum_channels(step * x, grads).transpose(0, 1)
                grad_drive = _sum_states(_frames_first(B[part]), grads)  # drive = delta·u
                grad_u[part] = (grad_drive * step).transpose(0, 1)
                by_rate = torch.mul(grad_power, A, out=grads).sum(2)
                grad_delta[part] = by_rate.addcmul_(grad_drive, x).transpose(0, 1)
                grad_A += grad_power.mul_(step[:, :, None]).sum((0, 1))
        return grad_u, grad_delta, grad_A, grad_B, grad_C


def _plan(u: Tensor, A: Tensor) -> tuple[list[slice], list[slice]]:
    """Slices of u's clips and frames: a chunk's states stay near `CHUNK_ELEMENTS`."""
    batch, frames, _ = u.shape
    rows = min(batch, max(1, GROUP_ELEMENTS // A.numel())) if _on_cpu(u) else batch
    budget = CHUNK_ELEMENTS["cpu" if _on_cpu(u) else "cuda"]
    length = min(MAX_CHUNK, max(MIN_CHUNK, budget // (rows * A.numel())))
    return _slices(batch, rows), _slices(frames, length)


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def _slices(total: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def _allocate(u: Tensor, A: Tensor, rows: slice, span: slice, count: int) -> list[Tensor]:
    """Flat buffers for the states of the largest chunk and of the frame before it.

    Allocated once a call: fresh memory of this size costs more in page faults than the arithmetic.
    """
    elements = (span.stop + 1) * rows.stop * A.numel()
    return [u.new_empty(elements) for _ in range(count)]


def _view(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    return buffer[: math.prod(shape)].view(shape)


def _frames_first(x: Tensor) -> Tensor:
    """(b, T, n) -> (T, b, n), a view."""
    return x.transpose(0, 1)


def _expand(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, state: Tensor, buffers: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return a chunk's decay (T, b, N, d_inner) and states (T + 1, b, N, d_inner), in `buffers`.

    u, delta: (b, T, d_inner).  A: (N, d_inner).  B: (b, T, N).  state: (b, N, d_inner), that
    before the chunk, which becomes states[0].
    """
    frames = u.shape[1]
    decay = _view(buffers[0], (frames, *state.shape))
    states = _view(buffers[1], (frames + 1, *state.shape))
    # exp(a) as exp2(a · log2(e)): PyTorch's exp takes four times as long as its exp2 on a CPU
    torch.mul(_frames_first(delta)[:, :, None], A * LOG2_E, out=decay).exp2_()
    states[0] = state
    drive = _frames_first(delta * u)[:, :, None]  # (T, b, 1, d_inner)
    torch.mul(_frames_first(B)[..., None], drive, out=states[1:])
    _recur(decay, states)
    return decay, states


def _recur(decay: Tensor, states: Tensor) -> None:
    """In place: states[t + 1] += decay[t] · states[t], for t = 0, 1, ..."""
    if _on_cpu(states):
        frames = states.unbind(0)
        for t, rate in enumerate(decay.unbind(0)):
            frames[t + 1].addcmul_(rate, frames[t])
        return
    _recur_doubling(decay, states)


def _recur_doubling(decay: Tensor, states: Tensor) -> None:
    """`_recur` in log2(T) launches a chunk instead of T: more work, which a GPU does not notice.

    After the step of reach k, states[t] holds the contributions of frames t - 2k + 1 .. t, and
    reach[t] the decay over the k frames before it (Hillis and Steele's scan); products of numbers
    at most 1 stay at most 1.
    """
    reach, k = decay.clone(), 1
    while k <= len(decay):
        states[k:] += reach[k - 1 :] * states[:-k]
        if 2 * k <= len(decay):
            reach[k:] = reach[k:] * reach[:-k]
        k *= 2


def _recur_back(decay: Tensor, grads: Tensor) -> None:
    """In place: grads[t] += decay[t + 1] · grads[t + 1], from the last frame to the first."""
    if _on_cpu(grads):
        frames, rates = grads.unbind(0), decay.unbind(0)
        for t in range(len(frames) - 2, -1, -1):
            frames[t].addcmul_(rates[t + 1], frames[t + 1])
        return
    reversed_grads = grads.flip(0)
    _recur_doubling(decay[1:].flip(0), reversed_grads)
    grads.copy_(reversed_grads.flip(0))


def _sum_states(weights: Tensor, states: Tensor) -> Tensor:
    """weights (T, b, N) · states (T, b, N, d_inner) -> (T, b, d_inner)."""
    return (weights[:, :, None] @ states)[:, :, 0]


def _sum_channels(weights: Tensor, states: Tensor) -> Tensor:
    """weights (T, b, d_inner) · states (T, b, N, d_inner) -> (T, b, N).

    The row vector stays on the left: as states · column MKL takes nine times as long.
    """
    return (weights[:, :, None] @ states.transpose(-1, -2))[:, :, 0]
