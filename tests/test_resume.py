"""A state resumes the run that it belongs to and no other; moments are stored by name."""

import copy
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import main
from common.errors import UserError, run_cli
from config import Recipe
from tests.toy import run_toy, run_until_killed, same
from training import state_file
from training.processes import Group, SharedUserError
from training.resume import find_state, pack, unpack
from training.run_log import set_aside
from training.state_file import folder_lock, generators, save_state


def networks() -> SimpleNamespace:
    """Two layers of one shape and one of another, in place of networks."""
    torch.manual_seed(3)
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    return SimpleNamespace(model=model, reader=nn.Linear(5, 2), average=None)


def optimized(nets: SimpleNamespace, backwards: bool = False) -> tuple[Any, Any]:
    """An optimizer of all parameters, from the first or from the last on, and its schedule."""
    order = [*nets.model.parameters(), *nets.reader.parameters()][:: -1 if backwards else 1]
    optimizer = torch.optim.AdamW(order, lr=0.1)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))


def step(nets: SimpleNamespace, optimizer: Any, schedule: Any) -> None:
    optimizer.zero_grad()
    hidden = nets.model["b"](nets.model["a"](torch.ones(1, 3)))
    (hidden.square().sum() + nets.reader(torch.ones(1, 5)).square().sum()).backward()
    optimizer.step()
    schedule.step()


def test_moments_follow_their_parameters_in_any_order() -> None:
    nets = networks()
    optimizer, schedule = optimized(nets)
    step(nets, optimizer, schedule)
    state = copy.deepcopy(pack(nets, optimizer, schedule))  # as from a file
    resumed = networks()
    other, other_schedule = optimized(resumed, backwards=True)
    unpack(state, resumed, other, other_schedule)
    assert other.param_groups[0]["lr"] == 0.05
    for _ in range(3):
        step(nets, optimizer, schedule)
        step(resumed, other, other_schedule)
    for mine, theirs in zip(nets.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_moments_of_another_network_are_reported_in_one_line() -> None:
    nets = networks()
    optimizer, schedule = optimized(nets)
    step(nets, optimizer, schedule)
    state = pack(nets, optimizer, schedule)
    state["moments"]["model.c.weight"] = state["moments"].pop("model.b.weight")
    with pytest.raises(UserError, match="of model.c.weight: expected shape none, got"):
        unpack(state, nets, optimizer, schedule)


@dataclass(frozen=True)
class OfTwo(Group):
    """Rank 0 of two; the other process does not see the folder."""

    world: int = 2

    def gather(self, value: Any) -> list[Any]:
        return [value, (False, "process 1 of 2 on elsewhere")]


def test_a_state_that_one_process_does_not_see_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    save_state(tmp_path / "last.pt", {"generators": [generators()]})
    with pytest.raises(
        SharedUserError, match="1 of 2 processes, not for process 1 of 2 on elsewhere"
    ):
        find_state(tmp_path, recipe, OfTwo())
    assert find_state(tmp_path / "none", recipe, OfTwo()) is None


def test_a_finished_run_prints_how_to_continue_training(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy("--out", "a", "--epochs", "2") == 0
    before = Path("a/last.pt").read_bytes()
    capsys.readouterr()
    assert run_toy("--out", "a", "--epochs", "2", "--resume") == 0
    output = capsys.readouterr().out
    assert "finished: all 2 epochs of a are done" in output and "resumed" not in output
    assert run_toy("--out", "a", "--epochs", "4", "--resume") == 2
    error = capsys.readouterr().err
    assert "train.epochs was 2, is 4" in error
    assert "--init a/best.safetensors --epochs 4 --out NEW" in error and error.count("\n") == 1
    assert Path("a/last.pt").read_bytes() == before


def test_a_resumed_run_prints_where_it_continues(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for steps, place in ((2, "epoch 2 of 3, 0 of 2 batches used"), (3, "epoch 2 of 3, 1 of 2")):
        run_until_killed(monkeypatch, steps, "--out", "a", "--save_every", "0.0000001")
        run_until_killed(monkeypatch, 0, "--out", "a", "--resume")
        assert f"resumed: {place}" in capsys.readouterr().out


def test_resuming_in_another_precision_is_a_warning(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_until_killed(monkeypatch, 2, "--out", "a")
    run_until_killed(monkeypatch, 0, "--out", "a", "--resume", "--precision", "bf16")
    output = capsys.readouterr().out
    assert "warning: precision was torch.float32, is torch.bfloat16: results" in output


def test_an_earlier_run_is_set_aside_not_overwritten(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy("--out", "a") == 0
    before = {name: Path("a", name).read_bytes() for name in ("last.pt", "best.safetensors")}
    assert run_toy("--out", "a", "--epochs", "1") == 0
    assert "an earlier run in this folder was moved to a/earlier_1" in capsys.readouterr().out
    for name, content in before.items():
        assert Path("a/earlier_1", name).read_bytes() == content
    assert len(list(Path("a/earlier_1").glob("events.*"))) == len(list(Path("a").glob("events.*")))
    Path("a/earlier_1/last.pt").replace("a/last.pt")  # by a user who wants it back
    Path("a/earlier_1/run.json").replace("a/run.json")
    assert run_toy("--out", "a", "--resume") == 0


def test_a_folder_without_a_model_is_not_set_aside(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch\n")
    assert set_aside(tmp_path) is None and (tmp_path / "log.csv").exists()


def test_two_processes_do_not_train_into_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_file, "PATIENCE_S", 0.0)
    code = (
        "import fcntl, sys, time\nfile = open(sys.argv[1], 'a')\nfcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\ntime.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / state_file.LOCK_FILE)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        taken = pytest.raises(UserError, match="another process trains into this folder")
        with taken, folder_lock(tmp_path):
            pass
    finally:
        other.kill()
        other.wait()
    with folder_lock(tmp_path):  # the system has freed it
        pass


def test_a_state_and_a_record_with_a_retired_field_are_read(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits up to 4c337b8 wrote train.compile, best_choice and val_choice."""
    assert run_toy("--out", "whole") == 0
    run_until_killed(monkeypatch, 3, "--out", "cut", "--save_every", "0.0000001")
    state = torch.load("cut/last.pt", weights_only=True)
    state["recipe"]["train"]["compile"] = False
    state["best_choice"] = state.pop("best_score")
    torch.save(state, "cut/last.pt")
    log = Path("cut/log.csv")
    log.write_text(log.read_text().replace("val_selection_score", "val_choice"))
    record = json.loads(Path("cut/run.json").read_text())
    record["recipe"]["train"]["compile"] = False
    Path("cut/run.json").write_text(json.dumps(record))
    assert run_toy("--out", "cut", "--resume") == 0
    same("whole", "cut")
    again = ["--from", "cut", "--mode", "train", "--out", "again"]
    assert run_cli(main.main, again) == 0
    same("whole", "again")
