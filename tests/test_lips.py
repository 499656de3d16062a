"""Lip sync scores of perfect, late, open and motionless lips."""

import dataclasses

import numpy as np
import pytest

from benchmarks.bench_lips import main, score_model, with_jitter
from benchmarks.lips import JSON_NAMES, LipScores, rule_curves, score_curves_on_head
from benchmarks.real_speech import (
    DEV_CLIPS,
    LIBRIVOX_FOLDER,
    Clip,
    pauses_are_quiet,
    read_transcripts,
    spoken_words,
)
from common.errors import UserError
from synthetic.coarticulation import CHANNELS
from synthetic.head import channel_basis, load_head
from synthetic.phones import Segment

PHONES = "sil m aa p iy t uw b ae d ow k sil s ah m ih n aa l p er f ay b ah t iy sil"


@pytest.fixture(scope="module")
def clip() -> Clip:
    """3.5 s of phones of 125 ms with audio of changing loudness."""
    segments = tuple(Segment(p, 0.125 * i, 0.125 * i + 0.125) for i, p in enumerate(PHONES.split()))
    times = np.arange(int(16_000 * segments[-1].end_s)) / 16_000
    audio = (np.sin(3_200 * times) * (1.1 + np.sin(8 * times))).astype(np.float32)
    return Clip("made_up", "librivox", audio, segments, "")


def rules(clip: Clip, late: int = 0):
    """A predictor that returns the rules' curves of the clip, `late` frames late."""
    y = rule_curves(clip, len(clip.audio) * 30 // 16_000)
    return lambda audio: np.roll(y, late, axis=0)


def score_curves(predict, clips) -> LipScores:
    """Scores of a predictor of curves on the synthetic head."""
    return score_curves_on_head(predict, clips, load_head())


def test_the_rules_score_perfectly(clip):
    scores = score_curves(rules(clip), [clip])
    for name in ("jaw", "aperture", "width", "protrusion", "tongue", "press", "brow"):
        assert getattr(scores, f"{name}_r").value == pytest.approx(1), name
    for name in ("width", "protrusion", "tongue", "press", "brow"):
        assert getattr(scores, f"{name}_amplitude").value == pytest.approx(1), name
    assert scores.closed.value == 1.0 and scores.others_closed.value < 0.3
    assert scores.auc.value > 0.95
    assert abs(scores.sync_frames.value) < 0.2
    assert (scores.n_closures, scores.n_others) == (6, 7)
    assert scores.rest_shut.value == 1.0
    assert scores.jitter_mm.value == scores.rules_jitter_mm.value > 0
    assert scores.false_closures.value == scores.rules_false_closures.value


@pytest.mark.parametrize("late", [-2, 3])
def test_the_lag_of_a_late_face_is_measured(clip, late):
    assert score_curves(rules(clip, late), [clip]).sync_frames.value == pytest.approx(
        late, abs=0.25
    )


def test_a_motionless_face_is_always_closed_and_has_no_correlation(clip):
    scores = score_curves(lambda audio: np.zeros((100, len(CHANNELS)), np.float32), [clip])
    assert scores.closed.value == scores.others_closed.value == 1.0 and scores.auc.value == 0.5
    assert np.isnan(scores.jaw_r.value) and scores.as_row()["jaw_r"] is None


def test_an_open_mouth_is_never_closed(clip):
    scores = score_curves(lambda audio: rules(clip)(audio) + np.eye(len(CHANNELS))[0], [clip])
    assert scores.closed.value == 0.0 and scores.rest_shut.value == 0.0
    assert scores.jaw_r.value == pytest.approx(1)


def test_short_clips_count_for_closures_only(clip):
    short = dataclasses.replace(clip, audio=clip.audio[:32_000])
    scores = score_curves(rules(short), [short])
    assert np.isnan(scores.jaw_r.value) and scores.seconds == 0 and scores.n_closures == 4


def test_meshes_of_the_rules_score_perfectly(clip):
    head = load_head()
    template = head.templates["ada"]
    basis = channel_basis(head, CHANNELS)
    scores = score_model(
        lambda audio: template + np.tensordot(rules(clip)(audio), basis, 1), [clip], head, "ada"
    )
    for name in ("jaw", "aperture", "width", "protrusion", "tongue", "press", "brow"):
        assert getattr(scores, f"{name}_r").value > 0.9999, name
    assert scores.closed.value == 1.0 and scores.others_closed.value < 0.3
    assert all(row.share.value == row.rules_share for row in scores.phones if row.row[0] in "pbm")


def test_half_the_motion_has_half_the_amplitude_and_the_same_correlation(clip):
    scores = score_curves(lambda audio: 0.5 * rules(clip)(audio), [clip])
    assert scores.width_r.value == pytest.approx(1) and scores.brow_r.value == pytest.approx(1)
    for name in ("jaw", "aperture", "width"):
        assert getattr(scores, f"{name}_amplitude").value == pytest.approx(0.5), name
    assert scores.jitter_mm.value == pytest.approx(scores.rules_jitter_mm.value / 2)
    vowels = {row.row: row for row in scores.phones if row.table == "open vowels"}
    assert vowels["aa"].share.value == pytest.approx(0.5)
    assert vowels["aa"].mm == pytest.approx(vowels["aa"].rules_mm / 2)


def test_the_json_row_has_the_ten_main_scores(clip):
    assert list(score_curves(rules(clip), [clip]).as_row()) == list(JSON_NAMES)
    assert len(JSON_NAMES) == 10


def test_a_copy_is_compared_with_the_rules_on_the_clean_sound(clip):
    copy = dataclasses.replace(clip, audio=np.zeros_like(clip.audio), clean=clip.audio)
    assert (rule_curves(copy, 90) == rule_curves(clip, 90)).all()


def test_jittered_times_are_ordered_and_span_the_clip(clip):
    moved = with_jitter(clip, 0.1, np.random.default_rng(0)).segments
    assert [s.phone for s in moved] == [s.phone for s in clip.segments]
    assert moved[0].start_s == 0.0 and moved[-1].end_s == clip.segments[-1].end_s
    assert all(a.end_s == b.start_s <= b.end_s for a, b in zip(moved, moved[1:], strict=False))


def test_transcripts_are_converted_to_dictionary_words():
    assert spoken_words("Press 1 now, or *!") == "press one now or star"
    assert spoken_words("the open-source PBX. Don't") == "the open source p. b. x. don't"
    assert spoken_words("I am Q") == "i am q."
    assert spoken_words("dial 500") == spoken_words("[ascending tones]") == ""


def test_an_alignment_with_loud_pauses_is_rejected():
    segments = [Segment("ow", 0.0, 0.5), Segment("sil", 0.5, 1.5), Segment("l", 1.5, 2.0)]
    audio = np.full(32_000, 0.5, np.float32)
    assert not pauses_are_quiet(audio, segments)
    audio[8_000:24_000] = 0.1
    assert pauses_are_quiet(audio, segments)
    assert pauses_are_quiet(audio, [Segment("sil", 0.0, 0.1), Segment("ow", 0.1, 2.0)])


def test_every_bundled_recording_has_a_transcript_and_dev_clips_exist():
    transcripts = read_transcripts(LIBRIVOX_FOLDER)
    recordings = {f.stem for f in LIBRIVOX_FOLDER.iterdir() if f.suffix in (".wav", ".flac")}
    assert recordings == set(transcripts) > set(DEV_CLIPS)


def test_missing_checkpoint_is_reported(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        main(["--checkpoint", str(tmp_path / "none.safetensors")])
