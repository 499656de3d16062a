"""Levels, coloured noise, heavy rooms and hard clipping."""

import numpy as np
import pytest

from config import SAMPLE_RATE
from speech import augment


def test_active_level_ignores_pauses() -> None:
    tone = np.sin(np.arange(SAMPLE_RATE) * 2 * np.pi * 0.05).astype(np.float32)
    half = np.concatenate([tone, np.zeros(3 * SAMPLE_RATE, np.float32)])
    assert augment.active_level(tone) == pytest.approx(np.sqrt(0.5), rel=1e-4)
    assert augment.active_level(half) == pytest.approx(np.sqrt(0.5), rel=1e-4)


def test_active_level_of_silence_can_be_divided_by() -> None:
    assert augment.active_level(np.zeros(SAMPLE_RATE, np.float32)) == 1e-8
    assert augment.active_level(np.zeros(100, np.float32)) == 1e-8


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_coloured_noise_falls_by_its_slope(slope: float) -> None:
    noise = augment.coloured_noise(8 * SAMPLE_RATE, np.random.default_rng(0), slope)
    assert augment.rms(noise) == pytest.approx(1.0, rel=1e-4)
    power = np.square(np.abs(np.fft.rfft(noise)))
    low, high = (power[8 * hz : 12 * hz].mean() for hz in (400, 3_200))  # three octaves apart
    assert 10 * np.log10(low / high) == pytest.approx(60 * slope * np.log10(2), abs=0.5)


def test_hum_has_harmonics_of_50_or_60_hz_only() -> None:
    for seed in range(4):
        hum = augment.hum(SAMPLE_RATE, np.random.default_rng(seed))
        lines = np.flatnonzero(np.abs(np.fft.rfft(hum)) > 1.0)
        assert augment.rms(hum) == pytest.approx(1.0, rel=1e-4)
        assert len(lines) == 7 and lines[0] in (50, 60) and not (lines % lines[0]).any()


def test_some_rooms_ring_for_more_than_half_a_second() -> None:
    impulse = np.zeros(SAMPLE_RATE, np.float32)
    impulse[0] = 1.0
    late_db = []
    for seed in range(60):
        room = augment.reverberate(impulse, np.random.default_rng(seed))
        assert room[0] == pytest.approx(1.0, abs=1e-3)  # the direct sound is not moved
        late = np.square(room[SAMPLE_RATE // 2 :], dtype=np.float64).sum()
        late_db.append(10 * np.log10(late + 1e-12))
    # At most 0.7 s and equally loud: -60 dB · 0.5 / 0.7 = -43 dB.
    assert 0.05 < np.mean(np.array(late_db) > -42.5) < 0.3


def test_clipping_leaves_10_to_90_percent_of_the_peak() -> None:
    ramp = np.linspace(-1, 1, 2_001).astype(np.float32)
    peaks = [augment.clip_peaks(ramp, np.random.default_rng(s)).max() for s in range(60)]
    assert 0.1 <= min(peaks) < 0.2 and 0.8 < max(peaks) <= 0.9
