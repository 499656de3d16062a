"""Speech of any length: stored samples, their moments, and features that are read in parts."""

import numpy as np
import pytest
import torch

from speech import level, stored_speech
from speech.audio import normalise
from speech.clip_audio import ClipAudio
from speech.level import EvenLevel, even_level
from speech.stored_speech import Samples, StoredSpeech, moments_of


def stored(folder, audio, step=977):
    """Samples (S,) that were appended in blocks."""
    samples = Samples(folder)
    for first in range(0, len(audio), step):
        samples.append(audio[first : first + step])
    return samples


@pytest.mark.parametrize("in_memory_bytes", [1 << 24, 4_000])
def test_samples_in_memory_and_in_a_file_are_read_as_they_were_appended(
    tmp_path, monkeypatch, rng, in_memory_bytes
):
    monkeypatch.setattr(stored_speech, "IN_MEMORY_BYTES", in_memory_bytes)
    audio = rng.standard_normal(9_001).astype(np.float32)
    samples = stored(tmp_path, audio)
    assert len(samples) == 9_001 and not samples.is_silent
    assert (samples.file is None) is (in_memory_bytes > 4 * 9_001)
    for start, stop in ((0, 9_001), (5_000, 5_001), (8_000, 9_001), (17, 17)):
        np.testing.assert_array_equal(samples.read(start, stop), audio[start:stop])
    assert list(tmp_path.iterdir()) == []  # the file has no name
    assert stored(None, np.zeros(5, np.float32)).is_silent


@pytest.mark.parametrize("mean", [0.0, 0.7])
def test_moments_of_blocks_are_those_of_all_samples(monkeypatch, rng, mean):
    audio = (mean + 1e-3 * rng.standard_normal(9_001)).astype(np.float32)
    monkeypatch.setattr(stored_speech, "BLOCK_SAMPLES", 1_000)
    moments = moments_of(stored(None, audio), 500, 8_999)
    part = audio[500:8_999].astype(np.float64)
    assert moments.mean == pytest.approx(part.mean(), rel=1e-12)
    assert moments.variance == pytest.approx(part.var(), rel=1e-9)


@pytest.mark.parametrize("delay", [0, 1_300, -1_300, 9_500])
def test_speech_is_the_normalised_part_with_its_delay(rng, delay):
    audio = rng.standard_normal(9_001).astype(np.float32)
    speech = StoredSpeech(stored(None, audio), 400, 8_400, delay)
    normalised, expected = normalise(audio[400:8_400]), np.zeros(8_000, np.float32)
    n_kept = max(8_000 - abs(delay), 0)
    expected[max(delay, 0) :][:n_kept] = normalised[max(-delay, 0) :][:n_kept]
    parts = [speech.read(start, min(start + 997, 8_000)) for start in range(0, 8_000, 997)]
    np.testing.assert_array_equal(np.concatenate(parts), expected)
    assert speech.any() is bool(expected.any())
    assert not StoredSpeech(stored(None, np.full(900, 0.3, np.float32)), 0, 900).any()


def test_a_clip_is_silent_around_its_samples():
    clip = ClipAudio(torch.arange(1.0, 6.0)).after(1)
    assert len(clip) == 4
    assert clip.read(-2, 3).tolist() == [0, 0, 2, 3, 4]
    assert clip.read(3, 6).tolist() == [5, 0, 0]
    assert clip.read(5, 7).tolist() == clip.read(-9, -7).tolist() == [0, 0]


def test_a_clip_may_begin_in_the_silence_before_its_samples():
    speech = StoredSpeech(stored(None, np.arange(5, dtype=np.float32)), 0, 5)
    a, b, c, d, e = samples = speech.read(0, 5).tolist()
    for source in (speech, torch.tensor(samples)):
        clip = ClipAudio(source).after(-2)
        assert len(clip) == 7
        assert clip.read(-1, 4).tolist() == [0, 0, 0, a, b]
        assert clip.read(1, 2).tolist() == [0]
        assert clip.read(5, 9).tolist() == [d, e, 0, 0]
        assert clip.after(3).read(0, 2).tolist() == [b, c]


def test_the_level_in_pieces_is_that_of_the_whole_clip(monkeypatch):
    monkeypatch.setattr(level, "PIECE", 300)
    audio = torch.randn(20 * 16_000 + 57, generator=torch.Generator().manual_seed(0))
    audio[5 * 16_000 : 9 * 16_000] *= 0.05
    reader, n = EvenLevel(ClipAudio(audio)), len(audio)
    parts = [reader.read(start - 500, start + 16_000) for start in range(0, n, 16_000)]
    joined = torch.cat([part[500:] for part in parts])
    assert not parts[0][:500].any() and not joined[n:].any()
    torch.testing.assert_close(joined[:n], even_level(audio[None])[0], atol=1e-6, rtol=1e-5)
    assert len(reader.kept) < 300 * 160 + 2 * 16_500
