"""The Mamba block and the decoder's Mamba layer (Gu and Dao, 2023, arXiv 2312.00752).

Parameter names, shapes and initialisation are mamba_ssm's, so weights can be exchanged unchanged.
The scan and its backends are in `selective_scan`.

Glossary, the paper's and mamba_ssm's names:
    d_model     D, width of the layer's input and output
    d_inner     expand · d_model, channels of the scan
    d_state     N, numbers of state per channel
    d_conv      taps of the causal depthwise convolution before the scan
    dt_rank     rank of the projection to the step sizes delta, d_model / 16 rounded up
    A_log       log(-A), where A is the diagonal, negative state matrix
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers import NORM_EPS
from layers.fast_dropout import Dropout
from layers.rms_norm import RMSNorm
from layers.selective_scan import (
    continued_scan,
    resolve_backend,
    selective_scan,
    uses_numba,
)

DT_MIN, DT_MAX, DT_FLOOR = 1e-3, 1e-1, 1e-4  # initial step sizes, mamba_ssm's Mamba
FUSED_TAPS = (2, 3, 4)  # of causal_conv1d's kernel: https://github.com/Dao-AILab/causal-conv1d


class MambaState(NamedTuple):
    """What a Mamba block keeps of the frames before a live step.

    inputs: (B, d_conv - 1, d_inner), the last inputs of the convolution; scan: (B, d_inner, N).
    """

    inputs: Tensor
    scan: Tensor


class Mamba(nn.Module):
    """The Mamba block; parameter names, shapes and initialisation of mamba_ssm's Mamba (simple).

    `backend` is chosen at run time (`set_scan_backend`) and not in the state dict.
    """

    def __init__(self, d_model: int, d_state: int = 16, d_conv: int = 4, expand: int = 2) -> None:
        super().__init__()
        self.d_state, self.d_conv = d_state, d_conv
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16)
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
        if not self.D.is_meta:  # the values of a network that is built without memory do not matter
            self.init_weights()

    @torch.no_grad()
    def init_weights(self) -> None:
        """mamba_ssm's scheme: A = -(1..N) per channel, D = 1, steps log-uniform in [1e-3, 1e-1].

        Linear layers and the convolution keep PyTorch's defaults, as in mamba_ssm.
        """
        bound = self.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        log_range = math.log(DT_MAX) - math.log(DT_MIN)
        step = torch.exp(torch.rand(self.d_inner) * log_range + math.log(DT_MIN)).clamp(DT_FLOOR)
        self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # inverse of softplus
        self.A_log.copy_(torch.arange(1, self.d_state + 1).log().expand_as(self.A_log))
        nn.init.ones_(self.D)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return (B, T, d_model) for x (B, T, d_model).

        mask is accepted because every layer gets one. It is not used: the block is causal, so
        padding at the end of a clip never reaches the real frames.
        """
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (B, T, d_inner) each
        u = self.convolve(u)
        rank, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.linear(rank, self.dt_proj.weight)  # (B, T, d_inner); the scan adds the bias
        y = selective_scan(
            u.transpose(1, 2),
            delta.transpose(1, 2),
            -torch.exp(self.A_log),
            B.transpose(1, 2),
            C.transpose(1, 2),
            self.D,
            z=z.transpose(1, 2),
            delta_bias=self.dt_proj.bias,
            delta_softplus=True,
            backend=self.backend,
        )
        return self.out_proj(y.transpose(1, 2))

    def step(self, x: Tensor, state: MambaState | None, n: int) -> tuple[Tensor, MambaState]:
        """Outputs (B, T, d_model) of T frames x (B, T, d_model), and the state behind the first n.

        state: of the frames before x; None where there are none. For the few frames of a live step;
        equal to `forward` over all frames at once.
        """
        u, z = self.in_proj(x).chunk(2, dim=-1)  # (B, T, d_inner) each
        if state is None:
            past = u.new_zeros(len(u), self.d_conv - 1, self.d_inner)
            state = MambaState(past, u.new_zeros(len(u), self.d_inner, self.d_state))
        inputs = torch.cat([state.inputs, u], dim=1)  # (B, d_conv - 1 + T, d_inner)
        u = self.convolve(inputs)[:, self.d_conv - 1 :]
        rank, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y, scan = continued_scan(
            state.scan, n, u, F.linear(rank, self.dt_proj.weight), -torch.exp(self.A_log), B, C,
            self.D, z, self.dt_proj.bias, self.backend,
        )  # fmt: skip
        return self.out_proj(y), MambaState(inputs[:, n : n + self.d_conv - 1], scan)

    def convolve(self, u: Tensor) -> Tensor:
        """silu(causal convolution of u), (B, T, d_inner), contiguous for the scan.

        On a CPU in float32 by numba kernels where the scan is. On a GPU causal_conv1d's fused
        kernel runs if it is installed and supports `d_conv` taps.
        """
        weight, bias = self.conv1d.weight[:, 0], self.conv1d.bias
        if u.dtype == torch.float32 and uses_numba(self.backend, u):
            return _numba_convolution()(u, weight, bias)
        fused = _fused_convolution() if u.is_cuda and self.d_conv in FUSED_TAPS else None
        u = u.transpose(1, 2)  # (B, d_inner, T)
        if fused is not None and self.backend in ("auto", "cuda"):
            return fused(u, weight, bias, activation="silu").transpose(1, 2).contiguous()
        return F.silu(self.conv1d(u)[..., : u.shape[2]].transpose(1, 2).contiguous())


@functools.cache
def _numba_convolution() -> Callable:
    """The numba kernels for autograd; compiled at the first use and cached on disk."""
    from layers.causal_conv import CausalConv

    return CausalConv.apply


@functools.cache
def _fused_convolution() -> Callable | None:
    """causal_conv1d's kernel, or None where this optional package is not installed."""
    try:
        from causal_conv1d import causal_conv1d_fn
    except ImportError:
        return None
    return causal_conv1d_fn


def set_scan_backend(model: nn.Module, backend: str) -> None:
    """Set the scan backend of every Mamba block in `model`; errors as in `resolve_backend`."""
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
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., d_model).  Returns (..., d_model)."""
        return self.down(self.dropout.activated(F.gelu, self.up(x)))


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
        self.mamba_norm = RMSNorm(d_model, eps=NORM_EPS)
        self.mamba = Mamba(d_model, d_state, d_conv, expand)
        self.mlp_norm = RMSNorm(d_model, eps=NORM_EPS)
        self.mlp = MLP(d_model, d_ff, dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: (B, T, d_model).  mask: (B, T) bool, True on real frames; padding at the end only."""
        x = x + self.dropout(self.mamba(self.mamba_norm(x), mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))

    def step(self, x: Tensor, state: MambaState | None, n: int) -> tuple[Tensor, MambaState]:
        """As `Mamba.step`, for the whole layer."""
        y, state = self.mamba.step(self.mamba_norm(x), state, n)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state
