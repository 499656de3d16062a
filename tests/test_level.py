"""The slow automatic level in front of the encoder, and the decoder's windows."""

import numpy as np
import pytest
import torch

from speech.level import even_level, is_steady
from speech.windows import SHORT, WHOLE_CLIPS, Windows

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> torch.Tensor:
    """White noise (1, S) with unit variance."""
    return torch.randn(1, int(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def test_noise_is_steady_and_a_sound_that_doubles_is_not() -> None:
    sound = noise(0.3)[0]
    assert is_steady(sound) and is_steady(0.01 * sound) and is_steady(torch.zeros(4800))
    rising = torch.linspace(1, 2.2, 10).repeat_interleave(480)  # 30 ms at each loudness
    assert not is_steady(rising) and is_steady(rising.clamp(max=2))
    assert not is_steady(torch.cat([sound[:4000], torch.zeros(800)]))  # falls silent


def test_steady_noise_gets_a_mean_amplitude_of_one() -> None:
    inside = even_level(3 * noise(10))[0, 3 * RATE : 7 * RATE]
    assert inside.abs().mean() == pytest.approx(1, abs=0.01)


def test_a_speaker_30_db_softer_is_as_loud_two_seconds_after_the_change() -> None:
    audio = torch.cat([noise(6), 10 ** (-30 / 20) * noise(6, 1)], dim=1)
    even = even_level(audio)[0]
    loud, soft = even[2 * RATE : 3 * RATE].abs().mean(), even[9 * RATE : 10 * RATE].abs().mean()
    assert soft / loud == pytest.approx(1, abs=0.05)  # the floor takes 3 % of it


@pytest.mark.parametrize("gain", [0.05, 5.0])
def test_the_gain_changes_little(gain: float) -> None:
    audio = noise(5)  # of gain 0.05, the floor of 0.001 is 5 % at the clip's ends
    torch.testing.assert_close(even_level(audio * gain), even_level(audio), atol=0, rtol=0.055)


def test_what_lies_more_than_two_seconds_away_changes_nothing() -> None:
    audio, other = noise(8), noise(8)
    other[:, 5 * RATE :] *= 20
    n = 3 * RATE - 320
    assert torch.equal(even_level(audio)[:, :n], even_level(other)[:, :n])


def test_silence_stays_silent() -> None:
    assert not even_level(torch.zeros(1, 5_000)).any()


def test_the_level_is_the_windowed_mean_of_amplitudes() -> None:
    """One 10 ms block of amplitude 2: by hand, 2 times the Hann window over its sum."""
    audio = torch.zeros(1, 6 * RATE)
    audio[0, 48_000:48_160] = 2
    window = np.hanning(401) / np.hanning(401).sum()
    level = np.interp(48_000, 160 * np.arange(299, 302) + 79.5, 2 * window[[199, 200, 201]])
    assert even_level(audio)[0, 48_000] == pytest.approx(2 / (level + 1e-3), rel=1e-4)


@pytest.mark.parametrize("windows", [SHORT, WHOLE_CLIPS])
@pytest.mark.parametrize("fps", [25, 30])
@pytest.mark.parametrize("n_frames", [1, 59, 89, 91, 150, 419, 421, 3_001])
def test_windows_cover_every_frame_once(windows: Windows, fps: int, n_frames: int) -> None:
    weight, begin = np.zeros(n_frames), 0
    plan = list(windows.plan(n_frames, fps))
    for start, stop, fade_start, fade_stop in plan:
        assert 0 <= start <= begin <= fade_start <= fade_stop <= stop <= n_frames
        weight[begin:fade_start] += 1
        begin = fade_start
    assert begin == n_frames and (weight == 1).all()
    longest = windows.before + windows.hop + max(windows.after, windows.joined)
    assert max(window.stop - window.start for window in plan) <= longest * fps


def test_windows_of_models_trained_on_whole_clips() -> None:
    """12 s each, cross-faded over 2 s; up to 14 s are one window."""
    assert list(WHOLE_CLIPS.plan(350, 25)) == [(0, 350, 350, 350)]
    first, last = WHOLE_CLIPS.plan(351, 25)
    assert first == (0, 300, 250, 300) and last == (250, 351, 351, 351)
