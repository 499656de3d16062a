"""The kill benchmark finds half written, missing and differing files, and no others."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bench_kills import OLDER, Kill, Trial, run_trials
from benchmarks.killed_commands import Command
from common.whole_file import whole_file

NAMES, HALF = ("a.txt", "b.txt"), "x" * 50


def careful(argv: Sequence[str]) -> None:
    """Writes whole files, each in two steps."""
    for name in NAMES:
        with whole_file(Path(argv[-1]) / name) as partial, open(partial, "w") as file:
            file.write(HALF)
            file.flush()
            time.sleep(0.02)
            file.write(HALF)


def counting(argv: Sequence[str]) -> None:
    """Writes how often it has been started."""
    path = Path(argv[-1]) / "a.txt"
    with whole_file(path) as partial:
        partial.write_text(path.read_text() + "x" if path.exists() else "x")
        time.sleep(0.02)


@pytest.fixture
def trial(tmp_path: Path) -> Callable[[Callable], Trial]:
    """Makes the trial of a command."""

    def make(entry: Callable) -> Trial:
        (tmp_path / "whole").mkdir()
        command = Command("toy", entry, [])
        return Trial(command, tmp_path, np.random.default_rng(1))

    return make


def test_whole_files_survive_every_kill(trial: Callable[[Callable], Trial]) -> None:
    toy = trial(careful)
    kills = run_trials([toy], 9)
    assert len(kills) == 9 and any(kill.partial for kill in kills)
    assert toy.lost == [] and toy.leftovers == 0
    assert sorted(path.name for path in toy.out.iterdir()) == list(NAMES)


def test_half_written_and_differing_files_are_found_and_older_ones_may_stand(
    trial: Callable[[Callable], Trial],
) -> None:
    toy = trial(counting)
    toy.out.mkdir()
    (toy.out / "a.txt").write_bytes(OLDER)
    toy.check_after(None)
    assert toy.lost == []
    (toy.out / "a.txt").write_bytes(b"")
    toy.check_after(Kill("toy", 9, False))
    assert toy.lost == ["toy: a.txt after Kill(command='toy', number=9, partial=False)"]
    list(toy.round(older=True, most=0))
    assert toy.lost[1:] == ["toy: a.txt at the end"]
