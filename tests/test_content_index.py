"""Keys of files' contents: each file is read once, and a changed file gets another key."""

import os
import time
from pathlib import Path

import pytest

from common.errors import UserError
from files import content_index
from files.cache import Cache, clear

MAKER = {"what": "teacher", "model": "abc"}


@pytest.mark.usefixtures("files_have_settled")
def test_a_content_key_depends_on_bytes_and_settings(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache", MAKER)
    one = tmp_path / "one.wav"
    one.write_bytes(b"sound")
    same, other = tmp_path / "same.wav", tmp_path / "other.wav"
    same.write_bytes(b"sound")
    other.write_bytes(b"sounds")
    key = cache.content_key(one, rate=16_000)
    assert cache.content_key(same, rate=16_000) == key
    assert cache.content_key(other, rate=16_000) != key
    assert cache.content_key(one, rate=8_000) != key
    one.write_bytes(b"Sound")
    assert cache.content_key(one, rate=16_000) != key


@pytest.mark.usefixtures("files_have_settled")
def test_a_file_is_read_once_for_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"sound")
    folder = tmp_path / "cache"
    early = Cache(folder, {"what": "a run beside it"})
    key = Cache(folder, MAKER).content_key(path)
    with open(folder / "contents.jsonl", "a") as file:
        file.write(
            '{"a": 1}\n[1, 2]\n[["x"], 1, 2, "y"]\n["cut'
        )  # as a killed process may leave it
    monkeypatch.setattr(content_index, "hash_file", None)  # not to be called
    assert Cache(folder, {"what": "another"}).content_key(path) == key
    assert early.content_key(path) == key


@pytest.mark.usefixtures("files_have_settled")
def test_a_file_changed_at_the_same_size_and_mtime_gets_another_key(tmp_path: Path) -> None:
    """Unpacking and copying restore a file's mtime, so a corrected clip may look unchanged."""
    path = tmp_path / "a.wav"
    path.write_bytes(b"sound")
    stamp = path.stat().st_mtime_ns
    cache = Cache(tmp_path / "cache", MAKER)
    key = cache.content_key(path)
    time.sleep(0.02)  # some file systems count in ticks of 4 to 10 ms
    path.write_bytes(b"Sound")
    os.utime(path, ns=(stamp, stamp))
    assert cache.content_key(path) != key


@pytest.mark.usefixtures("files_have_settled")
def test_an_index_that_was_cleared_is_read_from_its_start(tmp_path: Path) -> None:
    one, other = tmp_path / "one.wav", tmp_path / "other.wav"
    one.write_bytes(b"sound")
    other.write_bytes(b"noise")
    folder = tmp_path / "cache"
    cache = Cache(folder, MAKER)
    keys = [cache.content_key(one), cache.content_key(other)]
    cache.content_key(tmp_path / "cache" / "contents.jsonl")  # reads the index to its end
    clear(folder)
    Cache(folder, MAKER).content_key(one)
    assert [cache.content_key(one), cache.content_key(other)] == keys


def test_the_time_stamp_of_a_file_that_has_just_changed_is_not_trusted(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"sound")
    stamp = path.stat().st_mtime_ns
    cache = Cache(tmp_path / "cache", MAKER)
    key = cache.content_key(path)
    path.write_bytes(b"Sound")  # within the same tick of the file system's clock
    os.utime(path, ns=(stamp, stamp))
    assert cache.content_key(path) != key


def test_a_missing_file_is_reported_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.wav: cannot be read \(No such file"):
        Cache(tmp_path, MAKER).content_key(tmp_path / "none.wav")
