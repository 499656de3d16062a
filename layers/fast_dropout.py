"""Dropout, alone or behind GELU, of float32 tensors in training on a CPU: `dropout_kernels`.

torch draws a random number for each element on one thread and keeps a mask as large as the tensor:
up to a twelfth of a training step. Here the mask follows from a key of 32 bits, drawn from
torch's generator, so that a seed, and a generator whose state was restored, give the same masks.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from layers.fast_gelu import activated, is_gelu, trains_fast
from layers.scan_numba import on_parts

KEYS = 2**32


class Dropped(torch.autograd.Function):
    """x with a share p of its elements set to 0 and the others divided by 1 - p."""

    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        """x: of any shape, float32 on a CPU; 0 < p < 1."""
        from layers.dropout_kernels import drop  # compiled by numba at its first import

        ctx.numbers = _numbers(p)
        return _written(drop, ctx.numbers, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """The same elements of the gradient, times the same factor."""
        from layers.dropout_kernels import drop

        return _written(drop, ctx.numbers, gradient), None


class DroppedGelu(torch.autograd.Function):
    """`Dropped` of the GELU of x."""

    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        """As `Dropped`."""
        from layers.dropout_kernels import drop_gelu

        ctx.numbers = _numbers(p)
        ctx.save_for_backward(x)
        return _written(drop_gelu, ctx.numbers, x)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """The same elements of GELU's gradient, times the same factor."""
        from layers.dropout_kernels import drop_gelu_gradient

        return _written(drop_gelu_gradient, ctx.numbers, *ctx.saved_tensors, gradient), None


def _numbers(p: float) -> tuple[int, int, float]:
    """Key, limit and factor of a new mask, for the kernels."""
    return int(torch.randint(KEYS, (), device="cpu")), round(p * KEYS), 1 / (1 - p)


def _written(kernel: Callable[..., None], numbers: tuple[int, int, float], *x: Tensor) -> Tensor:
    """What a kernel writes for tensors of one shape."""
    key, *others = numbers
    return on_parts(
        lambda first, *parts: kernel(*parts[:-1], (key + first) % KEYS, *others, parts[-1]), *x
    )


def dropout(x: Tensor, p: float) -> Tensor:
    """Dropout of a share p, as in training, by whichever way is fast for x."""
    return Dropped.apply(x, p) if trains_fast(x) and 0 < p < 1 else F.dropout(x, p)


class Dropout(nn.Dropout):
    """nn.Dropout by `dropout`."""

    def forward(self, x: Tensor) -> Tensor:
        """x itself where the module does not train."""
        return dropout(x, self.p) if self.training and self.p else x

    def activated(self, activation: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """This dropout of activation(x); in prediction, x may be overwritten."""
        if self.training and 0 < self.p < 1 and is_gelu(activation) and trains_fast(x):
            return DroppedGelu.apply(x, self.p)
        return self(activated(activation, x))
