"""A run stopped anywhere and resumed gives bit for bit the results of a run in one go."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import main
from common.errors import run_cli
from common.whole_file import LEFTOVERS
from config import Recipe, TrainConfig
from tests.toy import FLAGS, Killed, outcome, run_toy, run_until_killed, same
from training import run as training_run
from training.optimizer import make_optimizer
from training.step import TrainingStep

CHILD = """
import sys
sys.path.insert(0, {root!r})
import torch
import main
from speech import pretrained
torch.set_num_threads(1)
recipe = torch.load({file!r}, weights_only=False)  # written by the test itself
main.RECIPES["toy"] = recipe
pretrained.encoder_of = lambda source, default: default
from common.errors import run_cli
sys.exit(run_cli(main.main, sys.argv[1:]))
"""
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def child(recipe: Recipe, folder: Path, *argv: str) -> list[str]:
    """The command of a run in a process of its own, of which `recipe` is the "toy"."""
    root = str(Path(__file__).resolve().parents[1])
    torch.save(recipe, folder / "recipe.pt")
    (folder / "child.py").write_text(CHILD.format(root=root, file=str(folder / "recipe.pt")))
    return [sys.executable, str(folder / "child.py"), *FLAGS, *argv]


@pytest.mark.parametrize("steps", [1, 2, 3, 5])  # two an epoch: inside, at the end, in a later one
def test_a_killed_run_resumes_bit_equal(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    assert run_toy("--out", "whole") == 0
    run_until_killed(monkeypatch, steps, "--out", "cut", "--save_every", "0.0000001")
    assert run_toy("--out", "cut", "--resume") == 0
    same("whole", "cut")


def test_steps_after_the_last_state_are_repeated(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed three steps in, with a state at the end of the first epoch only."""
    assert run_toy("--out", "whole") == 0
    run_until_killed(monkeypatch, 3, "--out", "cut")
    assert run_toy("--out", "cut", "--resume") == 0
    same("whole", "cut")


