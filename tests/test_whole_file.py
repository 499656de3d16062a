"""Files appear whole under their names, or not at all; temporary files belong to a process."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import whole_file as module
from common.errors import reason_of
from common.whole_file import (
    LEFTOVERS,
    delete_own,
    whole_file,
    whole_folder,
    write_together,
    write_whole,
)
from tests.toy import leftover

ROOT = Path(__file__).resolve().parents[1]


def test_a_block_that_succeeds_replaces_the_file(tmp_path: Path) -> None:
    target = tmp_path / "clip.npy"
    target.write_text("old")
    with whole_file(target) as partial:
        assert partial.parent == tmp_path and partial.suffix == ".npy" and partial.match(LEFTOVERS)
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new" and list(tmp_path.iterdir()) == [target]


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "log.csv"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), whole_file(target) as partial:
        partial.write_text("half")
        _ = 1 / 0
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_an_older_one_with_all_it_held(tmp_path: Path) -> None:
    target = tmp_path / "clip_obj"
    for name in ("old", "new"):
        with whole_folder(target) as partial:
            (partial / name).write_text(name)
            assert partial.match(LEFTOVERS) and partial.parent == tmp_path
    assert [p.name for p in target.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("renames", [0, 2])
def test_a_folder_is_exchanged_at_once_where_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    if not renames and not sys.platform.startswith("linux"):
        pytest.skip("renameat2 is Linux'")
    target, calls = tmp_path / "clip_obj", []
    target.mkdir()
    if renames:
        monkeypatch.setattr(module, "_exchange", lambda *_: False)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda *names: calls.append(names) or replace(*names))
    with whole_folder(target) as partial:
        (partial / "new").write_text("new")
    assert len(calls) == renames
    assert [p.name for p in target.iterdir()] == ["new"] and list(tmp_path.iterdir()) == [target]


def test_a_folder_whose_block_fails_stays_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "clip_obj"
    target.mkdir()
    with pytest.raises(ZeroDivisionError), whole_folder(target) as partial:
        (partial / "half").write_text("half")
        _ = 1 / 0
    assert list(tmp_path.iterdir()) == [target] and not list(target.iterdir())


def test_a_folder_that_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    left = Path(leftover(tmp_path / "clip_obj"))
    left.mkdir()
    (left / "clip_0001.obj").write_text("half")
    with whole_folder(tmp_path / "other"):
        assert not left.exists()


def test_writers_of_one_file_have_temporary_names_of_their_own(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as one:
        one.write_text("1")
        with whole_file(tmp_path / "a") as other:
            assert one != other
            other.write_text("2")
        assert (tmp_path / "a").read_text() == "2"
    assert (tmp_path / "a").read_text() == "1"


@pytest.mark.parametrize(
    "stem", ["x" * 251, "か" * 82, "a" + "🙂" * 62, os.fsdecode(b"\xff" * 251)]
)
def test_a_name_of_the_largest_length_can_be_written(tmp_path: Path, stem: str) -> None:
    target = tmp_path / f"{stem}.npy"
    write_whole(target, "new")
    with whole_file(target) as partial:
        partial.write_text("newer")
        assert partial.suffix == ".npy" and len(os.fsencode(partial.name)) <= 143
    assert target.read_text() == "newer" and list(tmp_path.iterdir()) == [target]


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "é\n")
    write_whole(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"


def test_files_that_belong_together_are_replaced_together_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_together({one: "old", other: "old"})
    written = []

    def refuse_the_second(path: Path, data: bytes) -> None:
        written.append(data)
        if len(written) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse_the_second)
    with pytest.raises(OSError) as refused:
        write_together({one: "new", other: "new"})
    assert refused.value.filename == str(other)
    assert one.read_text() == other.read_text() == "old" and len(list(tmp_path.iterdir())) == 2


def test_files_of_dead_processes_are_deleted_and_those_of_live_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead, live, own = (leftover(f"{name}.npy", pid) for name, pid in
                       (("dead", None), ("live", child.pid), ("own", os.getpid())))  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(module, "_host", lambda: "0" * 8)
        other_host = leftover("elsewhere.npy")
    old_version, week_old = ".model.partial.npy", ".older.partial.npy"
    for name in (dead, live, own, other_host, old_version, week_old):
        (tmp_path / name).write_bytes(b"half")
    long_ago = time.time() - 8 * 86_400
    os.utime(tmp_path / week_old, (long_ago, long_ago))
    with whole_file(tmp_path / "new.npy") as partial:
        partial.write_bytes(b"whole")
        module.delete_stale(tmp_path)  # as a second folder of another path would
        assert partial.exists()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {live, other_host, old_version, "new.npy"}
    child.communicate(b"\n")
    module.delete_stale(tmp_path)
    assert not (tmp_path / live).exists()


def test_a_forked_process_does_not_delete_what_its_parent_is_writing(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a") as partial:
        partial.write_text("whole")
        pid = os.fork()
        if not pid:
            delete_own()
            os._exit(0)
        os.waitpid(pid, 0)
    assert (tmp_path / "a").read_text() == "whole"


def test_a_reason_is_reported_in_one_line() -> None:
    assert reason_of(OSError(28, "No space left on device")) == "No space left on device"
    assert reason_of(ValueError("first\nsecond")) == "first"
    assert reason_of(ValueError("first:\n\tsecond\nthird")) == "first: second"
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(KeyError("recipe")) == "no entry 'recipe'"
    assert reason_of(ValueError("x" * 500), length=9) == "x" * 9
