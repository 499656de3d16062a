"""benchmarks.compare on a repository of two commits, with work whose seconds stand in a file."""

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import compare
from common.errors import UserError, run_cli

STUB = """
import json, sys
seconds = json.load(open("seconds.json"))
if sys.argv[1] not in seconds:
    sys.exit("no module named scan")
print(json.dumps({"seconds": seconds[sys.argv[1]]}))
"""
OLD = {"predict": 2.0, "draw": 1.0, "help": 0.5}
NEW = {"predict": 1.0, "draw": 1.04, "help": 0.6, "scan": 1.0}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository whose HEAD has the seconds of OLD, its working tree those of NEW."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "seconds.json").write_text(json.dumps(OLD))
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "old"]):
        subprocess.run(["git", "-C", root, *words], check=True)
    (root / "seconds.json").write_text(json.dumps(NEW))
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(compare, "PROJECT_ROOT", root)
    monkeypatch.setattr(compare, "SCRIPT", tmp_path / "stub.py")
    return root


def trees_of(repository: Path) -> int:
    """The number of working trees that git knows."""
    listed = subprocess.run(
        ["git", "-C", repository, "worktree", "list"], capture_output=True, text=True, check=True
    )
    return len(listed.stdout.splitlines())


def test_slower_work_is_named_and_the_exit_code_is_1(repository: Path, capsys) -> None:
    assert run_cli(compare.main, ["HEAD", "--turns", "6", "--only", "predict,draw,help"]) == 1
    rows = capsys.readouterr().out.splitlines()
    assert json.loads(rows[-1]) == {"predict": 0.5, "draw": 1.04, "help": 1.2}
    assert "| predict | 2.000 | 1.000 | 0.500 | 0.500 to 0.500 | faster |" in rows
    assert "| draw | 1.000 | 1.040 | 1.040 | 1.040 to 1.040 |  |" in rows  # within the tolerance
    assert "| help | 0.500 | 0.600 | 1.200 | 1.200 to 1.200 | slower |" in rows
    assert trees_of(repository) == 1


def test_work_that_the_older_version_lacks_is_left_out(repository: Path, capsys) -> None:
    assert run_cli(compare.main, ["HEAD", "--turns", "6", "--only", "scan,predict"]) == 0
    out = capsys.readouterr().out
    assert "scan: left out, REF cannot do it (no module named scan)" in out
    assert json.loads(out.splitlines()[-1]) == {"predict": 0.5}


def test_work_that_fails_in_this_version_is_an_error(repository: Path, capsys) -> None:
    (repository / "seconds.json").write_text("{}")
    assert run_cli(compare.main, ["HEAD", "--only", "draw"]) == 2
    assert capsys.readouterr().err == (
        "error: draw: failed in this version (no module named scan)\n"
    )


def test_bad_flags_give_one_line(repository: Path, capsys) -> None:
    cases = {
        ("no_such",): f"REF no_such: no commit of the repository in {repository}",
        ("--only", "fly", "HEAD"): "--only fly: expected one of predict, draw",
        ("--turns", "5", "HEAD"): "--turns 5: expected at least 6",
        ("--tolerance", "-1", "HEAD"): "--tolerance -1.0: expected 0 or more",
    }
    for flags, message in cases.items():
        assert run_cli(compare.main, flags) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_the_checked_out_version_goes_after_an_interrupt(repository: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        compare.checked_out(compare.commit_of("HEAD")) as tree,
    ):
        assert json.loads((tree / "seconds.json").read_text()) == OLD
        raise KeyboardInterrupt
    assert not tree.exists() and trees_of(repository) == 1


def test_a_commit_that_cannot_be_checked_out_is_one_line(repository: Path) -> None:
    with pytest.raises(UserError, match="git worktree add: "), compare.checked_out("0" * 40):
        pass


def test_interval_is_that_of_the_sign_test() -> None:
    # P(all of 6 on one side) = 2 / 64 = 0.031; with one of 6 on the other side 14 / 64
    assert compare.interval([3, 1, 2, 6, 5, 4]) == (1, 6)
    # 9 values: P(at most one on a side) = 2 · 10 / 512 = 0.039, at most two 2 · 46 / 512 = 0.18
    assert compare.interval(range(1, 10)) == (2, 8)


def test_versions_are_first_in_turn(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    monkeypatch.setattr(compare, "seconds_of", lambda _, tree: order.append(tree) or 1.0)
    old = repository.parent / "old"
    for number in range(2):
        compare.turn_of("predict", old, number)
    assert order == [old, repository, repository, old]
