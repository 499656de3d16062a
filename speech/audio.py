"""Speech files of every kind as 16 kHz mono: reading, mixing down, resampling, normalising.

libsndfile reads what it knows and ffmpeg the rest. N samples at the rate of the file, S samples at
16 kHz.
"""

import contextlib
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.errors import UserError
from config import SAMPLE_RATE
from files.arrays import check_file
from speech.timing import MIN_SAMPLES

RATES = (4_000, 384_000)  # Hz, what is believed of a header
BLOCK_SAMPLES = 1 << 20  # samples a channel read at once, so that 8 channels cost no memory
ZERO_CROSSINGS = 32  # of the resampling filter, each side
KAISER_BETA = 10.0  # 100 dB in the stop band
PASS_BAND = 0.95  # of the lower Nyquist frequency
RIFF_UNKNOWN = 0x7FFFFF00  # sizes from here on mean "written to a pipe", not a length


def read_audio(path: str | Path) -> NDArray[np.float32]:
    """Speech (S,) float32 at 16 kHz: channels averaged, scale as in the file (full scale is 1).

    Reads wav, flac, mp3, ogg of any rate and channel count through libsndfile, and whatever it
    does not know (m4a, flv, mp4, ...) through the ffmpeg that imageio-ffmpeg brings. Digital
    silence is valid. Raises `UserError` for a file that is missing, empty, no audio, truncated,
    not finite, or shorter than 45 ms.
    """
    path = check_file(path, "audio")
    samples, rate = _decode(path)
    n_bad = samples.size - int(np.isfinite(samples).sum())
    if n_bad:
        raise UserError(f"audio {path}: {n_bad} of {samples.size} samples are NaN or infinite")
    audio = resample_audio(samples, rate)
    if len(audio) < MIN_SAMPLES:
        raise UserError(
            f"audio {path}: {1000 * len(audio) / SAMPLE_RATE:.0f} ms long; "
            f"at least {1000 * MIN_SAMPLES // SAMPLE_RATE} ms are needed for one frame"
        )
    return audio


def normalise(audio: NDArray[np.float32]) -> NDArray[np.float32]:
    """`audio` (S,) with zero mean and unit variance, as transformers' Wav2Vec2FeatureExtractor.

    Its 1e-7 under the root keeps silence silent.
    """
    mean, variance = audio.mean(dtype=np.float64), audio.var(dtype=np.float64)
    return (audio - np.float32(mean)) / np.float32(math.sqrt(variance + 1e-7))


def resample_audio(samples: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """`samples` (N,) at `rate` Hz as (S,) at 16 kHz, by one polyphase filter (Kaiser, 100 dB).

    S = ceil(N * 16000 / rate).
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
    """(samples (N,) averaged over channels, rate in Hz)."""
    import soundfile

    _check_riff(path)
    with _quiet_library(), contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(soundfile.SoundFile(path))
        except soundfile.LibsndfileError:
            return _decode_with_ffmpeg(path), SAMPLE_RATE
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise UserError(f"audio {path}: a rate of {file.samplerate} Hz; wanted {RATES} Hz")
        declared, blocks = file.frames, []
        try:
            while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1))
        except soundfile.LibsndfileError as error:
            raise UserError(
                f"audio {path}: broken after {_length(blocks)} samples: {error}"
            ) from error
        if _length(blocks) < declared and file.format == "FLAC":  # others only guess their length
            raise UserError(
                f"audio {path}: truncated: {_length(blocks)} of {declared} samples are there; "
                "copy or download it again"
            )
        return np.concatenate([np.zeros(0, np.float32), *blocks]), file.samplerate


@contextlib.contextmanager
def _quiet_library() -> Iterator[None]:
    """Nothing on stderr: libsndfile's mp3 decoder writes lines of its own there."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _length(blocks: Sequence[NDArray]) -> int:
    return sum(map(len, blocks))


def _check_riff(path: Path) -> None:
    """Raise `UserError` when a wav's data chunk promises more than the file holds."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return
        while len(chunk := file.read(8)) == 8:
            length = int.from_bytes(chunk[4:], "little")
            if chunk[:4] == b"data":
                there = size - file.tell()
                if there < length < RIFF_UNKNOWN:
                    raise UserError(
                        f"audio {path}: truncated: {there} of {length} bytes of sound are there; "
                        "copy or download it again"
                    )
                return
            file.seek(length + length % 2, 1)
    raise UserError(f"audio {path}: a wav header without sound; copy or download it again")


def _decode_with_ffmpeg(path: Path) -> NDArray[np.float32]:
    """Samples (S,) at 16 kHz mono of a file that libsndfile does not know."""
    import subprocess

    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin"]
    command += ["-protocol_whitelist", "file", "-i", f"file:{path.resolve()}"]
    command += ["-vn", "-ac", "1", "-ar", str(SAMPLE_RATE), "-f", "f32le", "pipe:1"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode or not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["no sound in it"]
        reason = lines[-1].removeprefix(f"file:{path.resolve()}: ")
        raise UserError(f"audio {path}: neither libsndfile nor ffmpeg can read it: {reason}")
    return np.frombuffer(done.stdout, dtype="<f4").astype(np.float32)
