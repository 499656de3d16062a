"""The speech corpus: timed phones, texts, the pool on disk, VOCASET's raw layout."""

import json
import pickle
import random
import re

import numpy as np
import pytest

from common.errors import UserError
from config import SAMPLE_RATE
from data_loader import load_wav
from synthetic import make_corpus, raw_corpus, sentences, speech_pool, voices
from synthetic.alignment import refine
from synthetic.classic_voices import segments_from_ends
from synthetic.neural_voices import read_styles
from synthetic.phones import (
    IPA_TO_PHONES,
    PHONE_INDEX,
    PHONES,
    RADIO_TO_PHONE,
    Segment,
    ipa_to_phones,
    merge_segments,
    segments_from_tokens,
    transform_segments,
)
from synthetic.raw_corpus import RawClip, cast_subjects, subject_texts, write_raw
from synthetic.voices import ENGINES, Utterance, missing_engines, set_silence, speak
from vocaset import process_voca_data

TEXT = "Bob may help you move five big boxes."
CLOSURES = ["b", "b", "m", "p", "m", "b", "b"]


def needs(engine: str) -> None:
    reason = missing_engines().get(engine)
    if reason:
        pytest.skip(f"{engine}: {reason}")


def utterance(duration_s: float = 0.5, text: str = "ma") -> Utterance:
    n_samples = round(duration_s * SAMPLE_RATE)
    audio = 0.1 * np.sin(np.arange(n_samples) / 20).astype(np.float32)
    segments = [Segment("sil", 0, 0.1), Segment("m", 0.1, 0.2), Segment("aa", 0.2, duration_s)]
    return Utterance(audio, segments, text, "fake", "{}")


# ---- phones ------------------------------------------------------------------------------------


def test_every_symbol_maps_to_the_phone_set():
    assert len(PHONES) == 40 and PHONES[0] == "sil" and len(PHONE_INDEX) == 40
    assert {phone for phones in IPA_TO_PHONES.values() for phone in phones} <= set(PHONES)
    assert set(RADIO_TO_PHONE.values()) <= set(PHONES)


@pytest.mark.parametrize(
    ("ipa", "phones"),
    [
        ("tʃˈiːz", "ch iy z"),
        ("dʒˈʌdʒ", "jh ah jh"),
        ("hˈaʊs", "hh aw s"),
        ("bˈɜːd", "b er d"),
        ("flˈaɪɚ", "f l ay er"),
        ("ʧˈIld", "ch ay l d"),
    ],
)
def test_longest_ipa_unit_is_taken(ipa, phones):
    assert ipa_to_phones(ipa) == phones.split()


def test_durations_of_marks_are_added_to_their_phone():
    # pad m stress-a length blank . pad: the durations of the stress and length marks are added to
    # the vowel; the short blank is added to the pause that follows
    tokens = ["$", "m", "ˈ", "ɑ", "ː", " ", ".", "$"]
    times = [0.0, 0.5, 0.6, 0.65, 0.7, 0.8, 0.85, 1.0, 1.2]
    assert segments_from_tokens(tokens, times) == [
        Segment("sil", 0.0, 0.5),
        Segment("m", 0.5, 0.6),
        Segment("aa", 0.6, 0.8),
        Segment("sil", 0.8, 1.2),
    ]


def test_short_blank_before_a_stop_is_its_closure():
    closure = segments_from_tokens(["A", " ", "b"], [0.0, 0.1, 0.2, 0.3])
    assert closure == [Segment("ey", 0.0, 0.1), Segment("b", 0.1, 0.3)]
    pause = segments_from_tokens(["A", " ", "b"], [0.0, 0.1, 0.3, 0.4])
    assert [segment.phone for segment in pause] == ["ey", "sil", "b"]


