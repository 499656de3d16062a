"""The lip reader's file, its scorer, and the edit distance against hand counts."""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from lip_reader import (
    LipReader,
    LipReadingScorer,
    SavedReader,
    edit_distance,
    load_characters,
    load_reader,
    save_reader,
)

L, K, WIDTH = 5, 7, 11


@pytest.fixture
def reader() -> LipReader:
    torch.manual_seed(3)
    return LipReader(L, WIDTH, K, fps=25, metres_per_unit=0.19, d_model=24, n_layers=1, n_heads=4)


class Teacher(torch.nn.Module):
    """Takes each sample of a clip as one frame with this character; 0 is the blank."""

    width, n_characters, blank = WIDTH, K, 0

    def forward(self, audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = torch.nn.functional.one_hot(audio.long(), K).float()
        return torch.zeros(*audio.shape, WIDTH), logits

    def decode_text(self, logits: torch.Tensor) -> list[torch.Tensor]:
        merged = [torch.unique_consecutive(row) for row in logits.argmax(-1)]
        return [row[row != self.blank] for row in merged]


def test_a_saved_reader_computes_the_same(reader: LipReader, tmp_path: Path) -> None:
    path = tmp_path / "reader.safetensors"
    save_reader(path, reader, torch.tensor([9, 2, 4, 8, 3]), "lips.txt", "enc", "_abcdef")
    saved = load_reader(path)
    assert saved.lips.tolist() == [9, 2, 4, 8, 3]
    assert (saved.region, saved.teacher, "".join(saved.characters)) == (
        "lips.txt",
        "enc",
        "_abcdef",
    )
    assert saved.reader.dims == reader.dims and saved.reader.scale == reader.scale
    offsets = torch.randn(1, 13, L, 3) * 0.01
    for ours, theirs in zip(saved.reader(offsets, 26), reader.eval()(offsets, 26), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert [file.name for file in tmp_path.iterdir()] == ["reader.safetensors"]


def test_wrong_number_of_lips_is_a_programming_error(reader: LipReader, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 lip vertices, expected 5"):
        save_reader(tmp_path / "r.safetensors", reader, [1, 2, 3, 4], "", "")


def test_files_of_another_kind_are_refused_by_name(reader: LipReader, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "reader.safetensors"
    with pytest.raises(UserError, match="lip reader .*reader.safetensors: no such file"):
        load_reader(path)
    save_reader(path, reader, range(L), "lips.txt", "enc")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="not a whole .safetensors file .*give the reader"):
        load_reader(path)
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="no lip_reader header; give the reader.safetensors"):
        load_reader(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"lip_reader": "{}"})
    with pytest.raises(UserError, match="its header does not fit its weights .no entry 'dims'"):
        load_reader(path)
    save_file({"weight": torch.zeros(3)}, path, metadata={"jambatalk": "{}"})
    with pytest.raises(UserError, match="a model of this project"):
        load_reader(path)


def test_characters_come_in_the_order_of_their_indices(tmp_path: Path) -> None:
    assert load_characters(tmp_path) == ()
    (tmp_path / "vocab.json").write_text('{"b": 2, "<pad>": 0, "a": 1}')
    assert load_characters(tmp_path) == ("<pad>", "a", "b")
    (tmp_path / "vocab.json").write_text("[1, 2")
    with pytest.raises(UserError, match="vocab.json: not JSON"):
        load_characters(tmp_path)
    (tmp_path / "vocab.json").write_text("[0, 5]")
    with pytest.raises(UserError, match="JSON object of character -> index .it is a list"):
        load_characters(tmp_path)


@pytest.mark.parametrize(
    ("text", "reference", "errors"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),  # k-s, e-i, +g
        ("ab", "ba", 2),
        ("flaw", "lawn", 2),
    ],
)
def test_edit_distance_by_hand(text: str, reference: str, errors: int) -> None:
    assert edit_distance([ord(c) for c in text], [ord(c) for c in reference]) == errors


def test_edit_distance_equals_its_recursive_definition(rng: np.random.Generator) -> None:
    @functools.cache
    def slow(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        if not a or not b:
            return len(a) + len(b)
        same = slow(a[1:], b[1:]) + (a[0] != b[0])
        return min(same, slow(a[1:], b) + 1, slow(a, b[1:]) + 1)

    for _ in range(20):
        a, b = (rng.integers(3, size=n).tolist() for n in rng.integers(9, size=2))
        assert edit_distance(a, b) == slow(tuple(a), tuple(b)) == edit_distance(b, a)


def scorer_of(reader: LipReader, characters: Sequence[str] = "_abcdef") -> LipReadingScorer:
    saved = SavedReader(reader, np.array([6, 0, 3, 2, 5]), "lips.txt", "enc", tuple(characters))
    return LipReadingScorer(saved, Teacher(), torch.device("cpu"))


def test_the_scorer_transcribes_audio_and_lips_alone(
    reader: LipReader, rng: np.random.Generator
) -> None:
    scorer = scorer_of(reader)
    reference, n_audio_frames = scorer.transcribe_audio(np.array([0, 2, 2, 0, 2, 5], np.float32))
    assert (reference, n_audio_frames) == ([2, 2, 5], 6)
    assert scorer.to_string(reference) == "bbe"
    template = rng.normal(size=(8, 3)).astype(np.float32)
    vertices = (template + rng.normal(size=(13, 8, 3))).astype(np.float32)
    text = scorer.transcribe_lips(vertices, template, 26)
    vertices[:, [1, 4, 7]] += 5.0  # not lips
    assert scorer.transcribe_lips(vertices, template, 26) == text
    assert scorer.transcribe_lips(vertices + 2, template + 2, 26) == text
    with torch.no_grad():
        offsets = torch.from_numpy(vertices - template)[None, :, [6, 0, 3, 2, 5]]
        expected = Teacher().decode_text(reader(offsets, 26)[1])[0].tolist()
    assert text == expected


def test_phones_are_separated_by_spaces_and_unknown_ones_are_numbers(
    reader: LipReader,
) -> None:
    assert scorer_of(reader, ["sil", "aa", "b"]).to_string([1, 2, 6]) == "aa b <6>"
    assert scorer_of(reader, ["<pad>", "a", "b"]).to_string([2, 1, 2]) == "bab"


def test_a_teacher_of_another_width_is_refused(reader: LipReader) -> None:
    teacher = Teacher()
    teacher.width = WIDTH + 1
    saved = SavedReader(reader, np.arange(L), "lips.txt", "enc/other", ())
    with pytest.raises(UserError, match="teacher enc/other: .*12.*expected .*11"):
        LipReadingScorer(saved, teacher, torch.device("cpu"))


def test_the_lip_reader_ignores_padding() -> None:
    torch.manual_seed(0)
    reader = LipReader(n_lips=3, d_teacher=16, n_characters=5, fps=30, d_model=32).eval()
    offsets = torch.randn(2, 29, 3, 3) * 0.01
    frames = torch.tensor([29, 17])
    together = reader(offsets, 49, frames)
    assert together[0].shape == (2, 49, 16) and together[1].shape == (2, 49, 5)
    alone = reader(offsets[1:, :17], 28)
    torch.testing.assert_close(together[1][1, :28], alone[1][0], atol=1e-5, rtol=1e-4)
