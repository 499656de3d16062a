"""What a prediction imports, and what a process sets before torch is loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common import start_up
from common.start_up import prepare_process, usable_cores
from config import PROJECT_ROOT

# Processor time of their import in seconds: 3.3, 0.5 to 1.0, 0.25, 1.4 and 0.3.
SLOW = ("transformers", "scipy.sparse", "scipy.linalg", "torch._dynamo", "torch._prims")
PREDICTION = f"""
import json, sys
from common.start_up import leave_out_meta_kernels
leave_out_meta_kernels()
import demo
import main
for script in (demo, main):
    try:
        script.main(["--help"])
    except SystemExit:
        pass
for_help = [name for name in ("torch", "numba", "scipy", "numpy") if name in sys.modules]
demo.main(sys.argv[1:])
from files.models import built_without_memory
from speech.bodies import build_body
for norm in ("group", "layer"):
    encoder = {{"model_type": "wav2vec2", "feat_extract_norm": norm}}
    built_without_memory(lambda: build_body(encoder))
print(json.dumps([for_help, [name for name in {SLOW} if name in sys.modules]]))
"""


def printed_by(script: str) -> list[str]:
    """The words that a script prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_help_loads_no_numpy_and_prediction_no_transformers(tmp_path: Path) -> None:
    sound, _ = soundfile.read(PROJECT_ROOT / "demo/wav/sense_and_sensibility.wav", frames=4_000)
    soundfile.write(tmp_path / "short.wav", sound, 16_000)
    flags = ["--wav_path", tmp_path / "short.wav", "--out", tmp_path, "--no_video", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", PREDICTION, *map(str, flags)],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == [[], []]
    assert np.isfinite(np.load(tmp_path / "short.npy")).all()


def test_meta_kernels_that_were_left_out_are_loaded_where_a_network_needs_them() -> None:
    script = (
        "import sys\n"
        "from common.start_up import leave_out_meta_kernels, load_meta_kernels\n"
        "leave_out_meta_kernels()\n"
        "import torch\n"
        "from files.models import built_without_memory\n"
        "print('torch._prims' not in sys.modules)\n"
        "convolve = torch.nn.functional.conv1d\n"
        "build = lambda: convolve(torch.empty(2, 3, 7), torch.empty(5, 3, 3))\n"
        "print(tuple(built_without_memory(build).shape) == (2, 5, 5))\n"
        "print(load_meta_kernels() is False and 'torch._prims' in sys.modules)\n"
        "print(torch._meta_registrations.__spec__ is not None)\n"
    )
    assert printed_by(script) == ["True"] * 4


def test_garbage_is_collected_seldom_and_not_at_the_exit() -> None:
    script = (
        "import atexit, gc, weakref\n"
        "class Node: pass\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 1_000))\n"
        "from common.start_up import COLLECT_AFTER, collect_seldom\n"
        "collect_seldom()\n"
        "node = Node(); node.itself = node; alive = weakref.ref(node); del node\n"
        "few = [[] for _ in range(COLLECT_AFTER[0] // 2)]; print(alive() is not None)\n"
        "many = [[] for _ in range(COLLECT_AFTER[0])]; print(alive() is None)\n"
    )
    assert printed_by(script) == ["True"] * 3


def test_the_users_own_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("THP_MEM_ALLOC_ENABLE", "OMP_WAIT_POLICY", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    prepare_process()
    assert [os.environ.get(n) for n in names] == ["1", "PASSIVE", str(usable_cores()), None]
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    prepare_process()
    assert [os.environ.get(name) for name in names] == ["1", "ACTIVE", "7", None]
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    prepare_process()
    assert "OMP_NUM_THREADS" not in os.environ


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 2), ("100000 100000", 1), ("150000 100000", 2), ("?", 2)]
)
def test_two_threads_of_a_core_count_once_and_a_quota_limits(
    quota: str, cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        folder = tmp_path / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings + "\n")
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(start_up, "CPU_FOLDER", tmp_path)
    monkeypatch.setattr(start_up, "QUOTA_FILE", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert usable_cores() == cores
