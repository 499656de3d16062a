"""GELU on a CPU, and layer norms before it in prediction: there in the memory of their input.

torch's take 1.5 times as long with AVX2, and write to new memory, whose pages the system fills with
zeros first: for a layer's output of 5 MB that takes as long again. The kernels of `gelu_kernels`
run on one thread: they take a thirtieth of the time of the products beside them. In training GELU
and its gradient take up to a fifth less time than torch's, and a fourth of it behind dropout.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layers.scan_numba import on_parts

EMPTY = torch.empty(0)


def is_gelu(activation: Callable[[Tensor], Tensor]) -> bool:
    """Whether an activation is GELU without approximation; of torch or of transformers."""
    if isinstance(activation, nn.GELU):
        return activation.approximate == "none"
    return getattr(activation, "act", activation) is F.gelu


def can_finish(x: Tensor) -> bool:
    """Whether the kernels compute x: without gradient, on a CPU, and not for an export."""
    return (
        x.device.type == "cpu"
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def activated(activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """activation(x); x itself, overwritten, where a kernel computes it in prediction."""
    if is_gelu(activation) and trains_fast(x):
        return TrainedGelu.apply(x)
    if not (can_finish(x) and is_gelu(activation) and _fits(x)):
        return activation(x)
    from layers.gelu_kernels import gelu_in_place  # compiled by numba at its first import

    gelu_in_place(x.view(-1).numpy())
    return x


def trains_fast(x: Tensor) -> bool:
    """Whether x needs a gradient that kernels can compute."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.requires_grad
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


class TrainedGelu(torch.autograd.Function):
    """GELU with a gradient, of float32 tensors on a CPU."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        """x: of any shape."""
        from layers.gelu_kernels import gelu_of  # compiled by numba at its first import

        ctx.save_for_backward(x)
        return on_parts(lambda _, x, out: gelu_of(x, out), x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        """The gradient times Φ(x) + x φ(x)."""
        from layers.gelu_kernels import gelu_gradient

        return on_parts(lambda _, *arrays: gelu_gradient(*arrays), *ctx.saved_tensors, gradient)


class Gelu(nn.GELU):
    """nn.GELU that overwrites its input in prediction."""

    def forward(self, x: Tensor) -> Tensor:
        """GELU(x)."""
        return activated(F.gelu, x)


def _fits(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.is_contiguous()


def finish(
    x: Tensor, norm: nn.LayerNorm | None, other: Tensor | None = None,
    out: Tensor | None = None, first: int = 0, step: int = 1,
) -> Tensor:  # fmt: skip
    """GELU(norm(x + other)), (n, C), where `can_finish`; x and other: (n, C) contiguous.

    out: (m, C) float32, whose rows first, first + step, ... are filled; x by default. x and out may
    be bfloat16 without other, first and step.
    """
    from layers import gelu_kernels

    out = x if out is None else out
    normed = _arguments(norm)
    if x.dtype == torch.bfloat16:
        gelu_kernels.finish_coarse(_bits(x), *normed, _bits(out))
    elif out.dtype == torch.bfloat16:
        gelu_kernels.finish_to_coarse(x.numpy(), *normed, _bits(out))
    else:
        other = x.new_empty(0, x.shape[1]) if other is None else other
        gelu_kernels.finish(x.numpy(), other.numpy(), *normed, out.numpy(), first, step)
    return out


def _arguments(norm: nn.LayerNorm | None) -> tuple:
    """Weight, bias and eps of a norm for the kernels."""
    if norm is None:
        return EMPTY.numpy(), EMPTY.numpy(), 0.0
    return norm.weight.detach().numpy(), norm.bias.detach().numpy(), norm.eps


def _bits(x: Tensor):
    """A bfloat16 tensor as an array of uint16."""
    return x.view(torch.uint16).numpy()
