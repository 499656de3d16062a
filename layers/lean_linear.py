"""Linear layers that use less memory, or more precision, than autocast to bfloat16.

Autocast rounds every float32 weight to bfloat16 and keeps the copy from the forward to the backward
pass, which adds half the size of the weights. `LeanLinear` keeps only the float32 weight and rounds
it again in the backward pass: the same numbers with less memory. Its parameters and state dict are
those of nn.Linear. Without autocast, its results are, too, but for the rounding of float32, and the
gradient of its weight may still be stored in bfloat16: `coarsen_gradients`. `CoarseBackward` is for
the vertex head: forward in float32, backward in bfloat16.

D input width, D' output width, n rows.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from layers.fast_linear import product
from layers.reused_space import ReusedSpace

COARSE = torch.bfloat16
WIDE = 2**16  # weights of a layer from which on oneDNN's product and gradient of x are faster
GRAD_DTYPE = hasattr(Tensor, "grad_dtype")  # whether a gradient may differ in dtype


class CoarseProduct(torch.autograd.Function):
    """x · Wᵀ + b and its gradients in bfloat16, bit for bit as autocast computes them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x: (..., D) floating; weight: (D', D), bias: (D',) float32. Gives (..., D'), bfloat16."""
        x = x.to(COARSE)
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        # Not F.linear: it would return a view, which in-place operations refuse.
        y = x.new_empty(*x.shape[:-1], len(weight))
        rows, out, transposed = _rows(x), _rows(y), _rounded(weight).T
        if bias is None:
            torch.mm(rows, transposed, out=out)
        else:
            torch.addmm(bias.to(COARSE), rows, transposed, out=out)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Gradients of x, weight and bias in bfloat16; autograd casts them where needed."""
        x, weight = ctx.saved_tensors
        rows = _rows(gradient)
        by_x = gradient @ _rounded(weight) if ctx.needs_input_grad[0] else None
        by_weight = rows.T @ _rows(x)
        return by_x, by_weight, rows.sum(0) if ctx.has_bias else None


class FineProduct(torch.autograd.Function):
    """x · Wᵀ + b and its gradients in float32 on a CPU, each by the faster of two libraries.

    Where the weight's gradient is to be bfloat16, it is rounded: `_rounded_gradient`.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x: (..., D); weight: (D', D), bias: (D',); all float32. Gives (..., D')."""
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        linear = F.linear if weight.numel() < WIDE else product
        y = linear(_rows(x), weight, bias)
        return y.resize_(*x.shape[:-1], len(weight))  # not a view, which could not be overwritten

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Gradients of x (float32), of the weight (its gradient's dtype) and of the bias."""
        x, weight = ctx.saved_tensors
        rows, by_x = _rows(gradient), None
        if ctx.needs_input_grad[0]:
            by_x = gradient @ weight if weight.numel() < WIDE else product(gradient, weight.T)
        if gradient_dtype(weight) == COARSE:
            by_weight = _rounded_gradient(weight, rows.T, _rows(x))
        else:
            by_weight = rows.T @ _rows(x)
        return by_x, by_weight, rows.sum(0) if ctx.has_bias else None


_SPACE = ReusedSpace()
_GRADIENTS = WeakTensorKeyDictionary()  # memory of the gradient of a weight, for the next step
_USERS = getattr(torch._C, "_storage_Use_Count", None)  # of a storage; torch's graphs ask it, too


def _rounded_gradient(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """a · b as the gradient of a weight, in bfloat16.

    Both the product and the result are written to memory that was used before: to new memory it
    would take up to a third longer, and rounding three times as long.
    """
    exact = torch.mm(a, b, out=_SPACE.take(weight.shape, torch.float32))
    kept = _GRADIENTS.get(weight)
    if kept is None or not _is_free(kept):
        kept = _GRADIENTS[weight] = torch.empty_like(weight, dtype=COARSE)
    return kept.copy_(exact).detach()  # autograd keeps what nobody else refers to, uncopied


def _is_free(tensor: Tensor) -> bool:
    """Whether no other tensor has the memory of this one, as the last step's gradient would."""
    if _USERS is None:
        return False
    return _USERS(tensor.untyped_storage()._cdata) <= 2  # the tensor and this call


def _rounded(weight: Tensor) -> Tensor:
    """The weight in bfloat16, in a buffer that the next call of this thread overwrites."""
    return _SPACE.take(weight.shape, COARSE).copy_(weight)


def _rows(x: Tensor) -> Tensor:
    """x (..., D) as (n, D)."""
    return x.reshape(-1, x.shape[-1])


class CoarseBackward(torch.autograd.Function):
    """x · Wᵀ + b in float32, with the gradients of x and W computed in bfloat16 as by autocast.

    The output of the vertex head needs float32: bfloat16 would move vertices by 0.4 %. Its
    gradients are sums over thousands of vertices or frames, accumulated in float32, and the layer
    below rounds them to bfloat16 in any case.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x: (B, T, D); weight: (3V, D); bias: (3V,). Returns (B, T, 3V)."""
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, weight and bias, float32."""
        x, weight = ctx.saved_tensors
        gradient = gradient.flatten(0, -2)  # (B·T, 3V)
        coarse = gradient.bfloat16()
        by_x = (coarse @ weight.bfloat16()).float().view_as(x)
        by_weight = (coarse.T @ x.flatten(0, -2).bfloat16()).float()
        return by_x, by_weight, gradient.sum(0)


class LeanLinear(nn.Linear):
    """nn.Linear that keeps no bfloat16 copy of its weight on a CPU under bfloat16 autocast.

    In training without autocast, on a CPU in float32, it is `FineProduct`. On a GPU it is
    nn.Linear: there, keeping the copy costs less than rounding twice.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D).  Returns (..., D')."""
        autocast = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if autocast and trained and torch.get_autocast_dtype("cpu") == COARSE:
            return CoarseProduct.apply(x, self.weight, self.bias)
        fine = x.device.type == "cpu" and x.dtype == self.weight.dtype == torch.float32
        if trained and fine and not autocast and not torch.compiler.is_compiling():
            return FineProduct.apply(x, self.weight, self.bias)
        return super().forward(x)


def make_lean(module: nn.Module) -> None:
    """Turn every nn.Linear in `module`, in place, into a `LeanLinear` with the same parameters."""
    for part in module.modules():
        if type(part) is nn.Linear:
            part.__class__ = LeanLinear


def coarsen_gradients(module: nn.Module) -> None:
    """Store the weight gradients of `LeanLinear` layers in bfloat16.

    Under bfloat16 autocast they are computed so, and nothing is lost for the gradients of a single
    backward pass. In a float32 step they are rounded, by 2^-9 of each at most, as the moments of
    `training.compact_adam` are. Sums of several (accumulation, processes) need float32. A torch
    without `Tensor.grad_dtype` (2.6) keeps these gradients in float32, with twice the memory.
    """
    if not GRAD_DTYPE:
        return
    for part in module.modules():
        if isinstance(part, LeanLinear) and part.weight.requires_grad:
            part.weight.grad_dtype = COARSE


def gradient_dtype(weight: nn.Parameter) -> torch.dtype:
    """The dtype in which autograd stores the gradient of a parameter."""
    return getattr(weight, "grad_dtype", None) or weight.dtype
