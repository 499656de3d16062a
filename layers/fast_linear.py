"""Float32 products for prediction on a CPU: oneDNN's kernel, and weights that stay half precision.

oneDNN's product takes a sixth to a third less time than torch's own (MKL's) on an AMD processor.
Weights that a model file stores in half precision may stay there, memory-mapped: they are widened
into one reused buffer when their layer runs, in a fiftieth of the time of the product.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.mapped_values import give_back
from layers.reused_space import ReusedSpace

LARGE = 2**19  # weights of a layer from which on it is made fast: small ones gain nothing


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · Wᵀ + b, (..., C_out), without gradient; equal to torch's to the rounding of float32.

    x: (..., C_in) float32 on a CPU; weight: (C_out, C_in), float32 or a half type; bias: (C_out,)
    float32.
    """
    if weight.dtype != torch.float32:
        weight = _widened(weight)
    if not _has_onednn():
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@functools.cache
def _has_onednn() -> bool:
    """Whether this torch computes linear layers by oneDNN."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


_SPACE = ReusedSpace()


def _widened(weight: Tensor) -> Tensor:
    """The weight in float32, in a buffer that the next call of this thread overwrites."""
    return _SPACE.take(weight.shape, torch.float32).copy_(weight)


class FastLinear(nn.Linear):
    """nn.Linear by `product` where that can be: without gradient, in float32, on a CPU.

    Its weight may have a half type; `float()` makes it trainable. The memory of a weight that is
    mapped from a file is given back after each call, or a large network would stay in memory as a
    whole. Reading it again takes a hundredth of the time of the product.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_out) for x (..., C_in)."""
        if (
            x.device.type != "cpu"
            or x.dtype != torch.float32
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled("cpu")
            or torch.compiler.is_compiling()  # also in torch.export
        ):
            return F.linear(x, self.weight.float(), self.bias)
        y = product(x, self.weight, self.bias)
        if not self.weight.is_inference() and self.weight._version == 0:  # as it is in its file
            give_back(self.weight.data_ptr())
        return y


def is_large(module: nn.Module) -> bool:
    """Whether `make_fast` changes a module."""
    return type(module) is nn.Linear and module.weight.numel() >= LARGE


def large_weights(module: nn.Module) -> set[str]:
    """Names in the state dict of weights that may have a half type behind `make_fast`."""
    return {f"{name}.weight" for name, part in module.named_modules() if is_large(part)}


def make_fast(module: nn.Module) -> None:
    """Turn every large nn.Linear in `module`, in place, into a `FastLinear`; its weights stay."""
    for part in module.modules():
        if is_large(part):
            part.__class__ = FastLinear
