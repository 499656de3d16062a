"""Audio of every format read at 16 kHz and normalised, and the messages for bad files."""

import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import firwin, resample_poly

from common.errors import UserError
from data_loader import load_wav
from speech import resampling
from speech.audio import normalise, read_audio
from speech.resampling import resample_audio

RATES = (8_000, 11_025, 16_000, 22_000, 22_050, 44_100, 48_000, 96_000)


def tone(hz: float, seconds: float, rate: int) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
def test_a_tone_keeps_pitch_phase_and_level_at_every_rate(rate: int, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", tone(1000, 1.0, rate), rate, subtype="FLOAT")
    audio = read_audio(tmp_path / "x.wav")
    assert audio.dtype == np.float32 and len(audio) == 16_000
    middle = slice(1000, -1000)  # away from the ends, where the filter sees the cut
    np.testing.assert_allclose(audio[middle], tone(1000, 1.0, 16_000)[middle], atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 22_050, 37_800, 44_100, 48_000])
def test_resampled_sound_is_that_of_scipy(rate: int, rng: np.random.Generator) -> None:
    sound = rng.uniform(-1, 1, rate // 4 + 1).astype(np.float32)
    ratio = Fraction(16_000, rate)
    factor = max(ratio.numerator, ratio.denominator)
    taps = firwin(64 * factor + 1, 0.95 / factor, window=("kaiser", 10.0))
    expected = resample_poly(sound.astype(float), ratio.numerator, ratio.denominator, window=taps)
    resampled = resample_audio(sound, rate)
    assert resampled.dtype == np.float32
    np.testing.assert_allclose(resampled, expected, rtol=0, atol=1e-6)


def test_resampling_imports_no_scipy_signal() -> None:
    code = (
        "import sys, numpy as np; from speech.resampling import resample_audio; "
        "resample_audio(np.ones(441, np.float32), 44_100); print('scipy.signal' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_frequencies_above_8_khz_are_removed_without_aliasing() -> None:
    audio = resample_audio(tone(9_000, 1.0, 44_100), 44_100)
    assert np.abs(audio[1000:-1000]).max() < 0.5e-4  # 80 dB below


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_formats_and_channels_give_the_same_speech(
    suffix: str, channels: int, tmp_path: Path
) -> None:
    if suffix == "mp3" and channels > 2:
        pytest.skip("mp3 has two channels at most")
    sound = np.repeat(tone(500, 0.5, 16_000)[:, None], channels, axis=1)
    sound *= np.arange(1, channels + 1) / (channels + 1) * 2  # mean 1, which only one may have
    soundfile.write(tmp_path / f"x.{suffix}", 0.1 * sound, 16_000)
    audio = read_audio(tmp_path / f"x.{suffix}")
    expected = 0.1 * tone(500, 0.5, 16_000)
    middle = slice(2000, 6000)
    tolerance = {"wav": 1e-4, "flac": 1e-4, "ogg": 2e-2, "mp3": 1e-2}[suffix]
    best = min(
        np.abs(audio[2000 + lag : 6000 + lag] - expected[middle]).max() for lag in (0, 1105, 1681)
    )  # mp3 players may keep the encoder's delay
    assert best < tolerance


def test_other_formats_go_through_ffmpeg(tmp_path: Path) -> None:
    import imageio_ffmpeg

    soundfile.write(tmp_path / "x.wav", tone(440, 1.0, 44_100), 44_100)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", tmp_path / "x.wav"]
    subprocess.run([*command, "-c:a", "aac", tmp_path / "x.m4a"], check=True)
    audio = read_audio(tmp_path / "x.m4a")
    assert 16_000 <= len(audio) < 17_500
    spectrum = np.abs(np.fft.rfft(audio[4000:12_000]))
    assert abs(np.argmax(spectrum) * 2 - 440) <= 2  # bins of 2 Hz


@pytest.mark.parametrize("rate", [8_000, 12_345, 16_000, 44_100, 48_000])
def test_blocks_are_resampled_to_the_same_bits_as_the_whole(
    rate: int, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "BLOCK_SAMPLES", 5_000)
    sound = rng.normal(size=70_001).astype(np.float32)
    blocks = np.split(sound, [1, 17, 4_000, 4_000, 41_003])
    pieces = list(resampling.resample_blocks(blocks, rate))
    assert len(pieces) > 1
    assert np.concatenate(pieces).tobytes() == resample_audio(sound, rate).tobytes()


def test_an_odd_high_rate_needs_no_large_filter() -> None:
    """383,999 Hz and 16 kHz have no common factor: 24.6 million taps, 1.2 GB, if taken exactly."""
    rate = 383_999
    up, down = resampling._ratio(rate)
    assert max(up, down) <= 1 << 16
    assert up / down == pytest.approx(16_000 / rate, rel=1e-5)
    audio = resample_audio(tone(1000, 0.1, rate), rate)
    np.testing.assert_allclose(audio[300:1300], tone(1000, 0.1, 16_000)[300:1300], atol=1e-3)


def test_load_wav_has_zero_mean_and_unit_variance(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", 0.3 + 0.1 * tone(300, 1.0, 16_000), 16_000)
    audio = load_wav(tmp_path / "x.wav")
    assert audio.dtype == np.float32
    assert abs(audio.mean()) < 1e-5 and audio.var() == pytest.approx(1.0, abs=1e-3)


def test_normalise_equals_the_feature_extractor_of_transformers(rng: np.random.Generator) -> None:
    from transformers import Wav2Vec2FeatureExtractor

    audio = rng.normal(0.01, 0.05, 4001).astype(np.float32)
    expected = Wav2Vec2FeatureExtractor()(audio, sampling_rate=16_000).input_values[0]
    np.testing.assert_allclose(normalise(audio), expected, atol=1e-5)


def test_silence_stays_silence(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(16_000), 16_000)
    assert (load_wav(tmp_path / "x.wav") == 0).all()


def _truncated_wav(path: Path) -> None:
    soundfile.write(path, tone(300, 1.0, 16_000), 16_000)
    path.write_bytes(path.read_bytes()[:5000])


def _truncated_flac(path: Path) -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, 48_000)
    soundfile.write(path, noise, 16_000, format="FLAC")
    path.write_bytes(path.read_bytes()[:40_000])


def _with_nan(path: Path) -> None:
    sound = tone(300, 1.0, 16_000)
    sound[100:103] = np.nan
    soundfile.write(path, sound, 16_000, subtype="FLOAT")


BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.wav": (lambda path: None, "no such file"),
    "folder.wav": (lambda path: path.mkdir(), "is a folder"),
    "empty.wav": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text.wav": (lambda path: path.write_text("hello " * 99), "it is text"),
    "zeros.mp3": (lambda path: path.write_bytes(bytes(4000)), "neither libsndfile nor ffmpeg"),
    "header.wav": (lambda path: path.write_bytes(b"RIFF\0\0\0\0WAVE"), "header without sound"),
    "truncated.wav": (_truncated_wav, "truncated: 4956 bytes of sound, expected 32000"),
    "truncated.flac": (_truncated_flac, "truncated|damaged after"),
    "nan.wav": (_with_nan, "a sample is NaN at 0.006 s"),
    "short.wav": (
        lambda path: soundfile.write(path, tone(300, 0.02, 16_000), 16_000),
        "20 ms long, expected at least 45 ms",
    ),
    "no_samples.wav": (lambda path: soundfile.write(path, np.zeros(0), 16_000), "0 ms long"),
    "slow.wav": (lambda path: soundfile.write(path, np.zeros(999), 100), "sample rate 100 Hz"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_audio_is_reported_in_one_line_with_its_name(name: str, tmp_path: Path) -> None:
    make, message = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        read_audio(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_wav_written_to_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", tone(300, 0.5, 16_000), 16_000)
    content = bytearray((tmp_path / "x.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "x.wav").write_bytes(content)
    assert len(read_audio(tmp_path / "x.wav")) == 8000


def test_the_real_recordings_are_read(shared_data: Path) -> None:
    for name in ("voca_test_sentence.wav", "selftalk_test.wav"):
        path = shared_data / "wav" / name
        assert len(load_wav(path)) == pytest.approx(soundfile.info(path).duration * 16_000, abs=1)
