"""The kind of processor that figures are from, and how to measure as on an older one."""

import os

import torch

# No newer instructions than AVX2, for torch, oneDNN, MKL, FBGEMM and numba's kernels.
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "",
}  # fmt: skip
WIDER = {"avx512_f": "AVX-512", "avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX"}


def kind_of_processor() -> str:
    """The instructions for matrices that this process may use, such as "AVX-512, AVX512-BF16"."""
    if all(os.environ.get(name) == value for name, value in AVX2.items()):
        return "limited to AVX2"
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is None:  # an older torch names the vectors only
        return torch.backends.cpu.get_cpu_capability()
    has = capabilities()
    wider = [text for name, text in WIDER.items() if has.get(name)]
    return ", ".join(wider) or ("AVX2" if has.get("avx2") else str(has.get("architecture")))
