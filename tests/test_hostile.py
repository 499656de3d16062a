"""Hostile files: every loader ends in a result or in one line; see `benchmarks.bench_hostile`."""

import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import hostile_pool
from benchmarks.bench_hostile import (
    TARGETS,
    Given,
    Mutants,
    figures,
    given_files,
    mutants,
    pickle_inputs,
    warm_up,
)
from benchmarks.hostile_pool import run_all, try_file
from benchmarks.hostile_targets import Attempt, Target
from common.errors import UserError

N_MUTANTS, SEED = 3_000, 1
SAMPLE = mutants(N_MUTANTS, SEED)
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


def bad_loader(folder: Path) -> Attempt:
    """A loader that does what the file says, in a process that may take 50 MB more than it has."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * hostile_pool.RSS_UNIT
    hostile_pool.PEAK_BYTES = used + 5 * 10**7

    def attempt(path: Path) -> None:
        match path.read_text():
            case "refuse":
                raise UserError("no")
            case "raise":
                raise KeyError("a bug")
            case "crash":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                while True:
                    pass
            case "memory":
                np.ones(10**8, np.uint8)

    return attempt


@needs_fork
def test_the_pool_counts_every_kind_of_fault_and_tries_all_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hostile_pool, "HANG_S", 1.0)
    words = ["fine", "raise", "crash", "refuse", "hang", "memory", "fine", "raise", "fine"]
    target = Target("bad", "x", lambda: [b"fine"], bad_loader)
    inputs = Given(target, [(word, word.encode()) for word in words])
    outcomes = list(run_all([inputs], 1))
    faults = [fault for _, _, found in outcomes for fault in found]
    assert sum(n for _, n, _ in outcomes) == len(words)
    assert [(fault.index, fault.kind) for fault in faults] == [
        (1, "tracebacks"), (2, "crashes"), (4, "hangs"), (5, "over_1gb"), (7, "tracebacks"),
    ]  # fmt: skip
    assert figures(len(words), faults)["tracebacks"] == 2


def test_mutants_depend_on_seed_and_index_alone() -> None:
    for target in TARGETS[:3]:
        once, again, other = (Mutants(target, seed, 9) for seed in (1, 1, 2))
        contents = [once.content(i) for i in range(9)]
        assert contents == [again.content(i) for i in range(9)]
        assert contents != [other.content(i) for i in range(9)]
        assert len(set(contents)) > 7


def test_files_of_a_folder_are_tried_with_every_loader_that_could_take_them(
    tmp_path: Path,
) -> None:
    for name in ("a.PKL", "b.m3u8", "c.unknown"):
        (tmp_path / name).write_bytes(b"x")
    tried = {inputs.target.name: [name for name, _ in inputs.files]
             for inputs in given_files(tmp_path)}  # fmt: skip
    assert tried["audio wav"] == ["b.m3u8", "c.unknown"]
    assert tried["templates pickle"] == tried["streamed pickle"] == ["a.PKL"]
    assert "npy" not in tried


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_valid_file_is_accepted(target: Target) -> None:
    assert warm_up(target) == ""


@pytest.mark.parametrize("inputs", SAMPLE, ids=lambda inputs: inputs.target.name)
def test_a_mutant_ends_in_a_result_or_in_one_line(inputs: Mutants, tmp_path: Path) -> None:
    attempt = inputs.target.prepare(tmp_path)
    for index in range(len(inputs)):
        started = time.process_time()
        fault = try_file(attempt, inputs.write(index, tmp_path))
        assert fault == ("", ""), f"mutant {index}"
        assert time.process_time() - started < hostile_pool.HANG_S, f"mutant {index}"


@pytest.mark.parametrize("inputs", pickle_inputs(), ids=lambda inputs: inputs.target.name)
def test_every_reader_of_pickles_refuses_every_hostile_pickle(
    inputs: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where code that runs would leave a file
    attempt = inputs.target.prepare(tmp_path)
    for index, (name, _) in enumerate(inputs.files):
        assert try_file(attempt, inputs.write(index, tmp_path)) == ("", ""), name
