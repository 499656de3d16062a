"""What the benchmark of the live engine says about late frames."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_live import causes, largest_motion
from benchmarks.idle_process import idle_process, stolen_ms


def test_causes_of_late_frames_are_told_apart() -> None:
    # a usual step, one on a core that is slowed down, one that waits for a core
    steps = np.array(
        [[0.026, 0.025, 0.0, 0], [0.190, 0.180, 0.15, 2], [0.150, 0.020, 0.0, 1]]
    )  # seconds on the clock, of processor and taken by the host, late frames
    assert causes(steps, 4.0) == {
        "step_ms": 25.0, "slowest_step_ms": 180.0, "core_wait_ms": 130.0, "host_stall_ms": 4.0,
        "stolen_ms": 150.0, "late_while_stolen": 2.0,
    }  # fmt: skip


def test_time_that_the_host_took_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr("benchmarks.idle_process.STAT", stat)
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    assert stolen_ms() == 0  # no such file
    stat.write_text("cpu  1 2 3 4 5 6 7 39 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n")
    assert stolen_ms() == 390
    stat.write_text("cpu 1 2 3\n")
    assert stolen_ms() == 0


def test_the_vertex_that_moves_most_counts() -> None:
    vertices = np.zeros((3, 4, 3))
    vertices[1, 2] = [3, 4, 0]  # 5 from the frame before
    vertices[2, 2], vertices[2, 0] = [3, 4, 1], [0, 0, 2]
    np.testing.assert_allclose(largest_motion(vertices), [5, 2])


def test_an_idle_process_tells_how_late_it_woke() -> None:
    with idle_process() as oversleep_ms:
        time.sleep(0.05)
    assert len(oversleep_ms) == 1
    assert oversleep_ms[0] >= 0
