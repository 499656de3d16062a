"""Device and precision: the one place that chooses them."""

import inspect

import torch

CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # instruction sets that multiply bfloat16 matrices


def pick_device(local_rank: int = 0) -> tuple[torch.device, torch.dtype, str]:
    """Device, autocast dtype and the reason in words.

    local_rank: number of this process on its machine; each process gets its own GPU. bfloat16 is
    chosen only where `fast_bfloat16` is true, float32 elsewhere.
    """
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    name = "CUDA" if cuda else "CPU"
    if fast_bfloat16(device):
        return device, torch.bfloat16, f"{name} with bfloat16 matrix instructions"
    return device, torch.float32, f"{name} without bfloat16 matrix instructions: float32"


def fast_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 matrices in hardware.

    Where it does not, torch emulates them: on an AVX2 CPU at 1 GFLOP/s, against 84 in float32.
    CUDA: compute capability 8.0 or newer. x86 CPUs: AVX512-BF16 or AMX, if oneDNN may use them.
    False for any other device.
    """
    if device.type == "cuda":
        return torch.cuda.is_available() and _cuda_bfloat16(device)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return _cpu_bfloat16() and _onednn_bfloat16()


def _cuda_bfloat16(device: torch.device) -> bool:
    supported = torch.cuda.is_bf16_supported
    with torch.cuda.device(device):
        if "including_emulation" in inspect.signature(supported).parameters:
            return supported(including_emulation=False)
        return supported()


def _cpu_bfloat16() -> bool:
    """Whether the processor has one of `CPU_BFLOAT16`; false where torch cannot tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return any(capabilities().get(name, False) for name in CPU_BFLOAT16)
    # torch before `get_capabilities`. Every processor with AMX has AVX512-BF16, too.
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return supported is not None and supported()


def _onednn_bfloat16() -> bool:
    """Whether oneDNN computes in bfloat16: ONEDNN_MAX_CPU_ISA can forbid what the processor has."""
    try:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    except (AttributeError, RuntimeError):  # a torch without this operator: no limit is known
        return True
