"""Fabricated raw data: in the documented layouts, and learnable."""

import dataclasses
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks.fabricate import choose_clips, fabricate, main, make_egg
from BIWI.frames import parse_vl
from BIWI.prepared import place, prepared_templates
from BIWI.process_biwi_data import process as process_biwi
from common.errors import UserError
from config import BIWI, BIWI_6, VOCASET, DatasetSpec
from files.meshes import load_mesh
from vocaset.process_voca_data import process as process_vocaset

V = 211


def small(spec: DatasetSpec) -> DatasetSpec:
    return dataclasses.replace(spec, n_vertices=V)


def test_the_egg_is_closed_with_outward_faces_and_the_given_number_of_vertices() -> None:
    egg = make_egg(V)
    assert egg.vertices.shape == (V, 3) and egg.faces.shape == (2 * V - 4, 3)  # Euler, a sphere
    edges = np.sort(egg.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    volume = np.linalg.det(egg.vertices[egg.faces]).sum() / 6
    assert volume == pytest.approx(4 / 3 * np.pi * 0.075 * 0.11 * 0.09, rel=0.05)


@pytest.mark.parametrize("spec", [VOCASET, BIWI, BIWI_6])
def test_three_subjects_and_sentences_cover_every_split(spec: DatasetSpec) -> None:
    subjects, sentences = choose_clips(spec, 3, 3)
    all_subjects, _ = choose_clips(spec, sum(len(s.subjects) for s in _without_copies(spec)), 3)
    for split in spec.splits.values():
        prefix = split.prefix or "sentence"
        assert set(all_subjects) >= set(split.subjects) and set(subjects) & set(split.subjects)
        assert set(sentences) & {f"{prefix}{n:02d}" for n in split.sentences}
    with pytest.raises(UserError, match="--subjects 99: expected 1 to"):
        choose_clips(spec, 99, 3)


def _without_copies(spec: DatasetSpec) -> list:
    return list({split.subjects: split for split in spec.splits.values()}.values())


def test_vocaset_is_prepared_like_the_download(tmp_path: Path) -> None:
    clips = fabricate(small(VOCASET), tmp_path / "raw", 2, 2, 0.4)
    verts = np.load(tmp_path / "raw/data_verts.npy", mmap_mode="r")
    assert verts.shape == (sum(len(clip.opening) for clip in clips), V, 3)
    with (tmp_path / "raw/raw_audio_fixed.pkl").open("rb") as file:
        sound = pickle.load(file)[clips[0].subject][clips[0].sentence]
    assert sound["sample_rate"] == 22_000 and sound["audio"].dtype == np.int16
    assert process_vocaset(tmp_path / "raw", tmp_path / "out", [].append) == 4
    for clip in clips:
        path = tmp_path / f"out/vertices_npy/{clip.subject}_{clip.sentence}.npy"
        lost = len(clip.opening) - len(np.load(path))
        assert 0 <= lost <= 0.02 * len(clip.opening) + 1


def test_biwi_is_prepared_like_the_download(tmp_path: Path) -> None:
    clips = fabricate(small(BIWI), tmp_path / "raw", 2, 1, 0.4)
    name = f"{clips[0].subject}_{clips[0].sentence}"
    scan, faces = load_mesh(tmp_path / f"raw/rigid_scans/{clips[0].subject}.obj")
    with tarfile.open(tmp_path / f"raw/faces/{name.replace('_', '/')}.tar") as archive:
        assert archive.getnames()[0] == "frame_001.vl"
        frame = parse_vl(archive.extractfile("frame_001.vl").read(), "frame_001.vl")
    assert scan.shape == frame.shape == (V, 3) and len(faces) == 2 * V - 4
    assert 140 < np.ptp(scan[:, 0]) < 160 and 0 < np.abs(frame - scan).max() < 10  # millimetres
    assert soundfile.info(tmp_path / f"raw/audio/{name}_cut.wav").samplerate == 44_100
    assert process_biwi(tmp_path / "raw", tmp_path / "out") == 2


def test_biwi_6_is_a_prepared_folder(tmp_path: Path) -> None:
    clips = fabricate(small(BIWI_6), tmp_path / "raw", 2, 1, 0.4)
    templates = prepared_templates(tmp_path / "raw")
    assert place(tmp_path / "raw", tmp_path / "out", templates) == len(clips) == 2


def test_loudness_opens_the_mouth_by_millimetres(tmp_path: Path) -> None:
    spec = small(BIWI_6)
    clip = fabricate(spec, tmp_path, 1, 1, 2.0)[0]
    name = f"{clip.subject}_{clip.sentence}"
    vertices = np.load(tmp_path / f"vertices_npy/{name}.npy")
    template = prepared_templates(tmp_path)[clip.subject]
    moved = np.linalg.norm(vertices - template, axis=2).max(axis=1)  # metres
    assert 0.003 < moved.max() < 0.01 and moved.min() < 0.001
    sound, rate = soundfile.read(tmp_path / f"wav/{name}.wav")
    loud = [np.std(sound[round(t * rate / 25) :][: rate // 25]) for t in range(len(moved) - 2)]
    assert np.corrcoef(loud, moved[:-2])[0, 1] > 0.7


def test_the_same_call_writes_the_same_files(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        fabricate(small(BIWI), tmp_path / folder, 1, 1, 0.2)
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*")]
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_topology_that_does_not_fit_is_named(tmp_path: Path) -> None:
    (tmp_path / "mesh.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    arguments = ["BIWI", "--out", str(tmp_path), "--topology", str(tmp_path / "mesh.obj")]
    with pytest.raises(UserError, match="mesh.obj: 3 vertices, expected 23370 as in BIWI"):
        main(arguments)
    with pytest.raises(UserError, match="--seconds 0: expected more than 0"):
        main([*arguments, "--seconds", "0"])
    with pytest.raises(UserError, match="no mesh of F2"):
        main(["BIWI", "--out", str(tmp_path), "--topology", str(tmp_path)])
