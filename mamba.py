"""Mamba: the selective state space layer (Gu and Dao, 2023, arXiv 2312.00752) and its scan.

One channel d of the scan keeps a state h of `d_state` numbers, driven by the input u:

    h[t] = exp(delta[t] · A) · h[t-1] + delta[t] · B[t] · u[t]      (paper, equation 2a and table 1)
    y[t] = C[t] · h[t] + D · u[t]

Three backends compute it, chosen at run time and never stored in a checkpoint:

    reference   the definition, frame by frame; what the others are tested against
    parallel    chunks of frames in pure PyTorch, with its own backward pass; CPU and GPU
    cuda        mamba_ssm's fused kernel, where it is installed and the tensors are on a GPU

Glossary, the paper's and mamba_ssm's names (so that weights move between the two unchanged):
    d_model     D, width of the layer's input and output
    d_inner     expand · d_model, channels of the scan
    d_state     N, numbers of state a channel
    d_conv      taps of the causal depthwise convolution before the scan
    dt_rank     width through which the step sizes are projected
    u           input of the scan;  z  its gate;  delta  step size, > 0 after softplus
    A, B, C, D  the state space's matrices; A is diagonal and negative, stored as A_log = log(-A)
"""

import functools
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from errors import UserError

BACKENDS = ("auto", "reference", "parallel", "cuda")
CHUNK_ELEMENTS = {"cpu": 1 << 17, "cuda": 1 << 23}  # a chunk's states: within the L2 cache; 32 MB
GROUP_ELEMENTS = 1 << 15  # on a CPU, states of one frame stepped at once: small enough for L1, L2
MAX_CHUNK = 256  # frames
NORM_EPS = 1e-5  # of every RMSNorm, as mamba_ssm's
DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # initial step sizes, mamba_ssm's Mamba


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
    y, last_state = scan(u, delta, A, B, C)
    if D is not None:
        y = y + D.to(accumulate)[:, None] * u
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
        batch, frames, d_inner = u.shape
        groups, chunks = _plan(batch, frames, A.numel(), u.device.type)
        y = torch.empty_like(u)
        last_state = u.new_empty(batch, *A.shape)
        starts = u.new_empty(len(chunks) if any(ctx.needs_input_grad) else 0, *last_state.shape)
        for rows in groups:
            state = u.new_zeros(last_state[rows].shape)
            for i, span in enumerate(chunks):
                if len(starts):
                    starts[i, rows] = state
                part = (rows, span)
                _, states = _expand(u[part], delta[part], A, B[part], state)
                y[part] = _sum_states(_frames_first(C[part]), states[1:]).transpose(0, 1)
                state = states[-1]
            last_state[rows] = state
        ctx.save_for_backward(u, delta, A, B, C, starts)
        return y, last_state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y, grad_last):
        u, delta, A, B, C, starts = ctx.saved_tensors
        batch, frames, _ = u.shape
        groups, chunks = _plan(batch, frames, A.numel(), u.device.type)
        grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
        grad_B, grad_C = torch.empty_like(B), torch.empty_like(C)
        grad_A = torch.zeros_like(A)
        for rows in groups:
            grad_state = grad_last[rows]
            for i, span in reversed(list(enumerate(chunks))):
                part = (rows, span)
                decay, states = _expand(u[part], delta[part], A, B[part], starts[i, rows])
                c, gy = _frames_first(C[part]), _frames_first(grad_y[part])
                grad_C[part] = _sum_channels(states[1:], gy).transpose(0, 1)
                grads = _accumulate_back(decay, c, gy, grad_state)  # d loss / d states[1:]
                grad_state = decay[0] * grads[0]

                step, x = _frames_first(delta[part]), _frames_first(u[part])
                grad_B[part] = _sum_channels(grads, step * x).transpose(0, 1)
                grad_drive = _sum_states(_frames_first(B[part]), grads)  # of delta·u
                grad_u[part] = (grad_drive * step).transpose(0, 1)
                # d loss / d (delta·A), with d exp(a)/da = exp(a); grads and states are done with
                grad_power = decay.mul_(states[:-1]).mul_(grads)
                by_rate = torch.mul(grad_power, A, out=grads).sum(2)
                grad_delta[part] = by_rate.addcmul_(grad_drive, x).transpose(0, 1)
                grad_A += grad_power.mul_(step[:, :, None]).sum((0, 1))
        return grad_u, grad_delta, grad_A, grad_B, grad_C


