"""Takes: exact lengths, labels that follow the clips, levels, silence where nobody speaks."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from config import SAMPLE_RATE
from speech.augment import active_level
from synthetic import take_plan, take_sound
from synthetic.coarticulation import loudness
from synthetic.phones import Segment
from synthetic.speech import SpeechClip, SpeechPool
from synthetic.take_plan import Plan, Turn, draw_plan
from synthetic.takes import QUIET, draw_take, loudness_of, segments_of

SECONDS = 6.1


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> SpeechPool:
    """Six clips of two speakers: silence, "aa" and "m" as two tones, silence."""
    folder: Path = tmp_path_factory.mktemp("pool")
    rows = []
    for number in range(6):
        end_s = 1.1 + 0.2 * number
        time = np.arange(int((end_s + 0.3) * SAMPLE_RATE)) / SAMPLE_RATE
        hz = np.where(time < end_s - 0.2, 300 + 40 * number, 150)
        wave = 0.3 * np.sin(2 * np.pi * np.cumsum(hz) / SAMPLE_RATE)
        wave *= (time > 0.2) & (time < end_s)
        soundfile.write(folder / f"c{number}.flac", wave, SAMPLE_RATE, subtype="PCM_16")
        segments = [["sil", 0.0, 0.2], ["aa", 0.2, end_s - 0.2], ["m", end_s - 0.2, end_s],
                    ["sil", end_s, end_s + 0.3]]  # fmt: skip
        rows.append({"name": f"c{number}", "engine": "e", "speaker": f"s{number % 2}",
                     "text": "am", "segments": segments})  # fmt: skip
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SpeechPool(folder)


def test_take_depends_on_the_seed_alone(pool: SpeechPool) -> None:
    for seed in range(4):
        one, two = (draw_take(pool, np.random.default_rng(seed), SECONDS) for _ in range(2))
        np.testing.assert_array_equal(one.audio, two.audio)
        np.testing.assert_array_equal(one.loudness, two.loudness)
        np.testing.assert_array_equal(one.noise_db, two.noise_db)
        assert one.segments == two.segments and one.names == two.names


def test_take_has_its_length_and_contiguous_segments(pool: SpeechPool) -> None:
    for seed in range(10):
        take = draw_take(pool, np.random.default_rng(seed), SECONDS)
        assert take.audio.shape == (97_600,) and take.audio.dtype == np.float32
        assert np.isfinite(take.audio).all() and np.abs(take.audio).max() <= 1
        for curve in (take.loudness, take.noise_db):
            assert curve.shape == (610,) and curve.dtype == np.float32
        starts, ends = zip(*[(s.start_s, s.end_s) for s in take.segments], strict=True)
        assert starts[0] == 0 and ends[-1] == SECONDS and starts[1:] == ends[:-1]
        assert all(end > start for start, end in zip(starts, ends, strict=True))


def test_clean_take_is_its_clips_and_gaps(pool: SpeechPool) -> None:
    for seed in range(6):
        take = draw_take(pool, np.random.default_rng(seed), SECONDS, clean=True)
        plan = draw_plan(pool, np.random.default_rng(seed), len(take.audio), clean=True)
        rest = take.audio.copy()
        for turn in plan.turns:
            clip = turn.clip.audio[: turn.n].astype(np.float32) / 2**15
            np.testing.assert_array_equal(take.audio[turn.start : turn.end], clip)
            rest[turn.start : turn.end] = 0
        assert (take.noise_db == -60).all()
        assert not rest.any() and take.names == tuple(turn.clip.name for turn in plan.turns)


def test_phones_are_where_the_sound_is(pool: SpeechPool) -> None:
    """The tones of a clip are heard during its phones, at any speed and any cut."""
    speeds = set()
    for seed in range(12):
        plan = draw_plan(pool, np.random.default_rng(seed), 97_600)
        audio = take_sound.clean_sound(plan)
        spoken = np.zeros(plan.n, bool)
        for phone, start_s, end_s in segments_of(plan):
            spoken[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)] = phone != "sil"
        heard = np.abs(audio[:97_600].reshape(-1, 80)).max(1) > 0.05  # 5 ms
        assert np.mean(heard == spoken.reshape(-1, 80).any(1)) > 0.98
        speeds |= {turn.speed for turn in plan.turns}
    assert min(speeds) < 0.95 and max(speeds) > 1.05 and 1.0 in speeds


def hand_made_plan() -> Plan:
    """A clip from 0.5 s on at speed 2 in the middle of a take of 3 s: it lasts from 1 to 2 s."""
    audio = np.full(3 * SAMPLE_RATE, 2**13, np.int16)
    segments = [Segment("sil", 0.0, 0.3), Segment("aa", 0.3, 1.5), Segment("m", 1.5, 3.0)]
    clip = SpeechClip("a", audio, segments, np.linspace(0.2, 1.3, 300).astype(np.float32))
    turn = Turn(clip, 0, SAMPLE_RATE // 2, SAMPLE_RATE, SAMPLE_RATE, 2.0)
    return Plan(3 * SAMPLE_RATE, [turn], [])


def test_segments_of_a_cut_and_fast_clip_by_hand() -> None:
    assert segments_of(hand_made_plan()) == [
        Segment("sil", 0.0, 1.0), Segment("aa", 1.0, 1.5), Segment("m", 1.5, 2.0),
        Segment("sil", 2.0, 3.0),
    ]  # fmt: skip


def test_loudness_of_a_cut_and_fast_clip_by_hand() -> None:
    curve = loudness_of(hand_made_plan())
    assert len(curve) == 300 and (curve[:100] == QUIET).all() and (curve[200:] == QUIET).all()
    # Value 100 is 1.005 s of the take, 0.51 s of the clip, value 50.5 of its envelope.
    slope = 1.1 / 299
    np.testing.assert_allclose(curve[[100, 150]], [0.2 + 50.5 * slope, 0.2 + 150.5 * slope])


def test_loudness_of_a_clean_take_is_that_of_its_clips(pool: SpeechPool) -> None:
    clip = pool.clips[0]
    plan = Plan(2 * SAMPLE_RATE, [Turn(clip, 0, 0, 3_200, len(clip.audio), 1.0)], [])
    n = len(clip.audio) // 160
    np.testing.assert_allclose(
        loudness_of(plan)[20 : 20 + n], loudness(clip.audio / 2**15)[:n], atol=1e-6
    )


def test_noise_is_added_at_its_ratio() -> None:
    speech = np.zeros(SAMPLE_RATE, np.float32)
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    mixed = take_sound.mix_at(speech, 7 * noise, 0.1, 20.0)
    assert active_level(mixed) == pytest.approx(0.01, rel=1e-3)


def test_noise_level_by_hand() -> None:
    """Voices of 1 for a second, noise of 0.1 (-20 dB) throughout and of 1 (0 dB) in the last half
    second; where nobody speaks noise is compared with 0.2, the least level of the voices."""
    voices, rest = np.zeros(2 * SAMPLE_RATE), np.full(2 * SAMPLE_RATE, 0.1)
    voices[:SAMPLE_RATE] = np.tile([1.0, -1.0], SAMPLE_RATE // 2)
    rest[-SAMPLE_RATE // 2 :] = -1.0
    level_db = take_sound.noise_level(voices, rest, 0.2)
    assert level_db.shape == (200,)
    np.testing.assert_allclose(level_db[:85], -20.0, atol=1e-4)
    np.testing.assert_allclose(level_db[115:134], -20.0 - 20 * np.log10(0.2), atol=1e-4)
    np.testing.assert_allclose(level_db[165:], -20 * np.log10(0.2), atol=1e-4)
    # half of the 0.3 s round the end of the voices are their own
    assert level_db[99] == pytest.approx(10 * np.log10(0.01 / (15 / 30)), abs=0.3)
    silence, nothing = np.zeros(1_600), np.zeros(1_600)
    assert (take_sound.noise_level(silence, nothing, 0.2) == -60.0).all()
    assert (take_sound.noise_level(silence, nothing + 9.0, 0.2) == 20.0).all()


def test_noise_of_a_take_is_all_but_its_voices(pool: SpeechPool, monkeypatch) -> None:
    """Here a room is twice the direct sound, so of a take with level 1 it is 20 log(2/3) dB."""
    plan = hand_made_plan()
    monkeypatch.setattr(take_sound, "reverberate", lambda track, rng: 3 * track)
    monkeypatch.setattr(take_sound, "equalise", lambda track, rng: track)
    for name in ("FLOOR_SHARE", "BREATH_SHARE", "SMACK_SHARE"):
        monkeypatch.setattr(take_sound, name, 0.0)

    def levels() -> set[float]:
        drawn = (take_sound.recorded_sound(plan, pool, np.random.default_rng(i)) for i in range(20))
        return {round(float(noise_db[150]), 2) for _, noise_db in drawn}

    monkeypatch.setattr(take_sound, "N_BACKGROUNDS", ((0,), (1.0,)))
    assert levels() == {-60.0, -3.52}
    monkeypatch.setattr(take_sound, "EASY_SHARE", 1.0)  # neither rooms nor backgrounds
    assert levels() == {-60.0}
    monkeypatch.setattr(take_sound, "EASY_SHARE", 0.0)
    monkeypatch.setattr(take_sound, "N_BACKGROUNDS", ((3,), (1.0,)))
    assert len(levels()) > 10


def test_backgrounds_are_measured_against_the_softest_turn(pool: SpeechPool) -> None:
    levels = take_sound.Levels(0.01, 1.0)
    for seed in range(12):
        noise = take_sound._background(48_000, pool, np.random.default_rng(seed), levels)
        assert active_level(noise) < 0.012  # at most 0 dB


def test_take_without_speech_is_all_silence(pool: SpeechPool, monkeypatch) -> None:
    monkeypatch.setattr(take_plan, "NO_SPEECH_SHARE", 1.0)
    for seed in range(4):
        take = draw_take(pool, np.random.default_rng(seed), SECONDS)
        assert take.segments == [Segment("sil", 0.0, SECONDS)] and take.names == ()
        assert (take.loudness == np.float32(QUIET)).all()


def test_stretches_are_silent_in_the_labels(pool: SpeechPool, monkeypatch) -> None:
    monkeypatch.setattr(take_plan, "STRETCH_SHARE", 1.0)
    found = 0
    for seed in range(10):
        plan = draw_plan(pool, np.random.default_rng(seed), 97_600)
        for first, last in plan.stretches:
            found += 1
            assert not any(turn.start < last and turn.end > first for turn in plan.turns)
    assert found >= 5


def test_a_speaker_is_0_to_30_db_softer_than_another(pool: SpeechPool) -> None:
    clips = pool.clips
    turns = [Turn(clips[i], i, 0, i * 30_000, len(clips[i].audio), 1.0) for i in range(2)]
    ratios_db = []
    for seed in range(40):
        tracks, _ = take_sound._voice_tracks(
            Plan(60_000, turns, []), np.random.default_rng(seed), is_easy=True
        )
        levels = [active_level(track) for track in tracks]
        ratios_db.append(20 * np.log10(max(levels) / min(levels)))
    assert 20 < max(ratios_db) <= 30.01 and np.mean(np.array(ratios_db) < 10) > 0.4


def test_turns_of_a_voice_are_of_one_speaker_while_clips_last(pool: SpeechPool) -> None:
    voices = take_plan.Voices(pool, np.random.default_rng(0), 1)
    clips = [voices.next_clip(0) for _ in range(3)]
    assert len({clip.speaker for clip in clips}) == 1 and len({clip.name for clip in clips}) == 3