def test_schwa_r_is_one_vowel_unless_a_vowel_follows():
    butter = segments_from_tokens(list("bˈʌTəɹ"), list(range(7)))
    assert [segment.phone for segment in butter] == ["b", "ah", "d", "er"]
    around = segments_from_tokens(list("əɹˈWnd"), list(range(7)))
    assert [segment.phone for segment in around] == ["ah", "r", "aw", "n", "d"]


def test_tokens_and_boundaries_must_agree():
    with pytest.raises(ValueError, match="3 tokens: expected 4 boundaries, got 3"):
        segments_from_tokens(["a", "b", "c"], [0.0, 1.0, 2.0])


def test_merging_joins_pauses_and_drops_empty_segments():
    segments = [
        Segment("sil", 0.0, 0.1),
        Segment("p", 0.1, 0.1),
        Segment("sil", 0.1, 0.3),
        Segment("n", 0.3, 0.4),
        Segment("n", 0.4, 0.5),
    ]
    merged = [Segment("sil", 0.0, 0.3), Segment("n", 0.3, 0.4), Segment("n", 0.4, 0.5)]
    assert merge_segments(segments) == merged


def test_transformed_segments_fill_the_clip_without_a_gap():
    moved = transform_segments([Segment("m", 0.2, 0.4), Segment("aa", 0.4, 2.0)], -0.1, 0.8, 0.5)
    assert moved[0] == Segment("m", 0.0, pytest.approx(0.1))
    assert moved[1] == Segment("aa", pytest.approx(0.1), 0.8)
    padded = transform_segments([Segment("m", 0.2, 0.4)], 0.0, 1.0)
    assert padded == [Segment("sil", 0, 0.2), Segment("m", 0.2, 0.4), Segment("sil", 0.4, 1.0)]


def test_end_times_become_segments_and_unknown_names_raise():
    segments = segments_from_ends([("pau", 0.2), ("ax", 0.3), ("b", 0.4), ("pau", 0.1)])
    assert segments == [Segment("sil", 0, 0.2), Segment("ah", 0.2, 0.3), Segment("b", 0.3, 0.4)]
    with pytest.raises(KeyError):
        segments_from_ends([("qq", 0.1)])


