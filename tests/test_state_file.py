"""States are written whole or not at all and restore every random generator."""

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from training.state_file import (
    disk_errors,
    generators,
    load_state,
    low_disk_warning,
    save_state,
    set_generators,
)


def draws() -> list[float]:
    return [random.gauss(0, 1), float(np.random.randn()), float(np.random.rand()),
            float(torch.rand(1)), float(torch.randn(1))]  # fmt: skip


def test_every_generator_is_restored(tmp_path):
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    draws()  # an odd number of gaussians leaves one waiting in python's and numpy's generators
    save_state(tmp_path / "last.pt", {"generators": generators()})
    expected = [draws() for _ in range(3)]
    draws()
    set_generators(load_state(tmp_path / "last.pt")["generators"])
    assert [draws() for _ in range(3)] == expected


def test_a_state_comes_back_equal(tmp_path):
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"generators": generators(), "optimizer": optimizer.state_dict(), "best": 0.25}
    assert save_state(tmp_path / "last.pt", state) == ""
    loaded = load_state(tmp_path / "last.pt")
    assert loaded["best"] == 0.25
    for mine, theirs in zip(
        state["optimizer"]["state"].values(), loaded["optimizer"]["state"].values(), strict=True
    ):
        assert torch.equal(mine["exp_avg"], theirs["exp_avg"])
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_full_disk_keeps_the_old_state_and_returns_a_message(tmp_path):
    """A limit of 64 KiB on the files of a child process takes the place of a full disk."""
    save_state(tmp_path / "last.pt", {"generators": generators(), "step": 1})
    code = f"""
import resource, signal, sys, torch
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})
from training.state_file import generators, save_state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
big = {{"generators": generators(), "step": 2, "weights": torch.ones(100_000)}}
print(save_state(Path({str(tmp_path / "last.pt")!r}), big))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the previous state remains" in done.stdout, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    assert load_state(tmp_path / "last.pt")["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_a_folder_that_was_removed_is_made_again(tmp_path):
    assert save_state(tmp_path / "gone/last.pt", {"generators": generators()}) == ""
    with disk_errors(tmp_path / "lost"):
        (tmp_path / "lost/log.csv").write_text("epoch\n")


def test_a_disk_too_small_for_states_is_a_warning(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    assert low_disk_warning(tmp_path, free // 4) == ""
    assert "free some space" in low_disk_warning(tmp_path, free)


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04 half"])
def test_a_file_that_is_no_state_is_reported_in_one_line(tmp_path, content):
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match="not a training state"):
        load_state(tmp_path / "last.pt")


def test_a_model_file_is_no_state(tmp_path):
    torch.save({"weights": torch.ones(2)}, tmp_path / "last.pt")
    with pytest.raises(UserError, match="not a training state"):
        load_state(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("torch", torch.zeros(5, dtype=torch.uint8)),
        ("torch", None),
        ("numpy", [1, 2]),
        ("numpy", ["MT19937", torch.zeros(3, dtype=torch.int64), 0, 0, 0.0]),
        ("python", [3, [-1] * 625, None]),
        ("python", [3, [2**40] * 625, None]),
    ],
)
def test_damaged_generators_are_reported_in_one_line(name, value):
    before = generators()
    try:
        with pytest.raises(UserError, match="last.pt: its random generators are damaged"):
            set_generators(before | {name: value})
    finally:
        set_generators(before)
