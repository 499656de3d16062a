"""Memory that a training takes, and what reduces it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from config import PROJECT_ROOT, Recipe, TrainConfig
from layers.lean_linear import GRAD_DTYPE, gradient_dtype, make_lean
from tests.toy import SOUNDS, networks, run_toy, run_until_killed, same
from training.compact_adam import CompactAdamW
from training.optimizer import make_optimizer, memory_report, training_bytes
from training.processes import Group
from training.teacher_targets import TargetSource

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FAULTS_OF_A_LARGE_TENSOR = """
import resource, sys, torch
from common.start_up import prepare_process
if sys.argv[1] == "large":
    prepare_process()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(16 << 20)  # 64 MB: 16,384 pages of 4 kB, 32 of 2 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not SETTING.exists() or "[madvise]" not in SETTING.read_text(),
    reason="this system does not give large pages to those who ask",
)
def test_large_tensors_have_large_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    def faults(pages: str) -> int:
        command = [sys.executable, "-W", "ignore", "-c", FAULTS_OF_A_LARGE_TENSOR, pages]
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, check=True)
        return int(done.stdout)

    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    assert faults("large") < 8_000 < faults("small")  # half: the system may lack free large pages


def n_of(parameters) -> int:
    return sum(p.numel() for p in parameters)


def test_training_bytes_equal_a_count_by_hand(tmp_path: Path) -> None:
    """16 bytes a trained number, 4 a frozen one; lean matrices 12, those with coarse gradients 10;
    none for a freed teacher."""
    nets = networks()
    make_lean(nets.model)
    trained = [p for m in (nets.model, nets.reader) for p in m.parameters() if p.requires_grad]
    frozen = n_of(p for p in nets.model.parameters() if not p.requires_grad)
    teacher = n_of(nets.teacher.parameters())
    plain, _ = make_optimizer(nets, TrainConfig(), 10)
    assert training_bytes(nets, plain) == 16 * n_of(trained) + 4 * (frozen + teacher)
    assert "(of the teacher and the encoder)" in memory_report(nets, plain)
    TargetSource(nets, str(tmp_path)).precompute(SOUNDS, Group())
    assert training_bytes(nets, plain) == 16 * n_of(trained) + 4 * frozen
    assert "its weights are freed" in memory_report(nets, plain)
    lean, _ = make_optimizer(nets, TrainConfig(lean=True), 10, coarse=True)
    assert isinstance(lean, CompactAdamW)
    matrices = n_of(p for p in trained if p.ndim > 1)
    linear = n_of(m.weight for m in nets.model.encoder.modules() if isinstance(m, nn.Linear))
    expected = 16 * n_of(trained) - 4 * matrices - 2 * linear * GRAD_DTYPE + 4 * frozen
    assert training_bytes(nets, lean) == expected


def test_gradients_are_bfloat16_only_if_lean_and_coarse() -> None:
    for config, coarse, expected in (
        (
            TrainConfig(lean=True),
            True,
            {torch.float32, torch.bfloat16 if GRAD_DTYPE else torch.float32},
        ),
        (TrainConfig(lean=True), False, {torch.float32}),
        (TrainConfig(), True, {torch.float32}),
    ):
        nets = networks()
        make_lean(nets.model)
        make_optimizer(nets, config, 10, coarse)
        assert {gradient_dtype(p) for p in nets.model.parameters() if p.requires_grad} == expected


LEAN = ("--precision", "bf16", "--set", "train.lean=true")


def test_a_lean_run_resumes_bit_equal(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_toy("--out", "whole", *LEAN) == 0
    run_until_killed(monkeypatch, 3, "--out", "cut", "--save_every", "0.0000001", *LEAN)
    state = torch.load("cut/last.pt", weights_only=True)["moments"]
    kinds = {
        moments[name].dtype for moments in state.values() for name in ("exp_avg", "exp_avg_sq")
    }
    assert kinds == {torch.float32, torch.bfloat16}
    assert run_toy("--out", "cut", "--resume", *LEAN) == 0
    same("whole", "cut")
