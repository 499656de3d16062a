"""Linear layers in bfloat16 or with 8-bit products, and an 8-bit convolution, for prediction.

Most of the time of a large speech encoder goes into its linear layers. Only their products are
coarse: sums, norms and what goes from layer to layer stay float32.
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
    """A linear layer whose products are 8-bit, on a CPU: a fourth of the memory.

    A row of the weights has one scale; activations are quantised when they are known, to 7 bits,
    because processors without VNNI add two products in 16 bits.

    many_frames: whether x will have hundreds of rows. Then a layer of `MANY` weights has oneDNN's
    kernel, where this torch has it, which takes a tenth less time on those, as long on 60 and five
    times as long on a few.
    """

    def __init__(self, linear: nn.Linear, many_frames: bool = False) -> None:
        super().__init__()
        many_frames = many_frames and linear.weight.numel() >= MANY and _has_onednn()
        product = ManyRows if many_frames else FewRows
        self.product = product(linear.weight.detach(), linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C_out) float32 for x (..., C_in)."""
        return self.product(x.float())


class ByteConvolution(nn.Module):
    """A convolution over time whose products are 8-bit as those of `ByteLinear`, on a CPU.

    conv: without padding, dilation and groups.
    """

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        self.product = FewRows(conv.weight.detach().transpose(1, 2).flatten(1), conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_out, m) float32 for x (B, C_in, n)."""
        (kernel,), (stride,) = self.kernel_size, self.stride
        clips = x.float().transpose(1, 2).contiguous()  # (B, n, C_in)
        batch, n, width = clips.shape
        # row j has the frames from stride · j on; they overlap
        size, strides = (batch, (n - kernel) // stride + 1, kernel * width), clips.stride()
        rows = clips.as_strided(size, (strides[0], stride * width, 1)).contiguous()
        return self.product(rows).transpose(1, 2)


class FewRows:
    """8-bit products by FBGEMM, or what else this torch has; x may have any number of rows.

    weight: (C_out, C_in); bias: (C_out,).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        levels, scales = _quantised(weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch says that its quantised tensors will change
            rows = torch._make_per_channel_quantized_tensor(
                levels, scales.double(), torch.zeros(len(levels), dtype=torch.long), 0
            )
        bias = None if bias is None else bias.detach().float()
        self.packed = torch.ops.quantized.linear_prepack(rows, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., C_out) for x (..., C_in) float32."""
        return torch.ops.quantized.linear_dynamic(x, self.packed, True)


class ManyRows:
    """The same products by oneDNN. torch's own class for them would keep the weights twice."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        levels, self.scales = _quantised(weight)
        self.zeros = torch.zeros(len(levels), dtype=torch.int32)
        self.packed = torch.ops.onednn.qlinear_prepack(levels, None)
        self.bias = None if bias is None else bias.detach().float()

    def __call__(self, x: Tensor) -> Tensor:
        """(..., C_out) for x (..., C_in) float32."""
        from layers.byte_kernels import quantise  # compiled by numba at its first import

        x = x.detach().contiguous()
        low, high = (value.item() for value in x.aminmax())
        low, high = min(low, 0.0), max(high, 0.0)
        unit = max((high - low) / LEVELS, torch.finfo(torch.float32).tiny)
        zero = round(-low / unit)
        levels = torch.empty(x.shape[:-1].numel(), x.shape[-1], dtype=torch.uint8)
        quantise(x.view(-1).numpy(), 1 / unit, zero, levels.view(-1).numpy())
        product = torch.ops.onednn.qlinear_pointwise(
            levels, unit, zero, self.packed, self.scales, self.zeros, self.bias,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return product.unflatten(0, x.shape[:-1])


def _has_onednn() -> bool:
    """Whether this torch has oneDNN's 8-bit products for this processor."""
    engines = torch.backends.quantized.supported_engines
    return "onednn" in engines and hasattr(torch.ops.onednn, "qlinear_pointwise")


def _quantised(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(whole numbers of -`LEVELS` to `LEVELS`, scales (C_out,)) of weights (C_out, C_in)."""
    weight = weight.to(torch.float32, copy=True)
    largest = torch.maximum(weight.amax(1), -weight.amin(1))  # (C_out,)
    scales = largest.clamp(min=torch.finfo(torch.float32).tiny) / LEVELS
    return weight.div_(scales[:, None]).round_().to(torch.int8), scales


def use_precision(
    module: nn.Module,
    name: str,
    device: torch.device,
    least: int = 0,
    many_frames: bool = False,
    kept: nn.Module | None = None,
) -> str:
    """Replace all linear layers inside `module`, which is for prediction only from now on.

    Returns the name of the numbers in use: "fp32", "bf16" or "int8".

    name: of `PRECISIONS`; "auto" is "bf16" where `device` multiplies bfloat16 matrices in hardware,
    else "fp32", which changes nothing. least: weights of a layer below which it stays as it is;
    many_frames: as of `ByteLinear`; kept: a part of `module` that stays as it is.
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
        _replace(module, kinds[name], least, kept)
    return name


@torch.no_grad()
def _replace(
    module: nn.Module,
    make: Callable[[nn.Linear], nn.Module],
    least: int,
    kept: nn.Module | None,
) -> None:
    for name, child in module.named_children():
        if child is kept or isinstance(child, nn.TransformerEncoderLayer):
            continue  # torch's layer reads the weights of its linear ones itself
        if type(child) is not nn.Linear:  # attention of torch reads the weights of its subclass
            _replace(child, make, least, kept)
        elif child.weight.numel() >= least:
            setattr(module, name, make(child))
