"""Music and noises from formulas: pitch, level, length, envelope."""

import numpy as np
import pytest

from config import SAMPLE_RATE
from speech.augment import active_level
from synthetic import backgrounds, music


def strongest_hz(sound: np.ndarray, low_hz: float, high_hz: float) -> float:
    """Frequency of the highest peak of the spectrum between two frequencies."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 8 * SAMPLE_RATE))
    hz = np.arange(len(spectrum)) / 8
    return float(hz[np.argmax(spectrum * (hz >= low_hz) * (hz <= high_hz))])


@pytest.mark.parametrize("name", backgrounds.SOUNDS)
def test_sound_has_its_length_a_level_of_one_and_follows_the_seed(name: str) -> None:
    one, two = (backgrounds.SOUNDS[name](23_003, np.random.default_rng(3)) for _ in range(2))
    assert one.shape == (23_003,) and one.dtype == np.float32
    np.testing.assert_array_equal(one, two)
    assert active_level(one) == pytest.approx(1.0, rel=1e-3)
    assert not np.array_equal(one, backgrounds.SOUNDS[name](23_003, np.random.default_rng(4)))


@pytest.mark.parametrize("hz", [82.41, 196.0, 440.0, 1_318.5])
def test_plucked_string_has_the_pitch_that_was_asked_for(hz: float) -> None:
    sound = music.pluck(hz, 1.0, np.random.default_rng(0))
    assert strongest_hz(sound, 0.7 * hz, 1.4 * hz) == pytest.approx(hz, rel=0.004)


def test_plucked_string_loses_60_db_in_its_decay_time() -> None:
    sound = music.pluck(220.0, 1.5, np.random.default_rng(0), decay_s=1.0, damping=0.0)
    early, late = (np.square(sound[n : n + 1_600]).mean() for n in (4_000, 12_000))
    assert 10 * np.log10(early / late) == pytest.approx(30.0, abs=2.0)  # half a second


def test_tone_has_the_harmonics_that_were_asked_for() -> None:
    sound = music.tone(500.0, SAMPLE_RATE, np.array([1.0, 0.0, 0.25]), np.random.default_rng(0))
    amplitude = np.abs(np.fft.rfft(sound)) * 2 / SAMPLE_RATE
    np.testing.assert_allclose(amplitude[[500, 1_000, 1_500]], [1.0, 0.0, 0.25], atol=2e-3)


def test_tone_has_no_harmonics_above_the_band() -> None:
    sound = music.tone(3_000.0, SAMPLE_RATE, np.ones(9), np.random.default_rng(0))
    amplitude = np.abs(np.fft.rfft(sound)) * 2 / SAMPLE_RATE
    assert set(np.flatnonzero(amplitude > 0.01)) == {3_000, 6_000}


def test_sustained_tone_keeps_its_pitch_and_its_length() -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        instrument = music.draw_instrument(rng)
        sound = music.sustain(instrument, 440.0, 0.8, rng)
        assert len(sound) == 12_800
        partials = [strongest_hz(sound, 440 * k * 0.9, 440 * k * 1.1) / k for k in (1, 2)]
        assert min(abs(hz / 440 - 1) for hz in partials) < 0.05  # a vibrato of 80 cents


def test_c_major_on_a_guitar_is_the_open_chord() -> None:
    assert music.voicing([60, 64, 67]) == [40, 48, 52, 55, 60, 64]  # E C E G C E


def test_chords_belong_to_their_key() -> None:
    harmony = music.Harmony(48, music.SCALES["major"], (0, 4, 5, 3), 8_000)
    assert [harmony.chord(bar) for bar in range(4)] == [
        [48, 52, 55], [55, 59, 62], [57, 60, 64], [53, 57, 60],
    ]  # fmt: skip  # C, G, A minor, F


def test_what_lies_beyond_the_end_is_cut() -> None:
    assert music.place(4, [(1, np.ones(2)), (3, np.ones(5)), (9, np.ones(1))]).tolist() == [
        0, 1, 1, 1,
    ]  # fmt: skip


def test_breath_swells_and_fades() -> None:
    for seed in range(5):
        sound = backgrounds.breath(8_000, np.random.default_rng(seed))
        power = np.square(sound).reshape(20, 400).mean(1)
        assert max(power[0], power[-1]) < 0.5 * power.max()


def test_laughter_has_4_to_7_bursts_a_second() -> None:
    for seed in range(5):
        sound = backgrounds.laughter(48_000, np.random.default_rng(seed))
        envelope = np.abs(sound).reshape(-1, 80).mean(1)  # at 200 Hz
        rate_hz = np.fft.rfftfreq(8 * len(envelope), 1 / 200)
        spectrum = np.abs(np.fft.rfft(envelope - envelope.mean(), 8 * len(envelope)))
        spectrum[(rate_hz < 2.5) | (rate_hz > 20)] = 0
        assert 3.5 < rate_hz[spectrum.argmax()] < 7.0


def test_band_passes_its_middle_and_stops_the_rest() -> None:
    noise = np.random.default_rng(0).standard_normal(SAMPLE_RATE)
    ratio = np.abs(np.fft.rfft(backgrounds.band(noise, 500, 2_000))) / np.abs(np.fft.rfft(noise))
    assert ratio[1_000] > 0.9
    np.testing.assert_allclose(ratio[[500, 2_000]], np.sqrt(0.5), atol=0.03)
    np.testing.assert_allclose(ratio[[50, 7_990]], [0.01, 0.063], atol=0.004)
