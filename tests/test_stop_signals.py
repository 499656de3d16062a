"""A run that receives a signal saves, ends at once, and resumes bit for bit."""

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import main
from common.errors import run_cli
from common.stop_signals import Stop, stopping
from config import Recipe, Split
from tests.toy import run_toy, same
from training import preview, validation
from training.preview import Previews
from training.step import TrainingStep

ROOT = Path(__file__).resolve().parents[1]


def signalled(function: Callable, number: int) -> Callable:
    """`function`, during whose every call the process gets a signal."""

    def called(*args: Any) -> Any:
        os.kill(os.getpid(), number)
        return function(*args)

    return called


def stopped(*argv: str) -> int | str | None:
    """The exit code of a run that stops on request."""
    with pytest.raises(SystemExit) as end:
        run_toy("--out", "cut", *argv)
    return end.value.code


def test_sigterm_in_validation_ends_within_a_clip(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits = recipe.dataset.splits | {"val": Split(("b",), (1, 2, 3))}
    spec = dataclasses.replace(recipe.dataset, splits=splits)
    monkeypatch.setitem(main.RECIPES, "toy", dataclasses.replace(recipe, dataset=spec))
    assert run_toy("--out", "whole") == 0
    scored = []
    real = validation.score
    with monkeypatch.context() as patched:
        score = signalled(real, signal.SIGTERM)
        patched.setattr(validation, "score", lambda *args: scored.append(1) or score(*args))
        assert stopped() == 0
    assert len(scored) == 1
    state = torch.load("cut/last.pt", weights_only=True)
    assert state["epoch"] == state["batches"]["epoch"] == 1 and state["batches"]["position"] == 2
    assert run_toy("--out", "cut", "--resume") == 0
    same("whole", "cut")


def test_ctrl_c_saves_the_state_and_exits_with_130(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_toy("--out", "whole") == 0
    capfd.readouterr()
    with monkeypatch.context() as patched:
        step = signalled(TrainingStep.__call__, signal.SIGINT)
        patched.setattr(TrainingStep, "__call__", step)
        assert stopped() == 130
    output = capfd.readouterr()
    assert "stopping after the state is saved" in output.out and "Traceback" not in output.err
    assert "stopped on request; continue from cut/last.pt with --resume" in output.out
    assert run_toy("--out", "cut", "--resume") == 0
    same("whole", "cut")


def test_a_preview_stops_when_a_stop_is_requested(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    previews = Previews.__new__(Previews)
    previews.possible, previews.folder, drawn = True, tmp_path, []

    def write(self: Previews, _model: None, _path: Path, stop_requested: Callable) -> None:
        self.renderer = SimpleNamespace(frame=drawn.append)
        list(self._pairs(range(9), range(9), stop_requested))

    monkeypatch.setattr(Previews, "_write", write)
    monkeypatch.setattr(preview.np, "concatenate", lambda *_, **__: None)
    assert previews.add(None, 1, None, stop_requested=lambda: len(drawn) >= 6) is None
    assert len(drawn) == 6  # three pairs, then no more


def test_sigterm_before_the_first_step_exits_with_0_at_once() -> None:
    code = (
        "import os, signal, time\nfrom common.stop_signals import stopping\n"
        "with stopping():\n os.kill(os.getpid(), signal.SIGTERM)\n time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "stopped on request; there was nothing to save\n"


def test_a_second_ctrl_c_ends_at_once_and_a_copy_of_the_first_does_not() -> None:
    with stopping() as stop:
        with stop.deferred():
            for _ in range(2):  # of the terminal, and passed on by torchrun
                os.kill(os.getpid(), signal.SIGINT)
            assert stop.interrupted and stop.requested
            stop.interrupted_s -= 10  # later
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):  # nothing is saved outside of the steps
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_hangup_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping() as stop, stop.deferred():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with stopping() as stop, stop.deferred():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.terminated
    finally:
        signal.signal(signal.SIGHUP, before)


def test_no_stop_is_requested_at_first() -> None:
    assert not Stop().requested


ENDING = """
import sys, time
from pathlib import Path
from common.errors import run_cli
from common.whole_file import whole_file
def main(argv):
    with whole_file(Path(argv[0])) as partial:
        partial.write_text("half")
        print("writing", flush=True)
        time.sleep(60)
sys.exit(run_cli(main, sys.argv[1:]))
"""


@pytest.mark.parametrize("name, line", [("SIGTERM", "ended by SIGTERM"),
                                        ("SIGHUP", "ended by SIGHUP"),
                                        ("SIGINT", "interrupted")])  # fmt: skip
def test_a_signal_deletes_what_a_script_has_partly_written(
    tmp_path: Path, name: str, line: str
) -> None:
    (tmp_path / "a.npy").write_text("old")
    number = getattr(signal, name)
    command = [sys.executable, "-c", ENDING, str(tmp_path / "a.npy")]
    before = signal.signal(number, signal.SIG_DFL)  # nohup has SIGHUP ignored, also by a child
    child = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    signal.signal(number, before)
    assert child.stdout.readline() == "writing\n" and len(list(tmp_path.iterdir())) == 2
    child.send_signal(number)
    assert (child.communicate(timeout=30)[1], child.returncode) == (f"{line}\n", 128 + number)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
    assert (tmp_path / "a.npy").read_text() == "old"


def test_signals_of_a_script_are_restored_afterwards() -> None:
    def main(_: object) -> None:
        assert signal.getsignal(signal.SIGTERM) is not before

    before = signal.getsignal(signal.SIGTERM)
    assert run_cli(main) == 0 and signal.getsignal(signal.SIGTERM) is before
