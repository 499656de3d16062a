"""The corpus in VOCASET's raw layout: cast, texts, files."""

import json
import pickle
import random

import numpy as np
import pytest

from common.errors import UserError
from config import SAMPLE_RATE
from data_loader import load_wav
from synthetic import raw_corpus, sentences
from synthetic.raw_corpus import RawClip, cast_subjects, subject_texts, write_raw
from tests.spoken import needs_engine, utterance
from vocaset import process_voca_data


def test_held_out_sentences_are_only_spoken_by_val_and_test_subjects():
    subjects = [f"s{i}" for i in range(12)]
    texts = subject_texts(subjects, 40, seed=3)
    _, held_out = sentences.read_sentences()
    trained = {text for subject in subjects[:8] for text in texts[subject]}
    validated = {text for subject in subjects[8:10] for text in texts[subject]}
    tested = {text for subject in subjects[10:] for text in texts[subject]}
    assert len(trained) == 8 * 40 and not trained & set(held_out)
    assert validated | tested == set(held_out) and not validated & tested
    drawn = {sentences.draw_text(random.Random(i)) for i in range(500)}
    assert not drawn & set(held_out)


def test_too_many_sentences_are_refused():
    with pytest.raises(UserError, match="--sentences: expected 1 to 40, got 99"):
        subject_texts(["a"] * 12, 99, seed=1)


def fake_clips(n_samples: int) -> list[RawClip]:
    audio = utterance(n_samples / SAMPLE_RATE).audio
    return [RawClip(subject, n, audio, []) for subject in ("ada", "ben") for n in (1, 2)]


@pytest.mark.parametrize("n_samples", [8000, 8001, 16_007, 11_111])
def test_raw_frames_are_never_longer_than_the_audio(n_samples):
    clip = fake_clips(n_samples)[0]
    audio = raw_corpus.raw_audio(clip.audio)
    assert len(audio) == clip.n_raw_samples
    assert clip.frames / 60 <= len(audio) / 22_000 < (clip.frames + 1) / 60


def test_raw_corpus_has_vocasets_layout(tmp_path):
    templates = {
        "ada": np.zeros((7, 3), np.float32),
        "ben": np.ones((7, 3), np.float32),
    }
    clips = fake_clips(8000)

    def animate(clip):
        motion = np.arange(clip.frames)[:, None, None] * 0.001 * clip.sentence
        return templates[clip.subject] + motion

    assert write_raw(tmp_path, templates, clips, animate, {"seed": 1})
    verts = np.load(tmp_path / "data_verts.npy", mmap_mode="r")
    assert verts.shape == (4 * 30, 7, 3) and verts.dtype == np.float32
    rows = pickle.loads((tmp_path / "subj_seq_to_idx.pkl").read_bytes())
    audio = pickle.loads((tmp_path / "raw_audio_fixed.pkl").read_bytes())
    stored = pickle.loads((tmp_path / "templates.pkl").read_bytes())
    np.testing.assert_array_equal(stored["ben"], templates["ben"])
    assert sorted(rows["ben"]) == ["sentence01", "sentence02"]
    assert audio["ben"]["sentence02"]["sample_rate"] == 22_000
    assert audio["ben"]["sentence02"]["audio"].dtype == np.int16
    assert len(audio["ben"]["sentence02"]["audio"]) == 11_000
    row = rows["ben"]["sentence02"][29]
    np.testing.assert_allclose(verts[row], 1 + 29 * 0.002, rtol=1e-6)


def test_raw_corpus_passes_vocasets_preparation(tmp_path):
    templates = {"ada": np.zeros((7, 3), np.float32), "ben": np.ones((7, 3), np.float32)}
    clips = fake_clips(8000)

    def animate(clip):
        motion = np.arange(clip.frames)[:, None, None] * 0.001 * clip.sentence
        return templates[clip.subject] + motion

    write_raw(tmp_path / "raw", templates, clips, animate, {})
    process_voca_data.main(["--raw", str(tmp_path / "raw"), "--out", str(tmp_path)])
    for clip in clips:
        name = f"{clip.subject}_sentence{clip.sentence:02d}"
        vertices = np.load(tmp_path / f"vertices_npy/{name}.npy")
        np.testing.assert_allclose(vertices, animate(clip).reshape(-1, 21), rtol=1e-6)
        audio = load_wav(tmp_path / f"wav/{name}.wav")
        assert abs(len(audio) - len(clip.audio)) <= SAMPLE_RATE // 60
        n = min(len(audio), len(clip.audio))
        assert np.corrcoef(audio[:n], clip.audio[:n])[0, 1] > 0.99


def test_raw_corpus_is_written_again_only_when_its_settings_change(tmp_path):
    templates = {name: np.zeros((2, 3), np.float32) for name in ("ada", "ben")}
    make = [tmp_path, templates, fake_clips(1600), lambda clip: np.zeros((clip.frames, 2, 3))]
    assert write_raw(*make, {"seed": 1})
    assert not write_raw(*make, {"seed": 1})
    assert write_raw(*make, {"seed": 2})


def test_too_little_disk_space_is_reported_before_anything_is_written(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(raw_corpus.shutil, "disk_usage", lambda folder: usage)
    templates = {"ada": np.zeros((2, 3), np.float32)}
    with pytest.raises(UserError, match="expected 0.0 GB of free space, got 0.0 GB"):
        write_raw(tmp_path, templates, fake_clips(1600), None, {})
    assert list(tmp_path.iterdir()) == []


def test_cast_is_fixed_by_the_seed_and_missing_engines_are_replaced():
    needs_engine("hibari")
    subjects = [f"s{i}" for i in range(12)]
    cast = cast_subjects(subjects, ["hibari"], seed=1)
    assert cast == cast_subjects(subjects, ["hibari"], seed=1)
    assert {engine for engine, _ in cast.values()} == {"hibari"}
    assert len({json.dumps(speaker) for _, speaker in cast.values()}) == 12
    assert cast["s0"][1]["f0"] > cast["s1"][1]["f0"]  # a woman, a man
