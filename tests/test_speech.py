"""Augmentation keeps the timing; clips at another speed; phones at instants."""

from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from speech import augment
from synthetic.phones import PHONE_INDEX, Segment
from synthetic.speech import SpeechPool, cut_at_speed, phones_at

RATE = 16_000
CHANGES = [
    augment.equalise, augment.band_limit, augment.reverberate, augment.add_noise,
    augment.lossy_codec, augment.clip_peaks, augment.drift_gain, augment.augment,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_augmentation_keeps_the_length_and_is_repeatable(change) -> None:
    audio = np.random.default_rng(0).standard_normal(7_919).astype(np.float32)
    one, two = (change(audio, np.random.default_rng(5)) for _ in range(2))
    assert one.shape == audio.shape and one.dtype == np.float32
    assert np.isfinite(one).all()
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_augmentation_keeps_the_timing(change) -> None:
    """The peak of a burst moves by less than 10 ms."""
    audio = np.zeros(RATE, np.float32)
    audio[8_000:8_400] = np.hanning(400) * np.random.default_rng(0).standard_normal(400)
    for seed in range(5):
        changed = np.abs(change(audio, np.random.default_rng(seed)))
        smooth = np.convolve(changed, np.ones(400) / 400, "same")
        assert abs(int(smooth.argmax()) - 8_200) < 160


def test_noise_has_a_level_of_5_to_40_db_below_the_speech() -> None:
    audio = np.sin(np.arange(RATE) * 0.3).astype(np.float32)
    for seed in range(8):
        noise = augment.add_noise(audio, np.random.default_rng(seed)) - audio
        level_db = 20 * np.log10(augment.rms(audio) / augment.rms(noise))
        assert 4.9 < level_db < 40.1


def test_mu_law_is_exact_to_eight_bits() -> None:
    audio = np.linspace(-1, 1, 1_001).astype(np.float32)
    assert np.abs(augment.mu_law(audio) - audio).max() < 0.03


@pytest.mark.parametrize("speed", [0.85, 1.0, 1.2])
def test_a_faster_tone_is_only_a_higher_tone(speed: float) -> None:
    tone = np.sin(np.arange(2 * RATE) * 2 * np.pi * 1_000 / RATE)
    part = cut_at_speed((tone * 2**14).astype(np.int16), 1_000, 16_000, speed)
    time = np.arange(16_000) / RATE
    expected = 0.5 * np.sin(2 * np.pi * 1_000 * (speed * time + 1_000 / RATE))
    assert np.abs(part - expected)[500:-500].max() < 0.01


def test_parts_outside_the_clip_are_silent() -> None:
    ones = np.full(1_000, 2**14, np.int16)
    np.testing.assert_array_equal(
        cut_at_speed(ones, -300, 2_000, 1.0), np.pad(np.full(1_000, 0.5), (300, 700))
    )
    faster = cut_at_speed(ones, -300, 2_000, 1.25)
    assert len(faster) == 2_000
    assert np.abs(faster[:200]).max() < 0.01 and np.abs(faster[1_100:]).max() < 0.01
    assert np.abs(faster[300:980] - 0.5).max() < 0.01
    assert (
        not cut_at_speed(ones, 1_500, 100, 1.25).any()
        and not cut_at_speed(ones, -900, 100, 1.25).any()
    )


def test_phones_at_reads_half_open_segments() -> None:
    segments = [Segment("aa", 0.1, 0.2), Segment("b", 0.2, 0.3)]
    phones = phones_at(segments, np.array([0.0, 0.1, 0.2, 0.3]))
    assert phones.tolist() == [0, PHONE_INDEX["aa"], PHONE_INDEX["b"], 0]


def test_missing_pool_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no speech pool; make one with .*make_corpus"):
        SpeechPool(tmp_path)
