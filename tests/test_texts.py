"""Text and JSON in the encodings of all editors; what is no text, or no JSON, is one line."""

import json
from pathlib import Path

import pytest

from common.errors import UserError
from files import texts
from files.meshes import load_region
from files.texts import read_json, read_text
from tests.hostile import mutants

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]  # with a mark, but for the first


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_marks_of_encodings_and_ends_of_lines_do_not_matter(
    encoding: str, end: str, tmp_path: Path
) -> None:
    path = tmp_path / "lips.txt"
    path.write_bytes(f"2{end}3{end}5{end}".encode(encoding))
    assert read_text(path) == "2\n3\n5\n"
    assert load_region(path, 7).tolist() == [2, 3, 5]
    path.write_bytes(json.dumps({"name": "Zoë"}, ensure_ascii=False).encode(encoding))
    assert read_json(path) == {"name": "Zoë"}


def test_big_endian_utf_16_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(b"\xfe\xff" + "äb".encode("utf-16-be"))
    assert read_text(tmp_path / "x.txt") == "äb"


@pytest.mark.parametrize("content", [b"\xff", b"\xff\xfe1", b"\xef\xbb\xbf\xff", b"a\x80"])
def test_bytes_that_are_no_text_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"x.txt: not UTF-8 text \(.*\); save it as UTF-8"):
        read_text(tmp_path / "x.txt", "region")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0", "Expecting value"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"fps": 1, "fps": 30}', 'the key "fps" is there twice'),
        (b'{"fps": NaN}', "NaN is not a number of JSON"),
        (b"9" * 5000, "Exceeds the limit"),
    ],
)
def test_text_that_is_no_json_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=f"settings .*x.json: not JSON: .*{message}"):
        read_json(tmp_path / "x.json", "settings")


def test_a_file_too_large_for_its_kind_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.json").write_bytes(b"[1, 2, 3]")
    monkeypatch.setattr(texts, "MAX_JSON", 8)
    with pytest.raises(UserError, match=r"x.json: 9 bytes, expected at most 8"):
        read_json(tmp_path / "x.json")


def test_mutated_json_is_read_or_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    content = json.dumps({"fps": 30, "splits": {"train": ["a_*", "Zoë"]}, "regions": {}}).encode()
    for mutant in mutants(content, 150):
        path.write_bytes(mutant)
        try:
            read_json(path)
        except UserError as error:
            assert "\n" not in str(error)
