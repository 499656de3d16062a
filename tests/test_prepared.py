"""Prepared folders in the layouts of others: their place, files, frame rate, kinds of clips."""

import dataclasses
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import soundfile

from common.errors import UserError
from config import BIWI, BIWI_6, RECIPES, VOCASET, DatasetSpec, Split
from dataset.clip_files import audio_files, find_audio
from dataset.prepared import clip_length, disk_fps, find_clips, find_file, locate, subject_of

V = 5


def write_clip(root: Path, name: str, fps: float = 60, seconds: float = 1.0) -> None:
    for kind in ("wav", "vertices_npy"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    soundfile.write(root / "wav" / f"{name}.wav", np.zeros(round(16_000 * seconds)), 16_000)
    frames = np.zeros((round(fps * seconds), V * 3), np.float32)
    np.save(root / "vertices_npy" / f"{name}.npy", frames)


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetSpec:
    """VOCASET's spec in a project that lies in tmp_path, without any data."""
    monkeypatch.setattr("config.PROJECT_ROOT", tmp_path)
    monkeypatch.setattr("common.paths.PROJECT_ROOT", tmp_path)
    return VOCASET


CLIP = "FaceTalk_170728_03272_TA_sentence01"


def test_a_missing_data_set_is_named_with_its_source(spec: DatasetSpec) -> None:
    with pytest.raises(UserError) as caught:
        locate(spec)
    message = str(caught.value)
    assert message.startswith("vocaset: no wav/ and vertices_npy/ in vocaset/data or vocaset; ")
    assert "voca.is.tue.mpg.de" in message and "process_voca_data.py" in message
    for other in (BIWI, BIWI_6):
        with pytest.raises(UserError, match="python BIWI/process_biwi_data.py"):
            locate(other)


def test_missing_folders_and_templates_are_named(spec: DatasetSpec, tmp_path: Path) -> None:
    write_clip(tmp_path / "vocaset", CLIP)
    with pytest.raises(UserError, match="vocaset: no templates.pkl in vocaset; get it: sign in"):
        locate(spec)
    (tmp_path / "vocaset/wav" / f"{CLIP}.wav").unlink()
    with pytest.raises(UserError, match="vocaset: no wav/ in vocaset or vocaset/data"):
        locate(spec)


def test_a_folder_prepared_for_faceformer_is_used_as_it_is(
    spec: DatasetSpec, tmp_path: Path
) -> None:
    """wav/, vertices_npy/ and templates.pkl in vocaset/ itself, FLAME_sample.ply in templates/."""
    root = tmp_path / "vocaset"
    write_clip(root, CLIP)
    (root / "templates").mkdir()
    (root / "regions").mkdir()
    for name in ("templates.pkl", "templates/FLAME_sample.ply", "regions/fdd.txt"):
        (root / name).write_text("x")
    located, remarks = locate(spec)
    assert located.root == "vocaset"
    assert located.templates == "vocaset/templates.pkl"
    assert located.topology == "vocaset/templates/FLAME_sample.ply"
    assert located.upper_region == "vocaset/regions/fdd.txt"
    assert located.lips_region == spec.lips_region  # nowhere: as the recipe says
    assert (located.fps, located.source_fps) == (30, 60)
    assert remarks == ["prepared data found in vocaset"]


def test_vertices_already_at_30_fps_are_recognised(spec: DatasetSpec, tmp_path: Path) -> None:
    root = tmp_path / "vocaset/data"
    for number, fps in enumerate((29.5, 30.0, 30.6), start=1):
        write_clip(root, f"{CLIP[:-1]}{number}", fps)
    (root / "templates.pkl").write_text("x")
    located, remarks = locate(spec)
    assert located.source_fps == 30
    assert remarks == ["vertices are stored at 30 fps (by length), not 60"]


@pytest.mark.parametrize(("fps", "stored"), [(30, 61), (30, 59.2), (25, 50), (25, 24)])
def test_the_frame_rate_is_the_nearest_multiple(fps: int, stored: float, tmp_path: Path) -> None:
    write_clip(tmp_path, "a_1", stored, 2.0)
    assert disk_fps(tmp_path, ["a_1"], fps, 60) == round(stored / fps) * fps


def test_the_expected_frame_rate_is_preferred_to_a_nearer_one(tmp_path: Path) -> None:
    write_clip(tmp_path, "a_1", 54.5, 2.0)
    assert disk_fps(tmp_path, ["a_1"], 10, 60) == 60
    assert disk_fps(tmp_path, ["a_1"], 10, 30) == 50


def test_lengths_that_do_not_fit_name_a_clip(tmp_path: Path) -> None:
    write_clip(tmp_path, "a_1", 45)
    with pytest.raises(UserError, match=r"45.0 frames per second .*\(a_1: 45.0\), expected 30"):
        disk_fps(tmp_path, ["a_1"], 30, 60)


def biwi_root(tmp_path: Path, *names: str) -> DatasetSpec:
    root = tmp_path / "BIWI/data"
    for name in names:
        write_clip(root, name, 25)
    (root / "templates.pkl").write_text("x")
    return BIWI


def test_emotional_clips_are_used_where_both_kinds_exist(spec: DatasetSpec, tmp_path: Path) -> None:
    biwi = biwi_root(tmp_path, "F2_e01", "F2_01", "F2_e38", "F1_e38", "F1_e01")
    located, remarks = locate(biwi)
    assert remarks == []
    clips = {k: [n for n, _ in find_clips(located.path(located.root), s)]
             for k, s in located.splits.items()}  # fmt: skip
    assert clips == {"train": ["F2_e01"], "val": [], "test_a": ["F2_e38"], "test_b": ["F1_e38"]}


def test_neutral_clips_are_used_if_there_are_no_others(spec: DatasetSpec, tmp_path: Path) -> None:
    located, remarks = locate(biwi_root(tmp_path, "F2_01", "F2_37"))
    assert len(remarks) == 1 and "no clip is named <subject>_eNN" in remarks[0]
    assert "F2_01" in remarks[0]
    for split, name in (("train", "F2_01"), ("test_a", "F2_37")):
        assert find_clips(located.path(located.root), located.splits[split]) == [(name, "F2")]


def test_files_are_found_by_name_with_their_key(spec: DatasetSpec, tmp_path: Path) -> None:
    assert find_file(spec, spec.lips_region) is None
    folder = tmp_path / "vocaset/masks"
    folder.mkdir(parents=True)
    (folder / "FLAME_masks.pkl").write_text("x")
    assert find_file(spec, spec.lips_region) == folder / "FLAME_masks.pkl:lips"
    assert find_file(spec, "FLAME_masks.pkl:nose") == folder / "FLAME_masks.pkl:nose"
    assert find_file(spec, str(folder / "FLAME_masks.pkl")) == folder / "FLAME_masks.pkl"


def test_a_split_may_list_its_clips(tmp_path: Path) -> None:
    for name in ("anna-hello", "anna_b_2", "anna"):
        write_clip(tmp_path, name)
    split = Split(("anna", "anna_b"), (), clips=("anna-hello", "anna_b_2"))
    assert find_clips(tmp_path, split) == [("anna-hello", "anna"), ("anna_b_2", "anna_b")]
    with pytest.raises(UserError, match="anna_gone.npy: missing$"):
        find_clips(tmp_path, dataclasses.replace(split, clips=("anna_gone",)))


def test_a_subject_is_the_longest_name_that_ends_at_a_word_boundary() -> None:
    people = ("F1", "F1_b", "anna")
    assert subject_of("F1_e01", people) == "F1"
    assert subject_of("F1_b_3", people) == "F1_b"
    assert subject_of("anna", people) == "anna"
    assert subject_of("anna2_x", people) is None and subject_of("annabel_1", people) is None
    assert subject_of("whatever", ("head",)) == "head"


def test_the_splits_of_the_paper_have_their_published_sizes() -> None:
    """BIWI: 192 / 24 / 24 / 32 clips; VOCASET: 8 / 2 / 2 subjects."""
    counts = {k: len(s.subjects) * len(s.sentences) for k, s in BIWI.splits.items()}
    assert counts == {"train": 192, "val": 24, "test_a": 24, "test_b": 32}
    voca = {k: (len(s.subjects), len(s.sentences)) for k, s in VOCASET.splits.items()}
    assert voca == {"train": (8, 40), "val": (2, 20), "test": (2, 20)}
    for recipe in RECIPES.values():
        people = [set(s.subjects) for k, s in recipe.dataset.splits.items() if k != "test_a"]
        assert recipe.dataset.name.startswith("BIWI") or not set.intersection(*people)


def test_a_clip_may_be_compressed_sound(tmp_path: Path) -> None:
    write_clip(tmp_path, "ada_01", fps=30)
    wav = tmp_path / "wav/ada_01.wav"
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(wav)]
    subprocess.run([*command, str(wav.with_suffix(".M4A"))], check=True)
    wav.unlink()
    assert find_audio(tmp_path, "ada_01") == audio_files(tmp_path)["ada_01"]
    assert clip_length(tmp_path, "ada_01").rate == pytest.approx(30, rel=0.1)


def test_two_recordings_of_one_clip_are_refused(tmp_path: Path) -> None:
    write_clip(tmp_path, "ada_01")
    soundfile.write(tmp_path / "wav/ada_01.flac", np.zeros(99), 16_000)
    for read in (lambda: find_audio(tmp_path, "ada_01"), lambda: audio_files(tmp_path)):
        with pytest.raises(UserError, match=r"ada_01\.\w+: ada_01\.\w+ is a recording of the same"):
            read()