def test_a_kill_while_the_log_is_written_leaves_the_log(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_toy("--out", "whole") == 0
    real, count = csv.DictWriter.writerows, [0]

    def writerows(self, rows):
        count[0] += 1
        if count[0] == 3:  # of the second epoch; the first writing is that of no rows
            raise Killed
        return real(self, rows)

    with monkeypatch.context() as patched:
        patched.setattr(csv.DictWriter, "writerows", writerows)
        with pytest.raises(Killed):
            run_toy("--out", "cut")
    assert len(outcome("cut")[1]) == 1
    assert run_toy("--out", "cut", "--resume") == 0
    same("whole", "cut")


def test_a_disk_without_room_for_the_model_is_reported_in_one_line(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files of more than 16 KiB are refused: state and model, not the log."""
    assert run_toy("--out", "whole") == 0
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    real = training_run.Run._validate

    def validate(self, *args):
        if self.epoch == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (16_384, before[1]))
            self.best_score = float("inf")
        return real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(training_run.Run, "_validate", validate)
        try:
            assert run_toy("--out", "cut") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert "cut/best.safetensors: cannot be written" in error and error.count("\n") == 1
    assert not list(Path("cut").glob(LEFTOVERS))
    assert run_toy("--out", "cut", "--resume") == 0
    same("whole", "cut")


def test_sigterm_saves_the_state_and_exits_with_0(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy("--out", "whole") == 0
    real = TrainingStep.__call__

    def step(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)  # in the middle of the first step
        return real(self, *args)

    with monkeypatch.context() as patched:
        patched.setattr(TrainingStep, "__call__", step)
        with pytest.raises(SystemExit) as stopped:
            run_toy("--out", "cut")
    assert stopped.value.code == 0
    assert "stopped on request; continue from cut/last.pt with --resume" in capsys.readouterr().out
    assert (Path("cut") / "last.pt").exists()
    assert run_toy("--out", "cut", "--resume") == 0
    same("whole", "cut")


def test_sigterm_to_all_processes_saves_the_state_and_exits_with_0(
    recipe: Recipe, tmp_path: Path
) -> None:
    """Schedulers signal every process; a data worker must not end the run."""
    command = child(recipe, tmp_path, "--out", "cut", "--workers", "1", "--epochs", "100000")
    out = tmp_path / "out.txt"
    with open(out, "w") as file:
        going = subprocess.Popen(
            command, stdout=file, stderr=file, env=ALONE, start_new_session=True
        )
    for _ in range(600):  # a minute; the row of the second epoch shows that training has started
        if going.poll() is not None or "epoch 2" in out.read_text():
            break
        time.sleep(0.1)
    os.killpg(going.pid, signal.SIGTERM)
    assert going.wait(timeout=60) == 0, out.read_text()[-2000:]
    assert "stopped on request; continue from" in out.read_text()
    assert (Path("cut") / "last.pt").exists()


def test_resuming_with_other_flags_is_reported_in_one_line(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy("--out", "a") == 0
    before = (Path("a") / "last.pt").read_bytes()
    capsys.readouterr()
    for flags, part in (
        (["--learning_rate", "0.5"], "train.learning_rate was 0.003, is 0.5"),
        (["--batch_size", "2"], "train.batch_size was 1, is 2"),
        (["--set", "model.n_experts=3"], "model.n_experts was 2, is 3"),
    ):
        assert run_toy("--out", "a", "--resume", *flags) == 2
        error = capsys.readouterr().err
        assert part in error and error.count("\n") == 1
    assert (Path("a") / "last.pt").read_bytes() == before
    (Path("a") / "last.pt").write_bytes(before[:1000])
    assert run_toy("--out", "a", "--resume") == 2
    assert "not a training state" in capsys.readouterr().err


def test_resume_without_a_state_starts_a_new_run(recipe: Recipe) -> None:
    assert run_toy("--out", "a", "--resume") == 0
    assert (Path("a") / "best.safetensors").exists()


def test_a_run_is_repeated_from_its_folder(
    recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_toy("--out", "first", "--learning_rate", "1e-3", "--seed", "5") == 0
    assert run_cli(main.main, ["--from", "first", "--mode", "train", "--out", "again"]) == 0
    same("first", "again")
    capsys.readouterr()
    for flags, part in (
        (["--from", "first"], "with --out"),
        (["--from", "nowhere", "--out", "x"], "expected the folder of a training run"),
        (["--from", "first", "--out", "x", "--epochs", "9"], "remove --epochs 9"),
        (["--from", "first", "--out", "x", "--base", "BIWI"], "remove --base"),
    ):
        assert run_cli(main.main, flags) == 2
        error = capsys.readouterr().err
        assert part in error and error.count("\n") == 1


def test_flags_beside_from_override_those_of_the_run(recipe: Recipe) -> None:
    assert run_toy("--out", "a", "--workers", "0", "--cache", "off", "--epochs", "1") == 0
    record = json.loads(Path("a/run.json").read_text())
    for typed, (workers, precision, cache, minutes) in (
        ([], (0, "fp32", "off", 10.0)),
        (["--workers", "3", "--cache", "b", "--save_every", "2"], (3, "fp32", "b", 2.0)),
        (["--precision", "bf16"], (0, "bf16", "off", 10.0)),
    ):
        args = main.parse(["--from", "a", "--out", "b", *typed])
        run = main.resolve_run(args)
        args = run.args
        assert run.recipe.train.epochs == 1 and str(run.out) == "b"
        assert (args.workers, args.precision) == (workers, precision)
        assert (args.cache, args.save_every) == (cache, minutes)
    # "auto" repeats the precision of that run
    record["arguments"], record["precision"] = ["--dataset", "toy"], "bfloat16"
    Path("a/run.json").write_text(json.dumps(record))
    assert main.resolve_run(main.parse(["--from", "a", "--out", "b"])).args.precision == "bf16"


def test_accumulated_batches_give_the_losses_of_a_large_one(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(monkeypatch, recipe)
    assert run_toy("--out", "large", "--batch_size", "2") == 0
    assert run_toy("--out", "small", "--batch_size", "1", "--set", "train.accumulate=2") == 0
    assert_equal_losses("large", "small")


def quiet(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> None:
    """The toy recipe without anything random in a step."""
    import dataclasses

    encoder = recipe.model.encoder | dict(
        apply_spec_augment=False, hidden_dropout=0.0, attention_dropout=0.0, layerdrop=0.0,
        activation_dropout=0.0, feat_proj_dropout=0.0,
    )  # fmt: skip
    still = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, encoder=encoder))
    monkeypatch.setitem(main.RECIPES, "toy", still)
    monkeypatch.setattr("speech.pretrained.encoder_of", lambda source, default: default)


def assert_equal_losses(one: str, other: str) -> None:
    """The two logs have equal losses, to rounding, in every epoch."""
    (_, rows), (_, others) = outcome(one), outcome(other)
    for row, theirs in zip(rows, others, strict=True):
        for name in ("loss", "vertex", "velocity", "lips", "latent", "ctc", "balance", "val_lve"):
            assert float(row[name]) == pytest.approx(float(theirs[name]), rel=2e-3), name


def test_two_processes_give_the_losses_of_one(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torchrun over gloo: the same global batch, the same losses and validation, one writer."""
    quiet(monkeypatch, recipe)
    assert run_toy("--out", "one", "--batch_size", "2") == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = torchrun + child(main.RECIPES["toy"], tmp_path, "--out", "two")[1:]
    done = subprocess.run(command, capture_output=True, text=True, env=ALONE, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert_equal_losses("one", "two")
    assert done.stdout.count("best model on validation") == 1


def test_optimizer_orders_parameters_as_the_networks_do() -> None:
    # Moments are stored by position. An order that differed between processes gave a resumed run
    # the moments of other parameters, or crashed inside the fused AdamW.
    model, reader = nn.Module(), nn.ModuleDict({f"norm_{i}": nn.LayerNorm(3) for i in range(11)})
    model.encoder = nn.Linear(2, 3)
    model.norms = nn.ModuleDict({f"norm_{i}": nn.LayerNorm(5) for i in range(13)})
    model.head = nn.Linear(5, 7)
    nets = SimpleNamespace(model=model, reader=reader)
    optimizer, _ = make_optimizer(nets, TrainConfig(), n_steps=17)
    named = [*model.named_parameters(), *reader.named_parameters()]
    place = {id(p): number for number, (_, p) in enumerate(named)}
    for group in optimizer.param_groups:
        places = [place[id(p)] for p in group["params"]]
        assert places == sorted(places)
