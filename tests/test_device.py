"""The choice of device and precision: bfloat16 only where the hardware multiplies it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common import device as device_module
from common.device import fast_bfloat16, pick_device
from training.processes import Group
from training.run import Options, choose_device

CPU, ROOT = torch.device("cpu"), Path(__file__).resolve().parents[1]


@pytest.fixture
def onednn_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """No limit by ONEDNN_MAX_CPU_ISA, whatever this machine has."""
    monkeypatch.setattr(device_module, "_onednn_bfloat16", lambda: True)


@pytest.mark.parametrize(
    "flags, fast",
    [
        ({"avx2": True}, False),
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, False),  # ARM's name: no measurement there
    ],
)
def test_a_cpu_is_fast_with_bfloat16_matrix_instructions_only(
    flags: dict, fast: bool, onednn_allows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert fast_bfloat16(CPU) is fast


@pytest.mark.parametrize("supported", [True, False])
def test_an_older_torch_is_queried_for_avx512_bf16(
    supported: bool, onednn_allows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported, raising=False)
    assert fast_bfloat16(CPU) is supported


def test_a_torch_without_either_query_is_not_fast(
    onednn_allows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert fast_bfloat16(CPU) is False


def test_no_other_device_is_fast() -> None:
    assert not any(fast_bfloat16(torch.device(name)) for name in ("mps", "xpu", "meta"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="has an NVIDIA GPU: checks a machine without")
def test_cuda_is_not_fast_without_a_gpu() -> None:
    assert fast_bfloat16(torch.device("cuda", 0)) is False


class NoContext:
    """Replaces torch.cuda.device on a machine without a GPU."""

    def __init__(self, device: torch.device) -> None:
        assert device == torch.device("cuda", 1)

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@pytest.mark.parametrize("emulated_only", [True, False])
def test_emulated_bfloat16_on_cuda_is_not_fast(
    emulated_only: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return including_emulation or not emulated_only

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", NoContext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    chosen, dtype, reason = pick_device(1)
    assert chosen == torch.device("cuda", 1)
    assert dtype == (torch.float32 if emulated_only else torch.bfloat16)
    assert reason.startswith("CUDA without" if emulated_only else "CUDA with ")


def test_a_cuda_query_without_the_emulation_argument_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device", NoContext)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert fast_bfloat16(torch.device("cuda", 1)) is True


def test_onednn_limited_to_avx2_trains_in_float32() -> None:
    command = "from common.device import pick_device; print(pick_device()[1:])"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "CUDA_VISIBLE_DEVICES": ""}
    printed = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, env=environment, check=True,
        capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "torch.float32, 'CPU without bfloat16 matrix instructions: float32'" in printed


@pytest.mark.parametrize("fast", [True, False])
def test_precision_bf16_warns_where_it_is_emulated(
    fast: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.run.fast_bfloat16", lambda _: fast)
    _, dtype = choose_device(Options(precision="bf16"), Group())
    printed = capsys.readouterr().out
    assert dtype == torch.bfloat16
    assert ("warning: --precision bf16" in printed) is not fast


def test_automatic_precision_is_float32_where_bfloat16_is_emulated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(device_module, "fast_bfloat16", lambda _: False)
    assert choose_device(Options(), Group())[1] == torch.float32
    assert "without bfloat16" in capsys.readouterr().out
