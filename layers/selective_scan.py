"""The selective scan of a Mamba block (Gu and Dao, 2023, arXiv 2312.00752).

Each channel d keeps a state h of `d_state` numbers, driven by the input u:

    h[t] = exp(delta[t] · A) · h[t-1] + delta[t] · B[t] · u[t]      (paper, equation 2a)
    y[t] = C[t] · h[t] + D · u[t]

Four backends compute it. They are chosen at run time and never stored in a checkpoint:

    reference   the definition, frame by frame; the others are tested against it
    chunked     chunks of frames in pure PyTorch (`scan_chunked`); any device
    numba       one pass over the frames in machine code (`scan_numba`); CPU only
    cuda        mamba_ssm's fused kernel, if it is installed and the tensors are on a GPU

Glossary, the names of the paper and of mamba_ssm:
    d_inner     channels of the scan;  N = d_state, numbers of state per channel
    u           input of the scan;  z  its gate;  delta  step size, > 0 after softplus
    A, B, C, D  matrices of the state space; A is diagonal and negative
    decay       exp(delta · A), the factor on the previous state, in (0, 1]
    step, drive delta after softplus; step · u
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from layers.scan_chunked import ChunkedScan

BACKENDS = ("auto", "reference", "chunked", "numba", "cuda")


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
    backend: one of `BACKENDS`; "auto" takes `cuda` or `numba` where they work, else `chunked`.

    Accumulates in float32, or float64 for float64 input. Raises `UserError` for a named backend
    that is not available, `ValueError` for shapes that do not fit.
    """
    _check_shapes(u, delta, A, B, C)
    backend = resolve_backend(backend, u)
    if backend == "cuda":
        return _fused_scan()(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)
    with torch.autocast(u.device.type, enabled=False):
        if backend == "reference":
            y, last_state = _reference_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        else:  # both take frames before channels
            scan = ChunkedScan.apply if backend == "chunked" else _numba_scan()
            u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
            z = z if z is None else z.transpose(1, 2)
            y, last_state = scan(u, delta, A.T, B, C, D, z, delta_bias, delta_softplus)
            y, last_state = y.transpose(1, 2), last_state.transpose(1, 2)
    return (y, last_state) if return_last_state else y


def continued_scan(
    state: Tensor, n: int, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    z: Tensor, delta_bias: Tensor, backend: str = "auto",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The scan of a few frames behind a state, with softplus and gate, frames before channels.

    state: (B, d_inner, N); u, delta, z: (B, T, d_inner); B, C: (B, T, N). Returns y (B, T, d_inner)
    and the state (B, d_inner, N) behind the first n frames. Without gradient in machine code, where
    `backend` is or becomes "numba"; frame by frame in PyTorch elsewhere, as in an exported graph.
    """
    if uses_numba(backend, u):
        y, behind = _numba_continued_scan()(
            state.transpose(1, 2), n, u, delta, A.T, B, C, D, z, delta_bias
        )
        return y, behind.transpose(1, 2)
    delta = F.softplus(delta + delta_bias)
    decay = torch.exp(delta[..., None] * A)  # (B, T, d_inner, N)
    drive = (delta * u)[..., None] * B[:, :, None]  # (B, T, d_inner, N)
    states = []
    for t in range(u.shape[1]):
        state = torch.addcmul(drive[:, t], decay[:, t], state)
        states.append(state)
    y = torch.einsum("btdn,btn->btd", torch.stack(states, dim=1), C) + D * u
    return y * F.silu(z), states[n - 1]


def uses_numba(backend: str, tensor: Tensor) -> bool:
    """Whether numba kernels compute for `tensor`: where `backend` is or becomes "numba".

    Not in a graph that is compiled or exported.
    """
    return not torch.compiler.is_compiling() and resolve_backend(backend, tensor) == "numba"


def resolve_backend(backend: str, tensor: Tensor | None = None) -> str:
    """Return the backend that runs for `tensor`: "auto" is resolved, any other name checked.

    tensor: an input of the scan; None checks only what does not depend on it. Raises `ValueError`
    for an unknown name and `UserError` where the backend cannot run.
    """
    if backend not in BACKENDS:
        raise ValueError(f"scan backend {backend!r}: expected one of {', '.join(BACKENDS)}")
    if backend == "auto":
        if tensor is not None and _numba_supports(tensor):
            return "numba"
        fits = tensor is not None and tensor.is_cuda and tensor.dtype != torch.float64
        return "cuda" if fits and _fused_scan() is not None else "chunked"
    if backend == "numba" and tensor is not None and not _numba_supports(tensor):
        raise UserError(
            f"scan backend 'numba': expected float32 or half precision on a CPU, got "
            f"{tensor.dtype} on {tensor.device.type}; use 'auto'"
        )
    if backend == "cuda":
        if _fused_scan() is None:
            raise UserError(
                "scan backend 'cuda': mamba_ssm cannot be imported; "
                "pip install causal-conv1d mamba-ssm --no-build-isolation, or use 'auto'"
            )
        if tensor is not None and not tensor.is_cuda:
            raise UserError(
                f"scan backend 'cuda': expected tensors on an NVIDIA GPU, got "
                f"{tensor.device.type}; use 'auto'"
            )
    return backend


@functools.cache
def _fused_scan() -> Callable | None:
    """mamba_ssm's kernel, or None where this optional package is not installed."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


def _numba_supports(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype != torch.float64


@functools.cache
def _numba_scan() -> Callable:
    """The numba kernels for autograd; compiled at the first use and cached on disk."""
    from layers.scan_numba import NumbaScan

    return NumbaScan.apply


@functools.cache
def _numba_continued_scan() -> Callable:
    from layers import scan_numba

    return scan_numba.continued_scan


def _check_shapes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor) -> None:
    batch, d_inner, frames = u.shape
    if not u.numel():
        raise ValueError(f"u: expected at least one element, got shape {tuple(u.shape)}")
    d_state = A.shape[-1]
    expected = {
        "delta": (delta, (batch, d_inner, frames)),
        "A": (A, (d_inner, d_state)),
        "B": (B, (batch, d_state, frames)),
        "C": (C, (batch, d_state, frames)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}")


def _reference_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The definition, frame by frame; shapes as in `selective_scan`. Returns y and the last h."""
    out_dtype, dtype = u.dtype, torch.float64 if u.dtype == torch.float64 else torch.float32
    u, delta, A, B, C = (tensor.to(dtype) for tensor in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.to(dtype)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    decay = torch.exp(delta[..., None] * A[:, None])  # (B, d_inner, T, N)
    inject = (delta * u)[..., None] * B.transpose(1, 2)[:, None]  # (B, d_inner, T, N)
    h = torch.zeros_like(decay[:, :, 0])
    outputs = []
    for rate, drive, c in zip(decay.unbind(2), inject.unbind(2), C.unbind(2), strict=True):
        h = rate * h + drive
        outputs.append((h * c[:, None]).sum(-1))
    y = torch.stack(outputs, dim=-1)
    if D is not None:
        y = torch.addcmul(y, D.to(dtype)[:, None], u)
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(out_dtype), h
