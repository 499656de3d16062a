"""Whether aligned vowels are voiced: an aligner stretches vowels over breaths and noise."""

from collections.abc import Sequence

import numpy as np

from config import SAMPLE_RATE
from synthetic.phones import VOWELS, Segment

FRAME_S, HOP_S = 0.04, 0.01  # a frame has two periods of the lowest voice
LOWEST_HZ, HIGHEST_HZ = 60, 400  # pitch of the voice
# The limits below leave the 3,996 vowels of 506 well aligned recordings a margin: the longest
# vowel whose median periodicity is below 0.35 has 0.14 s (a creaky one of 0.26 s has 0.43), the
# longest vowel 0.64 s (a letter said alone), and at most 0.13 of a recording's time in vowels is
# unvoiced, but for the prompt "IAX", which is not said letter by letter. White noise is below 0.3.
VOICED = 0.35  # least periodicity of a voiced vowel, median over its frames
LONGEST_UNVOICED_S = 0.2
LONGEST_VOWEL_S = 1.0
MOST_UNVOICED = 0.2  # of the time in vowels


def vowels_are_voiced(audio: np.ndarray, segments: Sequence[Segment]) -> bool:
    """Whether the aligned vowels are voiced and of a plausible length.

    If they are not, the aligner stretched them over breaths or noise, or the recording does not
    match its transcript. audio: (S,) at 16 kHz. A recording without vowels passes.
    """
    vowels = [segment for segment in segments if segment.phone in VOWELS]
    lengths = np.array([end - start for _, start, end in vowels])
    unvoiced = np.array([_median_periodicity(audio, vowel) < VOICED for vowel in vowels], bool)
    longest_unvoiced = lengths[unvoiced].max(initial=0.0)
    return bool(
        lengths.max(initial=0.0) <= LONGEST_VOWEL_S
        and longest_unvoiced <= LONGEST_UNVOICED_S
        and lengths[unvoiced].sum() <= MOST_UNVOICED * lengths.sum()
    )


def _median_periodicity(audio: np.ndarray, segment: Segment) -> float:
    part = audio[int(segment.start_s * SAMPLE_RATE) : int(segment.end_s * SAMPLE_RATE)]
    return float(np.median(periodicity(part)))


def periodicity(sound: np.ndarray) -> np.ndarray:
    """Largest normalised autocorrelation at lags of the voice's pitch, per frame of 40 ms.

    sound: (S,) at 16 kHz; S below 40 ms is extended by silence. Returns (1 + (S - 640) // 160,).
    """
    size, hop = int(FRAME_S * SAMPLE_RATE), int(HOP_S * SAMPLE_RATE)
    sound = np.pad(sound.astype(np.float64), (0, max(0, size - len(sound))))
    frames = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop]
    frames = frames - frames.mean(axis=1, keepdims=True)
    spectrum = np.fft.rfft(frames, 2 * size, axis=1)
    products = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)
    lags = np.arange(SAMPLE_RATE // HIGHEST_HZ, SAMPLE_RATE // LOWEST_HZ + 1)
    energy = np.cumsum(frames**2, axis=1)
    early, late = energy[:, size - 1 - lags], energy[:, -1:] - energy[:, lags - 1]
    return (products[:, lags] / np.sqrt(early * late + 1e-12)).max(axis=1)
