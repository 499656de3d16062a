"""The phone before a pause is cut where its sound ends."""

import numpy as np
import pytest

from synthetic.pauses import trim_before_pauses
from synthetic.phones import Segment

SEGMENTS = [Segment("aa", 0.0, 0.5), Segment("t", 0.5, 1.0), Segment("sil", 1.0, 2.0)]


def tone(end_s: float) -> np.ndarray:
    audio = np.sin(np.arange(32_000) * 0.3).astype(np.float32)
    audio[int(16_000 * end_s) :] = 0.0
    return audio


def test_an_extended_phone_is_cut_30_ms_after_its_sound():
    aa, t, pause = trim_before_pauses(SEGMENTS, tone(0.7))
    assert aa == SEGMENTS[0]
    assert t.end_s == pause.start_s == pytest.approx(0.73, abs=0.011)
    assert pause.end_s == 2.0


def test_a_phone_audible_to_its_end_is_unchanged():
    assert trim_before_pauses(SEGMENTS, tone(1.0)) == SEGMENTS


def test_a_silent_phone_is_cut_to_40_ms():
    assert trim_before_pauses(SEGMENTS, tone(0.4))[1] == Segment("t", 0.5, 0.54)


def test_the_scale_of_the_audio_does_not_matter():
    audio = tone(0.7)
    assert trim_before_pauses(SEGMENTS, audio) == trim_before_pauses(SEGMENTS, 20_000 * audio)


def test_no_audio_and_no_segments_are_accepted():
    assert trim_before_pauses([], tone(1.0)) == []
    assert trim_before_pauses(SEGMENTS, np.zeros(0, np.float32))[1].end_s == 0.54
