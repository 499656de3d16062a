"""Device and precision: the one place that chooses them."""

import os

import torch


def pick_device(local_rank: int = 0) -> tuple[torch.device, torch.dtype, str]:
    """Device, autocast dtype and the reason in words.

    local_rank: number of this process on its machine; each has a GPU of its own. bfloat16 is
    chosen only where the hardware multiplies matrices in it; elsewhere it is many times slower
    than float32.
    """
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        if torch.cuda.is_bf16_supported():
            return device, torch.bfloat16, "CUDA with bfloat16"
        return device, torch.float32, "CUDA without bfloat16: float32"
    if torch.backends.mkldnn.is_available() and torch.cpu._is_avx512_bf16_supported():
        return torch.device("cpu"), torch.bfloat16, "CPU with bfloat16 instructions"
    return torch.device("cpu"), torch.float32, "CPU without bfloat16 instructions: float32"


def large_pages() -> None:
    """Let torch ask Linux for pages of 2 MB; call it before the process makes its first tensor.

    A step's meshes are tens of megabytes, which the C library maps anew every time: with pages of
    4 kB the kernel spends a fourth of a small network's step on faults. Blocks that stay in the
    heap (glibc's mallopt) were 7 % faster still, but as torch asks for aligned ones, freed blocks
    often do not fit the next of the same size and the heap grows. Other systems ignore it.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