def _plan(
    batch: int, frames: int, state_elements: int, device: str
) -> tuple[list[slice], list[slice]]:
    """Slices of the batch and of the frames: a chunk's states stay near `CHUNK_ELEMENTS`."""
    on_cpu = device == "cpu"
    rows = min(batch, max(1, GROUP_ELEMENTS // state_elements)) if on_cpu else batch
    budget = CHUNK_ELEMENTS["cpu" if on_cpu else "cuda"]
    length = min(MAX_CHUNK, max(8, budget // (rows * state_elements)))
    return list(_slices(batch, rows)), list(_slices(frames, length))


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _frames_first(x: Tensor) -> Tensor:
    """(b, T, n) -> (T, b, n), a view."""
    return x.transpose(0, 1)


def _expand(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Return a chunk's decay (T, b, N, d_inner) and states (T + 1, b, N, d_inner).

    u, delta: (b, T, d_inner).  A: (N, d_inner).  B: (b, T, N).  state: (b, N, d_inner), that
    before the chunk, which becomes states[0].
    """
    step = _frames_first(delta)[:, :, None]  # (T, b, 1, d_inner)
    drive = _frames_first(delta * u)[:, :, None]
    decay = (step * A).exp_()
    states = torch.empty(len(decay) + 1, *decay.shape[1:], dtype=u.dtype, device=u.device)
    states[0] = state
    torch.mul(_frames_first(B)[..., None], drive, out=states[1:])
    _recur(decay, states)
    return decay, states


def _recur(decay: Tensor, states: Tensor) -> None:
    """In place: states[t + 1] += decay[t] · states[t], for t = 0, 1, ..."""
    if states.device.type == "cpu":
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


def _accumulate_back(decay: Tensor, C: Tensor, grad_y: Tensor, grad_state: Tensor) -> Tensor:
    """Return d loss / d state of each frame: (T, b, N, d_inner).

    decay: (T, b, N, d_inner).  C: (T, b, N).  grad_y: (T, b, d_inner).  grad_state, from the
    frames after the chunk: (b, N, d_inner).  The recurrence runs backwards in time.
    """
    grads = C[..., None] * grad_y[:, :, None]
    grads[-1] += grad_state
    if grads.device.type != "cpu":
        reversed_grads = grads.flip(0)
        _recur_doubling(decay[1:].flip(0), reversed_grads)
        return reversed_grads.flip(0)
    frames, rates = grads.unbind(0), decay.unbind(0)
    for t in range(len(frames) - 2, -1, -1):
        frames[t].addcmul_(rates[t + 1], frames[t + 1])
    return grads


def _sum_states(weights: Tensor, states: Tensor) -> Tensor:
    """weights (T, b, N) · states (T, b, N, d_inner) -> (T, b, d_inner)."""
    return (weights[:, :, None] @ states)[:, :, 0]


def _sum_channels(states: Tensor, weights: Tensor) -> Tensor:
    """states (T, b, N, d_inner) · weights (T, b, d_inner) -> (T, b, N)."""
    return (states @ weights[..., None])[..., 0]


class Mamba(nn.Module):
    """The Mamba block; parameter names, shapes and initialisation of mamba_ssm's Mamba (simple).

    `backend` is a run-time choice (`set_scan_backend`) and no part of the state dict.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
    ) -> None:
        super().__init__()
        self.d_state, self.d_conv = d_state, d_conv
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.backend = "auto"
        self.in_proj = nn.Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = nn.Conv1d(
            self.d_inner, self.d_inner, d_conv, padding=d_conv - 1, groups=self.d_inner
        )
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        self.D = nn.Parameter(torch.empty(self.d_inner))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)
        self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """mamba_ssm's scheme: A = -(1..N) a channel, D = 1, steps log-uniform in [1e-3, 1e-1].

        Linear layers and the convolution keep PyTorch's default, as there.
        """
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        log_range = math.log(DT_MAX) - math.log(DT_MIN)
        step = torch.exp(torch.rand(self.d_inner) * log_range + math.log(DT_MIN)).clamp(DT_FLOOR)
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus' inverse
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, T, d_model) for x (B, T, d_model).

        mask is accepted as every layer does and not needed: the block is causal, so padding at
        the end of a clip never reaches its real frames.
        """
        xz = self.in_proj(x).transpose(1, 2)  # (B, 2 d_inner, T)
        u, z = xz.chunk(2, dim=1)
        u = F.silu(self.conv1d(u)[..., : x.shape[1]])  # (B, d_inner, T)
        rank, B, C = self.x_proj(u.transpose(1, 2)).split(
            [self.dt_rank, self.d_state, self.d_state], dim=-1
        )
        delta = F.linear(rank, self.dt_proj.weight)  # (B, T, d_inner), bias added by the scan
        y = selective_scan(
            u,
            delta.transpose(1, 2),
            -torch.exp(self.A_log.float()),
            B.transpose(1, 2),
            C.transpose(1, 2),
            self.D.float(),
            z=z,
            delta_bias=self.dt_proj.bias.float(),
            delta_softplus=True,
            backend=self.backend,
        )
        return self.out_proj(y.transpose(1, 2))


def set_scan_backend(model: nn.Module, backend: str) -> None:
    """Let every Mamba block of `model` scan with `backend`; raises as `resolve_backend`."""
    resolve_backend(backend)
    for module in model.modules():
        if isinstance(module, Mamba):
            module.backend = backend


class MLP(nn.Module):
    """(..., d_model) -> (..., d_model) through d_ff with GELU; dropout after the activation."""

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff)
        self.down = nn.Linear(d_ff, d_model)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x))))


class MambaLayer(nn.Module):
    """x + Mamba(RMSNorm(x)), then + MLP(RMSNorm(x)) (the paper's Mamba layer)."""

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.mamba_norm = nn.RMSNorm(d_model, eps=NORM_EPS)
        self.mamba = Mamba(d_model, d_state, d_conv, expand)
        self.mlp_norm = nn.RMSNorm(d_model, eps=NORM_EPS)
        self.mlp = MLP(d_model, d_ff, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, T, d_model).  mask: (B, T) bool, True on real frames; padding at the end only."""
        x = x + self.dropout(self.mamba(self.mamba_norm(x), mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
