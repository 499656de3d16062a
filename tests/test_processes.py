"""Processes that train together end together, with one line of the one that failed."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import UserError
from training.processes import Group, SharedUserError, from_environment, joined

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "SLURM_LOCALID")


def environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def test_a_world_without_a_rank_is_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some schedulers export WORLD_SIZE for their own use."""
    environment(monkeypatch, WORLD_SIZE="4")
    with joined() as group:
        assert group == Group()
    assert "WORLD_SIZE is 4 but RANK is not set: one process trains" in capsys.readouterr().out
    for values in ({}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0"}):
        environment(monkeypatch, **values)
        assert from_environment() == Group()
    assert not capsys.readouterr().out


def test_a_scheduler_may_leave_the_local_rank_out(monkeypatch: pytest.MonkeyPatch) -> None:
    address = {"MASTER_ADDR": "a", "MASTER_PORT": "1"}
    environment(monkeypatch, WORLD_SIZE="4", RANK="3", **address)
    assert from_environment() == Group(3, 4, 0)
    environment(monkeypatch, WORLD_SIZE="4", RANK="3", SLURM_LOCALID="1", **address)
    assert from_environment() == Group(3, 4, 1)


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT not set"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "expected 0 to 1"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "expected integers"),
    ],
)
def test_an_incomplete_environment_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, values: dict[str, str], part: str
) -> None:
    environment(monkeypatch, **values)
    with pytest.raises(UserError, match=part):
        from_environment()


FAILING = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import torch
from training.processes import joined
from common.errors import UserError, run_cli

def main(_):
    with joined() as group:
        print("rank", group.rank, "is here", flush=True)
        print("warning: about this machine", file=sys.stderr)
        group.sum(torch.ones(1))
        if group.rank == 1:
            raise UserError("the disk is full")
        group.sum(torch.ones(1))  # would wait for rank 1 for half an hour

sys.exit(run_cli(main))
"""


def test_an_error_in_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    variables = os.environ | {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    started = time.monotonic()
    ranks = [
        subprocess.Popen(
            [sys.executable, str(tmp_path / "failing.py")],
            env=variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=120) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [2, 2]
    assert [out for out, _ in outputs] == ["rank 0 is here\n", ""]
    lines = [line for _, err in outputs for line in err.splitlines() if "W1" not in line]
    assert lines == [
        "warning: about this machine",  # once, by its first process
        f"error: process 1 of 2 on {socket.gethostname()}: the disk is full",
    ]
    assert time.monotonic() - started < 60  # and torch's import on a busy machine


def test_a_shared_error_is_a_user_error_and_a_group_of_one_adds_nothing() -> None:
    assert issubclass(SharedUserError, UserError)
    assert Group(1, 3).place.startswith("process 1 of 3 on ")
    assert Group().add([1, 2.5], None) == [1, 2.5]  # one process: no device is needed
