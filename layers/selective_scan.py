"""The selective scan, the heart of a Mamba block (Gu and Dao, 2023, arXiv 2312.00752).

One channel d of the scan keeps a state h of `d_state` numbers, driven by the input u:

    h[t] = exp(delta[t] · A) · h[t-1] + delta[t] · B[t] · u[t]      (paper, equation 2a)
    y[t] = C[t] · h[t] + D · u[t]

Four backends compute it, chosen at run time and never stored in a checkpoint:

    reference   the definition, frame by frame; what the others are tested against
    parallel    chunks of frames in pure PyTorch (`scan_chunked`); any device
    compiled    one pass over the frames, compiled by numba (`scan_kernels`); CPU
    cuda        mamba_ssm's fused kernel, where it is installed and the tensors are on a GPU

Glossary, the paper's and mamba_ssm's names:
    d_inner     channels of the scan;  N = d_state, numbers of state a channel
    u           input of the scan;  z  its gate;  delta  step size, > 0 after softplus
    A, B, C, D  the state space's matrices; A is diagonal and negative
    decay       exp(delta · A), what is left of the state after a frame, in (0, 1]
    step, drive delta after softplus; step · u
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import UserError
from layers.scan_chunked import ChunkedScan

BACKENDS = ("auto", "reference", "parallel", "compiled", "cuda")


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
    backend: one of `BACKENDS`; "auto" takes `cuda` or `compiled` where it can, else `parallel`.

    Accumulates in float32, or float64 for float64 input. Raises `UserError` for a backend that is
    named and absent, `ValueError` for shapes that do not fit.
    """
    _check_shapes(u, delta, A, B, C)
    backend = resolve_backend(backend, u)
    if backend == "cuda":
        return _fused_scan()(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state)
    with torch.autocast(u.device.type, enabled=False):
        if backend == "reference":
            y, last_state = _reference_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
        else:  # frames before channels, as they walk them
            scan = ChunkedScan.apply if backend == "parallel" else _compiled_scan()
            u, delta, B, C = (x.transpose(1, 2) for x in (u, delta, B, C))
            z = z if z is None else z.transpose(1, 2)
            y, last_state = scan(u, delta, A.T, B, C, D, z, delta_bias, delta_softplus)
            y, last_state = y.transpose(1, 2), last_state.transpose(1, 2)
    return (y, last_state) if return_last_state else y


def resolve_backend(backend: str, tensor: Tensor | None = None) -> str:
    """Return the backend that runs for `tensor`: "auto" resolved, a named one checked.

    Raises `ValueError` for an unknown name and `UserError` where mamba_ssm or the GPU is missing.
    """
    if backend not in BACKENDS:
        raise ValueError(f"scan backend {backend!r}, wanted one of {', '.join(BACKENDS)}")
    if backend == "auto":
        if tensor is not None and _compiles(tensor):
            return "compiled"
        fits = tensor is not None and tensor.is_cuda and tensor.dtype != torch.float64
        return "cuda" if fits and _fused_scan() is not None else "parallel"
    if backend == "compiled" and tensor is not None and not _compiles(tensor):
        raise UserError(
            f"scan backend 'compiled' got {tensor.dtype} on {tensor.device.type}: "
            "it takes float32 or less, on a CPU; use 'auto'"
        )
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


def _compiles(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype != torch.float64


@functools.cache
def _compiled_scan() -> Callable:
    """numba's kernel; compiled when first used, and kept on disk then."""
    from layers.scan_numba import CompiledScan

    return CompiledScan.apply


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
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    z: Tensor | None, delta_bias: Tensor | None, delta_softplus: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The definition, one frame after the other; shapes as `selective_scan`."""
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
