"""Vowels that an aligner stretched over breaths or noise are recognised."""

import numpy as np
import pytest

from benchmarks.voicing import periodicity, vowels_are_voiced
from synthetic.phones import Segment

TIMES = np.arange(32_000) / 16_000
NOISE = np.random.default_rng(3).normal(size=32_000)


def voice(pitch_hz: float) -> np.ndarray:
    """2 s of a voice-like tone of ten harmonics with a little noise."""
    return sum(np.sin(2 * np.pi * k * pitch_hz * TIMES) / k for k in range(1, 11)) + 0.1 * NOISE


@pytest.mark.parametrize("pitch_hz", [75, 110, 220, 380])
def test_voices_are_periodic_and_noise_is_not(pitch_hz):
    assert periodicity(voice(pitch_hz)).min() > 0.8
    assert np.median(periodicity(NOISE)) < 0.3


def test_periodicity_has_a_value_per_frame_and_no_nan():
    assert periodicity(NOISE[:960]).shape == (3,)
    assert periodicity(np.zeros(100)) == pytest.approx(0)


@pytest.mark.parametrize(
    ("noisy", "segments", "kept"),
    [
        ((0, 0), [("aa", 0, 0.3), ("t", 0.3, 0.4), ("iy", 0.4, 0.6)], True),
        ((0.3, 0.4), [("aa", 0, 0.3), ("t", 0.3, 0.4), ("iy", 0.4, 0.6)], True),  # the t is noise
        ((1.0, 1.3), [("aa", 0, 0.9), ("iy", 1.0, 1.3)], False),  # a breath
        ((0.3, 0.4), [("aa", 0, 0.3), ("iy", 0.3, 0.4)], False),  # a quarter of the vowels
        ((0, 0), [("aa", 0, 1.2)], False),  # too long
        ((0, 2), [("s", 0, 1.0), ("sil", 1.0, 2.0)], True),  # no vowels
    ],
)
def test_clips_with_unvoiced_or_endless_vowels_are_refused(noisy, segments, kept):
    audio = np.where((noisy[0] <= TIMES) & (noisy[1] > TIMES), NOISE, voice(120))
    assert vowels_are_voiced(audio, [Segment(*segment) for segment in segments]) == kept
