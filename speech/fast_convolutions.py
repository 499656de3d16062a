"""The convolutions of wav2vec 2.0 as matrix products, for a CPU and without gradient.

torch's convolutions have channels before time, so that a layer norm needs a copy before and one
after it, and results of a whole clip do not fit the cache. Here channels come last and a second of
audio goes through all layers at once. Neighbouring frames of the input are one row of a matrix.
Norm and GELU are one pass (`layers.fast_gelu`).

Three taps with a stride of two, nearly all operations of wav2vec 2.0's stack, take five products of
C x C for two frames instead of six. The outer taps a, c are a filter of two taps on even frames e:
    e0 a + e1 c = (e0 - e1) a + e1 (a + c),    e1 a + e2 c = e1 (a + c) + (e2 - e1) c
(Winograd 1980, Arithmetic Complexity of Computations; F(2, 2)). In bfloat16 that gains nothing.

B batch, n and m frames of a layer's input and output, C channels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layers.fast_gelu import can_finish, finish, is_gelu
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
    matrices = [_matrices(layer.conv) for layer in layers]
    coarse = [layer.conv.weight.dtype == torch.bfloat16 for layer in layers]
    out_dtypes = [torch.bfloat16 if after else torch.float32 for after in (*coarse[1:], False)]
    total = (x.shape[2] - reach) // hop + 1
    out = x.new_empty(len(x), total, layers[-1].conv.out_channels)
    for clip, result in zip(x.transpose(1, 2), out, strict=True):
        for start in range(0, total, FRAMES):
            stop = min(start + FRAMES, total)
            rows = clip[start * hop : (stop - 1) * hop + reach].contiguous()  # (n, C_in)
            rows = rows.bfloat16() if coarse[0] else rows
            for layer, parts, dtype in zip(layers, matrices, out_dtypes, strict=True):
                rows = _layer(layer, parts, rows, dtype)
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


def _matrices(conv: nn.Conv1d) -> tuple[Tensor, ...]:
    """The weight as (C_out, taps · C_in), or the three matrices of `_two_by_two`."""
    weight = conv.weight.detach()
    if conv.kernel_size != (3,) or conv.stride != (2,) or weight.dtype != torch.float32:
        return (weight.transpose(1, 2).flatten(1),)
    a, b, c = weight.unbind(2)
    return torch.cat([a, b], 1), torch.cat([c, b], 1), a + c


def _layer(layer: nn.Module, matrices: tuple[Tensor, ...], x: Tensor, dtype: torch.dtype) -> Tensor:
    """(m, C_out) of a dtype for x (n, C_in), which is bfloat16 where the matrices are."""
    (kernel,), (stride,), bias = layer.conv.kernel_size, layer.conv.stride, layer.conv.bias
    if len(matrices) == 3:
        return _two_by_two(layer, matrices, x).to(dtype)
    width, m = x.shape[1], (len(x) - kernel) // stride + 1
    # row j has the frames from stride · j on: a view where rows do not overlap, else a copy
    rows = x.as_strided((m, kernel * width), (stride * width, 1), x.storage_offset()).contiguous()
    if x.dtype == torch.bfloat16:
        y = F.linear(rows, matrices[0], None if bias is None else bias.bfloat16())
        y = y if dtype == torch.bfloat16 and _fused(layer, y) else y.float()
    else:
        y = product(rows, matrices[0], bias)
    norm = getattr(layer, "layer_norm", None)
    if _fused(layer, y):
        return finish(y, norm, out=None if y.dtype == dtype else y.new_empty(y.shape, dtype=dtype))
    return layer.activation(y if norm is None else norm(y)).to(dtype)


def _two_by_two(layer: nn.Module, matrices: tuple[Tensor, ...], x: Tensor) -> Tensor:
    """(m, C_out) of a layer with three taps and a stride of two, two frames at a time."""
    m, width = (len(x) - 3) // 2 + 1, x.shape[1]
    n, n_odd = (m + 1) // 2, m // 2  # frames 0, 2, ... and 1, 3, ...
    shared = x[2::4][:n].contiguous()  # (n, C_in), e1
    left, right = x.new_empty(n, 2, width), x.new_empty(n_odd, 2, width)
    torch.sub(x[0::4][:n], shared, out=left[:, 0])
    torch.sub(x[4::4][:n_odd], shared[:n_odd], out=right[:, 0])
    left[:, 1], right[:, 1] = x[1::4][:n], x[3::4][:n_odd]
    middle = product(shared, matrices[2], layer.conv.bias)
    y = x.new_empty(m, len(matrices[2]))
    norm, fused = getattr(layer, "layer_norm", None), _fused(layer, y)
    for first, rows, matrix in ((0, left, matrices[0]), (1, right, matrices[1])):
        part = product(rows.flatten(1), matrix)
        if fused:
            finish(part, norm, middle[: len(part)], y, first, 2)
        else:
            torch.add(part, middle[: len(part)], out=y[first::2])
    return y if fused else layer.activation(y if norm is None else norm(y))


def _fused(layer: nn.Module, y: Tensor) -> bool:
    """Whether norm and activation of a layer are one pass."""
    return is_gelu(layer.activation) and can_finish(y)


def receptive_field(kernels: Sequence[int], strides: Sequence[int]) -> int:
    """Samples that one output frame of a stack of convolutions depends on."""
    reach, step = 1, 1
    for kernel, stride in zip(kernels, strides, strict=True):
        reach += (kernel - 1) * step
        step *= stride
    return reach
