"""Linear layers in bfloat16 or with 8-bit products, and an 8-bit convolution, for prediction.

Most of the time of a large speech encoder goes into its linear layers. Only their products are
coarse: sums, norms, attention and what goes from layer to layer stay float32.
"""

import warnings
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.device import fast_bfloat16
from common.errors import UserError
from layers import PRECISIONS

LEVELS = 127  # the largest value of a signed byte
MANY = 2**20  # weights of a layer from which on oneDNN's kernel takes less time


class BfloatLinear(nn.Module):
    """A linear layer whose weights and activations are bfloat16: half of the memory."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", linear.weight.detach().bfloat16())
        bias = linear.bias
        self.register_buffer("bias", None if bias is None else bias.detach().bfloat16())

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_out) in the dtype of x (..., C_in)."""
        return F.linear(x.bfloat16(), self.weight, self.bias).to(x.dtype)


class ByteLinear(nn.Module):
    """A linear layer whose products are 8-bit, on a CPU.

    A fourth of the memory; half of it with oneDNN's kernel, which keeps the weights twice.

    A row of the weights has one scale; activations are quantised when they are known, to 7 bits,
    because processors without VNNI add two products in 16 bits.

    many_frames: whether x will have hundreds of rows. Then a layer of `MANY` weights has oneDNN's
    kernel, which takes a twelfth less time on those, as long on 60 and five times as long on a few.
    """

    def __init__(self, linear: nn.Linear, many_frames: bool = False) -> None:
        super().__init__()
        many_frames = many_frames and linear.weight.numel() >= MANY
        self.packed = _packed(linear.weight.detach(), linear.bias, many_frames)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_out) float32 for x (..., C_in)."""
        return torch.ops.quantized.linear_dynamic(x.float(), self.packed, True)


class ByteConvolution(nn.Module):
    """A convolution over time whose products are 8-bit as those of `ByteLinear`, on a CPU.

    conv: without padding, dilation and groups.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.packed = _packed(conv.weight.detach().transpose(1, 2).flatten(1), conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_out, m) float32 for x (B, C_in, n)."""
        (kernel,), (stride,) = self.kernel_size, self.stride
        clips = x.float().transpose(1, 2).contiguous()  # (B, n, C_in)
        batch, n, width = clips.shape
        # row j has the frames from stride · j on; they overlap
        size, strides = (batch, (n - kernel) // stride + 1, kernel * width), clips.stride()
        rows = clips.as_strided(size, (strides[0], stride * width, 1)).contiguous()
        return torch.ops.quantized.linear_dynamic(rows, self.packed, True).transpose(1, 2)


def _packed(weight: Tensor, bias: Tensor | None, onednn: bool = False) -> torch.ScriptObject:
    """Quantised weights (C_out, C_in) and a bias (C_out,), in the order of a kernel.

    onednn: of oneDNN's, where this torch has it, instead of FBGEMM's.
    """
    weight = weight.to(torch.float32, copy=True)
    largest = torch.maximum(weight.amax(1), -weight.amin(1))  # (C_out,)
    scales = largest.clamp(min=torch.finfo(torch.float32).tiny) / LEVELS
    levels = weight.div_(scales[:, None]).round_().to(torch.int8)
    kernels = torch.backends.quantized
    chosen = kernels.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that its quantised tensors will change
        quantised = torch._make_per_channel_quantized_tensor(
            levels, scales.double(), torch.zeros(len(levels), dtype=torch.long), 0
        )
        bias = None if bias is None else bias.detach().float()
        try:
            if onednn and "onednn" in kernels.supported_engines:
                kernels.engine = "onednn"
            return torch.ops.quantized.linear_prepack(quantised, bias)
        finally:
            kernels.engine = chosen


def use_precision(
    module: nn.Module,
    name: str,
    device: torch.device,
    least: int = 0,
    many_frames: bool = False,
) -> str:
    """Replace all linear layers inside `module`, which is for prediction only from now on.

    Returns the name of the numbers in use: "fp32", "bf16" or "int8".

    name: of `PRECISIONS`; "auto" is "bf16" where `device` multiplies bfloat16 matrices in hardware,
    else "fp32", which changes nothing. least: weights of a layer below which it stays as it is;
    many_frames: as of `ByteLinear`.
    Raises `UserError` for an unknown name, and for int8 on another device than a CPU.
    """
    if name not in PRECISIONS:
        raise UserError(f"--precision {name}: expected {', '.join(PRECISIONS)}")
    if name == "auto":
        name = "bf16" if fast_bfloat16(device) else "fp32"
    if name == "int8" and device.type != "cpu":
        raise UserError("--precision int8: works on a CPU only; use --precision bf16")
    kinds: dict[str, Callable[[nn.Linear], nn.Module]] = {
        "bf16": BfloatLinear,
        "int8": partial(ByteLinear, many_frames=many_frames),
    }
    if name in kinds:
        _replace(module, kinds[name], least)
    return name


@torch.no_grad()
def _replace(module: nn.Module, make: Callable[[nn.Linear], nn.Module], least: int) -> None:
    for name, child in module.named_children():
        if type(child) is not nn.Linear:  # attention of torch reads the weights of its subclass
            _replace(child, make, least)
        elif child.weight.numel() >= least:
            setattr(module, name, make(child))
