"""Degraded copies of recordings, and sounds without speech."""

import dataclasses

import numpy as np
import pytest

from benchmarks.bench_lips import model_predictor
from benchmarks.degraded import KINDS, degraded
from benchmarks.measures import LipMeter, Lips
from benchmarks.non_speech import claps, guitar, rest, second_over_first, softer_voices, sounds
from benchmarks.real_speech import Clip
from config import BUNDLED_MODEL
from jambatalk import load_checkpoint
from streaming.engine import Stream
from synthetic.head import load_head
from synthetic.phones import Segment

N = 24_000


def clip_of(name: str, pitch_hz: float) -> Clip:
    """1.5 s: silence, a tone, silence."""
    times = np.arange(N) / 16_000
    audio = 0.3 * np.sin(2 * np.pi * pitch_hz * times) * ((times > 0.4) & (times < 1.1))
    segments = (Segment("sil", 0, 0.4), Segment("aa", 0.4, 1.1), Segment("sil", 1.1, 1.5))
    return Clip(name, "librivox", audio.astype(np.float32), segments, "")


CLIPS = [clip_of("a", 440), clip_of("b", 1_000), clip_of("c", 2_000)]


def copy_of(kind: str) -> Clip:
    return degraded(CLIPS, kind)[0]


def power(sound: np.ndarray) -> float:
    return float(np.mean(np.square(sound, dtype=np.float64)))


@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_the_same_every_time_and_keep_their_clean_sound(kind):
    copy = copy_of(kind)
    assert (copy.audio == copy_of(kind).audio).all() and copy.audio.dtype == np.float32
    if kind != "speed x1.25":
        assert copy.clean is CLIPS[0].audio and copy.audio.shape == (N,)
        assert copy.segments == CLIPS[0].segments


@pytest.mark.parametrize("kind", ["white noise", "music", "babble"])
def test_the_noise_is_10_db_below_the_speech(kind):
    copy = copy_of(kind)
    noise = copy.audio - copy.clean
    speech = copy.clean[6_400:17_600]
    assert 10 * np.log10(power(speech) / power(noise)) == pytest.approx(10, abs=0.01)


def test_a_single_clip_has_babble_too():
    alone = degraded(CLIPS[:1], "babble")[0]
    assert power(alone.audio - alone.clean) > 0


def test_the_faster_copy_has_faster_phones_and_a_higher_pitch():
    fast = copy_of("speed x1.25")
    assert len(fast.audio) == N * 4 // 5
    assert fast.segments[1][1:] == pytest.approx((0.32, 0.88))
    assert np.abs(np.fft.rfft(fast.audio)).argmax() * 16_000 / len(fast.audio) == pytest.approx(
        550, abs=2
    )


def test_the_telephone_passes_speech_and_no_low_hum():
    low = dataclasses.replace(clip_of("low", 100))
    assert power(degraded([low], "telephone")[0].audio) < 0.01 * power(low.audio)
    assert power(copy_of("telephone").audio) == pytest.approx(power(CLIPS[0].audio), rel=0.2)


def test_clipping_and_reverberation():
    clipped = copy_of("clipping").audio
    at_limit = np.abs(clipped[6_400:17_600]) > 0.699
    assert at_limit.mean() == pytest.approx(0.3, abs=0.02)
    wet = copy_of("reverberation").audio
    assert power(wet[:6_000]) < 1e-6 < power(wet[17_600:19_200])


def test_sounds_are_finite_and_at_their_levels():
    made = sounds()
    assert all(np.isfinite(s).all() and np.abs(s).max() <= 1 for s in made.values())
    assert not made["silence"].any() and made["guitar"].shape == (96_000,)
    assert 10 * np.log10(power(made["room -42 dB"])) == pytest.approx(-42, abs=0.01)
    assert (made["claps"] == claps(np.random.default_rng(7)).astype(np.float32)).all()


def test_a_plucked_string_has_its_pitch_and_decays():
    string = guitar(np.random.default_rng(1), 16_000, 0.0)
    assert power(string[12_000:]) < power(string[1_000:5_000])
    spectrum = np.abs(np.fft.rfft(string[:8_000]))  # 2 Hz
    assert spectrum[40:43].max() > 5 * np.median(spectrum[:100])  # E, 82.4 Hz


def test_the_second_voice_is_softer():
    voices = softer_voices()
    sound = voices[-18]
    first, second = np.split(sound, 2)
    assert 10 * np.log10(power(second) / power(first)) == pytest.approx(-18, abs=0.01)
    assert set(voices) == {-6, -12, -18, -24, -30}


def test_open_frames_and_the_share_of_the_second_half():
    track = np.array([0.5, 2.0, 4.0, -1.0, 0.2, 3.0])
    lips = Lips(track, track, track, track, track, track[:, None], closed=1.0)
    assert rest(lips) == (6, 3, 4.0)
    assert second_over_first(lips) == pytest.approx(3.2 / 6.5)


def test_the_bundled_model_keeps_the_lips_still_from_the_first_frame_of_a_noise() -> None:
    head, noise = load_head(), sounds()["room -50 dB"][:24_000]
    predict, template = model_predictor(BUNDLED_MODEL, None, head, "torch")
    stream = Stream(load_checkpoint(), subject=list(head.templates)[-1])
    live = np.stack([frame.values for frame in stream.push(noise)])
    for vertices in (predict(noise), live):
        assert rest(LipMeter(head).of_meshes(vertices, template)).largest_mm <= 0.1
