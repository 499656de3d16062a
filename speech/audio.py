"""Speech files of any format as 16 kHz mono: reading, mixing down, resampling, normalising.

libsndfile reads the formats that it supports, ffmpeg all others. N samples at the file's rate, S
samples at 16 kHz.
"""

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError, reason_of
from config import SAMPLE_RATE
from files.arrays import check_file
from speech.timing import MIN_SAMPLES

RATES = (4_000, 384_000)  # Hz; a header with a rate outside this range is damaged
BLOCK_SAMPLES = 1 << 20  # samples per channel read at once, to bound memory with many channels
ZERO_CROSSINGS = 32  # of the resampling filter, on each side
KAISER_BETA = 10.0  # 100 dB in the stop band
PASS_BAND = 0.95  # of the lower Nyquist frequency
RIFF_UNKNOWN = 0x7FFFFF00  # sizes from here on mean "written to a pipe", not a length


def read_audio(path: str | Path) -> NDArray[np.float32]:
    """Speech (S,) float32 at 16 kHz: the mean of all channels; full scale of the file is 1.

    Reads wav, flac, mp3 and ogg of any rate and channel count with libsndfile, and formats that it
    does not support (m4a, flv, mp4, ...) with the ffmpeg of imageio-ffmpeg. Digital silence is
    valid. Raises `UserError` for a file that is missing, empty, truncated, shorter than 45 ms, has
    NaN or infinite samples, or is not audio.
    """
    path = check_file(path, "audio")
    samples, rate = _decode(path)
    n_bad = samples.size - int(np.isfinite(samples).sum())
    if n_bad:
        raise UserError(
            f"audio {path}: {n_bad} of {samples.size} samples are NaN or infinite; export it again"
        )
    audio = resample_audio(samples, rate)
    if len(audio) < MIN_SAMPLES:
        raise UserError(
            f"audio {path}: {1000 * len(audio) / SAMPLE_RATE:.0f} ms long, expected at least "
            f"{1000 * MIN_SAMPLES // SAMPLE_RATE} ms (one frame); give a longer recording"
        )
    return audio


def normalise(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """`audio` (S,) with zero mean and unit variance, as transformers' Wav2Vec2FeatureExtractor.

    As there, 1e-7 is added to the variance, so digital silence gives zeros.
    """
    mean, variance = audio.mean(dtype=np.float64), audio.var(dtype=np.float64)
    return (audio - np.float32(mean)) / np.float32(math.sqrt(variance + 1e-7))


def resample_audio(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """`samples` (N,) at `rate` Hz resampled to (S,) at 16 kHz, S = ceil(N * 16000 / rate).

    One polyphase filter with a Kaiser window, 100 dB in the stop band.
    """
    from scipy.signal import firwin, resample_poly

    if rate == SAMPLE_RATE or len(samples) == 0:
        return np.ascontiguousarray(samples, dtype=np.float32)
    common = math.gcd(rate, SAMPLE_RATE)
    up, down = SAMPLE_RATE // common, rate // common
    widest = max(up, down)
    taps = firwin(
        2 * ZERO_CROSSINGS * widest + 1, PASS_BAND / widest, window=("kaiser", KAISER_BETA)
    )
    return resample_poly(samples.astype(np.float32), up, down, window=taps).astype(np.float32)


def _decode(path: Path) -> tuple[NDArray[np.float32], int]:
    """Samples (N,), the mean of all channels, and their rate in Hz; `UserError` as `read_audio`."""
    import soundfile

    _check_riff(path)
    with _quiet_library(), contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(soundfile.SoundFile(path))
        except soundfile.LibsndfileError:
            return _decode_with_ffmpeg(path), SAMPLE_RATE
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise UserError(
                f"audio {path}: sample rate {file.samplerate} Hz, expected {RATES[0]} to {RATES[1]}"
                " Hz; its header may be damaged: copy or download it again"
            )
        declared, blocks = file.frames, []
        try:
            while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
        except soundfile.LibsndfileError as error:
            raise UserError(
                f"audio {path}: damaged after {_length(blocks)} samples ({reason_of(error)}); copy "
                "or download it again"
            ) from error
        # only FLAC states the exact length, other compressed formats estimate it
        if _length(blocks) < declared and file.format == "FLAC":
            raise UserError(
                f"audio {path}: truncated: {_length(blocks)} samples, expected {declared}; copy or "
                "download it again"
            )
        return np.concatenate([np.zeros(0, np.float32), *blocks]), file.samplerate


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """Discard stderr inside the block: libsndfile's mp3 decoder prints to it."""
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)


def _length(blocks: Sequence[NDArray]) -> int:
    return sum(map(len, blocks))


def _check_riff(path: Path) -> None:
    """Raise `UserError` when the data chunk of a wav is missing or longer than the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                available = size - file.tell()
                if available < length < RIFF_UNKNOWN:
                    raise UserError(
                        f"audio {path}: truncated: {available} bytes of sound, expected {length}; "
                        "copy or download it again"
                    )
                return
            file.seek(length + length % 2, 1)
    raise UserError(f"audio {path}: wav header without sound; copy or download it again")


def _decode_with_ffmpeg(path: Path) -> NDArray[np.float32]:
    """Samples (S,) at 16 kHz mono of a file in a format that libsndfile does not support."""
    import subprocess

    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin"]
    command += ["-protocol_whitelist", "file", "-i", f"file:{path.resolve()}"]
    command += ["-vn", "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "pipe:1"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no sound in it"]
        reason = lines[-1].removeprefix(f"file:{path.resolve()}: ")
        raise UserError(
            f"audio {path}: neither libsndfile nor ffmpeg can read it ({reason}); give a wav, flac "
            "or mp3 file"
        )
    return np.frombuffer(done.stdout, dtype="<f4").astype(np.float32)
