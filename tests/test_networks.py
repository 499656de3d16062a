"""Memory of a training."""

import subprocess
import sys
from pathlib import Path

import pytest

from config import PROJECT_ROOT

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
FAULTS_OF_A_LARGE_TENSOR = """
import resource, sys, torch
from networks import large_pages
if sys.argv[1] == "large":
    large_pages()
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
