"""The convolutions of wav2vec 2.0 as matrix products, for a CPU and without gradient.

torch's convolutions have channels before time, so that a layer norm needs a copy before and one
after it, and results of a whole clip do not fit the cache. Here channels come last and a second of
audio goes through all layers at once. Neighbouring frames of the input are one row of a matrix.

B batch, n and m frames of a layer's input and output, C channels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.fast_linear import product

FRAMES = 50  # output frames that go through all layers at once


def convolve(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Output (B, C_out, m) of the layers for x (B, C_in, n), float32 on a CPU.

    Products are bfloat16 in the layers whose weights are.
    layers: convolutions with `conv`, `activation` and an optional `layer_norm` over channels, of
    `speech.wav2vec_body` or transformers.
    """
    kernels = [layer.conv.kernel_size[0] for layer in layers]
    strides = [layer.conv.stride[0] for layer in layers]
    reach, hop = receptive_field(kernels, strides), math.prod(strides)
    matrices = [layer.conv.weight.transpose(1, 2).flatten(1) for layer in layers]
    total = (x.shape[2] - reach) // hop + 1
    out = x.new_empty(len(x), total, layers[-1].conv.out_channels)
    for clip, result in zip(x.transpose(1, 2), out, strict=True):
        for start in range(0, total, FRAMES):
            stop = min(start + FRAMES, total)
            rows = clip[start * hop : (stop - 1) * hop + reach].contiguous()  # (n, C_in)
            for layer, matrix in zip(layers, matrices, strict=True):
                rows = _layer(layer, matrix, rows)
            result[start:stop] = rows
    return out.transpose(1, 2)


def can_convolve(layers: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether `convolve` computes these layers for x (B, C_in, n)."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not any(
            isinstance(getattr(layer, "layer_norm", None), nn.GroupNorm) for layer in layers
        )
        and all(layer.conv.weight.dtype in (torch.float32, torch.bfloat16) for layer in layers)
    )


def round_weights(layers: Sequence[nn.Module]) -> None:
    """Store the weights of all but the first layer in bfloat16; only `convolve` can use them.

    Products are bfloat16 then; norms, activations and what goes from layer to layer are float32.
    """
    for layer in layers[1:]:
        weight = layer.conv.weight.detach().bfloat16()
        layer.conv.weight = nn.Parameter(weight, requires_grad=False)


def _layer(layer: nn.Module, matrix: Tensor, x: Tensor) -> Tensor:
    """(m, C_out) for x (n, C_in); matrix: the weight as (C_out, taps · C_in)."""
    (kernel,), (stride,) = layer.conv.kernel_size, layer.conv.stride
    width, m = x.shape[1], (len(x) - kernel) // stride + 1
    # row j has the frames from stride · j on: a view where rows do not overlap, else a copy
    rows = x.as_strided((m, kernel * width), (stride * width, 1), x.storage_offset()).contiguous()
    bias = layer.conv.bias
    if matrix.dtype == torch.bfloat16:
        y = F.linear(rows.bfloat16(), matrix, None if bias is None else bias.bfloat16()).float()
    else:
        y = product(rows, matrix, bias)
    norm = getattr(layer, "layer_norm", None)
    return layer.activation(y if norm is None else norm(y))


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that one output frame of a stack of convolutions depends on."""
    reach, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        reach += (kernel - 1) * step
        step *= stride
    return reach
