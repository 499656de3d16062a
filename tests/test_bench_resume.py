"""The resume benchmark reports what a kill has lost, and nothing where nothing was lost."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import watched_run
from benchmarks.bench_resume import HASH_SEEDS, MODEL_FILES, Trial, record_loss
from benchmarks.watched_run import EPOCHS, STEPS, steps_of
from training.state_file import generators, save_state


def state(epoch: int, plan_epoch: int, position: int) -> dict:
    return {"epoch": epoch, "batches": {"epoch": plan_epoch, "position": position},
            "generators": [generators()]}  # fmt: skip


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """A killed run that reported 13 steps, and a state of 11 steps saved 0.1 s before the kill."""
    trial = Trial(tmp_path, seed=1)
    trial.interrupted.mkdir()
    (trial.interrupted / "log.csv").write_text("epoch,loss\n1,0.5\n")
    (trial.interrupted / "run.json").write_text("{}")
    save_state(trial.interrupted / "last.pt", state(2, 2, 11 - STEPS))
    watch = trial.watch
    watch.steps, watch.saved_steps = 13, 11
    watch.saved_s, watch.checked_s, watch.longest_s = 100.0, 100.09, 0.05
    return trial


class Recorder:
    """Replaces a `watched_run.Server`; appends its hash seed to `seeds` at every start."""

    def __init__(self, hash_seed: int, seeds: list[int]) -> None:
        self.hash_seed, self.seeds = hash_seed, seeds

    def start(self, *_: object) -> None:
        self.seeds.append(self.hash_seed)


def test_each_attempt_has_another_hash_seed_than_the_one_before(tmp_path: Path) -> None:
    # An order that depends on a set of strings is the same in all forks of one interpreter, so such
    # a bug needs several hash seeds to show.
    seeds: list[int] = []
    trial = Trial(tmp_path, 1, [Recorder(seed, seeds) for seed in HASH_SEEDS])
    for _ in range(7):
        trial.start()
    assert len(set(HASH_SEEDS)) == len(HASH_SEEDS) > 1
    assert all(a != b for a, b in zip(seeds, seeds[1:], strict=False))


def test_steps_of_a_state_are_counted_inside_and_between_epochs() -> None:
    assert steps_of(state(3, 3, 5)) == 2 * STEPS + 5
    assert steps_of(state(3, 2, STEPS)) == 2 * STEPS


def test_a_kill_that_costs_two_steps_is_no_loss(trial: Trial) -> None:
    kill = trial.inspect(100.1)
    assert (kill.loss, kill.redone_steps, kill.partial) == ("", 2, False)
    assert kill.redone_s == pytest.approx(0.1)
    assert trial.watch.steps == 11  # where the next process begins


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half"])
def test_a_state_that_does_not_load_is_a_loss(trial: Trial, content: bytes) -> None:
    (trial.interrupted / "last.pt").write_bytes(content)
    assert "not a training state" in trial.inspect(100.1).loss


def test_a_state_older_than_the_last_saved_is_a_loss(trial: Trial) -> None:
    save_state(trial.interrupted / "last.pt", state(2, 2, 10 - STEPS))
    assert "has 10 steps, expected 11 as saved" in trial.inspect(100.1).loss
    (trial.interrupted / "last.pt").unlink()
    trial.watch.saved_steps = 11
    assert "has 0 steps" in trial.inspect(100.1).loss


def test_more_than_the_interval_between_states_is_a_loss(trial: Trial) -> None:
    trial.watch.checked_s = 100.29  # 0.3 s against an interval of 0.12 s and steps of 0.05 s
    assert "0.30 s lost" in trial.inspect(100.3).loss


def test_incomplete_records_are_a_loss(trial: Trial) -> None:
    (trial.interrupted / "log.csv").write_text("")
    assert record_loss(trial.interrupted, 1) == "log.csv has 0 rows, expected 1 as in the state"
    (trial.interrupted / "log.csv").write_text("epoch,loss\n1\n")
    assert "incomplete row" in record_loss(trial.interrupted, 1)
    (trial.interrupted / "log.csv").write_text("epoch,loss\n1,0.5\n")
    (trial.interrupted / "run.json").write_text('{"arg')
    assert "run.json" in record_loss(trial.interrupted, 1)


def test_files_that_differ_are_named(tmp_path: Path) -> None:
    trial = Trial(tmp_path, seed=1)
    for name in ("reference", "interrupted"):
        (tmp_path / name).mkdir()
        rows = "".join(f"{i + 1},0.5,{name}\n" for i in range(EPOCHS))
        (tmp_path / name / "log.csv").write_text("epoch,loss,seconds\n" + rows)
        for file in MODEL_FILES:
            (tmp_path / name / file).write_bytes(b"same")
    assert trial.differences() == []
    (trial.interrupted / "best.safetensors").write_bytes(b"other")
    (trial.interrupted / ".last.pt.partial").write_bytes(b"half")
    (trial.interrupted / "log.csv").write_text(
        "epoch,loss,seconds\n" + rows.replace("0.5", "0.6", 1)
    )
    assert trial.differences() == [
        "log.csv",
        "best.safetensors",
        ".last.pt.partial was not deleted",
    ]


def test_the_data_are_readable_as_a_folder_of_own_data(tmp_path: Path) -> None:
    from dataset.own_folder import read_folder

    watched_run.write_data(tmp_path / "data")
    recipe, _ = read_folder(tmp_path / "data")
    assert recipe.dataset.n_vertices == watched_run.V and recipe.train.epochs == EPOCHS
    settings = json.loads((tmp_path / "data/dataset.json").read_text())
    assert len(settings["splits"]["train"]) == watched_run.TRAIN_CLIPS
    assert np.load(tmp_path / "data/vertices_npy/a_00.npy").shape[1:] == (watched_run.V, 3)
