"""The phone before a pause ends where its sound does."""

import numpy as np
import pytest

from synthetic.pauses import settle_pauses
from synthetic.phones import Segment

SEGMENTS = [Segment("aa", 0.0, 0.5), Segment("t", 0.5, 1.0), Segment("sil", 1.0, 2.0)]


def tone(end_s: float) -> np.ndarray:
    audio = np.sin(np.arange(32_000) * 0.3).astype(np.float32)
    audio[int(16_000 * end_s) :] = 0.0
    return audio


def test_a_stretched_phone_is_cut_30_ms_after_its_sound():
    aa, t, pause = settle_pauses(SEGMENTS, tone(0.7))
    assert aa == SEGMENTS[0]
    assert t.end_s == pause.start_s == pytest.approx(0.73, abs=0.011)
    assert pause.end_s == 2.0


def test_a_phone_that_sounds_to_its_end_stays():
    assert settle_pauses(SEGMENTS, tone(1.0)) == SEGMENTS


def test_a_silent_phone_keeps_40_ms():
    assert settle_pauses(SEGMENTS, tone(0.4))[1] == Segment("t", 0.5, 0.54)


def test_scale_does_not_matter():
    audio = tone(0.7)
    assert settle_pauses(SEGMENTS, audio) == settle_pauses(SEGMENTS, 20_000 * audio)


def test_no_audio_and_no_segments():
    assert settle_pauses([], tone(1.0)) == []
    assert settle_pauses(SEGMENTS, np.zeros(0, np.float32))[1].end_s == 0.54
