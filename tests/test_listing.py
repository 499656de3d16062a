"""Names of files: macOS's ._ files, letters with accents in both forms of Unicode, capitals."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import UserError
from config import Split
from dataset.clip_files import audio_files, find_audio, mesh_files, npy_path
from dataset.own_settings import clips_of_splits
from dataset.prepared import find_clips
from evaluation.predictions import find_pairs
from files.listing import list_files, on_disk
from files.meshes import load_templates
from production.jobs import check_out

NFC = "Zoë_élan"
NFD = unicodedata.normalize("NFD", NFC)
MACOS = b"\x00\x05\x16\x07 of macOS"
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def write_clip(folder: Path, wav: str, npy: str) -> None:
    """The two files of a clip, and what macOS leaves beside them."""
    for part, name in (("wav", wav), ("vertices_npy", npy)):
        (folder / part).mkdir(exist_ok=True)
        (folder / part / f"._{name}").write_bytes(MACOS)
    soundfile.write(folder / "wav" / wav, np.zeros(160), 16_000, format="WAV")
    with (folder / "vertices_npy" / npy).open("wb") as file:
        np.save(file, np.zeros((3, 9), np.float32))


def test_the_files_of_a_clip_may_have_their_names_in_two_forms_of_unicode(tmp_path: Path) -> None:
    write_clip(tmp_path, f"{NFD}.wav", f"{NFC}.npy")
    assert list(audio_files(tmp_path)) == list(mesh_files(tmp_path)) == [NFC]
    for name in (NFC, NFD):
        assert find_audio(tmp_path, name).name == f"{NFD}.wav"
        assert npy_path(tmp_path, name).name == f"{NFC}.npy"
        assert find_clips(tmp_path, Split(("Zoë",), (), clips=(name,))) == [(NFC, "Zoë")]
        splits = {"train": [name], "val": ["b"]}
        assert clips_of_splits({NFC: "Zoë", "b_1": "b"}, splits)["train"] == [NFC]


def test_endings_in_capitals_are_read(tmp_path: Path) -> None:
    for wav, npy in (("a_1.WAV", "a_1.NPY"), ("a_2.Wav", "a_2.npy")):
        write_clip(tmp_path, wav, npy)
    for name in ("a_1", "a_2"):
        assert find_audio(tmp_path, name) == audio_files(tmp_path)[name]
        assert npy_path(tmp_path, name) == mesh_files(tmp_path)[name]


def test_two_files_of_one_clip_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path, f"{NFC}.wav", f"{NFC}.npy")
    write_clip(tmp_path, f"{NFD}.wav", f"{NFD}.npy")
    with pytest.raises(UserError, match="is a recording of the same clip; delete or rename one"):
        audio_files(tmp_path)
    with pytest.raises(UserError, match="holds vertices of the same clip; delete or rename one"):
        mesh_files(tmp_path)


def test_templates_are_found_by_either_form_without_files_of_macos(tmp_path: Path) -> None:
    (tmp_path / "._Ada.obj").write_bytes(MACOS)
    for name in ("Ada.OBJ", f"{NFD}.obj"):
        (tmp_path / name).write_text(TRIANGLE)
    assert sorted(load_templates(tmp_path)) == ["Ada", NFC]
    assert on_disk(tmp_path / f"{NFC}.obj").name == f"{NFD}.obj"
    assert on_disk(tmp_path / "none.obj") == tmp_path / "none.obj"


def test_a_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "\udcff.obj").write_text(TRIANGLE)
    with pytest.raises(UserError, match="is not valid Unicode text"):
        load_templates(tmp_path)


def test_predictions_and_truth_are_paired_by_either_form(tmp_path: Path) -> None:
    for folder, name in (("pred", NFC), ("truth", NFD)):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / f"{name}.npy", np.zeros((3, 9)))
        (tmp_path / folder / f"._{name}.npy").write_bytes(MACOS)
    (pair,) = find_pairs(tmp_path / "pred", tmp_path / "truth")
    assert pair.name == NFC and pair.truth.stem == NFD


def test_files_of_hidden_folders_are_not_listed(tmp_path: Path) -> None:
    for folder in (".hidden/deep", "deep"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "x.VL").write_bytes(b"1")
    assert list_files(tmp_path, (".vl",), deep=True) == [tmp_path / "deep/x.VL"]
    assert list_files(tmp_path, (".vl",)) == list_files(tmp_path / "none", (".vl",)) == []


@pytest.mark.parametrize("target", ["loop", "nowhere"])
def test_a_link_that_leads_nowhere_is_no_folder_for_results(target: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / target)
    with pytest.raises(UserError, match=r"--out .*loop/x: .*loop is a link that leads nowhere"):
        check_out(tmp_path / "loop/x")
