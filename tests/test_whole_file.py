"""Files appear whole under their names, or not at all."""

from pathlib import Path

import pytest

from common.errors import reason_of
from common.whole_file import LEFTOVERS, whole_file, write_whole


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


def test_writers_of_a_shared_file_have_temporary_names_of_their_own(tmp_path: Path) -> None:
    with whole_file(tmp_path / "a", shared=True) as one:
        one.write_text("1")
        with whole_file(tmp_path / "a", shared=True) as other:
            assert one != other
            other.write_text("2")
        assert (tmp_path / "a").read_text() == "2"
    assert (tmp_path / "a").read_text() == "1"


def test_text_and_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "é\n")
    write_whole(tmp_path / "b.bin", b"\x00\xff")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "b.bin").read_bytes() == b"\x00\xff"


def test_a_reason_is_reported_in_one_line() -> None:
    assert reason_of(OSError(28, "No space left on device")) == "No space left on device"
    assert reason_of(ValueError("first\nsecond")) == "first"
    assert reason_of(ValueError("first:\n\tsecond\nthird")) == "first: second"
    assert reason_of(KeyError()) == "KeyError"
    assert reason_of(KeyError("recipe")) == "no entry 'recipe'"
    assert reason_of(ValueError("x" * 500), length=9) == "x" * 9