def test_silence_is_cut_or_padded_to_the_given_lengths():
    audio = np.ones(SAMPLE_RATE)
    segments = [Segment("sil", 0, 0.5), Segment("m", 0.5, 0.9), Segment("sil", 0.9, 1.0)]
    cut, moved = set_silence(audio, segments, 0.2, 0.4)
    assert len(cut) == round(1.0 * SAMPLE_RATE)
    assert [s.phone for s in moved] == ["sil", "m", "sil"]
    np.testing.assert_allclose(moved[1][1:], (0.2, 0.6), atol=1e-4)
    assert cut[-1] == 0 and cut[len(cut) // 2] == 1
    with pytest.raises(ValueError, match="no segment is speech"):
        set_silence(audio, [Segment("sil", 0, 1)], 0.1, 0.1)


# ---- texts -------------------------------------------------------------------------------------


def test_sentences_are_many_plain_and_distinct():
    common, held_out = sentences.read_sentences()
    assert len(common) >= 8 * 40 and len(held_out) == sentences.N_HELD_OUT
    lines = common + held_out
    assert len(set(lines)) == len(lines)
    assert all(re.fullmatch(r"[A-Z][A-Za-z' ,;.!?]*[.!?]", line) for line in lines)


def test_generated_sentences_are_plain_and_repeatable():
    texts = [sentences.generate_sentence(random.Random(seed)) for seed in range(300)]
    assert texts == [sentences.generate_sentence(random.Random(seed)) for seed in range(300)]
    assert len(set(texts)) > 290
    assert all(re.fullmatch(r"[A-Z][A-Za-z' ,]*[.!?]", text) for text in texts)
    assert not any(re.search(r"\ba [aeiou]|  |\{", text) for text in texts)


@pytest.mark.parametrize(
    ("noun", "plural"), [("box", "boxes"), ("city", "cities"), ("boy", "boys"), ("wolf", "wolves")]
)
def test_plurals(noun, plural):
    assert sentences.plural(noun) == plural


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


# ---- the pool on disk --------------------------------------------------------------------------


def test_pool_clip_is_read_back_as_written(tmp_path):
    clip = speech_pool.append_clip(tmp_path, "a", utterance())
    assert clip == speech_pool.read_index(tmp_path)["a"]
    audio, segments = speech_pool.read_clip(tmp_path, clip)
    np.testing.assert_allclose(audio, utterance().audio, atol=2**-15)
    assert segments == utterance().segments and clip["duration_s"] == 0.5


def test_incomplete_index_line_is_ignored_and_replaced(tmp_path):
    for name in "ab":
        speech_pool.append_clip(tmp_path, name, utterance())
    index = tmp_path / speech_pool.INDEX_NAME
    index.write_text(index.read_text()[:-9])  # as after a kill during the write
    assert list(speech_pool.read_index(tmp_path)) == ["a"]
    speech_pool.append_clip(tmp_path, "b", utterance(text="again"))
    assert speech_pool.read_index(tmp_path)["b"]["text"] == "again"


def test_invalid_index_line_is_reported_by_number(tmp_path):
    (tmp_path / speech_pool.INDEX_NAME).write_text('{"name": "a"}\n{"nom": 1}\n')
    with pytest.raises(UserError, match="line 2"):
        speech_pool.read_index(tmp_path)


def test_pool_grows_to_its_minutes_and_continues(tmp_path, monkeypatch):
    numbers = []

    def fake(engine, seed, number):
        numbers.append(number)
        return utterance(1.0)

    monkeypatch.setattr(speech_pool, "speak_pool_clip", fake)
    monkeypatch.setattr(speech_pool, "require_engine", lambda name: None)
    assert speech_pool.grow_pool(tmp_path, "fake", 2.5 / 60, 1, 1) == pytest.approx(3 / 60)
    assert speech_pool.grow_pool(tmp_path, "fake", 4.5 / 60, 1, 1) == pytest.approx(5 / 60)
    assert numbers == [0, 1, 2, 3, 4]
    assert len(speech_pool.read_index(tmp_path)) == 5


# ---- VOCASET's raw layout ----------------------------------------------------------------------


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


# ---- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engines", "hal"], "engine 'hal': expected one of hibari, kokoro"),
        (["--sentences", "-1"], "--sentences: expected at least 0, got -1"),
        (["--jobs", "0"], "--jobs: expected at least 1, got 0"),
        (["--kokoro_voices", "nowhere"], "expected [*].bin files, got none"),
    ],
)
def test_invalid_flags_are_reported(arguments, message):
    with pytest.raises(UserError, match=message):
        make_corpus.main(arguments)


def test_a_missing_engine_named_by_flag_is_an_error(monkeypatch):
    monkeypatch.setattr(ENGINES["flite"], "unavailable", staticmethod(lambda: "no flite command"))
    with pytest.raises(UserError, match="engine flite cannot run: no flite command"):
        make_corpus.choose_engines("flite")


def test_missing_engines_are_skipped_and_reported(monkeypatch, capsys):
    monkeypatch.setattr(voices, "_unavailable", lambda n: "" if n == "hibari" else f"no {n}")
    assert make_corpus.choose_engines(None) == ["hibari"]
    assert "engine flite skipped: no flite" in capsys.readouterr().out


def test_kokoro_voice_files_are_checked(tmp_path):
    np.zeros(256 * 3, np.float32).tofile(tmp_path / "af_x.bin")
    assert read_styles(tmp_path)["af_x"].shape == (3, 256)
    np.zeros(100, np.float32).tofile(tmp_path / "am_y.bin")
    with pytest.raises(UserError, match="am_y.bin: expected a multiple of 256 .*, got 100"):
        read_styles(tmp_path)


# ---- the engines, where they are ---------------------------------------------------------------


