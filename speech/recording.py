"""Recordings, given as files or as samples, converted to the input of the network.

That input is audio (S,) float32 at 16 kHz with zero mean and unit variance over the clip.
`load_recording` converts a file, or samples at any rate. `check_clip` and `check_speech` check
audio that is passed to the network directly. N samples at any rate, S samples at 16 kHz.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import reason_of
from config import SAMPLE_RATE
from speech.audio import normalise, read_audio
from speech.downmix import Levels
from speech.features import PCM_SCALE
from speech.resampling import RATES, resample_audio
from speech.sound_file import MAX_LEVEL, say
from speech.stored_speech import StoredSpeech
from speech.timing import MIN_SAMPLES

EXPECTED = "16 kHz, zero mean and unit variance over the clip"
MAX_MEAN, MAX_VARIANCE = 0.5, 2.0  # `normalise` gives a mean near 0 and a variance of at most 1
LOW_VARIANCE = 0.5  # `normalise` gives less only to recordings below -70 dB of full scale


@dataclass(frozen=True, eq=False)
class Recording:
    """A recording and the network's input made from it.

    audio: (S,) float32, 16 kHz, zero mean and unit variance. source: the file, or samples (N,) or
    (N, channels) float32, full scale 1, at `sample_rate` Hz.
    """

    audio: NDArray[np.float32]
    source: Path | NDArray[np.float32]
    sample_rate: int | None = None

    @contextmanager
    def file(self) -> Iterator[Path]:
        """The file itself; for samples a temporary .wav that lasts as long as the context.

        Raises `OSError` where that cannot be written.
        """
        if isinstance(self.source, Path):
            yield self.source
            return
        import soundfile

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "recording.wav"
            try:
                soundfile.write(path, self.source, self.sample_rate, subtype="FLOAT")
            except soundfile.LibsndfileError as error:  # it does not say which error
                raise OSError(f"{path}: {reason_of(error)}") from error
            yield path


def load_recording(
    source: str | Path | NDArray | Tensor, sample_rate: int | None = None
) -> Recording:
    """A file of any audio format, or samples (N,) or (N, channels) at `sample_rate` Hz.

    Samples are int16 or floating, in arrays or tensors on any device. Channels are mixed down as
    those of a file.
    Raises `UserError` for a file that cannot be used (see `speech.audio.read_audio`), and
    `ValueError` for samples or a rate that cannot be used.
    """
    if isinstance(source, str | Path):
        if sample_rate is not None:
            raise ValueError(f"sample_rate {sample_rate} with the file {source}: leave it out")
        return Recording(normalise(read_audio(source)), Path(source))
    samples = as_samples(source)
    rate = check_rate(sample_rate)
    audio = resample_audio(samples if samples.ndim == 1 else _mono(samples), rate)
    if len(audio) < MIN_SAMPLES:
        raise ValueError(
            f"samples: {len(samples)} at {rate} Hz are {1000 * len(samples) / rate:.1f} ms, "
            f"expected at least {1000 * MIN_SAMPLES // SAMPLE_RATE} ms"
        )
    return Recording(normalise(audio), samples, rate)


def _mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Samples (N, channels) mixed down to (N,)."""
    levels = Levels(samples.shape[1])
    mean, mix = levels.mean(samples), levels.mix()
    if not mix.reason:
        return mean
    say(f"warning: samples: {mix.reason}")
    return mix.apply(samples)


def as_samples(source: NDArray | Tensor) -> NDArray[np.float32]:
    """Samples (N,) or (N, channels) as float32, full scale 1; `ValueError` for other input."""
    if isinstance(source, Tensor):
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    if not isinstance(source, np.ndarray):
        raise ValueError(
            f"recording: expected a path, an array or a tensor, got {type(source).__name__}"
        )
    if source.dtype != np.int16 and source.dtype.kind != "f":
        raise ValueError(f"samples: expected floating or int16, got {source.dtype}")
    channels_last = source.ndim == 2 and 1 <= source.shape[1] <= source.shape[0]
    if source.ndim != 1 and not channels_last:
        raise ValueError(
            f"samples: expected shape (N,) or (N, channels), got {source.shape}; "
            "transpose channels that come first"
        )
    scale = PCM_SCALE if source.dtype == np.int16 else 1.0
    samples = source.astype(np.float32) / np.float32(scale)
    n_bad = int((~(np.abs(samples) <= MAX_LEVEL)).sum())  # NaN as well
    if n_bad:
        raise ValueError(
            f"samples: {n_bad} of {samples.size} are NaN or infinite, or beyond {MAX_LEVEL:g}"
        )
    return samples


def check_rate(sample_rate: int | None) -> int:
    """A sample rate in Hz as an int; `ValueError` where it is missing or out of range."""
    low, high = RATES
    if sample_rate is None:
        raise ValueError("samples need their rate: animate(samples, sample_rate=48_000)")
    if not (isinstance(sample_rate, Real) and low <= sample_rate <= high and sample_rate % 1 == 0):
        raise ValueError(f"sample_rate {sample_rate}: expected whole Hz from {low:,} to {high:,}")
    return int(sample_rate)


def check_speech(audio: Tensor, shape: str, n_dims: int) -> None:
    """Raise `ValueError` unless `audio` is a floating tensor of `n_dims` dimensions.

    shape: "(S,)" or "(B, S)", for the message. Reads no values, so that it never waits for a GPU.
    """
    if not isinstance(audio, Tensor):
        got = f"{type(audio).__name__}; load_checkpoint().animate takes files and arrays"
    elif audio.ndim != n_dims or not audio.is_floating_point():
        got = f"{tuple(audio.shape)} {str(audio.dtype).removeprefix('torch.')}"
    else:
        return
    raise ValueError(f"audio: expected a float32 tensor {shape}, {EXPECTED}; got {got}")


def check_clip(
    audio: Tensor | StoredSpeech, template: Tensor, min_samples: int, n_vertices: int
) -> None:
    """Raise `ValueError` unless a network can predict from audio (S,) and a template (V, 3).

    min_samples: of the shortest clip that has a mesh frame; n_vertices: V.
    """
    if not isinstance(audio, StoredSpeech):
        check_speech(audio, "(S,)", 1)
    if len(audio) < min_samples:
        raise ValueError(f"audio: {len(audio)} samples, expected at least {min_samples}")
    if not isinstance(audio, StoredSpeech):
        check_normalised(audio)
    expected = (n_vertices, 3)
    if not isinstance(template, Tensor) or template.shape != expected:
        got = tuple(template.shape) if isinstance(template, Tensor) else type(template).__name__
        raise ValueError(f"template: expected a tensor of shape {expected}, got {got}")


def check_normalised(audio: Tensor) -> None:
    """Raise `ValueError` unless `audio` (S,) can be a result of `normalise`, as silence can.

    `normalise` never gives a variance above 1. It gives a small variance for a nearly silent
    recording. Raw samples from -1 to 1 look the same, so a small variance is only a warning.
    """
    variance, mean = torch.stack(torch.var_mean(audio.float(), correction=0)).tolist()
    got = f"mean {mean:.3g}, variance {variance:.3g}"
    if not (abs(mean) <= MAX_MEAN and variance <= MAX_VARIANCE):  # NaN as well
        raise ValueError(f"audio: expected {EXPECTED}; got {got}; use data_loader.load_wav")
    if 0 < variance < LOW_VARIANCE:
        warnings.warn(
            f"audio: expected {EXPECTED}; got {got}: not normalised, or nearly silent",
            stacklevel=3,
        )