@pytest.mark.parametrize("engine", list(ENGINES))
def test_engine_speaks_the_phones_of_the_text_at_their_times(engine):
    needs(engine)
    spoken = speak(engine, TEXT, random.Random(5))
    phones = [segment.phone for segment in spoken.segments]
    assert [phone for phone in phones if phone in "pbm"] == CLOSURES
    starts = [segment.start_s for segment in spoken.segments]
    ends = [segment.end_s for segment in spoken.segments]
    assert starts[0] == 0 and ends[-1] == pytest.approx(spoken.duration_s)
    np.testing.assert_allclose(starts[1:], ends[:-1], atol=1e-9)
    assert phones[0] == phones[-1] == "sil"
    assert 1.0 < spoken.duration_s < 8.0 and 0.2 < np.abs(spoken.audio).max() < 1
    vowels = [s for s in spoken.segments if s.phone in ("aa", "ey", "ay")]
    level = [np.abs(spoken.audio[round(s.start_s * 16e3) : round(s.end_s * 16e3)]).max()
             for s in vowels]  # fmt: skip
    first = round(spoken.segments[0].end_s * SAMPLE_RATE) - 800
    assert min(level) > 5 * np.abs(spoken.audio[:first]).max()


def test_refined_boundaries_do_not_depend_on_a_delay_of_the_engine():
    needs("hibari")
    spoken = speak("hibari", TEXT, random.Random(6))
    late = transform_segments(spoken.segments, 0.03, spoken.duration_s)
    starts = np.array([segment.start_s for segment in refine(spoken.audio, late)])
    expected = np.array([segment.start_s for segment in spoken.segments])
    # the end of the last word is ambiguous, and limited to a distance from the engine's own time
    np.testing.assert_allclose(starts[:-1], expected[:-1], atol=0.011)  # one frame of the aligner


def test_failed_alignment_keeps_the_engines_times():
    needs("hibari")
    segments = [Segment("sil", 0, 0.01), Segment("p", 0.01, 0.02), Segment("aa", 0.02, 0.03)]
    assert refine(np.zeros(480, np.float32), segments) == segments


def test_speech_is_repeatable_for_a_seed():
    needs("hibari")
    first, second = (speak("hibari", "Move.", random.Random(2)) for _ in range(2))
    np.testing.assert_array_equal(first.audio, second.audio)
    assert first.segments == second.segments and first.speaker == second.speaker


def test_cast_is_fixed_by_the_seed_and_missing_engines_are_replaced():
    needs("hibari")
    subjects = [f"s{i}" for i in range(12)]
    cast = cast_subjects(subjects, ["hibari"], seed=1)
    assert cast == cast_subjects(subjects, ["hibari"], seed=1)
    assert {engine for engine, _ in cast.values()} == {"hibari"}
    assert len({json.dumps(speaker) for _, speaker in cast.values()}) == 12
    assert cast["s0"][1]["f0"] > cast["s1"][1]["f0"]  # a woman, a man


def test_corpus_command_writes_all_files_with_hibari_alone(tmp_path, capsys):
    needs("hibari")
    arguments = ["--sentences", "1", "--speech_minutes", "0.05", "--engines", "hibari"]
    arguments += ["--jobs", "1", "--out", str(tmp_path)]
    make_corpus.main(arguments)
    rows = pickle.loads((tmp_path / "raw/subj_seq_to_idx.pkl").read_bytes())
    assert len(rows) == 12 and list(rows["ada"]) == ["sentence01"]
    verts = np.load(tmp_path / "raw/data_verts.npy", mmap_mode="r")
    assert len(verts) == sum(len(seq) for subject in rows.values() for seq in subject.values())
    assert speech_pool.read_index(tmp_path / "speech")
    before = (tmp_path / "raw/data_verts.npy").stat().st_mtime_ns
    make_corpus.main(arguments)
    assert (tmp_path / "raw/data_verts.npy").stat().st_mtime_ns == before
    assert "is up to date" in capsys.readouterr().out
